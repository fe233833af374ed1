# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole collections and media: streamed in and out, in bounded memory, leaving nothing behind."""

import asyncio
import io
import json
import os
import random
import socket
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path

import pytest
import zstandard

from cardkeep import messages
from cardkeep.errors import NotAccepted
from cardkeep.http.limits import Limit, Limits
from cardkeep.http.spool import SpoolFile, sweep
from tests.http.serving import (
    KEY,
    Bytes,
    Client,
    MemorySteps,
    http_chunk,
    read_raw,
    serving,
    until,
)
from tests.packing.test_compression import ZSTD_BOMB
from tests.wire.requests import sync_header, zipped, zstd_frame
from tests.wire.zips import upload_zip

RANDOM = random.Random(3)
SMALL = b"SQLite format 3\0" + RANDOM.randbytes(1000)
LARGE = RANDOM.randbytes(3_000_000) + b"\0" * 4_000_000 + RANDOM.randbytes(10_000)
K = {"k": b"key"}


@pytest.mark.parametrize("collection", [SMALL, LARGE, b""], ids=len)
@pytest.mark.parametrize("framing", ["11", "gzip", "plain"])
def test_an_upload_is_a_file_for_the_step(
    client: Client, steps: MemorySteps, collection: bytes, framing: str
) -> None:
    """Unpacked, complete, private, and gone afterwards."""
    seen: list[bytes] = []

    def take(_caller: messages.Caller, message: messages.Upload) -> messages.Answer:
        assert message.file.parent == steps.spool
        assert message.file.stat().st_mode & 0o077 == 0
        assert steps.spooled() == [message.file]
        seen.append(message.file.read_bytes())
        return messages.UploadAccepted()

    steps.answers[messages.Upload] = take
    if framing == "11":
        answer = client.direct("/sync/upload", collection)
        assert answer.payload == b"OK"
    else:
        fields = {"gzip": {"data": zipped(collection), "c": b"1"}, "plain": {"data": collection}}
        answer = client.form("/sync/upload", fields[framing] | K, chunked=True)
        assert answer.body == b"OK"
    assert seen == [collection]
    until(steps.is_clean)


def test_the_step_may_keep_the_file(client: Client, steps: MemorySteps, tmp_path: Path) -> None:
    """It moves it; nothing is removed then."""
    kept = tmp_path / "collection.anki2"

    def take(_caller: messages.Caller, message: messages.Upload) -> messages.Answer:
        message.file.rename(kept)
        return messages.UploadAccepted()

    steps.answers[messages.Upload] = take
    assert client.direct("/sync/upload", SMALL).status == 200
    assert client.direct("/sync/meta", b'{"v":11,"cv":""}').status == 200
    assert kept.read_bytes() == SMALL
    until(steps.is_clean)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(SMALL, id="not zstd"),
        pytest.param(zstd_frame(LARGE)[:-1], id="cut off"),
        pytest.param(zstd_frame(LARGE)[:2_000_000] + b"\xff" * 100, id="broken"),
    ],
)
def test_a_broken_upload_leaves_nothing(client: Client, steps: MemorySteps, body: bytes) -> None:
    """400, no step, no file."""
    assert client.direct("/sync/upload", body=iter([body])).status == 400
    assert steps.heard == []
    until(steps.is_clean)


def test_a_broken_upload_in_a_form_leaves_nothing(client: Client, steps: MemorySteps) -> None:
    for data in (zipped(LARGE)[:-5], LARGE):
        answer = client.form("/sync/upload", K | {"c": b"1", "data": data}, chunked=True)
        assert answer.status == 400
    assert steps.heard == []
    until(steps.is_clean)


def test_words_about_an_upload_reach_the_client(client: Client, steps: MemorySteps) -> None:
    """With 200, framed or plain, which is how clients show them."""
    steps.answers[messages.Upload] = NotAccepted("Your collection ist zu groß.")
    packed = client.direct("/sync/upload", SMALL)
    assert (packed.status, packed.payload.decode()) == (200, "Your collection ist zu groß.")
    plain = client.form("/sync/upload", K | {"data": SMALL})
    assert (plain.status, plain.body.decode()) == (200, "Your collection ist zu groß.")


def test_words_about_media_reach_the_client(client: Client, steps: MemorySteps) -> None:
    """In `err`."""
    steps.answers[messages.UploadChanges] = NotAccepted("Full.", "quota of ana")
    answer = client.direct("/msync/uploadChanges", upload_zip([("a", b"1")]))
    assert (answer.status, answer.json) == (200, {"data": None, "err": "Full."})


