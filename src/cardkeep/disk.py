# SPDX-License-Identifier: AGPL-3.0-or-later
"""What files need to survive: flushing, the right owner, and a place for what is ruined."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

# What SQLite keeps beside a database, and would take for a new file's.
_SIDES = ("-wal", "-shm")

# What names a folder holds, as far as `stamp` can tell.
Stamp = tuple[int, int, int, int]

# Times in files are those of the kernel's last tick, at most 10 ms ago, rounded to 2 s on FAT,
# 1 s and 10 ms elsewhere; ns in which nothing is left after that are hardly ever by chance.
_COARSE_NS = 10_000_000
_SETTLED_NS = 100_000_000
_SETTLED_COARSE_NS = 2_500_000_000

# Databases that are open at once are few.
_REMEMBERED = 100

# What SQLite says of a file that is not what it should be.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is at fault; not so if it is locked, or the disk broken or full."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _DAMAGE


def is_settled(changed_ns: int) -> bool:
    """Whether what was changed then (ns since 1970) shows it in its times if it changes again.

    What was changed just now could be changed again within what its times can tell apart.
    """
    settled = _SETTLED_NS if changed_ns % _COARSE_NS else _SETTLED_COARSE_NS
    return time.time_ns() - changed_ns > settled


def stamp(folder: str) -> Stamp | None:
    """What is another one once a file in the folder came, went or was replaced by another.

    None as long as it cannot be relied on: there is no folder, or it changed just now. It is
    taken before the look that it is remembered with.
    """
    try:
        status = os.stat(folder)  # noqa: PTH116 (on nearly each request, and Path is slow)
    except OSError:
        return None
    if not is_settled(status.st_mtime_ns):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


class Remembered(Generic[T]):
    """What was read from write-ahead-logged databases, as long as it must still be the same.

    Every commit, whoever makes it, is written to the log beside the database. A look at that file
    costs a fifth of a query, whose locks are four system calls. Any number of threads may use it.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Stamp, Stamp, T]] = {}

    def read(self, path: str, stamp: Stamp | None, read: Callable[[], T]) -> T:
        """What `read` reads from the database, or has read while its log was as it is now.

        `stamp` is that of the database's folder as of now: while it is the same, neither
        database nor log were replaced. Without it, or without a log, nothing is remembered.
        """
        try:
            status = os.stat(f"{path}-wal") if stamp else None  # noqa: PTH116 (as above)
        except FileNotFoundError:
            status = None
        if stamp is None or status is None:
            return read()
        log = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        known = self._known.get(path)
        if known is not None and known[0] == stamp and known[1] == log:
            return known[2]
        found = read()
        if is_settled(status.st_mtime_ns):
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[path] = stamp, log, found
        return found


def flush(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give_to_owner(made: int | Path, like: Path) -> None:
    """Gives what root made to the owner of `like`, as whom the server runs.

    A command run by root must not lock the server out.
    """
    if _is_root():
        owner = like.stat()
        os.chown(made, owner.st_uid, owner.st_gid)


def give_all_to_owner(root: Path, like: Path) -> None:
    """The same for a folder and everything in it; no link is followed."""
    if not _is_root():
        return
    owner = like.stat()
    for folder, _, files in os.walk(root):
        for each in (folder, *(os.path.join(folder, name) for name in files)):  # noqa: PTH118
            os.chown(each, owner.st_uid, owner.st_gid, follow_symlinks=False)


def replace_ruined(ruined: Path, fresh: Path, kept: Path, now: float) -> Path:
    """Puts the database `fresh` in the place of one that cannot be read; on disk at the end.

    The ruined one is kept as it lies, with its log, in the folder that is returned: one of its
    own in `kept`, named after `now` (s since 1970). All three are on one file system. Whoever is
    killed meanwhile leaves one of the two in its place.
    """
    aside = _make_aside(kept, now, ruined.parent)
    give_to_owner(fresh, ruined.parent)
    flush(fresh)
    try:
        (aside / ruined.name).hardlink_to(ruined)
    except OSError:  # a file system without links: for a moment there is no file
        ruined.rename(aside / ruined.name)
    for side in (ruined.with_name(ruined.name + suffix) for suffix in _SIDES):
        with contextlib.suppress(FileNotFoundError):
            side.rename(aside / side.name)
    flush(aside)
    flush(ruined.parent)
    fresh.rename(ruined)
    flush(ruined.parent)
    return aside


def _make_aside(kept: Path, now: float, like: Path) -> Path:
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    number, aside = 1, kept / moment
    while aside.exists():
        number += 1
        aside = kept / f"{moment}-{number}"
    for path in (kept, aside):
        if not path.exists():
            path.mkdir(mode=0o700, parents=True)
            give_to_owner(path, like)
    return aside


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
