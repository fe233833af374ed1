# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bounded packing and unpacking: zstd (protocol 11), gzip (8 to 10), and neither.

An unpacker is fed the packed bytes as they arrive and gives back pieces of at most about
a mebibyte, whatever a hostile sender packed into them; who collects the pieces counts
them. Packed bytes after the end of the payload are ignored, as the official server does.

One unpacker or packer belongs to one body and is used by one thread at a time; the
contexts of `unpack_small` and `pack` are one per thread, made once.
"""

import threading
import zlib
from collections.abc import Iterator
from typing import Protocol

import zstandard

from cardkeep.errors import BadRequest

#: The most that one piece of an unpacker holds, give or take a zstd block.
PIECE = 1024 * 1024

#: Engine clients pack with a window of 2 MiB; zstd itself asks every decoder for 8.
MAX_WINDOW = 8 * 1024 * 1024

#: Level 1 packs JSON rows and SQLite files as small as level 3 does (measured on 250 rows:
#: 5.6 and 6.2 kB) in less time. Its window is 512 KiB; clients take up to 8 MiB.
LEVEL = 1

#: The level for what others have packed already, as pictures and recordings: it finds out sooner
#: that nothing is to be gained (0.09 and 0.16 ms for 800 kB).
QUICK_LEVEL = -1

_MAGIC = b"\x28\xb5\x2f\xfd"
_LONGEST_FRAME_HEADER = 18
_BLOCK_HEADER = 3
_RLE_BLOCK = 1
_MAX_BLOCK = 128 * 1024
_BLOCKS_PER_PIECE = PIECE // _MAX_BLOCK


class Unpacker(Protocol):
    """Turns packed bytes into the payload, piece by piece."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that `data` completes; nothing is unpacked before it is asked for.

        To be read to the end before the next `feed`. Raises BadRequest for broken bytes.
        """

    def finish(self) -> None:
        """To be called after the last `feed`: raises BadRequest if the end is missing."""


class Plain:
    """No packing: the bytes are the payload."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Gives `data` on, at most PIECE at once."""
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]

    def finish(self) -> None:
        """Any end will do."""


class Gzip:
    """One gzip member (`data` of a form). No bytes at all are an empty payload."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._started = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See `Unpacker.feed`."""
        self._started = self._started or bool(data)
        while not self._member.eof:
            try:
                piece = self._member.decompress(data, PIECE)
            except zlib.error as error:
                raise BadRequest(f"gzip: {error}") from None
            data = self._member.unconsumed_tail
            if piece:
                yield piece
            elif not data:
                return

    def finish(self) -> None:
        """See `Unpacker.finish`."""
        if self._started and not self._member.eof:
            raise BadRequest("gzip: the data is cut off")


class Zstd:
    """One zstd frame, which need not tell its content size. No bytes are an empty payload.

    The library's streaming decoder unpacks all that it is given at once, and four bytes can
    stand for 128 KiB. So the frame is cut between blocks (RFC 8878, 3.1.1: a header, then
    blocks that each start with their type and length, and unpack to at most 128 KiB), and
    the decoder is given few blocks at a time.
    """

    def __init__(self) -> None:
        self._decoder: zstandard.ZstdDecompressionObj | None = None
        self._head = b""  # what came until the frame header was complete
        # Bytes until the next block header, and the part of that header which has arrived.
        self._block_left = 0
        self._block_header = b""
        self._last_block = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See `Unpacker.feed`."""
        if self._decoder is None:
            self._head = data = self._head + data
            self._decoder = self._open(data)
        decoder = self._decoder
        if decoder is None:
            return
        view = memoryview(data)
        for start, end in self._cuts(data):
            if decoder.eof:
                return
            try:
                piece = decoder.decompress(view[start:end])
            except zstandard.ZstdError as error:
                raise BadRequest(f"zstd: {error}") from None
            if piece:
                yield piece

    def finish(self) -> None:
        """See `Unpacker.finish`."""
        if not self._head:
            return
        if self._decoder is None or not self._decoder.eof:
            raise BadRequest("zstd: the data is cut off")

    def _open(self, data: bytes) -> "zstandard.ZstdDecompressionObj | None":
        """Reads the frame header and makes the decoder; None while the header is incomplete."""
        if not data.startswith(_MAGIC[: len(data)]):
            raise BadRequest("zstd: not a zstd frame")
        try:
            self._block_left = zstandard.frame_header_size(data)
        except (zstandard.ZstdError, ValueError) as error:
            if len(data) < _LONGEST_FRAME_HEADER:
                return None
            raise BadRequest(f"zstd: {error}") from None
        return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()

    def _cuts(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Start and end of slices of `data` in which at most _BLOCKS_PER_PIECE blocks end."""
        start = position = blocks = 0
        end = len(data)
        while position < end and not self._last_block:
            if self._block_left:
                step = min(self._block_left, end - position)
                self._block_left -= step
                position += step
                if self._block_left:
                    break
                blocks += 1
                if blocks >= _BLOCKS_PER_PIECE:
                    yield start, position
                    start, blocks = position, 0
                continue
            step = min(_BLOCK_HEADER - len(self._block_header), end - position)
            self._block_header += data[position : position + step]
            position += step
            if len(self._block_header) == _BLOCK_HEADER:
                self._enter_block(int.from_bytes(self._block_header, "little"))
                self._block_header = b""
        if start < end:
            yield start, end

    def _enter_block(self, header: int) -> None:
        self._last_block = bool(header & 1)
        kind = header >> 1 & 3
        self._block_left = 1 if kind == _RLE_BLOCK else header >> 3