@pytest.mark.parametrize("when", ["at once", "amid the body"])
def test_a_client_that_goes_away_leaves_nothing(
    client: Client, steps: MemorySteps, when: str
) -> None:
    """Its half of a collection is removed."""
    sock = client.start("/sync/upload", {"anki-sync": sync_header(k=KEY)})
    if when != "at once":
        packed = zstd_frame(LARGE)
        sock.sendall(http_chunk(packed[:2_500_000]))
        until(steps.spooled)
    client.close()
    until(lambda: steps.keys == [KEY] and steps.spooled() == [])
    assert steps.heard == []


@pytest.mark.parametrize("collection", [SMALL, LARGE], ids=len)
def test_an_upload_beyond_the_open_ones_waits_for_nobody(
    steps: MemorySteps, collection: bytes
) -> None:
    """A slow sender has the only open frame; another's upload goes by way of the disk."""
    seen: list[bytes] = []

    def take(_caller: messages.Caller, message: messages.Upload) -> messages.Answer:
        seen.append(message.file.read_bytes())
        return messages.UploadAccepted()

    steps.answers[messages.Upload] = take
    packed = zstd_frame(LARGE)
    with serving(steps, Limits(open_frames=1)) as port:
        slow, quick = Client(port), Client(port)
        sock = slow.start("/sync/upload", {"anki-sync": sync_header(k=KEY)})
        sock.sendall(http_chunk(packed[:2_000_000]))
        until(steps.spooled)
        assert quick.direct("/sync/upload", collection).payload == b"OK"
        assert seen == [collection]
        sock.sendall(http_chunk(packed[2_000_000:]) + b"0\r\n\r\n")
        assert read_raw(sock).payload == b"OK"
        assert seen == [collection, LARGE]
        slow.close()
        quick.close()
    until(steps.is_clean)


LIMITS = Limits(
    packed_body=Limit(300_000, "max_body"),
    collection=Limit(400_000, "max_collection"),
    media_file=Limit(40_000, "max_media_file"),
    media_zip=Limit(50_000, "max_media_zip"),
    json=Limit(70_000, "max_json"),
    login=Limit(40_000, "max_login"),
)


@pytest.fixture
def limited(steps: MemorySteps) -> Iterator[Client]:
    with serving(steps, LIMITS) as port:
        client = Client(port)
        yield client
        client.close()


NOISE = RANDOM.randbytes(400_000)
LOGIN = b'{"u":"%s","p":""}' % (b"x" * 40_000)
LONG_JSON = b'{"x":"%s"}' % (b"y" * 70_000)

TOO_LARGE_FORMS = [
    ("upload", NOISE[:310_000], b"0", "max_body"),
    ("upload", NOISE[:310_000], b"1", "max_body"),
    ("upload", b"\0" * 400_001, b"0", "max_body"),
    ("upload", b"\0" * 400_001, b"1", "max_collection"),
    ("uploadChanges", b"\0" * 190_000, b"1", "max_media_zip"),
    ("uploadChanges", NOISE[:190_000], b"0", "max_media_zip"),
    ("finish", LONG_JSON, b"1", "max_json"),
    ("finish", LONG_JSON, b"0", "max_json"),
    ("finish", b"{}".ljust(300_000), b"0", "max_body"),
    ("hostKey", LOGIN, b"0", "max_login"),
    ("hostKey", LOGIN, b"1", "max_login"),
]


def assert_too_large(name: str, status: int, text: bytes, setting: str) -> None:
    """An upload is refused in words, which its client shows; the rest with 400."""
    if name == "upload":
        assert status == 200
        assert text.startswith(b"Your collection is too large")
        assert setting.encode() in text
    else:
        assert (status, text) == (400, b"bad request\n")


@pytest.mark.parametrize(("name", "payload", "c", "setting"), TOO_LARGE_FORMS)
def test_a_form_that_is_too_large_is_refused(
    limited: Client,
    steps: MemorySteps,
    caplog: pytest.LogCaptureFixture,
    name: str,
    payload: bytes,
    c: bytes,
    setting: str,
) -> None:
    """The log names the setting to raise; nothing is left."""
    data = zipped(payload) if c == b"1" else payload
    answer = limited.form(f"/sync/{name}", {"data": data, "c": c, "s": b"s"} | K)
    assert_too_large(name, answer.status, answer.body, setting)
    assert [f"(setting {setting})" in record.getMessage() for record in caplog.records] == [True]
    assert steps.heard == []
    until(steps.is_clean)


