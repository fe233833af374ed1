# SPDX-License-Identifier: AGPL-3.0-or-later
"""What of a user goes into a package: the collection in one state, and the media of then.

The user's lock is held only for the moment in which the collection is pinned. The media list
is read in one transaction of the index, right after; a file that is changed or deleted before its
turn comes is read out of the trash, and one that is gone from there too is told.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Self

import msgspec

from cardkeep.backups.media_source import MediaSource
from cardkeep.collection import whole
from cardkeep.collection.library import Library
from cardkeep.collection.session_file import SessionFile
from cardkeep.errors import PackageError
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
    """The files of a listing, with a way to open each; use it as a context.

    Iterate over it, as often as you like, for `MediaSource`s. `files` is how many there are,
    `bytes` what they take.
    """

    def __init__(
        self,
        listing: Iterable[tuple[str, str, int]],
        opener: Callable[[str, str, int], ByteSource | None],
        scratch: Path,
    ) -> None:
        self.files = self.bytes = 0
        self._open = opener
        self._lines = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(scratch))  # noqa: SIM115
        try:
            for file in listing:
                self._lines.write(msgspec.json.encode(file) + b"\n")
                self.files += 1
                self.bytes += file[2]
        except BaseException:
            self._lines.close()
            raise

    def __iter__(self) -> Iterator[MediaSource]:
        self._lines.seek(0)
        for line in self._lines:
            name, sha1, size = _line.decode(line)
            yield MediaSource(
                name, partial(self._open, name, sha1, size), bytes.fromhex(sha1), size
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