class _Contexts(threading.local):
    """The zstd contexts of a thread."""

    def __init__(self) -> None:
        self.packer = zstandard.ZstdCompressor(level=LEVEL)
        self.quick_packer = zstandard.ZstdCompressor(level=QUICK_LEVEL)
        self.unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)


_contexts = _Contexts()


def unpack_small(frame: bytes, limit: int) -> bytes | None:
    """The payload of a short zstd frame in one go; None if `Zstd` must do it.

    None means more than `limit` bytes, a broken frame or one that is cut off.
    """
    if not frame:
        return b""
    try:
        if zstandard.frame_content_size(frame) > limit:
            return None
        return _contexts.unpacker.decompress(frame, max_output_size=limit)
    except zstandard.ZstdError:
        return None


def pack(payload: bytes, *, is_packed: bool = False) -> bytes:
    """The payload as one zstd frame; `is_packed`: not much is to be gained."""
    if len(payload) < len(_TINY_HEADS):
        return _TINY_HEADS[len(payload)] + payload
    packer = _contexts.quick_packer if is_packed else _contexts.packer
    return packer.compress(payload)


# Most answers have less than 256 bytes, of which a tenth could be saved for as much work as all
# the rest of packing takes. In front of such a payload as it is stand, by RFC 8878 (3.1.1): the
# magic number, a frame header of one segment with the size in a byte, and a header for the last
# block, which is a raw one.
_TINY_HEADS = [
    _MAGIC + bytes([0x20, size]) + (1 | size << 3).to_bytes(3, "little") for size in range(256)
]


class Packer(Protocol):
    """Turns a payload into packed bytes, piece by piece."""

    def feed(self, data: bytes) -> bytes:
        """Packed bytes, possibly none yet."""

    def finish(self) -> bytes:
        """The rest."""


class PlainPacker:
    """No packing."""

    def feed(self, data: bytes) -> bytes:
        """Gives `data` on."""
        return data

    def finish(self) -> bytes:
        """Nothing is kept back."""
        return b""


class ZstdPacker:
    """A zstd frame that tells its content size; `size` must be what is fed in all.

    `is_packed`: it holds what others have packed already.
    """

    def __init__(self, size: int, *, is_packed: bool = False) -> None:
        self._size = size
        self._is_packed = is_packed
        self._packer: zstandard.ZstdCompressionObj | None = None
        self._is_whole = False

    def feed(self, data: bytes) -> bytes:
        """See `Packer.feed`."""
        if self._packer is None and len(data) == self._size:
            # A stream takes a mebibyte of buffers of its own, and copies everything into them.
            self._is_whole = True
            return pack(data, is_packed=self._is_packed)
        return self._stream().compress(data)

    def finish(self) -> bytes:
        """See `Packer.finish`."""
        return b"" if self._is_whole else self._stream().flush()

    def _stream(self) -> "zstandard.ZstdCompressionObj":
        if self._packer is None:
            level = QUICK_LEVEL if self._is_packed else LEVEL
            self._packer = zstandard.ZstdCompressor(level=level).compressobj(size=self._size)
        return self._packer
