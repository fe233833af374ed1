# SPDX-License-Identifier: AGPL-3.0-or-later
"""A user's media files, each with the bytes that one state of the index lists.

Devices go on uploading while the files are read. A file that was replaced or deleted since has
its old bytes in the trash; one that an upload is just putting in place settles in a moment. So
the bytes are compared with the index's checksum before they go into the backup, and looked for
where else they may be. What is found nowhere is said.
"""

import contextlib
import hashlib
import io
import itertools
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cardkeep.backups.archive.stream import PIECE
from cardkeep.media import index
from cardkeep.media.files import FOLDER, FileSource, open_file
from cardkeep.media.index import Fingerprint
from cardkeep.messages import ByteSource

#: Files up to this size are held in memory; longer ones are read twice, the second time mostly
#: from the system's cache.
HELD = 4 * 1024 * 1024
# Seconds between looks for a file that is not as it is listed, and for how long in all a user's
# files are waited for: where many are lost, waiting for each would take for ever.
_WAITS = (0.0, 0.1, 0.3, 1.0)
_PATIENCE = 10.0
_CHECKSUM = re.compile("[0-9a-f]{40}")


class Found(NamedTuple):
    """A file; `source` is None if its bytes are nowhere."""

    name: str
    source: ByteSource | None
    mtime: float


class MediaFiles:
    """The files of one user, as a private copy of the index lists them; `None` lists none."""

    def __init__(self, user_folder: Path, connection: sqlite3.Connection | None) -> None:
        self._connection = connection
        self._media = _Folder(user_folder / "media")
        # The second is there if `media/` is, or was, on another file system.
        self._trashes = (
            _Folder(user_folder / ".cardkeep" / "trash"),
            _Folder(user_folder / "media" / ".cardkeep-trash"),
        )
        self._patience = _PATIENCE

    def close(self) -> None:
        """Gives back the folders."""
        for folder in (self._media, *self._trashes):
            folder.close()

    def listed(self) -> Iterator[Found]:
        """Every file of the index, with exactly the bytes that are listed. To be closed."""
        if self._connection is None:
            return
        for page in index.stored_files(self._connection):
            for name, listed in page:
                yield self._find(name, listed)

    def unlisted(self) -> Iterator[Found]:
        """Files in the folder that the index does not list: neither server looks at them."""
        seen: set[str] = set()
        for names in _in_pages(self._media.names(), index.MAX_NAMES):
            known = index.entries(self._connection, names) if self._connection else {}
            for name in names:
                entry = known.get(name)
                # A folder that changes while it is read may show a name twice.
                if (entry is None or not entry.size) and name not in seen:
                    seen.add(name)
                    yield from _opened(self._media, name)

    def trash(self) -> Iterator[Found]:
        """What was deleted or replaced, and is still there, by its checksum."""
        seen: set[str] = set()
        for folder in self._trashes:
            for name in folder.names():
                if _CHECKSUM.fullmatch(name) and name not in seen:
                    seen.add(name)
                    yield from _opened(folder, name)

    def _find(self, name: str, listed: Fingerprint) -> Found:
        for wait in _WAITS:
            if wait > self._patience:
                break
            self._patience -= wait
            time.sleep(wait)
            places = [(self._media, name)]
            places += [(trash, listed.sha1.hex()) for trash in self._trashes]
            for folder, file in places:
                source = folder.open(file)
                if source is not None and (checked := _checked(source, listed)):
                    return Found(name, checked, folder.mtime(file))
        return Found(name, None, 0)


class _Folder:
    """A folder that may be missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        with contextlib.suppress(FileNotFoundError):
            self._descriptor = os.open(path, FOLDER)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def open(self, name: str) -> FileSource | None:
        return None if self._descriptor < 0 else open_file(name, self._descriptor)

    def mtime(self, name: str) -> float:
        with contextlib.suppress(OSError):
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mtime
        return time.time()

    def names(self) -> Iterator[str]:
        """Plain files whose names are text; those of an upload under way are in a folder."""
        if self._descriptor < 0:
            return
        with os.scandir(self._path) as found:
            for entry in found:
                if entry.is_file(follow_symlinks=False) and is_text(entry.name):
                    yield entry.name


def _opened(folder: _Folder, name: str) -> Iterator[Found]:
    if source := folder.open(name):
        yield Found(name, source, folder.mtime(name))


def _in_pages(names: Iterator[str], size: int) -> Iterator[list[str]]:
    while page := list(itertools.islice(names, size)):
        yield page


def is_text(name: str) -> bool:
    """Whether the bytes of a file's name are UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Held:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self.size = len(data)

    def read(self, size: int) -> bytes:
        return self._data.read(size)

    def close(self) -> None:
        self._data.close()


def _checked(source: FileSource, listed: Fingerprint) -> ByteSource | None:
    """The bytes, if they are those that are listed; else the source is closed."""
    if source.size == listed.size:
        if source.size <= HELD:
            with contextlib.closing(source):
                data = whole(source)
            return _Held(data) if hashlib.sha1(data).digest() == listed.sha1 else None
        checksum = hashlib.sha1()
        while piece := source.read(PIECE):
            checksum.update(piece)
        if checksum.digest() == listed.sha1:
            source.rewind()
            return source
    source.close()
    return None


def whole(source: FileSource) -> bytes:
    """All bytes of a short file."""
    pieces = []
    while piece := source.read(HELD):
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
