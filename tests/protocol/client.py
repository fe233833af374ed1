# SPDX-License-Identifier: AGPL-3.0-or-later
"""The sync protocol as a test speaks it: one verb a method, ``check=`` is the status expected.

``Client(port, protocol=11)`` frames as current clients do (docs/sync-protocol.md, 1.3),
``protocol=10`` and below as forms (1.4). A verb returns the decoded payload of a 200.
"""

import gzip
import http.client
import io
import json
import secrets
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import zstandard

BOUNDARY = "a-boundary-of-the-tests"
ANSWER_SECONDS = 60.0
NOTHING: Mapping[str, Any] = {}


@dataclass
class Reply:
    """An answer as it came."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Client:
    """One device: its host key, and a session key for each operation."""

    def __init__(self, port: int, protocol: int = 11, key: str = "", name: str = "test") -> None:
        self.port = port
        self.protocol = protocol
        self.key = key
        self.client = f"26.09.3,{name},linux"
        self.session = ""
        self.base = ""
        self.media_key = ""
        self.new_session()

    # --- framing -----------------------------------------------------------------------

    def new_session(self) -> str:
        """A fresh session key, as clients make one for each operation."""
        self.session = secrets.token_hex(3)
        return self.session

    def send(
        self,
        path: str,
        body: bytes | Iterator[bytes] = b"",
        headers: Mapping[str, str] = NOTHING,
        *,
        verb: str = "POST",
    ) -> Reply:
        """One request as given; an iterator is sent chunked."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request(verb, path, body, dict(headers))
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def call(self, path: str, payload: bytes, check: int = 200, **form: str | None) -> bytes:
        """A payload in this client's framing; the payload of the answer."""
        path = self.base + path
        if self.protocol == 11:
            reply = self.send(path, iter([pack(payload)]), self.header())
        else:
            reply = self.send(path, *self._form(path, payload, form))
        assert reply.status == check, f"{path}: {reply.status}, not {check}: {reply.body[:300]!r}"
        if check != 200 or self.protocol < 11:
            return reply.body
        unpacked = unpack(reply.body)
        assert reply.headers["anki-original-size"] == str(len(unpacked)), path
        return unpacked

    def header(self, **changes: Any) -> dict[str, str]:
        """The one header of protocol 11."""
        fields = {"v": self.protocol, "k": self.key, "c": self.client, "s": self.session}
        return {
            "anki-sync": json.dumps({**fields, **changes}),
            "content-type": "application/octet-stream",
        }

    def _form(
        self, path: str, payload: bytes, changes: Mapping[str, str | None]
    ) -> tuple[bytes, dict[str, str]]:
        media = "/msync/" in path
        fields: dict[str, str | None] = (
            {"sk": self.media_key}
            if media
            else {"c": "1", "k": self.key or None, "s": self.session if self.key else None}
        )
        fields.update(changes)
        data = gzip.compress(payload) if fields.get("c", "0") not in ("0", None) else payload
        return form(data, fields), FORM_HEADERS

    def _json(self, path: str, message: Any, check: int) -> Any:
        text = self.call(path, json.dumps(message).encode(), check)
        return json.loads(text) if check == 200 else text

    # --- collection methods ------------------------------------------------------------

    def login(self, user: str, password: str, check: int = 200) -> "Client":
        """Keeps the key that the server gives."""
        self.key = ""
        answer = self._json("/sync/hostKey", {"u": user, "p": password}, check)
        if check == 200:
            self.key = self.media_key = answer["key"]
        return self

    def meta(self, check: int = 200, *, version: int | None = None) -> Any:
        message = {"v": self.protocol if version is None else version, "cv": self.client}
        return self._json("/sync/meta", message, check)

    def start(
        self, min_usn: int = 0, newer: bool = False, graves: Any = None, check: int = 200
    ) -> Any:
        message = {"minUsn": min_usn, "lnewer": newer, "graves": graves}
        return self._json("/sync/start", message, check)

    def apply_graves(
        self,
        cards: Sequence[int] = (),
        notes: Sequence[int] = (),
        decks: Sequence[int] = (),
        check: int = 200,
    ) -> Any:
        chunk = {"cards": list(cards), "notes": list(notes), "decks": list(decks)}
        return self._json("/sync/applyGraves", {"chunk": chunk}, check)

    def apply_changes(
        self,
        notetypes: Sequence[Any] = (),
        decks: Sequence[Any] = (),
        configs: Sequence[Any] = (),
        tags: Sequence[Any] = (),
        check: int = 200,
        **newer: Any,
    ) -> Any:
        changes = {
            "models": list(notetypes),
            "decks": [list(decks), list(configs)],
            "tags": list(tags),
            **newer,
        }
        return self._json("/sync/applyChanges", {"changes": changes}, check)

    def chunk(self, check: int = 200) -> Any:
        return self._json("/sync/chunk", {}, check)

    def all_chunks(self) -> dict[str, list[Any]]:
        """The rows of all chunks until the last."""
        rows: dict[str, list[Any]] = {"revlog": [], "cards": [], "notes": []}
        done = False
        while not done:
            chunk = self.chunk()
            for kind, found in rows.items():
                found += chunk.get(kind, [])
            done = chunk["done"]
        return rows

    def apply_chunk(self, done: bool = True, check: int = 200, **rows: Any) -> Any:
        return self._json("/sync/applyChunk", {"chunk": {"done": done, **rows}}, check)

    def sanity(self, counts: Any, check: int = 200) -> Any:
        """`counts` as in docs/sync-protocol.md, 4.8."""
        return self._json("/sync/sanityCheck2", {"client": counts}, check)

    def finish(self, check: int = 200) -> Any:
        return self._json("/sync/finish", {}, check)

    def abort(self, check: int = 200) -> Any:
        return self._json("/sync/abort", {}, check)

    def upload(self, collection: bytes, check: int = 200) -> str:
        """The words of the answer; "OK" if it was taken."""
        return self.call("/sync/upload", collection, check).decode()

    def download(self, check: int = 200) -> bytes:
        return self.call("/sync/download", b"{}", check)

    # --- media methods -----------------------------------------------------------------

    def begin(self, check: int = 200) -> Any:
        """The answer's `data`; protocol 10 takes the key for later requests from it."""
        if self.protocol == 11:
            answer = self._json("/msync/begin", {"v": self.client}, check)
        else:
            query = f"?k={quote(self.key)}&v={quote(self.client)}"
            reply = self.send(f"{self.base}/msync/begin{query}", verb="GET")
            assert reply.status == check, reply.body
            answer = json.loads(reply.body) if check == 200 else reply.body
        if check != 200:
            return answer
        assert answer["err"] == ""
        self.media_key = answer["data"]["sk"]
        return answer["data"]

    def media_changes(self, last_usn: int = 0, check: int = 200) -> Any:
        return self._media("mediaChanges", {"lastUsn": last_usn}, check)

    def media_sanity(self, count: int, check: int = 200) -> Any:
        return self._media("mediaSanity", {"local": count}, check)

    def _media(self, method: str, message: Any, check: int) -> Any:
        answer = self._json(f"/msync/{method}", message, check)
        if check != 200:
            return answer
        assert answer["err"] == ""
        return answer["data"]

    def upload_media(self, *files: tuple[str, bytes | None], check: int = 200) -> Any:
        """`files` are (name, bytes or None for a deletion)."""
        return self.upload_zip(media_zip(files), check)

    def upload_zip(self, packed: bytes, check: int = 200) -> Any:
        answer = self.call("/msync/uploadChanges", packed, check)
        if check != 200:
            return answer
        decoded = json.loads(answer)
        assert decoded["err"] == ""
        return decoded["data"]

    def download_files(self, *names: str, check: int = 200) -> dict[str, bytes]:
        """Bytes by name, in the order of the answer."""
        message = json.dumps({"files": names}).encode()
        answer = self.call("/msync/downloadFiles", message, check)
        return read_media_zip(answer) if check == 200 else {}

    # --- a whole sync ------------------------------------------------------------------

    def sync(
        self,
        counts: Sequence[int],
        min_usn: int = 0,
        *,
        graves: Mapping[str, Sequence[int]] = NOTHING,
        changes: Mapping[str, Any] = NOTHING,
        rows: Mapping[str, Any] = NOTHING,
        newer: bool = False,
    ) -> dict[str, Any]:
        """A normal sync from `meta` to `finish`; what the server told.

        `counts` are what this client then has: cards, notes, reviews, notetypes, decks, presets.
        """
        self.new_session()
        self.meta()
        received: dict[str, Any] = {"graves": self.start(min_usn, newer)}
        if graves:
            self.apply_graves(**graves)
        received.update(self.apply_changes(**changes))
        received.update(self.all_chunks())
        self.apply_chunk(**rows)
        cards, notes, reviews, notetypes, decks, presets = counts
        answer = self.sanity([[0, 0, 0], cards, notes, reviews, 0, notetypes, decks, presets])
        assert answer["status"] == "ok", answer
        received["mod"] = self.finish()
        return received


