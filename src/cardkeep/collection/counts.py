# SPDX-License-Identifier: AGPL-3.0-or-later
"""The numbers of rows that a sync compares, kept beside the collection.

Counting costs what the collection is long; keeping the numbers costs nothing. They hold
for one state of one file (its inode, usn, mod and scm): with any other state, because
another program wrote the collection or a crash came between, they are counted anew.
"""

import os
import sqlite3
from contextlib import suppress

import msgspec

from cardkeep.collection.folder import UserFolder
from cardkeep.collection.header import Header
from cardkeep.messages import Counts

# One sector, which a disk writes whole.
_SIZE = 512


class _Kept(msgspec.Struct, frozen=True):
    inode: int
    usn: int
    mod: int
    scm: int
    counts: Counts


_kept = msgspec.json.Decoder(_Kept)


def count(db: sqlite3.Connection) -> Counts:
    """Counts every table."""
    row = db.execute(
        """
        SELECT (SELECT count(*) FROM cards), (SELECT count(*) FROM notes),
            (SELECT count(*) FROM revlog), (SELECT count(*) FROM notetypes),
            (SELECT count(*) FROM decks), (SELECT count(*) FROM deck_config)
        """
    ).fetchone()
    return Counts(*row)


def small(db: sqlite3.Connection, *, cards: int, notes: int, revlog: int) -> Counts:
    """Counts the tables that are always small; the other numbers are known."""
    row = db.execute(
        """
        SELECT (SELECT count(*) FROM notetypes), (SELECT count(*) FROM decks),
            (SELECT count(*) FROM deck_config)
        """
    ).fetchone()
    return Counts(cards, notes, revlog, *row)


def kept(folder: UserFolder, header: Header) -> Counts | None:
    """The numbers for this very state of the collection, if they are known."""
    try:
        found = _kept.decode(_read(folder).rstrip())
        inode = os.stat(folder.collection).st_ino  # noqa: PTH116 (in each sync; Path is slow)
    except (OSError, msgspec.DecodeError):
        return None
    same = (found.inode, found.usn, found.mod, found.scm)
    return found.counts if same == (inode, header.usn, header.mod, header.scm) else None


def keep(folder: UserFolder, header: Header, counts: Counts) -> None:
    """Keeps the numbers for this state; the caller holds the user's lock.

    Not flushed: lost numbers are counted again. Written in place with one small write,
    since renaming over a file makes file systems such as ext4 flush it.
    """
    inode = os.stat(folder.collection).st_ino  # noqa: PTH116 (in each sync; Path is slow)
    known = _Kept(inode, header.usn, header.mod, header.scm, counts)
    # What was committed is committed, also where the disk has no room for these numbers.
    with suppress(OSError):
        fd = folder.open_own(folder.counts, os.O_WRONLY)
        try:
            os.pwrite(fd, msgspec.json.encode(known).ljust(_SIZE), 0)
        finally:
            os.close(fd)


def _read(folder: UserFolder) -> bytes:
    fd = os.open(folder.counts, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _SIZE)
    finally:
        os.close(fd)
