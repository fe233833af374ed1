# SPDX-License-Identifier: AGPL-3.0-or-later
"""What can be imported: a package, a collection file, or a folder with both."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

from cardkeep.backups.loose_files import CollectionFile, CollectionFolder
from cardkeep.backups.media_source import MediaSource, Progress, unwatched
from cardkeep.backups.package_reader import Limits, Package
from cardkeep.errors import PackageError

# Before 2.1 whole collections were packed under these names.
_WHOLE = re.compile(r"collection\.apkg|backup-.*\.apkg", re.IGNORECASE)
_SQLITE = b"SQLite format 3\0"


class Origin(Protocol):
    """Something with a collection and media; a context. See `Package` for the methods."""

    @property
    def media_files(self) -> int:
        """How many media files there are."""

    @property
    def media_bytes(self) -> int:
        """What they take, all together."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def extract_collection(self, target: Path, progress: Progress = unwatched) -> None:
        """Writes the collection to a new file."""

    def media(self) -> Iterator[MediaSource]:
        """The media files."""

    def verify(self, progress: Progress = unwatched) -> None:
        """Reads the media once; raises BadRequest if one is damaged."""


def open_origin(path: Path, limits: Limits) -> Origin:
    """What is at `path`, by what it is and not by what it is called.

    Raises PackageError for what is nothing of the kind, BadRequest for a bad package.
    """
    if path.is_dir():
        return CollectionFolder(path, limits.collection)
    if not path.is_file():
        raise PackageError(f"{path} is no file" if path.exists() else f"there is no {path}")
    with path.open("rb") as file:
        if file.read(len(_SQLITE)) == _SQLITE:
            return CollectionFile(path, limits.collection)
    if path.suffix.lower() == ".apkg" and not _WHOLE.fullmatch(path.name):
        raise PackageError(
            f"{path.name} is a package of decks, which only Anki can add to a collection: import "
            "it there, and sync"
        )
    return Package(path, limits)
