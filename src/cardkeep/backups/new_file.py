# SPDX-License-Identifier: AGPL-3.0-or-later
"""A large file that appears under its name when it is whole and on disk, or not at all."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cardkeep.disk import flush
from cardkeep.errors import Unavailable

# What file systems say that have no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[int]:
    """The descriptor of a new file, which gets the name `path` at the end of the block.

    Until then it lies beside it, hidden; if the block fails it goes. What a killed process has
    left there is removed by the next one that makes the same file. Readable by its owner only.

    Raises FileExistsError if there is a file and not to `overwrite`, at the beginning or, should
    somebody be faster, at the end; Unavailable if another process is making the same file.
    """
    if not overwrite and os.path.lexists(path):
        raise _exists(path)
    aside = path.with_name(f".{path.name}.part")
    descriptor = _made(aside)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
            _put(aside, path, overwrite=overwrite)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    finally:
        os.close(descriptor)
    flush(path.parent)


def _made(aside: Path) -> int:
    """The file aside, new and ours."""
    while True:
        try:
            descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            _remove_leftover(aside)
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Until it was locked, another process could take it for a leftover.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), aside.lstat()):
                return descriptor
        os.close(descriptor)


def _remove_leftover(aside: Path) -> None:
    """Removes what nobody writes any more. It may be a second name of a finished file."""
    with suppress(FileNotFoundError):
        descriptor = os.open(aside, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            aside.unlink()
        except BlockingIOError:
            raise Unavailable(f"another command is writing {aside}") from None
        finally:
            os.close(descriptor)


def _put(aside: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        aside.replace(path)
        return
    try:
        # Unlike a rename, a link never takes the place of another file.
        path.hardlink_to(aside)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise _exists(path) from None
        aside.replace(path)
    else:
        aside.unlink()


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
