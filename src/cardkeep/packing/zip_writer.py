# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes zip files of any size, member after member, in constant memory."""

import os
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Protocol

from cardkeep.packing.checksum import crc32
from cardkeep.packing.zip_format import (
    DEFLATED,
    FULL_32,
    STORED,
    Member,
    central_header,
    end_of_directory,
    local_header,
)

_PIECE = 1024 * 1024
# The fastest; what is worth more is packed before it comes here.
_LEVEL = 1


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes:
        """Packed bytes, possibly none yet."""

    def flush(self) -> bytes:
        """The rest."""


class _Stored:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class ZipWriter:
    """A zip as it grows in the file `descriptor`, from the file's start on.

    The central directory waits beside it until `finish`, in a nameless file in `spool` once
    it is large. Flushing and naming the zip is the caller's.
    """

    def __init__(self, descriptor: int, spool: Path) -> None:
        self._descriptor = descriptor
        self._directory: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            max_size=_PIECE, dir=str(spool)
        )
        self._count = 0
        self._at = 0

    def add(
        self, name: bytes, pieces: Iterable[bytes], *, deflate: bool = False, large: bool = False
    ) -> None:
        """Adds a member; `large` must be said of one that may pass 4 GiB.

        Raises ValueError for one that passes it unannounced.
        """
        header, crc, size = self._at, 0, 0
        # How long a header is does not depend on the numbers in it.
        start = at = header + len(local_header(name, Member(0, 0, 0, 0, 0, 0), large=large))
        packer: _Packer = zlib.compressobj(_LEVEL, wbits=-15) if deflate else _Stored()
        for piece in pieces:
            crc = crc32(piece, crc)
            size += len(piece)
            at += self._write(packer.compress(piece), at)
        at += self._write(packer.flush(), at)
        if max(size, at - start) >= FULL_32 and not large:
            raise ValueError(f"{name!r} has {size} bytes, and was not announced as large")
        method = DEFLATED if deflate else STORED
        member = Member(0, method, crc, at - start, size, header)
        self._write(local_header(name, member, large=large), header)
        self._directory.write(central_header(name, member))
        self._count += 1
        self._at = at

    def finish(self) -> int:
        """Writes the directory; the length of the whole."""
        size = self._directory.tell()
        self._directory.seek(0)
        at = self._at
        while piece := self._directory.read(_PIECE):
            at += self._write(piece, at)
        return at + self._write(end_of_directory(self._count, size, self._at), at)

    def close(self) -> None:
        """Gives back what waits beside the file; the file is the caller's."""
        self._directory.close()

    def _write(self, data: bytes, at: int) -> int:
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, memoryview(data)[written:], at + written)
        return written
