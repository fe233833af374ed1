# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies of another server's SQLite files, which are only ever read as files where they lie.

To open one there, even for reading, would make side files beside it, or fold its write-ahead log
into it. So it is copied with its log or journal, and opened here.
"""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cardkeep.collection import database
from cardkeep.disk import flush
from cardkeep.errors import MigrationError

#: What holds changes that are not in the file itself yet, or are to be taken back.
SIDES = ("-wal", "-journal")
#: Who is told how many bytes were done.
Tick = Callable[[int], None]
Stamp = tuple[tuple[str, int, int, int], ...]

_TRIES = 5
_WAIT = 1.0  # seconds; a server that is at work writes again within a few
_PIECE = 1024 * 1024

# The bytes of the file that SQLite locks, whatever it is about (its documentation, "File Locking").
_LOCKED_FROM = 0x4000_0000
_LOCKED_BYTES = 512
# `struct flock`: where the type is, the start, and so on.
_FLOCK = {"linux": "hhqqi", "darwin": "qqihh"}


def copy(source: Path, target: Path, tick: Tick = lambda _: None) -> Stamp:
    """A copy of a SQLite file and its side files, all of one moment, as they are.

    Returns what tells this state of the source from another. Raises MigrationError if somebody
    goes on writing to it.
    """
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_WAIT)
        before = stamp(source)
        discard(target)
        with contextlib.suppress(FileNotFoundError):
            for side, _, size, _ in before:
                from_, to = (path.with_name(path.name + side) for path in (source, target))
                _copy(from_, to, size, tick)
        if before and stamp(source) == before:
            return before
    raise MigrationError(f"{source} changes while it is copied: stop the server that it belongs to")


def stamp(source: Path) -> Stamp:
    """Which state a SQLite file is in: name, inode, size and time of it and its side files."""
    found = []
    for side in ("", *SIDES):
        path = source.with_name(source.name + side)
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append((side, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def fold(path: Path) -> None:
    """Makes a private copy whole by itself: its log is written into it, a journal rolled back.

    Raises sqlite3.DatabaseError for a damaged one.
    """
    if any(_size(path.with_name(path.name + side)) for side in SIDES):
        connection = database.connect(path)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            database.close(connection)
    for side in SIDES:
        path.with_name(path.name + side).unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Removes a private SQLite file with whatever lies beside it, if it is there."""
    for side in ("", *SIDES, "-shm"):
        path.with_name(path.name + side).unlink(missing_ok=True)


@contextlib.contextmanager
def private_copy(source: Path, work: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a copy of a small SQLite file, for as long as the block runs."""
    with tempfile.TemporaryDirectory(dir=work, prefix="copy-") as folder:
        path = Path(folder) / source.name
        copy(source, path)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection


def is_open(path: Path) -> bool:
    """Whether another process of this machine has a SQLite file open, as far as can be seen.

    Nothing is locked for that. A server in a container of this machine is seen too, one
    on another machine is not.
    """
    layout = _FLOCK.get(sys.platform)
    if layout is None or not path.is_file():
        return False
    wanted: dict[str, int] = {
        "type": fcntl.F_WRLCK,
        "whence": os.SEEK_SET,
        "start": _LOCKED_FROM,
        "length": _LOCKED_BYTES,
        "pid": 0,
    }
    order = ("type", "whence", "start", "length", "pid")
    if sys.platform == "darwin":
        order = ("start", "length", "pid", "type", "whence")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        asked = struct.pack(layout, *(wanted[name] for name in order))
        answer = struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    except OSError:
        return False  # a file system that knows no locks
    finally:
        os.close(descriptor)
    return bool(answer[order.index("type")] != fcntl.F_UNLCK)


def printable(name: str | Path) -> str:
    """A name of a file as text, also if it is none."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _copy(source: Path, target: Path, size: int, tick: Tick) -> None:
    """Copies no more than `size` bytes, though the file may grow."""
    with source.open("rb") as from_, target.open("xb") as to:
        while piece := from_.read(min(_PIECE, size)):
            to.write(piece)
            tick(len(piece))
            size -= len(piece)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def flush_all(root: Path) -> None:
    """Returns when a folder and everything in it is on disk."""
    for folder, _, files in os.walk(root):
        for name in files:
            flush(Path(folder, name))
        flush(Path(folder))


def remove(root: Path) -> None:
    """Removes a folder of ours and everything in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(root)
