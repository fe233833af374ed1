# SPDX-License-Identifier: AGPL-3.0-or-later
"""A user's media files: the folder `media/`, each file under its own name.

Nothing here follows a symbolic link out of the folder: what is not a plain file counts as
missing. (`media/` itself may be a link, which only the operator can make.) How files get in
is told in `incoming`, and where they go when they are deleted or replaced, in `trash`.
"""

import contextlib
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from cardkeep.messages import ByteSource
from cardkeep.records.media_name import leaves_folder

FOLDER = os.O_RDONLY | os.O_DIRECTORY
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
#: What file systems say to names that they cannot have.
BAD_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
#: What they say where there is no plain file of that name. Anything else (a broken disk, too
#: many open files) must not make a file count as missing.
NOT_THERE = {errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR, *BAD_NAME}
# No link is followed, and opening a pipe does not wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_PIECE = 1024 * 1024


Identity = tuple[int, int, int, int]


def identity(status: os.stat_result) -> Identity:
    """The same for two looks at a file that nobody has replaced or written into meanwhile."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


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

    def identity(self) -> Identity:
        """What tells whether a file is still this one, and unchanged."""
        return identity(os.fstat(self._descriptor))

    def flush(self) -> None:
        """Returns when the bytes are on disk."""
        os.fsync(self._descriptor)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        return os.read(self._descriptor, size)

    def rewind(self) -> None:
        """The next bytes are the first again."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)

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
        status = self._status(name)
        return None if status is None else status.st_size

    def identity(self, name: str) -> Identity | None:
        """What tells whether a file is still the same; None if there is none of that name."""
        status = self._status(name)
        return None if status is None else identity(status)

    def has_something(self, name: str) -> bool:
        """Whether there is anything of that name, be it a file or not."""
        try:
            os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _status(self, name: str) -> os.stat_result | None:
        if leaves_folder(name):
            return None
        try:
            status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno in NOT_THERE:
                return None
            raise
        return status if stat.S_ISREG(status.st_mode) else None

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

    def beside(self, name: str) -> list[Path]:
        """Where cardkeep's own folder `name` may be for this user, the right place first.

        Files must move between it and the media, so the right one is on their file system:
        `USER/.cardkeep/NAME`, or `media/.cardkeep-NAME` where `media/` lies on another one than
        the user's folder. (The official server does not look at what its index does not list.)
        """
        own = self.user_folder / ".cardkeep"
        places = [own / name, self.path / f".cardkeep-{name}"]
        try:
            device = own.stat().st_dev
        except FileNotFoundError:
            device = self.user_folder.stat().st_dev
        return places if device == os.fstat(self.descriptor).st_dev else places[::-1]

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
        if error.errno in NOT_THERE:
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
    return None if source is None else sha1_of_source(source)


def sha1_of_source(source: ByteSource) -> bytes:
    """The checksum of all bytes of a source, which is closed then."""
    checksum = hashlib.sha1()
    try:
        for piece in pieces(source):
            checksum.update(piece)
    finally:
        source.close()
    return checksum.digest()


def pieces(source: ByteSource) -> Iterator[bytes]:
    """All bytes of a source, a MiB at a time."""
    left = source.size
    while piece := source.read(min(max(left, 1), _PIECE)):  # room that is not needed costs, too
        left -= len(piece)
        yield piece


def copy_file(name: str, folder: int, copy: str, into: int) -> None:
    """Makes the new file `copy`, on disk on return; does nothing if there is no plain file."""
    source = open_file(name, folder)
    if source is None:
        return
    target = os.open(copy, NEW_FILE, 0o666, dir_fd=into)
    try:
        for piece in pieces(source):
            write_all(target, piece)
        os.fsync(target)
    finally:
        source.close()
        os.close(target)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`, in one call if the system takes it in one."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def begin_flush(descriptor: int) -> None:
    """Has the system begin to put a file on disk, and does not wait for it.

    Linux does so when told that the bytes are not needed any more; it then keeps in memory what
    is on its way. Where the advice is not known or not taken, a flush does it all.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def names_in(folder: int) -> set[str]:
    """The names of all that is in a folder."""
    with os.scandir(folder) as found:
        return {entry.name for entry in found}
