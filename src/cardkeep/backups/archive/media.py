# SPDX-License-Identifier: AGPL-3.0-or-later
"""A user's media files, each with the bytes that an index lists, though devices go on uploading.

The index is copied first, then the files are read, and their bytes compared with its checksums.
For a file that is another one by then, the live index tells why. It was replaced: then its new
bytes are taken, and entered in the copy as a later change. It was deleted: so it is in the copy.
An upload is just putting it in its place: that takes a moment. What is not to be had in any of
these ways is said.
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
# How often a file is followed that is replaced again and again.
_REPLACED = 20
_CHECKSUM = re.compile("[0-9a-f]{40}")
# Bytes that a killed upload replaced, until the next request puts them back.
_BEING_REPLACED = ".replaced"


class Found(NamedTuple):
    """A file; `source` is None if its bytes are nowhere."""

    name: str
    source: ByteSource | None
    mtime: float


class Indexes(NamedTuple):
    """The index in use, and the private copy that goes into the backup, which is `file`."""

    live: sqlite3.Connection
    copy: sqlite3.Connection
    file: Path


class MediaFiles:
    """The files of one user; without indexes none is listed."""

    def __init__(self, user_folder: Path, indexes: Indexes | None) -> None:
        self._indexes = indexes
        media, own = user_folder / "media", user_folder / ".cardkeep"
        self._media = _Folder(media)
        # The second is there if `media/` is, or was, on another file system.
        self._trashes = (_Folder(own / "trash"), _Folder(media / ".cardkeep-trash"))
        self._incoming = (_Folder(own / "incoming"), _Folder(media / ".cardkeep-incoming"))
        self._patience = _PATIENCE

    def close(self) -> None:
        """Gives back the folders."""
        for folder in (self._media, *self._trashes, *self._incoming):
            folder.close()

    def listed(self) -> Iterator[Found]:
        """Every file of the index. Afterwards the copy lists just what was found, and what was not.

        Each source is to be closed.
        """
        if self._indexes is None:
            return
        for page in index.stored_files(self._indexes.copy):
            for name, listed in page:
                if found := self._find(self._indexes, name, listed):
                    yield found

    def unlisted(self) -> Iterator[Found]:
        """Files in the folder that the copy does not list: neither server looks at them."""
        copy = self._indexes.copy if self._indexes else None
        seen: set[str] = set()
        for names in _in_pages(self._media.names(), index.MAX_NAMES):
            known = index.entries(copy, names) if copy else {}
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

    # --- a file that is listed ----------------------------------------------------------

    def _find(self, indexes: Indexes, name: str, listed: Fingerprint) -> Found | None:
        """None if it is deleted or forgotten by now."""
        wanted = listed
        waits = iter(_WAITS)
        for _ in range(_REPLACED):
            if source := _checked(self._media.open(name), wanted):
                if wanted != listed:
                    _note(indexes.copy, name, wanted)
                return Found(name, source, self._media.mtime(name))
            entry = index.entries(indexes.live, [name]).get(name)
            if entry is None:
                # Without a trace: no device is to take it for a deletion.
                index.forget(indexes.copy, [name])
                index.recount(indexes.copy)
                return None
            if not entry.size:
                _note(indexes.copy, name, None)
                return None
            if (entry.sha1, entry.size) != wanted:
                wanted = Fingerprint(entry.sha1, entry.size)
            elif not self._wait(waits):
                break
        return self._find_elsewhere(name, listed)

    def _wait(self, waits: Iterator[float]) -> bool:
        """False if it is no use waiting longer."""
        wait = next(waits, None)
        if wait is None or wait > self._patience:
            return False
        self._patience -= wait
        time.sleep(wait)
        return True

    def _find_elsewhere(self, name: str, listed: Fingerprint) -> Found:
        for folder in self._trashes:
            file = listed.sha1.hex()
            if source := _checked(folder.open(file), listed):
                return Found(name, source, folder.mtime(file))
        for folder in self._incoming:
            for file in folder.names():
                if file.endswith(_BEING_REPLACED) and (
                    source := _checked(folder.open(file), listed)
                ):
                    return Found(name, source, folder.mtime(file))
        return Found(name, None, 0)


def _note(copy: sqlite3.Connection, name: str, bytes_: Fingerprint | None) -> None:
    """Enters into the copy what happened to a file since it was made."""
    merged = index.merge(index.totals(copy), index.entries(copy, [name]), [(name, bytes_)])
    index.write(copy, merged, int(time.time()))


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
        """Plain files whose names are text."""
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


def _checked(source: FileSource | None, wanted: Fingerprint) -> ByteSource | None:
    """The bytes, if they are those that are wanted; else the source is closed."""
    if source is None:
        return None
    if source.size == wanted.size:
        if source.size <= HELD:
            with contextlib.closing(source):
                data = whole(source)
            return _Held(data) if hashlib.sha1(data).digest() == wanted.sha1 else None
        checksum = hashlib.sha1()
        while piece := source.read(PIECE):
            checksum.update(piece)
        if checksum.digest() == wanted.sha1:
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
