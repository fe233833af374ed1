# SPDX-License-Identifier: AGPL-3.0-or-later
"""Temporary files for bodies that are too long for memory. All of it blocks."""

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from cardkeep.errors import TooLarge
from cardkeep.http.limits import Limit
from cardkeep.packing.compression import PIECE, Plain, Unpacker, unpack_small

_PIECES_PER_JOB = 8
PREFIX = "body-"


class SpoolFile:
    """A new file in the spool folder, written once from start to end.

    It is only readable by its owner. `remove` may be called at any point and often.
    """

    def __init__(self, folder: Path) -> None:
        self._fd, name = tempfile.mkstemp(prefix=PREFIX, dir=folder)
        self.path = Path(name)

    def write(self, data: bytes | bytearray) -> None:
        """Appends."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def pieces(self) -> Iterator[bytes]:
        """What was written, from the start, in pieces of PIECE bytes."""
        position = 0
        while piece := os.pread(self._fd, PIECE, position):
            position += len(piece)
            yield piece

    def close(self) -> None:
        """Ends writing and reading; the file stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Closes it and takes it away, unless somebody moved it elsewhere."""
        self.close()
        self.path.unlink(missing_ok=True)


def sweep(folder: Path, before: float) -> int:
    """Removes the bodies that a killed server left there; returns how many.

    Those last written to before the Unix time `before`, which must be earlier than the start
    of any process that uses the folder.
    """
    left = [path for path in folder.glob(f"{PREFIX}*") if path.stat().st_mtime < before]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


class Unpacked:
    """Packed bytes unpacked within a limit: up to `keep` bytes in memory, then to a spool file.

    `put` some packed bytes, then `advance` until it says that they are done; so that a
    small body that unpacks to a large one does not hold its thread all the while.
    """

    def __init__(self, folder: Path, unpacker: Unpacker, limit: Limit, keep: int) -> None:
        self._folder = folder
        self._unpacker = unpacker
        self._limit = limit
        self._keep = keep
        self._size = 0
        self._kept: list[bytes] = []
        self._file: SpoolFile | None = None
        self._pieces: Iterator[bytes] = iter(())

    def unpack_frame(self, packed: list[bytes]) -> None:
        """Unpacks all of a zstd frame, and lets go of the pieces that it came in.

        What stays in memory is unpacked at once, in half the time. Errors as of `advance`.
        """
        payload = unpack_small(b"".join(packed), min(self._keep, self._limit.size))
        if payload is None:
            self.put(packed)
            while self.advance():
                pass
        else:
            self._kept = [payload]
            self._unpacker = Plain()
        packed.clear()

    def put(self, packed: Iterable[bytes]) -> None:
        """The next packed bytes; the ones before must be done."""
        self._pieces = itertools.chain.from_iterable(map(self._unpacker.feed, packed))

    def advance(self) -> bool:
        """Unpacks and writes some mebibytes; True if there may be more of what was put.

        BadRequest for broken bytes, TooLarge past the limit.
        """
        count = 0
        for piece in itertools.islice(self._pieces, _PIECES_PER_JOB):
            self._size += len(piece)
            if self._size > self._limit.size:
                raise TooLarge(
                    f"the unpacked body has more than {self._limit.size} bytes",
                    self._limit.setting,
                )
            self._kept.append(piece)
            if self._size > self._keep:
                self._write_out()
            count += 1
        return count == _PIECES_PER_JOB

    def file(self) -> Path:
        """All of it as a file; BadRequest if the packed bytes were cut off."""
        self._finish()
        file = self._write_out()
        file.close()
        return file.path

    def file_or_bytes(self) -> Path | bytes:
        """All of it, where it is; BadRequest if the packed bytes were cut off."""
        if self._file is not None:
            return self.file()
        self._finish()
        return b"".join(self._kept)

    def remove(self) -> None:
        """Takes the file away, unless somebody moved it elsewhere."""
        if self._file is not None:
            self._file.remove()

    @property
    def on_disk(self) -> bool:
        """Whether there is a file to remove."""
        return self._file is not None

    def _finish(self) -> None:
        self._unpacker.finish()
        self._pieces, self._unpacker = iter(()), Plain()  # the frame's window is not needed

    def _write_out(self) -> SpoolFile:
        if self._file is None:
            self._file = SpoolFile(self._folder)
        for piece in self._kept:
            self._file.write(piece)
        self._kept.clear()
        return self._file
