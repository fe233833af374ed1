# SPDX-License-Identifier: AGPL-3.0-or-later
"""The media methods: docs/sync-protocol.md, 9."""

import hashlib
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable

import pytest

from tests.protocol.client import FORM_HEADERS, Client, form, read_media_zip
from tests.servers import PASSWORD, Server

SERVERS = ("cardkeep", "official")


def sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def media(client: Client) -> Client:
    """A device that has begun a media sync."""
    client.begin()
    return client


def test_a_new_account_has_no_media(client: Client) -> None:
    """usn 0, no changes, no files."""
    assert client.begin()["usn"] == 0
    assert client.media_changes() == []
    assert client.media_sanity(0) == "OK"
    assert client.media_sanity(1) == "mediaSanity"


def test_what_is_uploaded_is_listed_and_downloaded(media: Client) -> None:
    """Each file has a usn of its own; the bytes come back as they were."""
    files = {"a.txt": b"a", "ü.png": b"\x00\xff" * 1000, "日本語.mp3": b"x" * 70000}
    assert media.upload_media(*files.items()) == [3, 3]
    assert media.media_changes() == [
        [name, usn, sha1(data)] for usn, (name, data) in enumerate(files.items(), start=1)
    ]
    assert media.download_files(*reversed(files)) == files
    assert media.media_sanity(3) == "OK"
    assert media.begin()["usn"] == 3


def test_each_case_of_an_upload(media: Client) -> None:
    """Added, the same again, replaced, deleted, deleted again, and added again."""
    assert media.upload_media(("f", b"1")) == [1, 1]
    assert media.upload_media(("f", b"1")) == [1, 1]
    assert media.upload_media(("f", b"2")) == [1, 2]
    assert media.upload_media(("f", None)) == [1, 3]
    assert media.media_changes() == [["f", 3, ""]]
    assert media.upload_media(("f", None), ("never", None)) == [2, 3]
    assert media.media_sanity(0) == "OK"
    assert media.upload_media(("f", b"2")) == [1, 4]
    assert media.media_changes(3) == [["f", 4, sha1(b"2")]]
    assert media.upload_media() == [0, 4]


def test_the_same_name_twice_in_one_upload(media: Client) -> None:
    """Both are processed, in order."""
    assert media.upload_media(("f", b"1"), ("f", b"2")) == [2, 2]
    assert media.download_files("f") == {"f": b"2"}


def test_names_are_exact(media: Client) -> None:
    """Case matters, and so does every other code point."""
    media.upload_media(("A", b"1"), ("a", b"2"))
    assert media.download_files("A", "a") == {"A": b"1", "a": b"2"}


def test_changes_come_by_the_thousand(media: Client) -> None:
    """In order of usn, at most 1000 at once, exactly once each."""
    for first in range(0, 1050, 25):
        media.upload_media(*((f"{n}", b"%d" % n) for n in range(first, first + 25)))
    page = media.media_changes()
    assert [usn for _, usn, _ in page] == list(range(1, 1001))
    rest = media.media_changes(page[-1][1])
    assert [usn for _, usn, _ in rest] == list(range(1001, 1051))
    assert media.media_changes(1050) == []


def test_downloads_stop_after_enough(media: Client) -> None:
    """The file that brings the sum over 2.5 MiB is the last; the first always comes."""
    for n in range(4):
        media.upload_media((f"{n}", bytes([n]) * 1_300_000))
    media.upload_media(("big", b"b" * 3_000_000))
    assert sorted(media.download_files("0", "1", "2", "3")) == ["0", "1", "2"]
    assert list(media.download_files("big", "1")) == ["big"]
    assert media.download_files() == {}


def test_a_missing_file_is_a_conflict(media: Client) -> None:
    """Unknown or deleted: 409 for the whole request."""
    media.upload_media(("here", b"1"), ("gone", b"2"))
    media.upload_media(("gone", None))
    media.download_files("here", "never", check=409)
    media.download_files("here", "gone", check=409)
    assert media.download_files("here") == {"here": b"1"}