FORM_HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(data: bytes | None, fields: Mapping[str, str | None]) -> bytes:
    """A multipart body with `data` first, as the engines send it; None leaves a field out."""
    body = io.BytesIO()
    if data is not None:
        _part(body, 'name="data"; filename="data"', data)
    for name, value in fields.items():
        if value is not None:
            _part(body, f'name="{name}"', value.encode())
    body.write(f"--{BOUNDARY}--\r\n".encode())
    return body.getvalue()


def _part(body: io.BytesIO, disposition: str, value: bytes) -> None:
    body.write(f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode())
    body.write(value + b"\r\n")


def pack(payload: bytes) -> bytes:
    """As clients do: one streamed frame without its content's size."""
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return packer.compress(payload) + packer.flush()


def unpack(body: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(body)


def media_zip(files: Sequence[tuple[str, bytes | None]]) -> bytes:
    """The zip of `uploadChanges` (9.3)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        listed = []
        for number, (name, data) in enumerate(files):
            listed.append([name, None if data is None else str(number)])
            if data is not None:
                archive.writestr(str(number), data)
        archive.writestr("_meta", json.dumps(listed))
    return packed.getvalue()


def read_media_zip(packed: bytes) -> dict[str, bytes]:
    """Name and bytes of each file in the zip of `downloadFiles` (9.4)."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = json.loads(archive.read("_meta"))
        assert set(archive.namelist()) == {*names, "_meta"}
        return {name: archive.read(member) for member, name in names.items()}