TOO_LARGE_FRAMES = [
    ("upload", NOISE, "max_body"),
    ("upload", b"\0" * 400_001, "max_collection"),
    ("uploadChanges", b"\0" * 190_000, "max_media_zip"),
    ("uploadChanges", NOISE[:190_000], "max_media_zip"),
    ("finish", LONG_JSON, "max_json"),
    ("finish", b'{"x":"%s"}' % NOISE.hex().encode(), "max_body"),
    ("hostKey", LOGIN, "max_login"),
    ("hostKey", b'{"u":"%s","p":""}' % NOISE[:45_000].hex().encode(), "max_login"),
]


@pytest.mark.parametrize(("name", "payload", "setting"), TOO_LARGE_FRAMES)
def test_a_frame_that_is_too_large_is_refused(
    limited: Client,
    steps: MemorySteps,
    caplog: pytest.LogCaptureFixture,
    name: str,
    payload: bytes,
    setting: str,
) -> None:
    """The same for protocol 11: packed and unpacked, known and unknown."""
    answer = limited.direct(f"/sync/{name}", payload)
    text = answer.payload if name == "upload" else answer.body
    assert_too_large(name, answer.status, text, setting)
    assert [f"(setting {setting})" in record.getMessage() for record in caplog.records] == [True]
    assert steps.heard == []
    until(steps.is_clean)


@pytest.mark.parametrize("extra", [0, 1])
def test_limits_are_inclusive(limited: Client, steps: MemorySteps, extra: int) -> None:
    """As many bytes as the limit says, and not one more."""
    collection = limited.direct("/sync/upload", b"\0" * (400_000 + extra))
    rows = limited.direct("/sync/finish", b"{}".ljust(70_000 + extra))
    assert (collection.payload == b"OK", rows.status) == ((False, 400) if extra else (True, 200))


def test_a_bomb_ends_at_the_limit(steps: MemorySteps) -> None:
    """A few kilobytes that stand for 256 MiB are never unpacked further than the limit."""
    small = Limit(3_000_000, "setting")
    limits = Limits(collection=small, json=small, media_zip=small, media_file=small)
    with serving(steps, limits) as port:
        client = Client(port)
        client.direct("/sync/meta", b'{"v":11,"cv":""}')
        tracemalloc.start()
        try:
            assert client.direct("/sync/upload", body=iter([ZSTD_BOMB])).payload != b"OK"
            for path in ("/sync/finish", "/msync/uploadChanges"):
                assert client.direct(path, body=iter([ZSTD_BOMB])).status == 400
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()
        client.close()
    until(steps.is_clean)


