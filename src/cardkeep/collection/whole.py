# SPDX-License-Identifier: AGPL-3.0-or-later
"""A collection as a whole: streamed out as it is, copied, replaced by another.

A collection is replaced through SQLite, page by page in one transaction, and not by
renaming a file over it: other processes may have it open, and the last of them to close
the old file would delete the write-ahead log of the new one by its name.
"""

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import BinaryIO

from cardkeep.collection import database
from cardkeep.collection.folder import UserFolder
from cardkeep.disk import replace_ruined
from cardkeep.messages import ByteSource


class PinnedCollection:
    """The bytes of a live collection in one state, without a copy.

    A read transaction begun while the write-ahead log is empty reads the file itself; until
    it ends, SQLite writes nothing back into the file. Changes go on in the log.
    """

    def __init__(self, pin: sqlite3.Connection, reader: database.RawReader, size: int) -> None:
        self._pin = pin
        self._reader = reader
        self._at = 0
        self.size = size

    def read(self, size: int) -> bytes:
        """The next bytes; empty at the end."""
        piece = self._reader.read_at(self._at, min(size, self.size - self._at))
        self._at += len(piece)
        return piece

    def close(self) -> None:
        """Lets the log be written back again."""
        self._reader.release()
        database.close(self._pin)


class TemporaryFile:
    """A private file that is gone once it was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("rb")
        self.size = path.stat().st_size

    def read(self, size: int) -> bytes:
        """The next bytes; empty at the end."""
        return self._file.read(size)

    def close(self) -> None:
        """Deletes the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def pin(db: sqlite3.Connection, path: Path) -> ByteSource | None:
    """The collection as it is now, None while its log cannot be emptied.

    That is so while another download holds an earlier state. The caller holds the user's
    lock, so that nobody writes in between.
    """
    db.execute("PRAGMA busy_timeout = 0")
    try:
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        db.execute(f"PRAGMA busy_timeout = {database.BUSY_SECONDS * 1000:.0f}")
    if busy:
        return None
    holder = database.connect(path, read_only=True)
    try:
        holder.execute("BEGIN")
        (pages,) = holder.execute("PRAGMA page_count").fetchone()
        (page_size,) = holder.execute("PRAGMA page_size").fetchone()
        holder.execute("SELECT 1 FROM col").fetchone()
        return PinnedCollection(holder, database.raw_reader(path), pages * page_size)
    except BaseException:
        database.close(holder)
        raise


def copy(db: sqlite3.Connection, spool: Path) -> Path:
    """A private copy of the collection as it is now, a whole file without a log."""
    with tempfile.NamedTemporaryFile(
        dir=spool, prefix="body-", suffix=".anki2", delete=False
    ) as made:
        path = Path(made.name)
    try:
        target = database.connect_private(path)
        try:
            db.backup(target)
        finally:
            database.close(target)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def replace(db: sqlite3.Connection, file: Path) -> None:
    """Makes the collection what the private `file` is, in one transaction, on disk at the end."""
    (page_size,) = db.execute("PRAGMA page_size").fetchone()
    source = database.connect_private(file)
    try:
        # A file in WAL mode keeps its page size, so the other one has to be given it.
        if source.execute("PRAGMA page_size").fetchone() != (page_size,):
            source.execute(f"PRAGMA page_size = {page_size:d}")
            source.execute("VACUUM")
        source.backup(db)
    finally:
        database.close(source)


def replace_damaged(folder: UserFolder, file: Path, now: float) -> Path:
    """Puts the private `file` in the place of a collection that cannot be read; on disk at the end.

    Nothing can be written into that one through SQLite, and nobody who may have it open from
    before trusts it for longer than one loan. It is kept as it lies, in the folder that is
    returned, which is named after `now` (s). The caller holds the user's lock.
    """
    folder.fresh.unlink(missing_ok=True)
    shutil.copyfile(file, folder.fresh)
    folder.fresh.chmod(0o600)
    return replace_ruined(folder.collection, folder.fresh, folder.damaged, now)
