# SPDX-License-Identifier: AGPL-3.0-or-later
"""Packing and unpacking: exact in any pieces, bounded whatever is fed."""

import gzip
import itertools
import random
import threading
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.errors import BadRequest
from cardkeep.packing.compression import (
    PIECE,
    Gzip,
    Packer,
    Plain,
    PlainPacker,
    Unpacker,
    Zstd,
    ZstdPacker,
    pack,
    unpack_small,
)
from tests.wire.requests import pieces, unpacked, zipped, zstd_frame

RANDOM = random.Random(5)
ROWS = b",".join(b"[%d,%d]" % (RANDOM.randrange(10**12), index) for index in range(60_000))
NOISE = RANDOM.randbytes(2_500_000)
PAYLOADS = [
    b"",
    b"x",
    b"{}",
    b"y" * 255,
    b"z" * 256,
    ROWS,
    NOISE,
    b"\0" * 5_000_000,
    NOISE + b"\0" * 3_000_000 + ROWS,
]

zeros = zstandard.ZstdCompressor(level=19, write_content_size=False).compressobj()
ZSTD_BOMB = b"".join(zeros.compress(b"\0" * PIECE) for _ in range(256)) + zeros.flush()
GZIP_BOMB = zlib.compress(b"\0" * 64 * PIECE, wbits=31)


FORMATS = [
    pytest.param(Zstd, zstd_frame, id="zstd"),
    pytest.param(Gzip, zipped, id="gzip"),
    pytest.param(Plain, bytes, id="plain"),
]
Pack = Callable[[bytes], bytes]


@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
@pytest.mark.parametrize("size", [1001, 65_536, 10**9])
@pytest.mark.parametrize(("unpacker", "packed"), FORMATS)
def test_unpacking_gives_back_what_was_packed(
    payload: bytes, size: int, unpacker: type[Unpacker], packed: Pack
) -> None:
    """Whole, and in the pieces that sockets give."""
    assert unpacked(unpacker(), pieces(packed(payload), size)) == payload


@pytest.mark.parametrize("payload", [b"", b"x", ROWS[:300_000]], ids=len)
@pytest.mark.parametrize(("unpacker", "packed"), FORMATS)
def test_unpacking_byte_by_byte(payload: bytes, unpacker: type[Unpacker], packed: Pack) -> None:
    """The same for the smallest pieces there are."""
    assert unpacked(unpacker(), pieces(packed(payload), 1)) == payload


@given(
    chunks=st.lists(
        st.tuples(st.sampled_from([b"\0", b"ab", b"\x80", NOISE[:999]]), st.integers(0, 3000))
    ),
    level=st.sampled_from([-5, 1, 3, 9]),
    cuts=st.lists(st.integers(0, 5000), max_size=15),
    checksum=st.booleans(),
    content_size=st.booleans(),
)
def test_any_zstd_frame_in_any_pieces(
    chunks: list[tuple[bytes, int]],
    level: int,
    cuts: list[int],
    checksum: bool,
    content_size: bool,
) -> None:
    """Every kind of frame and block that the library writes is cut in the right places."""
    payload = b"".join(part * count for part, count in chunks)
    compressor = zstandard.ZstdCompressor(
        level=level, write_checksum=checksum, write_content_size=content_size
    )
    packer = compressor.compressobj(size=len(payload) if content_size else -1)
    frame = packer.compress(payload[:1000])
    if not content_size:
        frame += packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    frame += packer.compress(payload[1000:]) + packer.flush()
    marks = [0, *sorted(cut for cut in cuts if cut < len(frame)), len(frame)]
    parts = [frame[start:end] for start, end in itertools.pairwise(marks)]
    assert unpacked(Zstd(), parts) == payload
    with pytest.raises(BadRequest):
        unpacked(Zstd(), [*parts[:-1], parts[-1][:-1]])


@given(payload=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 3000), max_size=15))
def test_any_gzip_member_in_any_pieces(payload: bytes, cuts: list[int]) -> None:
    """The same for gzip."""
    member = zipped(payload)
    marks = [0, *sorted(cut for cut in cuts if cut < len(member)), len(member)]
    parts = [member[start:end] for start, end in itertools.pairwise(marks)]
    assert unpacked(Gzip(), parts) == payload
    with pytest.raises(BadRequest):
        unpacked(Gzip(), [*parts[:-1], parts[-1][:-1]])


@pytest.mark.parametrize(
    ("unpacker", "bomb", "size"),
    [
        pytest.param(Zstd, ZSTD_BOMB, 256 * PIECE, id="zstd"),
        pytest.param(Gzip, GZIP_BOMB, 64 * PIECE, id="gzip"),
        pytest.param(Plain, b"\0" * 3 * PIECE, 3 * PIECE, id="plain"),
    ],
)
def test_pieces_are_small_whatever_was_packed(
    unpacker: type[Unpacker], bomb: bytes, size: int
) -> None:
    """A few kilobytes that stand for hundreds of megabytes come out a mebibyte at a time."""
    longest = total = 0
    for piece in unpacker().feed(bomb):
        longest = max(longest, len(piece))
        total += len(piece)
    assert total == size
    assert longest <= PIECE + 128 * 1024


def test_nothing_is_unpacked_before_it_is_asked_for() -> None:
    """So a limit ends a bomb where it is passed."""
    pieces_of_bomb = Zstd().feed(ZSTD_BOMB)
    assert len(next(pieces_of_bomb)) <= PIECE


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 6, 9, 12, 5000, -1])
@pytest.mark.parametrize("size", [1, 10**9])
@pytest.mark.parametrize(("unpacker", "packed"), FORMATS[:2])
def test_a_cut_off_body_is_a_bad_request(
    unpacker: type[Unpacker], packed: Pack, cut: int, size: int
) -> None:
    """Also where all that came unpacks well."""
    with pytest.raises(BadRequest, match="cut off"):
        unpacked(unpacker(), pieces(packed(ROWS[:50_000])[:cut], size))


