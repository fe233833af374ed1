# SPDX-License-Identifier: AGPL-3.0-or-later
"""The same bytes once for many users: hard links into `BASE/.cardkeep/media/`, by checksum.

Off unless `MediaStore(share=True)`, because of what a hard link is: one file with several names.
cardkeep never changes a stored file, it only ever puts another in its place, so here links are
safe. The official server however writes into the existing file when a user replaces it (as
read in its source): once such a folder is given back to it, one user's change
changes the file of every other user who has the same bytes. So share only in a base folder
that stays with cardkeep; copying a user's folder (`cp -r`, a backup) undoes the sharing.

The store is a convenience: whatever goes wrong with it, the bytes are written as without it.
Its files are checked each time before they are linked. Bytes that no user has any more go with the
last one that goes for good; what a killed process leaves is removed by `sweep`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cardkeep.media.files import sha1_of
from cardkeep.media.index import Fingerprint


class SharedBytes:
    """The store under a base folder; may be used by any number of threads and processes."""

    def __init__(self, base: Path) -> None:
        self._folder = base / ".cardkeep" / "media"

    def link(self, bytes_: Fingerprint, name: str, folder: int) -> bool:
        """Makes the new file `name` in `folder` out of stored bytes; false if it cannot be."""
        path = self._path(bytes_)
        try:
            os.link(path, name, dst_dir_fd=folder)
        except OSError:
            # Not stored, no links here, another file system, or as many links as there can be.
            return False
        if sha1_of(name, folder) == bytes_.sha1:
            return True
        os.unlink(name, dir_fd=folder)
        path.unlink(missing_ok=True)
        return False

    def keep(self, bytes_: Fingerprint, name: str, folder: int) -> None:
        """Stores the bytes of the file `name` in `folder`, which are on disk already."""
        path = self._path(bytes_)
        # It is stored meanwhile, or cannot be.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(name, path, src_dir_fd=folder)

    def let_go(self, checksum: str) -> None:
        """Removes these bytes unless some user has them; the checksum in hex."""
        # Whoever links them at this moment has them under a name of its own.
        with contextlib.suppress(OSError):
            path = self._at(checksum)
            if path.stat().st_nlink == 1:
                path.unlink()

    def unused(self) -> Iterator[Path]:
        """The stored bytes that no user has any more."""
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_nlink == 1:
                    yield path

    def sweep(self) -> int:
        """Removes the bytes that no user has any more; how many files it were."""
        removed = 0
        for path in self.unused():
            path.unlink(missing_ok=True)
            removed += 1
        return removed

    def _path(self, bytes_: Fingerprint) -> Path:
        return self._at(bytes_.sha1.hex())

    def _at(self, checksum: str) -> Path:
        return self._folder / checksum[:2] / checksum
