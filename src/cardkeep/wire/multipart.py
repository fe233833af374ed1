# SPDX-License-Identifier: AGPL-3.0-or-later
"""The framing of protocols 8 to 10: a multipart form (docs/sync-protocol.md, 1.4).

Engine clients put `data` first and the keys after it, legacy clients the other way
round; so nothing is known of a request until its whole form was read. `data` is handed
on as it arrives, the other fields are kept.
"""

import logging
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from cardkeep.errors import BadRequest
from cardkeep.wire.request import Head
from cardkeep.wire.versions import FORM

#: Real forms have at most six parts, each with one or two short headers. A host key has
#: 40 characters, a client's version text some 40 more.
MAX_PARTS = 32
MAX_FIELD = 4096
MAX_HEADERS = 4096

# What it warns about it also raises; a refused request gets one line in the log, elsewhere.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

_KEPT = frozenset((b"k", b"sk", b"s", b"v", b"c"))


@dataclass(frozen=True, slots=True)
class Form:
    """A form that was read to its end. `gzipped`: how to understand `data`."""

    head: Head
    gzipped: bool


class FormReader:
    """Reads one form; `feed` it the body as it arrives, then `finish`.

    Raises BadRequest for anything that is not such a form, from all three.
    """

    def __init__(self, content_type: bytes) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise BadRequest("neither an anki-sync header nor a multipart form")
        self._fields: dict[bytes, bytes] = {}
        self._data: list[bytes] = []
        self._has_data = False
        self._parts = 0
        self._name = b""
        self._value = bytearray()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers_size = 0
        self._ended = False
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise BadRequest(f"form: {error}") from None

    def feed(self, body: bytes) -> bytes:
        """The bytes of `data` within this piece of the body, often none."""
        try:
            self._parser.write(body)
        except FormParserError as error:
            raise BadRequest(f"form: {error}") from None
        if not self._data:
            return b""
        data = self._data[0] if len(self._data) == 1 else b"".join(self._data)
        self._data.clear()
        return data

    def finish(self) -> Form:
        """The fields, after the last piece."""
        if not self._ended:
            raise BadRequest("form: the end is missing")
        return Form(
            head=Head(
                version=FORM,
                host_key=self._text(b"k") or self._text(b"sk"),
                session_key=self._text(b"s"),
                client=self._text(b"v"),
            ),
            gzipped=self._fields.get(b"c", b"0") != b"0",
        )

    def _text(self, name: bytes) -> str:
        try:
            return self._fields.get(name, b"").decode()
        except UnicodeDecodeError:
            raise BadRequest(f"form: field {name.decode()} is not UTF-8") from None

    # What the parser calls. Headers and values may come in several pieces.

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"form: more than {MAX_PARTS} fields")
        self._name = b""
        self._value.clear()
        self._header_name.clear()
        self._header_value.clear()
        self._headers_size = 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._headers_size += size
        if self._headers_size > MAX_HEADERS:
            raise BadRequest("form: the headers of a field are too long")

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _kind, options = parse_options_header(bytes(self._header_value))
            self._name = options.get(b"name", b"")
            if self._name == b"data":
                if self._has_data:
                    raise BadRequest("form: data stands twice")
                self._has_data = True
        self._header_name.clear()
        self._header_value.clear()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == b"data":
            self._data.append(data[start:end])
        elif self._name in _KEPT:
            self._value += data[start:end]
            if len(self._value) > MAX_FIELD:
                raise BadRequest(f"form: field {self._name.decode()} is too long")

    def _on_part_end(self) -> None:
        if self._name in _KEPT:
            self._fields[self._name] = bytes(self._value)

    def _on_end(self) -> None:
        self._ended = True
