# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bytes of files that were deleted or replaced, for some days: `USER/.cardkeep/trash/`.

Each is a file named by its checksum (SHA-1, hexadecimal); its mtime is when it last came here.
`Trash.dispose` is the one place where stored bytes leave the media, and `Trash.sweep` the one
where they go for good (unless none are kept). With shared bytes a file here may have other names
elsewhere, and its time is the latest at which any user gave it up.

A file comes here by a rename, so that at every moment its bytes are under one of the two
names, and a deletion needs no room on a full disk. Its time is set before, not after: bytes
in the trash never look older than they are. Where that cannot be done (no room even for a new
name, a folder that is not ours), the error goes to the caller, who leaves the file where
it is and tries again at the next request; the deletion itself stands.

Whoever puts bytes here holds a shared lock (flock) on the folder, and whoever removes some
holds it alone: what is found to be old is not renewed before it is gone.
"""

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from cardkeep.media.files import (
    FOLDER,
    NOT_THERE,
    FileSource,
    Identity,
    MediaFolder,
    copy_file,
    identity,
    names_in,
    open_file,
    open_folder,
    sha1_of,
    sha1_of_source,
)
from cardkeep.media.index import Fingerprint
from cardkeep.media.shared import SharedBytes

#: How long bytes are kept unless the settings say otherwise.
DEFAULT_DAYS = 30

#: A SHA-1 in hexadecimal, as files in the trash are named.
CHECKSUM = re.compile("[0-9a-f]{40}")

_DAY = 24 * 60 * 60
# A copy that is not whole yet; what is left of one is swept with the rest.
_COPY = re.compile("new-[0-9a-f]{16}")


class Swept(NamedTuple):
    """What was removed for good: number of files, and their bytes."""

    files: int
    bytes: int


class Trash:
    """A user's trash, open for the time of one request; nothing is made before it is needed."""

    def __init__(
        self,
        folder: MediaFolder,
        *,
        days: int = DEFAULT_DAYS,
        shared: SharedBytes | None = None,
        now: Callable[[], float],
    ) -> None:
        """`days` to keep bytes, 0 for none. `shared`: where files may have names, too."""
        self._folder = folder
        self._days = days
        self._shared = shared
        self._now = now
        self._open: dict[Path, int] = {}
        self._known_places: Sequence[Path] = ()
        self._sums: dict[Identity, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    # --- in -----------------------------------------------------------------------------

    def weigh(self, names: Iterable[str]) -> None:
        """Works out the checksums that `dispose` will need, before a lock is taken for it."""
        if not self._days and not self._shared:
            return
        for name in names:
            source = open_file(name, self._folder.descriptor)
            if source is not None:
                seen = source.identity()
                self._sums[seen] = sha1_of_source(source)

    def dispose(self, file: str, folder: int) -> None:
        """Stored bytes leave `folder`: into the trash, or for good if none is kept.

        Nothing happens if they are not there.
        """
        if self._days and self._put(file, folder):
            return
        checksum = self._checksum(file, folder) if self._shared else None
        # Something else (a link, say) may be in the file's place.
        _unlink(file, folder)
        if self._shared and checksum:
            self._shared.let_go(checksum.hex())

    def flush(self) -> None:
        """Returns when what came here is on disk."""
        for descriptor in self._open.values():
            os.fsync(descriptor)

    def _put(self, file: str, folder: int) -> bool:
        checksum = self._checksum(file, folder)
        if checksum is None:
            return False
        trash = self._first()
        with _locked(trash, fcntl.LOCK_SH):
            try:
                now = self._now()
                os.utime(file, (now, now), dir_fd=folder, follow_symlinks=False)
            except PermissionError:
                # Somebody else's file: then a copy, which is ours.
                self._copy(file, folder, checksum.hex())
            else:
                os.replace(file, checksum.hex(), src_dir_fd=folder, dst_dir_fd=trash)
            # Two names of one file stay two names when one is renamed to the other.
            _unlink(file, folder)
        return True

    def _checksum(self, file: str, folder: int) -> bytes | None:
        source = open_file(file, folder)
        if source is None:
            return None
        if checksum := self._sums.get(source.identity()):
            source.close()
            return checksum
        return sha1_of_source(source)

    def _copy(self, file: str, folder: int, name: str) -> None:
        trash = self._first()
        copy = f"new-{secrets.token_hex(8)}"
        copy_file(file, folder, copy, trash)
        os.utime(copy, (self._now(),) * 2, dir_fd=trash)
        os.replace(copy, name, src_dir_fd=trash, dst_dir_fd=trash)

    # --- out ----------------------------------------------------------------------------

    def link(self, bytes_: Fingerprint, name: str, folder: int) -> bool:
        """Makes the new file `name` in `folder` out of bytes kept here; false if it cannot be.

        Unless bytes are shared, one file is given to one name only.
        """
        for trash in self._folders():
            file = bytes_.sha1.hex()
            with contextlib.suppress(OSError):
                if not self._shared and os.stat(file, dir_fd=trash).st_nlink > 1:
                    continue
                os.link(file, name, src_dir_fd=trash, dst_dir_fd=folder, follow_symlinks=False)
                if sha1_of(name, folder) == bytes_.sha1:
                    return True
                os.unlink(name, dir_fd=folder)
        return False

    def open(self, bytes_: Fingerprint) -> FileSource | None:
        """Bytes kept here, which may not be what they should be; None if there are none."""
        found = (open_file(bytes_.sha1.hex(), trash) for trash in self._folders())
        return next((source for source in found if source is not None), None)

    def take_out(self, bytes_: Iterable[Fingerprint]) -> None:
        """Removes bytes that are among the media again."""
        for trash in self._folders():
            with _locked(trash, fcntl.LOCK_EX):
                for each in bytes_:
                    _unlink(each.sha1.hex(), trash)

    def sweep(self, now: float) -> Swept:
        """Removes for good what came here longer ago than bytes are kept; `now` in seconds."""
        files = size = 0
        for trash in self._folders():
            with os.scandir(trash) as found:
                for entry in found:
                    if CHECKSUM.fullmatch(entry.name) or _COPY.fullmatch(entry.name):
                        removed = self._remove_old(entry.name, trash, now)
                        if removed is not None:
                            files, size = files + 1, size + removed
        return Swept(files, size)

    def _remove_old(self, name: str, trash: int, now: float) -> int | None:
        gone = (FileNotFoundError, IsADirectoryError)
        with _locked(trash, fcntl.LOCK_EX), contextlib.suppress(*gone):
            status = os.stat(name, dir_fd=trash, follow_symlinks=False)
            if not self._days or status.st_mtime <= now - self._days * _DAY:
                os.unlink(name, dir_fd=trash)
                if self._shared:
                    self._shared.let_go(name)
                return status.st_size
        return None

    # --- for the check ------------------------------------------------------------------

    def names(self) -> Iterator[tuple[str, int]]:
        """What is here: name, and the folder that it is in."""
        for trash in self._folders():
            for name in sorted(names_in(trash)):
                if not _COPY.fullmatch(name):
                    yield name, trash

    def size(self) -> int:
        """Bytes of all that is here."""
        size = 0
        for name, trash in self.names():
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(name, dir_fd=trash, follow_symlinks=False).st_size
        return size

    def rename(self, name: str, seen: Identity, checksum: bytes, trash: int) -> bool:
        """Gives bytes the name that they should have, and the later of two times.

        False if they are not the file any more that was `seen` to have this checksum.
        """
        right = checksum.hex()
        with _locked(trash, fcntl.LOCK_EX), contextlib.suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=trash, follow_symlinks=False)
            if identity(status) != seen:
                return False
            time = status.st_mtime_ns
            with contextlib.suppress(FileNotFoundError):
                time = max(time, os.stat(right, dir_fd=trash).st_mtime_ns)
            os.utime(name, ns=(time, time), dir_fd=trash)
            os.replace(name, right, src_dir_fd=trash, dst_dir_fd=trash)
            _unlink(name, trash)
            return True
        return False

    # --- details ------------------------------------------------------------------------

    def _first(self) -> int:
        """The folder that files can be moved into; it is made if need be."""
        path, *_ = self._places()
        if path not in self._open:
            self._open[path] = open_folder(path)
        return self._open[path]

    def _folders(self) -> list[int]:
        """All folders that there are: two, if media have moved to another file system."""
        for path in self._places():
            if path not in self._open:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    self._open[path] = os.open(path, FOLDER)
        return list(self._open.values())

    def _places(self) -> Sequence[Path]:
        if not self._known_places:
            self._known_places = self._folder.beside("trash")
        return self._known_places


@contextlib.contextmanager
def _locked(folder: int, how: int) -> Iterator[None]:
    fcntl.flock(folder, how)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
