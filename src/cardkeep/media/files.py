# SPDX-License-Identifier: AGPL-3.0-or-later
"""A user's media files: the folder `media/`, each file under its own name.

Nothing here follows a symbolic link out of the folder: what is not a plain file counts as
missing. (`media/` itself may be a link, which only the operator can make.) `dispose` is the
one place where a stored file is removed. How files get in is told in `incoming`.
"""

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Self

from cardkeep.records.media_name import leaves_folder

FOLDER = os.O_RDONLY | os.O_DIRECTORY
#: What file systems say to names that they cannot have.
BAD_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
# What they say where there is no plain file of that name. Anything else (a broken disk, too
# many open files) must not make a file count as missing.
_NOT_THERE = {errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR, *BAD_NAME}
# No link is followed, and opening a pipe does not wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class FileSource:
    """The bytes of one file, open; a later replacement of the file does not change them."""

    __slots__ = ("_descriptor", "_size")

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size

    @property
    def size(self) -> int:
        """Bytes in all, as they were when it was opened."""
        return self._size

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        return os.read(self._descriptor, size)

    def close(self) -> None:
        """Closes the file; further calls do nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    # An answer that nobody came to send must not keep its files open.
    __del__ = close


class MediaFolder:
    """The folder, open for the time of one request. `descriptor` is for this room alone."""

    def __init__(self, user_folder: Path) -> None:
        """Makes the folder (and the user's) where it is missing, as the official server does."""
        self.user_folder = user_folder
        self.path = user_folder / "media"
        self.descriptor = open_folder(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def open(self, name: str) -> FileSource | None:
        """The bytes of a file; None if there is none of that name."""
        return open_file(name, self.descriptor)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none of that name."""
        if leaves_folder(name):
            return None
        try:
            status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def is_one_file(self, name: str, other: str) -> bool:
        """Whether two names that differ in case alone are one file here.

        So it is on file systems that do not tell cases apart.
        """
        if name == other or name.casefold() != other.casefold():
            return False
        try:
            one = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            two = os.stat(other, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(one, two)

    def is_empty(self) -> bool:
        """Whether there is not one file in it."""
        with os.scandir(self.descriptor) as found:
            return not any(entry.is_file(follow_symlinks=False) for entry in found)

    def flush(self) -> None:
        """Returns when the folder itself (which names it has) is on disk."""
        os.fsync(self.descriptor)


def open_folder(path: Path) -> int:
    """The descriptor of a folder; one that is missing is made, and is on disk on return."""
    try:
        return os.open(path, FOLDER)
    except FileNotFoundError:
        parent = open_folder(path.parent)
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir()
            os.fsync(parent)
        finally:
            os.close(parent)
        return os.open(path, FOLDER)


def open_file(name: str, folder: int) -> FileSource | None:
    """The bytes of a plain file in a folder; None if there is none of that name."""
    if leaves_folder(name):
        return None
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return None
    return FileSource(descriptor, status.st_size)


def sha1_of(name: str, folder: int) -> bytes | None:
    """The checksum of a plain file in a folder; None if there is none of that name."""
    source = open_file(name, folder)
    if source is None:
        return None
    checksum = hashlib.sha1()
    try:
        while data := source.read(1024 * 1024):
            checksum.update(data)
    finally:
        source.close()
    return checksum.digest()


def dispose(name: str, folder: int, file: str | None = None) -> None:
    """Removes stored bytes for good: those of the media file `name`, once it is not listed.

    They are in `folder` under that name, or as `file`. Nothing happens if they are not.
    """
    try:
        os.unlink(file or name, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
