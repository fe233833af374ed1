# SPDX-License-Identifier: AGPL-3.0-or-later
"""Connections to collection files: the one place that opens and prepares them.

`connect` opens a collection that is in use, `connect_private` a file that nobody else knows
of (an upload on trial, a copy being converted), `raw_reader` reads the bytes of a collection
in use past SQLite.

All three go through one register of what this process holds open, because of a rule of POSIX:
closing *any* descriptor of a file drops *every* advisory lock that the process holds on it.
A collection that was read with a plain `open(...)` and closed again would leave SQLite's
connections of this process without locks: another process could take itself for the last
user, fold the write-ahead log into the file and delete it under our hands. So nothing in the
program opens a live collection except through here, and raw descriptors are closed only when
the process has no connection to that file left. (SQLite minds the rule for the descriptors
that it opens itself.)
"""

import contextlib
import os
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Self

from cardkeep.errors import Unavailable
from cardkeep.records import unicase

# How long a connection waits for a lock of another process. A client gives up after 30 s
# without an answer (docs/sync-protocol.md, 1.2), and a request takes several locks.
BUSY_SECONDS = 5.0
# Page cache of each connection, KiB: enough for the inner pages of the indexes of a large
# collection, small enough for a hundred open ones.
CACHE_KIB = 8 * 1024
# A write-ahead log is cut to this when it starts anew, else one big push leaves its size behind.
# Not to nothing: to write over what is there costs less than half of making a file longer.
JOURNAL_SIZE_LIMIT = 15 * 1024 * 1024

# Bounds of what any statement may do. Nothing that cardkeep runs comes near them; a hostile
# file does (a CREATE statement is parsed each time a connection is opened).
LIMITS = {
    # One row: Anki itself keeps a note below this by far; memory is bounded by it.
    sqlite3.SQLITE_LIMIT_LENGTH: 96 * 1024 * 1024,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 1,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

# SQLite reads the whole schema, whatever is in it, before the first statement. While it does,
# statements may be this long, and the reading may take this many steps (some ten an object;
# Anki's forty objects take some hundreds).
_SCHEMA_SQL_LENGTH = 8192
_SCHEMA_STEPS = 4000

_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}

Identity = tuple[int, int]


class _Held:
    """What the process holds open of one file."""

    __slots__ = ("connections", "descriptors", "readers")

    def __init__(self) -> None:
        self.connections = 0
        self.readers = 0
        self.descriptors: list[int] = []


_lock = threading.Lock()
_held: dict[Identity, _Held] = {}


class _Connection(sqlite3.Connection):
    """A connection that is in the register until it is closed, by whatever way."""

    _identity: Identity | None = None

    def close(self) -> None:
        # SQLite gives its locks back first; only then may raw descriptors go.
        super().close()
        identity, self._identity = self._identity, None
        if identity is not None:
            _leave(identity)