def test_too_many_at_once_are_refused(media: Client) -> None:
    """25 up or down, not 26."""
    assert media.upload_media(*((str(n), b"x") for n in range(25))) == [25, 25]
    assert len(media.download_files(*map(str, range(25)))) == 25
    media.upload_media(*((str(n), b"x") for n in range(26)), check=400)
    media.download_files(*map(str, range(26)), check=400)


def test_a_refused_upload_changes_nothing(media: Client) -> None:
    """One bad name or one empty file among good ones: none is taken."""
    media.upload_media(("good", b"1"))
    for bad in (("a/b", b"x"), ("e\u0301", b"x"), ("empty", b""), ("n" * 256, b"x")):
        media.upload_media(("new", b"2"), bad, ("newer", b"3"), check=400)
    assert media.media_changes() == [["good", 1, sha1(b"1")]]
    assert media.media_sanity(1) == "OK"


def test_media_and_collection_do_not_touch_each_other(
    media: Client, device: Callable[..., Client]
) -> None:
    """A collection sync that is open stays open; `meta` tells the media usn."""
    media.start(0)
    media.upload_media(("a", b"1"))
    other = device(11)
    assert other.meta()["media_usn"] == 1


def test_protocol_11_may_begin_anywhere(server: Server, user: str) -> None:
    """A client that knows the media usn from `meta` goes straight to its changes."""
    client = Client(server.port).login(user, PASSWORD)
    assert client.media_changes() == []
    assert client.upload_media(("a", b"1")) == [1, 1]


def test_legacy_forms_are_read(server: Server, user: str) -> None:
    """Old clients post `begin`, pack their JSON, deflate their zips, and delete with ""."""
    client = Client(server.port, 10).login(user, PASSWORD)
    fields = {"c": "1", "k": client.key, "v": "ankidroid,2.15.6,android"}
    reply = client.send("/msync/begin", form(_gzip(b"{}"), fields), FORM_HEADERS)
    begun = json.loads(reply.body)
    assert begun["err"] == ""
    sk = {"sk": begun["data"]["sk"]}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0", b"data" * 1000)
        archive.writestr("_meta", json.dumps([["leg.txt", "0"], ["gone.txt", ""]]))

    def post(method: str, body: bytes, packing: str) -> bytes:
        answer = client.send(f"/msync/{method}", form(body, {"c": packing, **sk}), FORM_HEADERS)
        assert answer.status == 200, method
        return answer.body

    assert json.loads(post("uploadChanges", packed.getvalue(), "0"))["data"] == [2, 1]
    listed = json.loads(post("mediaChanges", _gzip(b'{"lastUsn":0}'), "1"))
    assert listed == {"data": [["leg.txt", 1, sha1(b"data" * 1000)]], "err": ""}
    got = post("downloadFiles", _gzip(b'{"files":["leg.txt"]}'), "1")
    assert read_media_zip(got) == {"leg.txt": b"data" * 1000}
    assert json.loads(post("mediaSanity", _gzip(b'{"local":1}'), "1"))["data"] == "OK"


def test_the_folder_is_as_anki_lays_it_out(server: Server, user: str) -> None:
    """Files under their own names, an index of version 4 beside them."""
    client = Client(server.port).login(user, PASSWORD)
    client.upload_media(("a b.txt", b"1"), ("gone", b"2"))
    client.upload_media(("gone", None))
    folder = server.folder(user)
    assert (folder / "media" / "a b.txt").read_bytes() == b"1"
    assert not (folder / "media" / "gone").exists()
    if server.kind == "official":
        return  # holds its index exclusively while it runs
    index = sqlite3.connect(f"file:{folder / 'media.db'}?mode=ro", uri=True)
    assert index.execute("pragma user_version").fetchone() == (4,)
    rows = index.execute("select fname, csum, size, usn from media order by usn").fetchall()
    assert rows == [
        ("a b.txt", hashlib.sha1(b"1").digest(), 1, 1),
        ("gone", hashlib.sha1(b"2").digest(), 0, 3),
    ]
    assert index.execute("select * from meta").fetchall() == [(3, 1, 1)]
    index.close()


def _gzip(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data)
