# SPDX-License-Identifier: AGPL-3.0-or-later
"""Databases of a running server, each in one state, without anybody waiting for it.

A collection is not copied: a read transaction pins it while its log is empty, and the file's own
bytes are what goes into the backup. No lock of the user's is taken. What it costs: until these
bytes are read, the log cannot be written back, so it grows by what this one user changes in that
time (some seconds for 100 MB; the whole collection, if it is replaced by an upload just then),
and a device that downloads the whole collection meanwhile is given a copy, which the server makes
for it. Where the log does not come to be empty, because others read all the time, a
copy is made aside.

Indexes of media and the accounts are small: they are copied aside (SQLite's backup).
"""

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from cardkeep import disk
from cardkeep.collection import counts, database, header, whole
from cardkeep.collection.folder import UserFolder
from cardkeep.messages import ByteSource, Counts

# Seconds between looks at a log that others keep from being emptied; then it is copied.
_WAITS = (0.0, 0.05, 0.1, 0.2, 0.4)


class Collection(NamedTuple):
    """The bytes of a collection, and what it holds; unknown if it is damaged."""

    source: ByteSource
    counts: Counts | None
    damage: str = ""


@contextmanager
def collection(folder: UserFolder, spool: Path) -> Iterator[Collection]:
    """The user's collection as it is now; as it lies there, if it is damaged.

    Raises FileNotFoundError if there is none, Unavailable if another program has it locked.
    """
    try:
        taken = _take(folder, spool)
    except (sqlite3.DatabaseError, TypeError) as error:  # TypeError: the one row is missing
        if not is_damage(error):
            raise
        taken = Collection(_AsItLies(folder.collection), None, str(error))
    with closing(taken.source):
        yield taken


def _take(folder: UserFolder, spool: Path) -> Collection:
    with closing(database.connect(folder.collection)) as db:
        # A log cannot be emptied onto a full disk; but then too a backup is wanted.
        with suppress(sqlite3.OperationalError):
            # Most of the log, while others may still write; the rest is then soon done.
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            for wait in _WAITS:
                time.sleep(wait)
                if taken := _pin(folder, db):
                    return taken
        db.execute("BEGIN")
        known = _counts(folder, db)
        return Collection(whole.TemporaryFile(whole.copy(db, spool)), known)


def _pin(folder: UserFolder, db: sqlite3.Connection) -> Collection | None:
    """None if somebody reads an earlier state, or wrote in between."""
    source = whole.pin(db, folder.collection)
    if source is None:
        return None
    try:
        # The user's lock is not held, so the log itself must show that nothing came into it
        # before the state was pinned, and then, before it was counted.
        if _log_is_empty(folder):
            known = _counts(folder, db)
            if _log_is_empty(folder):
                return Collection(source, known)
    except BaseException:
        source.close()
        raise
    source.close()
    return None


def _counts(folder: UserFolder, db: sqlite3.Connection) -> Counts:
    found = header.read(db)
    return counts.kept(folder, found) or counts.count(db)


def _log_is_empty(folder: UserFolder) -> bool:
    log = folder.collection.with_name(folder.collection.name + "-wal")
    try:
        return log.stat().st_size == 0
    except FileNotFoundError:
        return True


def is_damage(error: Exception) -> bool:
    """A file that is not what it should be; not one that is locked, nor a broken or full disk."""
    if isinstance(error, sqlite3.DatabaseError):
        return disk.is_damage(error)
    return isinstance(error, TypeError)


class _AsItLies:
    """The bytes of a file that SQLite cannot open."""

    def __init__(self, path: Path) -> None:
        self._reader = database.raw_reader(path)
        self._at = 0
        self.size = self._reader.size

    def read(self, size: int) -> bytes:
        """The next bytes; empty at the end."""
        piece = self._reader.read_at(self._at, min(size, self.size - self._at))
        self._at += len(piece)
        return piece

    def close(self) -> None:
        """Gives the file back."""
        self._reader.release()


# --- small databases --------------------------------------------------------------------


@contextmanager
def copied(live: sqlite3.Connection, spool: Path) -> Iterator[Path]:
    """A private copy of a small database as it is now, gone at the end."""
    with tempfile.NamedTemporaryFile(dir=spool, prefix="body-", suffix=".db") as file:
        with closing(sqlite3.connect(file.name)) as private:
            # Nobody else knows of it, and it need not outlive this process.
            private.execute("PRAGMA journal_mode = OFF")
            private.execute("PRAGMA synchronous = OFF")
            live.backup(private)
        yield Path(file.name)
