# SPDX-License-Identifier: AGPL-3.0-or-later
"""What of a user goes into a package: the collection in one state, and the media of then.

The user's lock is held only for the moment in which the collection is pinned. The media list
is read in one transaction of the index, right after; each file is read as it is when its turn
comes, and one that is gone by then is told.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

import msgspec

from cardkeep.backups.media_source import MediaSource
from cardkeep.collection import whole
from cardkeep.collection.library import Library
from cardkeep.collection.session_file import SessionFile
from cardkeep.errors import PackageError
from cardkeep.media.files import FileSource, MediaFolder
from cardkeep.media.store import MediaStore
from cardkeep.messages import ByteSource

_IN_MEMORY = 1024 * 1024

_line = msgspec.json.Decoder(tuple[str, str, int])


def pin_collection(library: Library, user: str, scratch: Path) -> ByteSource:
    """The user's collection as it is now; it stays so until the source is closed.

    Raises PackageError if there is none.
    """
    folder = library.folder(user)
    if not folder.collection.exists():
        raise PackageError(f"{user} has no collection yet")
    with library.lend(user, heavy=True) as db:
        with SessionFile(folder, wait=True):
            pinned = whole.pin(db, folder.collection)
        # A download holds an earlier state. A copy is made in one read transaction, and
        # needs no lock.
        return pinned or whole.TemporaryFile(whole.copy(db, scratch))


class MediaListing:
    """The files that a user has, as one state of the index lists them; use it as a context.

    Iterate over it, as often as you like, for `MediaSource`s. `files` is how many there are,
    `bytes` what they take. Without a store it lists nothing.
    """

    def __init__(
        self, store: MediaStore | None, user: str, user_folder: Path, scratch: Path
    ) -> None:
        self.files = self.bytes = 0
        # The folder is not made by looking at it.
        exists = (user_folder / "media").is_dir()
        self._folder = MediaFolder(user_folder) if exists else None
        self._lines = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(scratch))  # noqa: SIM115
        try:
            for name, sha1, size in store.listing(user) if store else ():
                self._lines.write(msgspec.json.encode((name, sha1, size)) + b"\n")
                self.files += 1
                self.bytes += size
        except BaseException:
            self.__exit__()
            raise

    def __iter__(self) -> Iterator[MediaSource]:
        self._lines.seek(0)
        for line in self._lines:
            name, sha1, size = _line.decode(line)
            yield MediaSource(name, partial(self._open, name), bytes.fromhex(sha1), size)

    def _open(self, name: str) -> FileSource | None:
        return self._folder.open(name) if self._folder else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.__exit__()
