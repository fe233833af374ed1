# SPDX-License-Identifier: AGPL-3.0-or-later
"""What decks and notetypes were called before they were renamed.

A device that has not heard of it yet has an object under its former name still. If another
object has that name now, and the device hears of it first, it puts a `+` after the name,
which nobody else ever learns. The collection does not tell former names, so they are written
down beside it, a line for each, and only the latest are kept: whoever comes later than that is
served as if nothing were known.
"""

import os
from collections.abc import Iterable

import msgspec

from cardkeep.collection.folder import UserFolder

# Some hundred renames. A name has 20 to 100 bytes.
_MOST = 64 * 1024


class Former(msgspec.Struct, frozen=True, array_like=True):
    """An object's name before a sync gave it another; `kind` is its table."""

    kind: str
    id: int
    name: str


class _Line(msgspec.Struct, frozen=True, array_like=True):
    """`scm` and `usn` are those of the sync."""

    scm: int
    usn: int
    former: Former


_line = msgspec.json.Decoder(_Line)


def remember(folder: UserFolder, scm: int, usn: int, names: Iterable[Former]) -> None:
    """Writes down what the sync `usn` renames; the caller holds the user's lock.

    Not flushed: a name that is lost costs no more than a `+`.
    """
    text = b"".join(msgspec.json.encode(_Line(scm, usn, each)) + b"\n" for each in names)
    if not text:
        return
    known = _read(folder)
    if len(known) + len(text) > _MOST:
        kept = (known + text)[-_MOST // 2 :]
        aside = folder.former_names.with_suffix(".new")
        aside.write_bytes(kept[kept.find(b"\n") + 1 :])
        aside.rename(folder.former_names)
        return
    fd = os.open(folder.former_names, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # After a line that a kill cut off.
        os.write(fd, text if known[-1:] in (b"", b"\n") else b"\n" + text)
    finally:
        os.close(fd)


def since(folder: UserFolder, scm: int, min_usn: int, kind: str) -> dict[int, str]:
    """By id, under which names a client at `min_usn` knows objects of that table."""
    found: dict[int, str] = {}
    for text in _read(folder).splitlines():
        try:
            line = _line.decode(text)
        except msgspec.DecodeError:
            continue
        if line.scm == scm and line.usn >= min_usn and line.former.kind == kind:
            found.setdefault(line.former.id, line.former.name)
    return found


def _read(folder: UserFolder) -> bytes:
    try:
        return folder.former_names.read_bytes()
    except FileNotFoundError:
        return b""
