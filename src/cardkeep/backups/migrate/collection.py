# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes a collection of another server ready to be one of ours."""

import sqlite3
from pathlib import Path

import msgspec

from cardkeep.backups.migrate import copying
from cardkeep.backups.migrate.copying import Stamp, Tick
from cardkeep.collection import counts, database
from cardkeep.collection.schema.inspect import inspect
from cardkeep.disk import flush
from cardkeep.errors import MigrationError, NotAccepted


class Ready(msgspec.Struct, frozen=True):
    """A collection that is ready, and of which state of the source it was made."""

    source: str
    stamp: Stamp
    notes: int
    cards: int
    reviews: int


def make_ready(source: Path, target: Path, work: Path, tick: Tick) -> Ready:
    """Puts a checked copy of a collection, in schema 18, at `target`; what is there counts.

    `scm`, `usn`, `mod`, deletions and all numbers of rows stay, so that devices go on syncing.
    Raises MigrationError if it is in use, Refused in the words of a refused upload.
    """
    note = work / "collection.json"
    done = _made_before(note, source)
    if done and target.exists():
        return done
    for old in (note, target):
        old.unlink(missing_ok=True)
    raw = work / target.name
    stamp = copying.copy(source, raw, tick)
    try:
        copying.fold(raw)
        inspect(raw, of_server=True)
    except NotAccepted as error:
        raise MigrationError(f"its collection cannot be used: {error.reason}") from error
    except sqlite3.DatabaseError as error:
        raise MigrationError(f"its collection is damaged: {error}") from error
    connection = database.connect_private(raw)
    try:
        found = counts.count(connection)
    finally:
        database.close(connection)
    flush(raw)
    raw.rename(target)
    # Last: what it says is there and on disk.
    ready = Ready(copying.printable(source), stamp, found.notes, found.cards, found.revlog)
    note.write_bytes(msgspec.json.encode(ready))
    return ready


def _made_before(note: Path, source: Path) -> Ready | None:
    try:
        ready = msgspec.json.decode(note.read_bytes(), type=Ready)
    except (OSError, msgspec.MsgspecError):
        return None
    same = ready.source == copying.printable(source) and ready.stamp == copying.stamp(source)
    return ready if same else None
