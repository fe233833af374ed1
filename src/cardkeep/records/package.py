# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Anki's collection packages (.colpkg) say about what is in them.

A package is a zip. `meta` tells its form, the form tells which member is the collection and
how `media` lists the media files, which are members too, named by number:

    form      collection          media                      members
    OLDEST    collection.anki2    JSON, number to name       as they are, or deflated
    OLD       collection.anki21   the same                   the same
    CURRENT   collection.anki21b  a message, in zstd         zstd, each for itself

The first two hold schema 11, the last schema 18. Before 2.1.50 there was no `meta`: then the
collection that is there tells the form. In OLD and CURRENT packages `collection.anki2` holds
one note that tells old programs that they are too old.
"""

import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from cardkeep.errors import BadRequest
from cardkeep.records.protobuf import decode, message_class

META = b"meta"
MEDIA = b"media"


class Form(IntEnum):
    """The version in `meta`."""

    OLDEST = 1
    OLD = 2
    CURRENT = 3


#: The member that is the collection.
COLLECTIONS = {
    Form.OLDEST: b"collection.anki2",
    Form.OLD: b"collection.anki21",
    Form.CURRENT: b"collection.anki21b",
}
#: The member that old programs take for the collection, in the newer forms.
NOTICE = COLLECTIONS[Form.OLDEST]

_Meta = message_class("PackageMeta", ["int32 version = 1"])
_Entry = message_class("PackageMedia", ["string name = 1", "uint32 size = 2", "bytes sha1 = 3"])
# The list is a message with entries in its field 1; it is written and read entry by entry.
_ENTRY_TAG = 1 << 3 | 2
# How its parts of a length are put together; three say up to 2 MiB.
_LENGTH_SHIFTS = (0, 7, 14)

# One pair of the JSON object, with what follows it. Names are short; possessive, so that what
# is none costs no memory.
_STRING = rb'"(?:[^"\\]|\\.){0,4000}+"'
_PAIR = re.compile(rb"\s*+(%b)\s*+:\s*+(%b)\s*+([,}])" % (_STRING, _STRING), re.DOTALL)
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")


class Listed(NamedTuple):
    """A media file as the list has it: the number of its member, and what is told of it."""

    number: int
    name: str
    size: int | None
    sha1: bytes | None


# --- writing ----------------------------------------------------------------------------


def meta(form: Form) -> bytes:
    """The content of `meta`."""
    return _Meta(version=form).SerializeToString()


def entry(name: str, size: int, sha1: bytes) -> bytes:
    """The next entry of a CURRENT package's list; its number is its place."""
    message = _Entry(name=name, size=size, sha1=sha1).SerializeToString()
    return bytes([_ENTRY_TAG]) + _varint(len(message)) + message


def pair(number: int, name: str) -> bytes:
    """The next pair of an older package's list, which stands between braces, with commas."""
    return msgspec.json.encode(str(number)) + b":" + msgspec.json.encode(name)


# --- reading ----------------------------------------------------------------------------


def read_meta(content: bytes) -> Form:
    """The form that a `meta` tells. Raises BadRequest for one that is unknown."""
    message: Any = decode(_Meta, content, "meta")
    try:
        return Form(message.version)
    except ValueError:
        raise BadRequest(
            f"it is in a form that this version of cardkeep does not know ({message.version})"
        ) from None


def read_entries(pieces: Iterable[bytes]) -> Iterator[Listed]:
    """The list of a CURRENT package, as its bytes come. Raises BadRequest."""
    number, data = 0, b""
    for piece in pieces:
        data, at = data + piece, 0
        while (found := _framed(data, at)) is not None:
            message, at = found
            read: Any = decode(_Entry, message, f"media file {number} in the list")
            yield Listed(number, read.name, read.size, read.sha1)
            number += 1
        data = data[at:]
    if data:
        raise BadRequest("the list of media files is cut off")


def read_pairs(text: bytes) -> Iterator[Listed]:
    """The list of an older package, pair by pair. Raises BadRequest.

    Numbers may be missing: desktop up to 2.1.49 counts the folders among the files too.
    """
    text = text.strip()
    if not text.startswith(b"{"):
        raise BadRequest("the list of media files is no JSON object")
    if text[1:].strip() == b"}":
        return
    at, last = 1, b","
    while last == b",":
        match = _PAIR.match(text, at)
        if match is None:
            raise BadRequest(f"the list of media files is damaged at byte {at}")
        try:
            key, name = (msgspec.json.decode(match[n], type=str) for n in (1, 2))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRequest(f"the list of media files, at byte {at}: {error}") from None
        if not _NUMBER.fullmatch(key):
            raise BadRequest(f"the list of media files has the key {key!r:.60}")
        yield Listed(int(key), name, None, None)
        at, last = match.end(), match[3]
    if at != len(text):
        raise BadRequest("the list of media files goes on after its end")


def _framed(data: bytes, at: int) -> tuple[bytes, int] | None:
    """The next message of the list and where it ends; None if it has not all come."""
    if at < len(data) and data[at] != _ENTRY_TAG:
        raise BadRequest("the list of media files is no such list")
    length = 0
    for shift, place in zip(_LENGTH_SHIFTS, range(at + 1, len(data)), strict=False):
        length |= (data[place] & 0x7F) << shift
        if data[place] < 0x80:
            end = place + 1 + length
            return (data[place + 1 : end], end) if end <= len(data) else None
    if len(data) - at > len(_LENGTH_SHIFTS):
        raise BadRequest("the list of media files has an entry that is too long")
    return None


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