def test_a_frame_that_ends_between_two_blocks_is_cut_off() -> None:
    """Everything sent was flushed and is readable, yet the last block never came."""
    packer = zstandard.ZstdCompressor().compressobj()
    body = packer.compress(ROWS) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    with pytest.raises(BadRequest, match="cut off"):
        unpacked(Zstd(), [body])


WIDE = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters(window_log=27)
)
wide = WIDE.compressobj()
WIDE_FRAME = wide.compress(b"x" * 1000) + wide.flush()
SINGLE_SEGMENT = WIDE.compress(b"\0" * 20 * PIECE)


@pytest.mark.parametrize(
    ("unpacker", "body"),
    [
        pytest.param(Zstd, b"{}", id="JSON as zstd"),
        pytest.param(Zstd, b"\x28", id="the start of the magic"),
        pytest.param(Zstd, b"\x28\xb5\x2f\xfe" + b"\0" * 30, id="almost the magic"),
        pytest.param(Zstd, zipped(b"{}"), id="gzip as zstd"),
        pytest.param(Zstd, b"\x50\x2a\x4d\x18\x04\0\0\0abcd", id="a skippable frame"),
        pytest.param(Zstd, zstd_frame(ROWS)[:2000] + b"\xff" * 2000, id="broken zstd"),
        pytest.param(Zstd, b"\x28\xb5\x2f\xfd" + b"\xff" * 40, id="a header of nonsense"),
        pytest.param(Zstd, zstd_frame(b"")[:6] + b"\x07\0\0" + b"x" * 9, id="a reserved block"),
        pytest.param(Zstd, WIDE_FRAME, id="a window of 128 MiB"),
        pytest.param(Zstd, SINGLE_SEGMENT, id="a window of the whole content"),
        pytest.param(Gzip, b"{}", id="JSON as gzip"),
        pytest.param(Gzip, zlib.compress(b"{}"), id="zlib as gzip"),
        pytest.param(Gzip, zipped(ROWS)[:2000] + b"\xff" * 2000, id="broken gzip"),
        pytest.param(Gzip, zipped(b"{}")[:-8] + b"\0" * 8, id="wrong checksum"),
    ],
)
@pytest.mark.parametrize("size", [1, 10**9])
def test_broken_bytes_are_a_bad_request(unpacker: type[Unpacker], body: bytes, size: int) -> None:
    """One error, whichever library failed."""
    with pytest.raises(BadRequest, match=r"^(zstd|gzip): "):
        unpacked(unpacker(), pieces(body, size))


@pytest.mark.parametrize("size", [1, 10**9])
@pytest.mark.parametrize(("unpacker", "packed"), [(Zstd, zstd_frame(b"{}")), (Gzip, zipped(b"{}"))])
def test_bytes_after_the_end_are_ignored(
    unpacker: type[Unpacker], packed: bytes, size: int
) -> None:
    """As the official server does."""
    assert unpacked(unpacker(), pieces(packed + b"more" + packed, size)) == b"{}"


@pytest.mark.parametrize("unpacker", [Zstd, Gzip, Plain])
def test_no_bytes_are_an_empty_payload(unpacker: type[Unpacker]) -> None:
    """`data` may be empty (docs/sync-protocol.md, 1.4), and so may a whole body."""
    assert unpacked(unpacker(), []) == b""
    assert unpacked(unpacker(), [b"", b""]) == b""


def test_small_frames_are_unpacked_in_one_go() -> None:
    """With or without content size; what is larger or broken is left to the careful way."""
    assert unpack_small(b"", 10) == b""
    assert unpack_small(zstd_frame(b"0123456789"), 10) == b"0123456789"
    assert unpack_small(pack(b"0123456789"), 10) == b"0123456789"
    assert unpack_small(zstd_frame(b"0123456789a"), 10) is None
    assert unpack_small(pack(b"0123456789a"), 10) is None
    assert unpack_small(ZSTD_BOMB, 1000) is None
    assert unpack_small(zstd_frame(b"0123456789")[:-1], 1000) is None
    assert unpack_small(b"{}", 10) is None


@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_packing_is_understood_by_the_libraries(payload: bytes) -> None:
    """One frame that tells its size, with a window that every client can take."""
    streamed = feed_all(ZstdPacker(len(payload)), payload)
    for frame in (pack(payload), streamed):
        parameters = zstandard.get_frame_parameters(frame)
        assert parameters.content_size == len(payload)
        assert parameters.window_size <= 8 * PIECE
        assert zstandard.ZstdDecompressor().decompress(frame) == payload
    assert feed_all(PlainPacker(), payload) == payload


def feed_all(packer: Packer, payload: bytes) -> bytes:
    packed = [packer.feed(piece) for piece in pieces(payload, 700_000)]
    return b"".join(packed) + packer.finish()


def test_threads_do_not_share_contexts() -> None:
    """Many threads at once pack and unpack without disturbing each other."""
    failures: list[int] = []

    def work(number: int) -> None:
        payload = b"%d," % number * 2000
        for _ in range(200):
            if unpack_small(pack(payload), 100_000) != payload:
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_pythons_own_gzip_files_are_read() -> None:
    """Desktop up to 2.1.27 wrote them with a file name and a time in the header."""
    assert unpacked(Gzip(), [gzip.compress(ROWS)]) == ROWS
