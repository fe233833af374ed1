# SPDX-License-Identifier: AGPL-3.0-or-later
"""A folder goes to and fro between the official server and cardkeep's media store.

The official server runs as it is shipped and is spoken to in protocol 11; the store is used
directly on the folder that it leaves, and then the server again on what the store left.
"""

import http.client
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zstandard

from cardkeep.media.store import MediaStore
from tests.media.looking import download, listed, on_disk, sha1, upload
from tests.media.test_index import check_layout
from tests.servers import PASSWORD, Server, running
from tests.wire.zips import upload_zip


class Official:
    """The media methods of a running server, as one user calls them."""

    def __init__(self, server: Server, user: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self._key = ""
        self._key = self._json("/sync/hostKey", {"u": user, "p": PASSWORD})["key"]

    def _post(self, path: str, payload: bytes) -> bytes:
        header = {"v": 11, "k": self._key, "c": "26.09.3,0,linux", "s": "abcdef"}
        self._connection.request(
            "POST",
            path,
            zstandard.compress(payload),
            {"anki-sync": json.dumps(header), "content-type": "application/octet-stream"},
        )
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, answer.status
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)

    def _json(self, path: str, payload: object) -> Any:
        return json.loads(self._post(path, json.dumps(payload).encode()))

    def begin(self) -> int:
        usn: int = self._json("/msync/begin", {"v": "26.09.3"})["data"]["usn"]
        return usn

    def changes(self, after: int = 0) -> list[tuple[str, int, str]]:
        data = self._json("/msync/mediaChanges", {"lastUsn": after})["data"]
        return [(name, usn, checksum) for name, usn, checksum in data]

    def upload(self, files: Sequence[tuple[str, bytes | None]]) -> tuple[int, int]:
        body = json.loads(self._post("/msync/uploadChanges", upload_zip(files)))
        return tuple(body["data"])

    def download(self, *names: str) -> list[tuple[str, bytes]]:
        body = self._post("/msync/downloadFiles", json.dumps({"files": names}).encode())
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            found = json.loads(archive.read("_meta"))
            return [(found[str(n)], archive.read(str(n))) for n in range(len(found))]

    def sanity(self, count: int) -> bool:
        return bool(self._json("/msync/mediaSanity", {"local": count})["data"] == "OK")

    def close(self) -> None:
        self._connection.close()


def test_either_server_serves_the_folder_that_the_other_wrote(tmp_path: Path) -> None:
    base = tmp_path / "base"
    with running("official", users=1, base=base) as server:
        official = Official(server, "user1")
        official.upload([("a", b"1"), ("b", b"22"), ("ü 猫", b"333"), ("odd\\\n", b"4")])
        official.upload([("a", None), ("b", b"two")])
        official.close()
        # Ends as a crash does: what it wrote last is in the write-ahead log alone.
    store = MediaStore(base)
    assert store.last_usn("user1") == 6
    assert listed(store, user="user1") == [
        ("ü 猫", 3, sha1(b"333")),
        ("odd\\\n", 4, sha1(b"4")),
        ("a", 5, ""),
        ("b", 6, sha1(b"two")),
    ]
    assert download(store, "b", "odd\\\n", user="user1") == [("b", b"two"), ("odd\\\n", b"4")]
    changed = ("a", b"back"), ("b", None), ("odd\\\n", None), ("new", b"x" * 3_000_000)
    assert upload(store, *changed, user="user1") == (4, 10)
    assert store.sanity("user1", 3)
    expected = listed(store, user="user1")
    store.close()
    on_disk(base, "user1").check()

    with running("official", users=1, base=base) as server:
        official = Official(server, "user1")
        assert official.begin() == 10
        assert official.changes() == expected
        assert official.download("a", "ü 猫") == [("a", b"back"), ("ü 猫", b"333")]
        assert official.download("new") == [("new", b"x" * 3_000_000)]
        assert official.sanity(3)
        assert official.upload([("a", b"again"), ("c", b"c")]) == (2, 12)
        expected = official.changes()
        official.close()
    store = MediaStore(base)
    assert listed(store, user="user1") == expected
    assert download(store, "a", "c", user="user1") == [("a", b"again"), ("c", b"c")]
    store.close()
    check_layout(base / "user1" / "media.db")


def test_both_answer_the_same_to_the_same_uploads(tmp_path: Path) -> None:
    """Each kind of element, one after the other: same usns, same changes, same rows."""
    uploads: list[list[tuple[str, bytes | None]]] = [
        [],
        [("a", b"1"), ("b", b"2"), ("c", b"3")],
        [("a", b"1"), ("b", b"22"), ("c", None), ("d", None)],
        [("c", None), ("c", b"3"), ("c", b"3"), ("c", b"4"), ("c", None)],
        [("a", None), ("a", b"1"), ("e", b"5"), ("e", None)],
        [("ab:c", b"x"), ("e" * 255, b"x"), (".hidden", b"x"), ("con", b"x"), ("f.", b"x")],
        [(f"{n}", b"%d" % n) for n in range(25)],
    ]
    store = MediaStore(tmp_path / "ours")
    with running("official", users=1, base=tmp_path / "theirs") as server:
        official = Official(server, "user1")
        for files in uploads:
            assert upload(store, *files, user="user1") == tuple(official.upload(files))
            assert listed(store, user="user1") == official.changes()
        official.close()
    store.close()
    ours, theirs = (on_disk(tmp_path / base, "user1") for base in ("ours", "theirs"))
    assert ours == theirs


def test_an_upload_that_was_killed_is_no_trouble_to_the_official_server(tmp_path: Path) -> None:
    """Killed between moving files in and the commit, and then not healed by us."""
    base = tmp_path / "base"
    store = MediaStore(base)
    upload(store, ("a", b"old"), ("b", b"b"), user="user1")
    store.close()
    folder = base / "user1"
    incoming = folder / ".cardkeep" / "incoming"
    (incoming / "3").write_bytes(b'[["a",0],["n",1],["b",null]]')
    (folder / "media" / "a").rename(incoming / "3.0.replaced")
    (folder / "media" / "a").write_bytes(b"new")
    (folder / "media" / "n").write_bytes(b"n")
    with running("official", users=1, base=base) as server:
        official = Official(server, "user1")
        assert official.begin() == 2
        assert official.sanity(2)
        assert [name for name, _ in official.download("a", "b")] == ["a", "b"]
        assert official.upload([("n", b"theirs"), ("c", b"c")]) == (2, 4)
        official.close()
    store = MediaStore(base)
    assert download(store, "a", "b", "n", user="user1") == [
        ("a", b"old"),
        ("b", b"b"),
        ("n", b"theirs"),
    ]
    store.close()
    on_disk(base, "user1").check()