class Counting:
    """A step that counts how many of it run at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __call__(self, _caller: object, _message: object) -> object:
        return self._run()

    async def _run(self) -> messages.Answer:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.05)
        self.now -= 1
        return messages.Nothing()


@pytest.mark.parametrize(("size", "most"), [(20_000, 2), (500, 6)])
def test_few_big_json_bodies_at_once(steps: MemorySteps, size: int, most: int) -> None:
    """Six at once are all served, two at a time; small ones do not wait for each other."""
    steps.answers[messages.Finish] = counting = Counting()
    barrier = threading.Barrier(6)
    statuses: list[int] = []

    def ask(port: int) -> None:
        client = Client(port)
        barrier.wait()
        statuses.append(client.direct("/sync/finish", b"{}".ljust(size) + b" " * 40_000).status)
        client.close()

    with serving(steps, Limits(big_json=50_000, big_json_at_once=2)) as port:
        threads = [threading.Thread(target=ask, args=(port,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 6
    assert counting.most == most if most == 2 else counting.most > 2


# --- media uploads ------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["11", "plain", "gzip"])
@pytest.mark.parametrize(("size", "spooled"), [(4_000_000, 1), (1_000_000, 0), (1_000, 0)])
def test_a_media_upload_is_a_list_of_entries(
    client: Client, steps: MemorySteps, framing: str, size: int, spooled: int
) -> None:
    """In the client's order, with bytes to be read during the step, and nothing left after.

    One of the size that clients make it never touches the disk; nor does the next one.
    """
    files = [("a.txt", b"hello"), ("gone.png", None), ("日本.jpg", LARGE[:size])]
    got: list[tuple[str, bytes | None]] = []

    def take(_caller: messages.Caller, message: messages.UploadChanges) -> messages.Answer:
        assert len(steps.spooled()) == spooled
        for entry in message.read():
            data = None
            if entry.data is not None:
                source = entry.data()
                data = source.read(source.size)
                source.close()
            got.append((entry.name, data))
        return messages.MediaUploaded(len(got), 9)

    steps.answers[messages.UploadChanges] = take
    body = upload_zip(files)
    for _ in range(4):
        got.clear()
        if framing == "11":
            answer = client.direct("/msync/uploadChanges", body)
        else:
            data = {"gzip": {"data": zipped(body), "c": b"1"}, "plain": {"data": body}}[framing]
            answer = client.form("/msync/uploadChanges", data | {"sk": b"key"})
        assert answer.json == {"data": [3, 9], "err": ""}
        assert got == files
        until(steps.is_clean)


def test_media_limits_reach_the_reader_of_zips(
    limited: Client, steps: MemorySteps, caplog: pytest.LogCaptureFixture
) -> None:
    """A file, and all files together, as their settings say."""
    for sizes, setting in [([40_001], "max_media_file"), ([30_000, 30_000], "max_media_zip")]:
        caplog.clear()
        files = [(str(size + place), b"\0" * size) for place, size in enumerate(sizes)]
        assert limited.direct("/msync/uploadChanges", upload_zip(files)).status == 400
        assert f"(setting {setting})" in caplog.text
    assert limited.direct("/msync/uploadChanges", upload_zip([("a", b"\0" * 40_000)])).status == 200
    assert len(steps.heard) == 1


@pytest.mark.parametrize("body", [b"", b"no zip", upload_zip([("x", b"1")])[:-30]])
def test_a_broken_media_upload_is_400(client: Client, steps: MemorySteps, body: bytes) -> None:
    assert client.direct("/msync/uploadChanges", body).status == 400
    assert client.form("/msync/uploadChanges", {"data": body, "sk": b"key"}).status == 400
    assert steps.heard == []
    until(steps.is_clean)


# --- answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("collection", [SMALL, LARGE], ids=len)
def test_a_download_is_streamed(client: Client, steps: MemorySteps, collection: bytes) -> None:
    """Framed with its size for 11, plain with its length for 8 to 10; the source is closed.

    In chunks only if it does not fit into one piece.
    """
    sources = [Bytes(collection), Bytes(collection)]
    given = iter(sources)
    steps.answers[messages.Download] = lambda *_: messages.CollectionFile(next(given))
    packed = client.direct("/sync/download")
    assert packed.payload == collection
    expected = "chunked" if collection is LARGE else None
    assert packed.headers.get("transfer-encoding") == expected
    plain = client.form("/sync/download", K)
    assert plain.body == collection
    assert plain.headers["content-length"] == str(len(collection))
    assert all(source.closed.wait(20) for source in sources)


def test_media_files_are_a_zip(client: Client, steps: MemorySteps) -> None:
    """Numbered members and the map of their names (docs/sync-protocol.md, 9.4)."""
    files = [("a.txt", b"hello"), ("日本.jpg", LARGE[:2_000_000])]
    sources: list[Bytes] = []

    def give(_caller: object, message: messages.DownloadFiles) -> messages.Answer:
        assert message.names == [name for name, _ in files]
        sources[:] = [Bytes(data) for _, data in files]
        return messages.MediaFiles(
            lambda: [(name, source) for (name, _), source in zip(files, sources, strict=True)]
        )

    steps.answers[messages.DownloadFiles] = give
    asked = json.dumps({"files": [name for name, _ in files]}).encode()
    packed = client.direct("/msync/downloadFiles", asked)
    plain = client.form("/msync/downloadFiles", {"data": asked, "sk": b"key"})
    assert packed.payload == plain.body
    with zipfile.ZipFile(io.BytesIO(plain.body)) as archive:
        assert json.loads(archive.read("_meta")) == {"0": "a.txt", "1": "日本.jpg"}
        assert [archive.read("0"), archive.read("1")] == [data for _, data in files]
    assert all(source.closed.is_set() for source in sources)
    until(steps.is_clean)


def test_a_source_that_fails_at_once_is_500(client: Client, steps: MemorySteps) -> None:
    """Nothing was sent yet, so the status can still be told."""
    source = Bytes(SMALL, fail_at=0)
    steps.answers[messages.Download] = messages.CollectionFile(source)
    assert client.direct("/sync/download").status == 500
    assert source.closed.wait(20)


@pytest.mark.parametrize("framing", ["11", "10"])
def test_a_source_that_fails_amid_the_answer_ends_the_connection(
    client: Client, steps: MemorySteps, framing: str
) -> None:
    """The client must not take half a collection for a whole one."""
    source = Bytes(LARGE, fail_at=2_000_000)
    steps.answers[messages.Download] = messages.CollectionFile(source)
    with pytest.raises(IncompleteRead):
        client.direct("/sync/download") if framing == "11" else client.form("/sync/download", K)
    assert source.closed.wait(20)


def test_a_reader_that_goes_away_ends_the_download(client: Client, steps: MemorySteps) -> None:
    """Nobody packs the rest of a collection for nobody."""
    source = Bytes(RANDOM.randbytes(1_000_000) * 60)
    steps.answers[messages.Download] = messages.CollectionFile(source)
    sock = client.start("/sync/download", {"anki-sync": sync_header(k=KEY)})
    sock.sendall(http_chunk(zstd_frame(b"{}")) + http_chunk(b""))
    assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    client.close()
    assert source.closed.wait(20)
    assert source.position < source.size


def test_a_reader_that_stalls_is_given_up(steps: MemorySteps) -> None:
    """It holds no thread meanwhile, and after the idle time no source either."""
    source = Bytes(RANDOM.randbytes(1_000_000) * 60)
    steps.answers[messages.Download] = messages.CollectionFile(source)
    with serving(steps, Limits(idle_seconds=0.3, threads=1)) as port:
        stalled = Client(port)
        sock = stalled.start("/sync/download", {"anki-sync": sync_header(k=KEY)})
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(http_chunk(zstd_frame(b"{}")) + http_chunk(b""))
        other = Client(port)
        assert other.direct("/sync/upload", LARGE).status == 200
        assert source.closed.wait(20)
        assert source.position < source.size
        stalled.close()
        other.close()


def test_a_sender_that_stalls_is_given_up(steps: MemorySteps) -> None:
    """400 and an end to the connection; its half of a collection is removed."""
    with serving(steps, Limits(idle_seconds=0.3, threads=1)) as port:
        client = Client(port)
        sock = client.start("/sync/upload", {"anki-sync": sync_header(k=KEY)})
        sock.sendall(http_chunk(zstd_frame(LARGE)[:2_500_000]))
        answer = read_raw(sock)
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        client.close()
    until(steps.is_clean)


def test_threads_are_only_lent_for_a_batch(steps: MemorySteps) -> None:
    """With one thread, a slow upload, a slow download and a long body all get on."""
    source = Bytes(RANDOM.randbytes(1_000_000) * 60)
    steps.answers[messages.Download] = messages.CollectionFile(source)
    with serving(steps, Limits(threads=1)) as port:
        up, down, other = Client(port), Client(port), Client(port)
        packed = zstd_frame(LARGE)
        upload = up.start("/sync/upload", {"anki-sync": sync_header(k=KEY)})
        upload.sendall(http_chunk(packed[:2_500_000]))
        download = down.start("/sync/download", {"anki-sync": sync_header(k=KEY)})
        download.sendall(http_chunk(zstd_frame(b"{}")) + http_chunk(b""))
        until(lambda: steps.spooled() and source.position)
        assert other.direct("/sync/finish", b"{}".ljust(3_000_000)).json == 9
        upload.sendall(http_chunk(packed[2_500_000:]) + http_chunk(b""))
        assert read_raw(upload).status == 200
        for client in (up, down, other):
            client.close()
        assert source.closed.wait(20)


def test_a_payload_longer_than_clients_can_count_is_refused(
    client: Client, steps: MemorySteps
) -> None:
    """`anki-original-size` has 32 bits."""

    class Endless(Bytes):
        @property
        def size(self) -> int:
            return 2**32

    source = Endless(b"")
    steps.answers[messages.Download] = messages.CollectionFile(source)
    assert client.direct("/sync/download").status == 503
    assert source.closed.wait(20)


def test_frames_of_any_level_and_kind_are_taken(client: Client, steps: MemorySteps) -> None:
    """Nobody can know what future clients pack with."""
    seen: list[bytes] = []

    def take(_caller: object, message: messages.Upload) -> messages.Answer:
        seen.append(message.file.read_bytes())
        return messages.UploadAccepted()

    steps.answers[messages.Upload] = take
    for level in (-5, 1, 19):
        frame = zstandard.ZstdCompressor(level=level, write_checksum=True).compress(LARGE)
        assert client.direct("/sync/upload", body=iter([frame])).status == 200
    assert seen == [LARGE] * 3


def test_what_a_killed_server_left_is_swept(tmp_path: Path) -> None:
    """Old bodies go; those of running requests, and what is not ours, stay."""
    kept = [tmp_path / "other"]
    kept[0].touch()
    os.utime(kept[0], (0, 0))
    for age in (0, 1000):
        file = SpoolFile(tmp_path)
        file.write(b"half a collection")
        file.close()
        if age:
            os.utime(file.path, (age, age))
        else:
            kept.append(file.path)
    assert sweep(tmp_path, before=2000) == 1
    assert sorted(tmp_path.iterdir()) == sorted(kept)
