# SPDX-License-Identifier: AGPL-3.0-or-later
"""A light client of protocol 11: sockets, framing, and the steps of a sync.

It keeps no collection. A `Replica` holds what a device would know (usn, modification time,
counts), and whoever drives a sync says what is pending. Every answer is checked;
`AnswerError` ends the run.
"""

import contextlib
import hashlib
import io
import json
import random
import socket
import string
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import zstandard

CLIENT = "26.09.3,29bb700b,linux"
CHUNK = 4096
"""Bytes in an HTTP chunk, as desktop clients send them."""
CHUNKS_PER_WRITE = 16
ROWS_PER_CHUNK = 250
FILES_PER_BATCH = 25

Row = list[Any]


class AnswerError(Exception):
    """A server said something else than it must."""


def expect(condition: object, what: str, *found: object) -> None:
    """Raises `AnswerError` unless the condition holds."""
    if not condition:
        raise AnswerError(": ".join([what, *(repr(item)[:300] for item in found)]))


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One keep-alive HTTP/1.1 connection."""

    def __init__(self, port: int, *, timeout: float = 600.0) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def close(self) -> None:
        self.socket.close()

    def get(self, path: str) -> Response:
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        return self.response()

    def post(
        self, path: str, sync_header: str, body: bytes, *, sink: BinaryIO | None = None
    ) -> Response:
        """Sends a small body as clients do: one write, chunks of at most 4 KiB."""
        self.socket.sendall(self._head(path, sync_header) + _chunked(body) + b"0\r\n\r\n")
        return self.response(sink)

    def post_file(self, path: str, sync_header: str, body: BinaryIO) -> Response:
        """Sends a large body as it is read, 16 chunks of 4 KiB at a time."""
        pending = self._head(path, sync_header)
        while piece := body.read(CHUNK * CHUNKS_PER_WRITE):
            self.socket.sendall(pending + _chunked(piece))
            pending = b""
        self.socket.sendall(pending + b"0\r\n\r\n")
        return self.response()

    def _head(self, path: str, sync_header: str) -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nanki-sync: {sync_header}\r\n"
            "content-type: application/octet-stream\r\naccept: */*\r\n"
            f"host: 127.0.0.1:{self.port}\r\ntransfer-encoding: chunked\r\n\r\n"
        ).encode()

    def response(self, sink: BinaryIO | None = None) -> Response:
        """Reads an answer; its body goes to `sink` if there is one."""
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        kept = io.BytesIO()
        target = kept if sink is None or status != 200 else sink
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n").split(b";")[0], 16):
                self._exactly(size, target)
                self._until(b"\r\n")
            self._until(b"\r\n")
        else:
            self._exactly(int(headers.get("content-length", 0)), target)
        return Response(status, headers, kept.getvalue())

    def _fill(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer += data

    def _until(self, mark: bytes) -> bytes:
        while (end := self.buffer.find(mark)) < 0:
            self._fill()
        text = bytes(self.buffer[:end])
        del self.buffer[: end + len(mark)]
        return text

    def _exactly(self, size: int, target: BinaryIO) -> None:
        while size:
            if not self.buffer:
                self._fill()
            taken = self.buffer[:size]
            del self.buffer[: len(taken)]
            target.write(taken)
            size -= len(taken)


def _chunked(body: bytes) -> bytes:
    parts = []
    for begin in range(0, len(body), CHUNK):
        piece = body[begin : begin + CHUNK]
        parts += [f"{len(piece):X}\r\n".encode(), piece, b"\r\n"]
    return b"".join(parts)


def compressed(payload: bytes) -> bytes:
    """A zstd frame as clients make it: streamed, without size or checksum."""
    frame = zstandard.ZstdCompressor(level=3).compressobj()
    return frame.compress(payload) + frame.flush()


def decompressed(response: Response) -> bytes:
    """The payload of an answer with status 200."""
    expect(response.status == 200, "status", response.status, response.body)
    payload = zstandard.ZstdDecompressor().decompressobj().decompress(response.body)
    size = response.headers.get("anki-original-size")
    expect(size == str(len(payload)), "anki-original-size", size, len(payload))
    return payload


@dataclass
class Latencies:
    """Seconds that each method's answers took."""

    by_method: dict[str, list[float]] = field(default_factory=dict)

    def add(self, method: str, seconds: float) -> None:
        self.by_method.setdefault(method, []).append(seconds)

    def all(self) -> list[float]:
        return [seconds for values in self.by_method.values() for seconds in values]


