# SPDX-License-Identifier: AGPL-3.0-or-later
"""A folder for the private files of one command: in the spool folder, or beside what it makes.

It goes when the command ends. A command that was killed leaves its folder behind; the next
command removes it. The lock (flock) on a folder tells that its command lives.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "command-"


@contextmanager
def scratch_folder(spool: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """An empty folder in `spool`, for as long as the block runs."""
    sweep(spool, prefix)
    path, descriptor = _make(spool, prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def leftovers(spool: Path) -> list[Path]:
    """The folders of commands that were killed."""
    found = []
    for path in spool.glob(f"{_PREFIX}*"):
        with suppress(OSError), _claimed(path):
            found.append(path)
    return found


def sweep(spool: Path, prefix: str = _PREFIX) -> None:
    """Removes them."""
    for path in spool.glob(f"{prefix}*"):
        with suppress(OSError), _claimed(path):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Holds the lock of a folder; raises BlockingIOError if its command lives."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _make(spool: Path, prefix: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=spool))
        # Another command may take it for a leftover until it is locked.
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with suppress(OSError):  # no locks on this file system, so nobody sweeps
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if path.exists():
                    return path, descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
