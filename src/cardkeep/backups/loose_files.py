# SPDX-License-Identifier: AGPL-3.0-or-later
"""A collection that lies about as a file of its own, alone or in a folder with its media.

The folder may be a profile of Anki's (`collection.media`), one of a phone, or a user's of a
sync server (`media`). Nothing in it is changed; see `migrate.copying` for how its collection is
copied together with what its log holds.
"""

import os
import sqlite3
import unicodedata
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

from cardkeep.backups.media_source import MediaSource, Progress, unwatched
from cardkeep.backups.migrate import copying
from cardkeep.errors import BadRequest, MigrationError, PackageError, TooLarge
from cardkeep.media.files import FOLDER, open_file

COLLECTION = "collection.anki2"
_MEDIA_FOLDERS = ("collection.media", "media")
# What Windows puts into folders with pictures; no client syncs it.
_NO_MEDIA = {"thumbs.db"}


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

        Raises PackageError if another program has it open, BadRequest if its log cannot be read,
        TooLarge.
        """
        if copying.is_open(self._path):
            raise PackageError(
                f"{self._path} is in use by another program: close it (Anki, most likely), and "
                "try again"
            )
        if sum(size for _, _, size, _ in copying.stamp(self._path)) > self._most:
            raise TooLarge(f"its collection has more than {self._most} bytes", "max_collection")
        try:
            copying.copy(self._path, target, progress)
        except MigrationError as error:
            raise PackageError(
                f"{self._path} is changed again and again while it is copied: close the program "
                "that uses it, and try again"
            ) from error
        try:
            copying.fold(target)
        except sqlite3.Error as error:
            raise BadRequest(f"its write-ahead log cannot be read: {error}") from error

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