class Device:
    """A logged-in device with a connection of its own."""

    def __init__(self, port: int, user: str, password: str, *, key: str = "") -> None:
        self.port = port
        self.user = user
        self.connection = Connection(port)
        self.latencies = Latencies()
        self.key = key
        self.new_session()
        if not key:
            answer = self.call("sync/hostKey", {"u": user, "p": password})
            self.key = answer["key"]
            expect(isinstance(self.key, str) and self.key, "hostKey", answer)

    def close(self) -> None:
        self.connection.close()

    def reconnect(self) -> None:
        self.connection.close()
        self.connection = Connection(self.port)

    def new_session(self) -> None:
        """A new session key: one for each operation."""
        letters = string.ascii_letters + string.digits
        self.session = "".join(random.choices(letters, k=6))

    def header(self) -> str:
        return json.dumps(
            {"v": 11, "k": self.key, "c": CLIENT, "s": self.session}, separators=(",", ":")
        )

    def post(self, method: str, body: bytes) -> Response:
        """Sends a body that is compressed already; notes how long the answer took."""
        begin = time.perf_counter()
        response = self.connection.post(f"/{method}", self.header(), body)
        self.latencies.add(method.partition("/")[2], time.perf_counter() - begin)
        return response

    def call(self, method: str, payload: object) -> Any:
        """JSON in, JSON out."""
        body = compressed(msgspec.json.encode(payload))
        return msgspec.json.decode(decompressed(self.post(method, body)))

    def media(self, method: str, payload: object) -> Any:
        """As `call`, for media methods: gives the answer's `data`."""
        answer = self.call(f"msync/{method}", payload)
        expect(answer.get("err") == "", method, answer)
        return answer["data"]


@contextlib.contextmanager
def device(port: int, user: str, password: str = "secret", *, key: str = "") -> Iterator[Device]:
    """A device for the length of a block."""
    made = Device(port, user, password, key=key)
    try:
        yield made
    finally:
        made.close()


# --- collection sync --------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Numbers of rows, as `sanityCheck2` compares them."""

    cards: int
    notes: int
    revlog: int
    notetypes: int
    decks: int
    deck_configs: int


@dataclass(frozen=True)
class Replica:
    """What a device knows of its collection.

    Rows with ids above `last` (card, note, revlog) are new to it.
    """

    usn: int
    mod: int
    counts: Counts
    last: tuple[int, int, int]


@dataclass(frozen=True)
class Pending:
    """Changes that a device has made since its last sync; rows as they go over the wire."""

    revlog: Sequence[Row] = ()
    cards: Sequence[Row] = ()
    notes: Sequence[Row] = ()
    decks: Sequence[dict[str, Any]] = ()
    conf: Mapping[str, Any] | None = None
    crt: int = 0

    def __bool__(self) -> bool:
        return bool(self.revlog or self.cards or self.notes or self.decks)


@dataclass
class Received:
    """What the server sent in a sync."""

    graves: dict[str, list[int]]
    changes: dict[str, Any]
    revlog: list[Row] = field(default_factory=list)
    cards: list[Row] = field(default_factory=list)
    notes: list[Row] = field(default_factory=list)


def meta(device: Device) -> dict[str, Any]:
    """The server's state, checked as clients check it."""
    answer = device.call("sync/meta", {"v": 11, "cv": "anki,26.09.3 (29bb700b),linux"})
    for key in ("mod", "scm", "usn", "ts", "hostNum", "media_usn"):
        expect(type(answer.get(key)) is int, f"meta {key}", answer)
    expect(answer["cont"] is True, "meta cont", answer)
    expect(abs(answer["ts"] - time.time()) < 300, "meta ts", answer)
    return dict(answer)


def sync(device: Device, replica: Replica, pending: Pending) -> tuple[Replica, Received]:
    """A whole normal sync (docs/sync-protocol.md, section 5)."""
    device.new_session()
    server = meta(device)
    usn = server["usn"]
    newer = bool(pending)
    graves = device.call("sync/start", {"minUsn": replica.usn, "lnewer": newer, "graves": None})
    expect(set(graves) == {"cards", "decks", "notes"}, "start", graves)
    received = Received(graves, _apply_changes(device, pending, usn=usn, newer=newer))
    for rows in _chunks(device):
        received.revlog += rows.get("revlog", [])
        received.cards += rows.get("cards", [])
        received.notes += rows.get("notes", [])
    for chunk in outgoing_chunks(pending, usn):
        expect(device.call("sync/applyChunk", {"chunk": chunk}) is None, "applyChunk")
    after = _merged(replica, pending, received)
    check_counts(device, after.counts)
    mod = device.call("sync/finish", {})
    expect(type(mod) is int and mod > server["mod"], "finish", mod, server)
    return replace(after, usn=usn + 1, mod=mod), received


def _apply_changes(device: Device, pending: Pending, *, usn: int, newer: bool) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "models": [],
        "decks": [[{**deck, "usn": usn} for deck in pending.decks], []],
        "tags": [],
    }
    if newer:
        changes["conf"] = pending.conf
        changes["crt"] = pending.crt
    answer = device.call("sync/applyChanges", {"changes": changes})
    expect({"models", "decks", "tags"} <= set(answer), "applyChanges", answer)
    expect(("conf" in answer) is not newer, "applyChanges conf", list(answer))
    return dict(answer)


