# SPDX-License-Identifier: AGPL-3.0-or-later
"""A note: row array of the wire, and what is stored of it.

docs/sync-protocol.md, 4.7 (the array), 6.7 and 6.8 (what becomes of it).
"""

import re
from hashlib import sha1

import msgspec

from cardkeep.errors import BadRequest
from cardkeep.records.note_text import strip
from cardkeep.records.numbers import Int32, Int64, UInt32

NOTE_COLUMNS = ("id", "guid", "mid", "mod", "usn", "tags", "flds")

NoteRow = tuple[int, str, int, int, int, str, str]

FIELD_SEPARATOR = "\x1f"

# Kept in fields: newline, tab, and the separator.
_CONTROLS = bytes(code for code in (*range(0x20), 0x7F) if code not in (0x09, 0x0A, 0x1F))
_CONTROL_CHARACTERS = re.compile(f"[{re.escape(_CONTROLS.decode())}]+")
_BETWEEN_TAGS = re.compile("[ \u3000]+")
_STORED_TAGS = re.compile("(?: [^ \u3000]+)+ ")


class NoteEntry(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """A note on the wire: 11 elements. `sfld` and `csum` are empty there, both ways."""

    id: Int64
    guid: str
    mid: Int64
    mod: Int64
    usn: Int32
    tags: str
    flds: str
    sfld: str
    csum: str
    flags: UInt32
    data: str


def note_row(entry: NoteEntry) -> NoteRow:
    """The values of NOTE_COLUMNS: tags in stored form, fields without control characters.

    BadRequest if the text is no text (a lone surrogate).
    """
    return (
        entry.id,
        _checked(entry.guid),
        entry.mid,
        entry.mod,
        entry.usn,
        stored_tags(entry.tags),
        _without_controls(entry.flds),
    )


def note_entry(row: NoteRow) -> tuple[int, str, int, int, int, str, str, str, str, int, str]:
    """The 11 elements of the wire for the values of NOTE_COLUMNS."""
    return (*row, "", "", 0, "")


def note_fields(flds: str) -> list[str]:
    """The fields of a note, at least one."""
    return flds.split(FIELD_SEPARATOR)


def sort_field_and_checksum(fields: list[str], sort_index: int) -> tuple[str, int]:
    """`sfld` and `csum` of a note with these fields; `sort_index` is the notetype's.

    The sort field stays text: SQLite itself makes a number of it where it looks like one,
    since that column is declared integer. BadRequest for a lone surrogate.
    """
    first = strip(fields[0])
    try:
        digest = sha1(first.encode(), usedforsecurity=False).digest()
    except UnicodeEncodeError as error:
        raise _no_text(error) from error
    if sort_index == 0:
        sort_field = first
    else:
        sort_field = strip(fields[sort_index]) if sort_index < len(fields) else ""
    return sort_field, int.from_bytes(digest[:4], "big")


def stored_tags(tags: str) -> str:
    """Tags as the table holds them: one space around each, or nothing at all."""
    if not tags:
        return tags
    if not _STORED_TAGS.fullmatch(tags):
        names = [name for name in _BETWEEN_TAGS.split(tags) if name]
        tags = f" {' '.join(names)} " if names else ""
    return _checked(tags)


def _without_controls(flds: str) -> str:
    try:
        raw = flds.encode()
    except UnicodeEncodeError as error:
        raise _no_text(error) from error
    # Nearly always there is nothing to remove, which bytes tell fastest.
    if len(raw.translate(None, _CONTROLS)) == len(raw):
        return flds
    return _CONTROL_CHARACTERS.sub("", flds)


def _checked(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _no_text(error) from error
    return text


def _no_text(error: UnicodeEncodeError) -> BadRequest:
    return BadRequest(f"note: a lone surrogate at position {error.start} of a text")
