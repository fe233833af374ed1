# SPDX-License-Identifier: AGPL-3.0-or-later
"""A backup as a file: it appears under its name once it is whole, on disk, and was read again."""

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, cast

from cardkeep.backups.archive.read import Read, verify
from cardkeep.backups.archive.records import Contents, Progress
from cardkeep.backups.archive.stream import LEVEL
from cardkeep.backups.archive.write import estimate, folders_in, write
from cardkeep.backups.scratch import scratch_folder
from cardkeep.disk import flush
from cardkeep.errors import BackupError, DamagedBackup

Show = Callable[[str, int], AbstractContextManager[Progress]]
"""A progress bar of a title, for a number of bytes."""

_ASIDE = ".cardkeep-backup-"
# What is written is brought to disk in steps, lest one flush at the end stops everybody else on
# the same disk for its time, and is not left to push others' files out of memory.
_FLUSH_AFTER = 32 * 1024 * 1024
# For what it shares between processes that have a database open: 32 KiB for each.
_SQLITE_NEEDS = 256 * 1024


def save(base: Path, file: Path, show: Show, *, level: int = LEVEL) -> Read:
    """Backs the data folder up to `file`, which is replaced if it is there.

    On return it is on disk and was read again in full. Raises BackupError if it cannot be made,
    and then nothing is left of it; Unavailable if another program holds something locked.
    """
    if file.exists() and not file.is_file():
        raise BackupError(f"{file} is there and is no file")
    with _told(f"{file} cannot be made", base), scratch_folder(file.parent, _ASIDE) as place:
        aside = place / file.name
        with aside.open("xb", buffering=0) as output:
            aside.chmod(0o600)
            with show("writing", estimate(base, folders_in(base))) as progress:
                write(base, cast(BinaryIO, _Flushed(output)), place, level=level, progress=progress)
                os.fsync(output.fileno())
        found = _check(aside, place, show)
        aside.replace(file)
        flush(file.parent)
    return found


def stream(base: Path, output: BinaryIO, show: Show, *, level: int = LEVEL) -> Contents:
    """Backs the data folder up to a pipe; whoever reads it is to verify it."""
    with (
        _told("the backup cannot be written", base),
        scratch_folder(Path(tempfile.gettempdir()), _ASIDE) as place,
    ):
        with show("writing", estimate(base, folders_in(base))) as progress:
            contents = write(base, output, place, level=level, progress=progress)
        output.flush()
        return contents


def check(file: Path, show: Show) -> Read:
    """Reads a backup in full. Raises DamagedBackup, which names the file."""
    with _told(f"{file} cannot be read"):
        return _check(file, Path(tempfile.gettempdir()), show)


def _check(file: Path, spool: Path, show: Show) -> Read:
    with file.open("rb") as raw:
        _forget(raw.fileno())
        with show("verifying", file.stat().st_size) as progress, named(file):
            return verify(raw, spool, progress=progress)


@contextlib.contextmanager
def named(file: Path) -> Iterator[None]:
    """Says which file is damaged."""
    try:
        yield
    except DamagedBackup as error:
        raise DamagedBackup(f"{file} is damaged: {error}") from None


@contextlib.contextmanager
def _told(what: str, base: Path | None = None) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BackupError(f"{what}: {error}") from error
    except sqlite3.Error as error:
        raise BackupError(f"{what}: {error}{_hint(base)}") from error


def _hint(base: Path | None) -> str:
    """SQLite speaks of the disk's input and output then."""
    if base is not None and shutil.disk_usage(base).free < _SQLITE_NEEDS:
        return f"; the disk of {base} is full, and to read databases takes some room on it"
    return ""


class _Flushed:
    """A file that is on disk but for its last bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unflushed = 0

    def write(self, data: bytes) -> int:
        """Writes all of it."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._unflushed += len(data)
        if self._unflushed >= _FLUSH_AFTER:
            os.fdatasync(self._file.fileno())
            _forget(self._file.fileno())
            self._unflushed = 0
        return len(data)


def _forget(descriptor: int) -> None:
    """What is read next comes from the disk and not from memory, where the system can do so."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
