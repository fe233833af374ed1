# SPDX-License-Identifier: AGPL-3.0-or-later
"""The numbers of rows that a sync compares, kept beside the collection.

Counting costs what the collection is long; keeping the numbers costs nothing. They hold
for one state of one file (its inode, usn, mod and scm): with any other state, because
another program wrote the collection or a crash came between, they are counted anew.
"""

import os
import sqlite3
from dataclasses import asdict
from pathlib import Path

import msgspec

from cardkeep.collection.folder import UserFolder
from cardkeep.collection.header import Header
from cardkeep.messages import Counts


class _Kept(msgspec.Struct, frozen=True):
    inode: int
    usn: int
    mod: int
    scm: int
    counts: Counts


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
        found = msgspec.json.decode(folder.counts.read_bytes(), type=_Kept)
        inode = folder.collection.stat().st_ino
    except (OSError, msgspec.DecodeError):
        return None
    same = (found.inode, found.usn, found.mod, found.scm)
    return found.counts if same == (inode, header.usn, header.mod, header.scm) else None


def keep(folder: UserFolder, header: Header, counts: Counts) -> None:
    """Keeps the numbers for this state.

    Not flushed: lost numbers are counted again. Written aside and renamed, so that
    a reader never sees half of them.
    """
    known = {
        "inode": folder.collection.stat().st_ino,
        "usn": header.usn,
        "mod": header.mod,
        "scm": header.scm,
        "counts": asdict(counts),
    }
    aside = Path(f"{folder.counts}.{os.getpid()}")
    aside.write_bytes(msgspec.json.encode(known))
    aside.replace(folder.counts)