def _chunks(device: Device) -> Iterator[dict[str, list[Row]]]:
    while True:
        chunk = device.call("sync/chunk", {"_pad": None})
        yield chunk
        if chunk["done"]:
            return


def outgoing_chunks(pending: Pending, usn: int) -> Iterator[dict[str, Any]]:
    """Chunks as the engine makes them, with the session's usn in the rows.

    A review, a note and a card in turn, each from the end of its list, until there are 250;
    the chunk that ends for want of rows says `done`.
    """
    tables = (
        ("revlog", [[*row[:2], usn, *row[3:]] for row in pending.revlog]),
        ("notes", [[*row[:4], usn, *row[5:]] for row in pending.notes]),
        ("cards", [[*row[:5], usn, *row[6:]] for row in pending.cards]),
    )
    done = False
    while not done:
        chunk: dict[str, Any] = {}
        taken = 0
        while taken < ROWS_PER_CHUNK and any(rows for _, rows in tables):
            for name, rows in tables:
                if rows:
                    chunk.setdefault(name, []).append(rows.pop())
                    taken += 1
        done = taken < ROWS_PER_CHUNK
        yield {"done": done, **chunk}


def _merged(replica: Replica, pending: Pending, received: Received) -> Replica:
    """The counts after a sync: rows with ids above the last known ones are new."""
    cards, notes, revlog = (
        [row[0] for rows in pair for row in rows]
        for pair in (
            (pending.cards, received.cards),
            (pending.notes, received.notes),
            (pending.revlog, received.revlog),
        )
    )
    last_card, last_note, last_revlog = replica.last
    counts = replace(
        replica.counts,
        cards=replica.counts.cards + sum(id > last_card for id in set(cards)),
        notes=replica.counts.notes + sum(id > last_note for id in set(notes)),
        revlog=replica.counts.revlog + sum(id > last_revlog for id in set(revlog)),
    )
    last = (
        max([last_card, *cards]),
        max([last_note, *notes]),
        max([last_revlog, *revlog]),
    )
    return replace(replica, counts=counts, last=last)


def check_counts(device: Device, counts: Counts) -> None:
    """`sanityCheck2`, which must say ok."""
    mine = [
        [0, 0, 0],
        counts.cards,
        counts.notes,
        counts.revlog,
        0,
        counts.notetypes,
        counts.decks,
        counts.deck_configs,
    ]
    answer = device.call("sync/sanityCheck2", {"client": mine})
    expect(answer["status"] == "ok", "sanityCheck2", answer)


def upload(device: Device, frame: Path) -> None:
    """A full upload of a collection that is compressed already."""
    device.new_session()
    with frame.open("rb") as body:
        begin = time.perf_counter()
        response = device.connection.post_file("/sync/upload", device.header(), body)
        device.latencies.add("upload", time.perf_counter() - begin)
    expect(decompressed(response) == b"OK", "upload", response)


def download(device: Device, target: Path) -> int:
    """A full download; leaves the zstd frame in `target`, gives the size within."""
    device.new_session()
    body = compressed(b'{"_pad":null}')
    begin = time.perf_counter()
    with target.open("wb") as sink:
        response = device.connection.post("/sync/download", device.header(), body, sink=sink)
    device.latencies.add("download", time.perf_counter() - begin)
    expect(response.status == 200, "download", response)
    return int(response.headers["anki-original-size"])


# --- media ------------------------------------------------------------------------------


def media_begin(device: Device) -> int:
    """The last media usn."""
    answer = device.media("begin", {"v": CLIENT})
    expect(type(answer["usn"]) is int and answer["sk"], "begin", answer)
    return int(answer["usn"])


def media_zip(files: Iterable[tuple[str, bytes]]) -> bytes:
    """An upload of files: stored entries and their `_meta`."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        names = []
        for number, (name, data) in enumerate(files):
            names.append([name, str(number)])
            archive.writestr(str(number), data)
        archive.writestr("_meta", json.dumps(names))
    return target.getvalue()


def media_upload(device: Device, zipped: bytes, *, files: int, usn: int) -> None:
    """`uploadChanges` of `files` new files, which takes the usn to `usn`."""
    answer = msgspec.json.decode(decompressed(device.post("msync/uploadChanges", zipped)))
    expect(answer == {"data": [files, usn], "err": ""}, "uploadChanges", answer, usn)


def media_download(device: Device, wanted: Mapping[str, str]) -> int:
    """Fetches files by name and checks them against their SHA-1; gives how many came."""
    body = compressed(msgspec.json.encode({"files": list(wanted)}))
    payload = decompressed(device.post("msync/downloadFiles", body))
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        names = json.loads(archive.read("_meta"))
        for member, name in names.items():
            found = hashlib.sha1(archive.read(member)).hexdigest()
            expect(found == wanted[name], "downloadFiles", name)
    expect(names, "downloadFiles gave nothing")
    return len(names)