class RawReader:
    """Reads the bytes of a file without SQLite, at any offset, from any thread.

    The file stays the one that was opened, also when another is renamed into its place.
    What is read while somebody checkpoints is for the caller to prevent (by a read
    transaction, which holds the checkpoint back from pages it needs).
    """

    def __init__(self, identity: Identity, descriptor: int) -> None:
        self._identity: Identity | None = identity
        self._descriptor = descriptor

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        self._check()
        return os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer at the end of the file."""
        self._check()
        pieces = []
        while size > 0 and (piece := os.pread(self._descriptor, size, offset)):
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self) -> None:
        """Gives the reader back; further calls do nothing."""
        with _lock:
            identity, self._identity = self._identity, None
            if identity is not None:
                held = _held[identity]
                held.readers -= 1
                _close_if_unused(identity, held)

    def _check(self) -> None:
        if self._identity is None:
            raise ValueError("read after release")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the collection in use at `path`; transactions begin with BEGIN only.

    It may pass from thread to thread, but serves one at a time. `read_only` refuses writes
    and never changes the journal mode. Close it with `close` or its own `close()`.

    Raises FileNotFoundError when there is no file (one is never made here), Unavailable when
    another program holds it, sqlite3.DatabaseError when it is damaged.
    """
    connection = _open(path)
    try:
        _prepare(connection)
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            # Readers and the one writer do not wait for each other. Kept in the file's header,
            # so this writes only when a file of another origin is met for the first time.
            connection.execute("PRAGMA journal_mode = WAL")
        # Promise 2: what a client was told is on disk, through a loss of power too. In WAL
        # mode this is one fsync a commit.
        connection.execute("PRAGMA synchronous = FULL")
        # Checkpoints are made off the request's path, not by the commit that happens to be
        # the thousandth page.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT}")
        _defend(connection)
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF in _LOCKED:
            raise Unavailable(f"{path} is locked by another program: {error}") from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def connect_private(path: Path) -> sqlite3.Connection:
    """A connection to a file that nobody else knows of, for speed instead of safety.

    There is no journal, so a failed change leaves rubbish: the caller then deletes the file.
    Nothing is flushed: whoever renames the file into place flushes it before. The file must be
    whole by itself (no -wal of its own); a header that asks for a write-ahead log is turned to
    the rollback form, so that no side files come into being. A file that does not exist is made.

    Raises ValueError when there is a -wal, sqlite3.DatabaseError when it is damaged.
    """
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        raise ValueError(f"{path} has a write-ahead log: it is not whole by itself")
    if path.exists():
        _clear_wal_header(path)
    else:
        path.touch(mode=0o600)
    connection = _open(path)
    try:
        _prepare(connection)
        # Nobody else locks it, nobody needs it after a crash.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = OFF")
        _defend(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def close(connection: sqlite3.Connection) -> None:
    """Closes a connection of `connect` or `connect_private`; twice does no harm.

    Its cursors must be read to their end or dropped: SQLite keeps the file open, and its locks,
    until the last of them is gone.
    """
    connection.close()


def shrink(connection: sqlite3.Connection) -> None:
    """Gives the pages that a connection has in memory back to the system."""
    connection.execute("PRAGMA shrink_memory")


def raw_reader(path: Path) -> RawReader:
    """A reader of the bytes at `path`; give it back with `release` (or as a context manager).

    Raises OSError when the file cannot be opened.
    """
    with _lock:
        identity = _identity(path)
        held = _held.get(identity)
        if held is None or not held.descriptors:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            status = os.fstat(descriptor)
            # Another file may have been renamed into place since; then the descriptor is that
            # one's, perhaps its second. Never close it here: that is what drops the locks.
            identity = (status.st_dev, status.st_ino)
            held = _held.setdefault(identity, _Held())
            held.descriptors.append(descriptor)
        held.readers += 1
        return RawReader(identity, held.descriptors[0])


def _open(path: Path) -> _Connection:
    """Opens `path` and enters the connection into the register under the file it really is."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    while True:
        # Entered before SQLite opens the file, so that no raw descriptor of it is closed in
        # between; looked at again after, since an upload may rename another file into place.
        identity = _enter(path)
        try:
            connection = sqlite3.connect(
                uri,
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
                factory=_Connection,
            )
        except BaseException:
            _leave(identity)
            raise
        connection._identity = identity
        with contextlib.suppress(FileNotFoundError):
            if _identity(path) == identity:
                return connection
        connection.close()


def _prepare(connection: sqlite3.Connection) -> None:
    """What every connection needs, whatever the file is."""
    for limit, value in LIMITS.items():
        connection.setlimit(limit, value)
    _read_schema(connection)
    # Names in schema 18 compare and are indexed by it (docs/collection-format.md, 4).
    connection.create_collation("unicase", unicase.compare)
    # Damaged cells are found when a page is read, not when they have misled a search.
    connection.execute("PRAGMA cell_size_check = ON")
    # A damaged or shortened file must give an error, not a bus error.
    connection.execute("PRAGMA mmap_size = 0")
    # Debian's SQLite overwrites deleted content with zeros, which multiplies what is written.
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


def _defend(connection: sqlite3.Connection) -> None:
    """No statement writes to the schema table or turns the journal off from here on."""
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)


def _read_schema(connection: sqlite3.Connection) -> None:
    """Has SQLite read the schema within narrow bounds, so that no file can make it swell."""
    # Files come from outside: functions with side effects are not for what a schema contains.
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _SCHEMA_SQL_LENGTH)
    connection.set_progress_handler(lambda: 1, _SCHEMA_STEPS)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    finally:
        connection.set_progress_handler(None, 0)
        connection.setlimit(
            sqlite3.SQLITE_LIMIT_SQL_LENGTH, LIMITS[sqlite3.SQLITE_LIMIT_SQL_LENGTH]
        )


def _clear_wal_header(path: Path) -> None:
    """Turns the two version bytes from write-ahead log (2) to rollback journal (1)."""
    with path.open("r+b") as file:
        file.seek(18)
        if file.read(2) == b"\x02\x02":
            file.seek(18)
            file.write(b"\x01\x01")


def _identity(path: Path) -> Identity:
    status = path.stat()
    return (status.st_dev, status.st_ino)


def _enter(path: Path) -> Identity:
    with _lock:
        identity = _identity(path)
        _held.setdefault(identity, _Held()).connections += 1
        return identity


def _leave(identity: Identity) -> None:
    with _lock:
        held = _held[identity]
        held.connections -= 1
        _close_if_unused(identity, held)


def _close_if_unused(identity: Identity, held: _Held) -> None:
    """Closes raw descriptors when no reader and no connection is left. The lock is held."""
    if held.readers or held.connections:
        return
    for descriptor in held.descriptors:
        os.close(descriptor)
    del _held[identity]
