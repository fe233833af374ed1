# SPDX-License-Identifier: AGPL-3.0-or-later
"""A collection that lies about as a file of its own, alone or in a folder with its media.

The folder may be a profile of Anki's (`collection.media`), one of a phone, or a user's of a
sync server (`media`). Nothing in it is changed, and SQLite is not let near it: it would make
files there, and fold the write-ahead log in. So the collection is copied together with its
log, and only the copy is opened.
"""

import errno
import fcntl
import os
import sqlite3
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from cardkeep.backups.media_source import MediaSource, Progress, unwatched
from cardkeep.collection import database
from cardkeep.errors import BadRequest, PackageError, TooLarge
from cardkeep.media.files import FOLDER, open_file

COLLECTION = "collection.anki2"
_MEDIA_FOLDERS = ("collection.media", "media")
# What Windows puts into folders with pictures; no client syncs it.
_NO_MEDIA = {"thumbs.db"}

_PIECE = 1024 * 1024
# A write-ahead log (today's clients), or what a transaction of an old one has replaced.
_LOGS = ("-wal", "-journal")
# Where SQLite's readers hold a lock in a database file, and how many bytes it has
# (https://www.sqlite.org/src/file/src/os.h).
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
# What file systems say that have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}


class CollectionFile:
    """A collection file without media; use it as a context."""

    media_files = 0
    media_bytes = 0

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._most = most

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""

    def extract_collection(self, target: Path, progress: Progress = unwatched) -> None:
        """Copies the collection, as it is after its last transaction, to the new file `target`.

        Raises PackageError if another program has it open, BadRequest if its log cannot be
        read, TooLarge.
        """
        with _held(self._path):
            before = _state(self._path)
            if sum(size for size, _ in before) > self._most:
                raise TooLarge(f"its collection has more than {self._most} bytes", "max_collection")
            for suffix in ("", *_LOGS):
                _copy(_beside(self._path, suffix), _beside(target, suffix), progress)
            if _state(self._path) != before:
                raise PackageError(
                    f"{self._path} was changed while it was copied: close the program that uses "
                    "it, and try again"
                )
        if any(_beside(target, suffix).exists() for suffix in _LOGS):
            _fold_in(target)

    def media(self) -> Iterator[MediaSource]:
        """There is none."""
        return iter(())

    def verify(self, progress: Progress = unwatched) -> None:
        """Nothing to do: what is wrong with the collection, its inspection finds."""


class CollectionFolder(CollectionFile):
    """A folder with a collection file and, perhaps, media; use it as a context.

    Raises PackageError if there is no collection in it.
    """

    def __init__(self, path: Path, most: int) -> None:
        if not (path / COLLECTION).is_file():
            raise PackageError(_no_collection(path))
        super().__init__(path / COLLECTION, most)
        self._media = next((path / name for name in _MEDIA_FOLDERS if (path / name).is_dir()), None)
        self._descriptor = os.open(self._media, FOLDER) if self._media else -1
        try:
            sizes = [file.size for file in self.media()]
        except BaseException:
            self.__exit__()
            raise
        self.media_files, self.media_bytes = len(sizes), sum(sizes)

    def __exit__(self, *_: object) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def media(self) -> Iterator[MediaSource]:
        """The plain files of the media folder, by name."""
        if self._media is None:
            return
        with os.scandir(self._descriptor) as found:
            names = sorted(entry.name for entry in found if entry.is_file(follow_symlinks=False))
        for name in names:
            if name.casefold() in _NO_MEDIA:
                continue
            try:
                size = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_size
            except FileNotFoundError:
                size = 0
            shown = unicodedata.normalize("NFC", name)
            yield MediaSource(shown, partial(open_file, name, self._descriptor), None, size)


def _no_collection(path: Path) -> str:
    profiles = sorted(found.parent.name for found in path.glob(f"*/{COLLECTION}"))
    if not profiles:
        return f"{path} has no {COLLECTION} in it"
    shown = ", ".join(profiles[:5]) + ("…" if len(profiles) > 5 else "")
    return f"{path} has no {COLLECTION} in it, but folders in it have: {shown}; name one of them"


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keeps other programs from changing the database file, as a reader of SQLite's does."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise PackageError(f"there is no {path}") from None
    if not stat.S_ISREG(status.st_mode):
        raise PackageError(f"{path} is no file")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.lockf(
                descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST, os.SEEK_SET
            )
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise PackageError(
                    f"{path} is in use by another program: close it (Anki, most likely), and "
                    "try again"
                ) from error
        yield
    finally:
        os.close(descriptor)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _state(path: Path) -> list[tuple[int, int]]:
    """Size and time of the file and its logs."""
    found = []
    for suffix in ("", *_LOGS):
        try:
            status = _beside(path, suffix).stat()
            found.append((status.st_size, status.st_mtime_ns))
        except FileNotFoundError:
            found.append((0, 0))
    return found


def _copy(source: Path, target: Path, progress: Progress) -> None:
    try:
        file = source.open("rb")
    except FileNotFoundError:
        return
    with file, target.open("xb") as copy:
        while piece := file.read(_PIECE):
            copy.write(piece)
            progress(len(piece))


def _fold_in(copy: Path) -> None:
    """Makes the private copy whole by itself: what its logs say is done."""
    try:
        with closing(database.connect(copy)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise BadRequest(f"its write-ahead log cannot be read: {error}") from error
    for suffix in (*_LOGS, "-shm"):
        _beside(copy, suffix).unlink(missing_ok=True)
