# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads zip files that anybody may have made.

It is our own because it must be safe before it is general: Python's zipfile builds an object
for each of a million members before one can count them, and up to 3.11.7 it gives out members
that overlap. Here the number of members and the size of the directory are known to be within
limits before an entry is read, and unpacking a member stops where the directory said that it
would. Encryption, patches, several parts, and methods but "stored" and "deflated" are refused.

All errors are BadRequest, raised as late as when the bytes in question are read.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from cardkeep.errors import BadRequest
from cardkeep.messages import ByteSource
from cardkeep.packing.checksum import crc32
from cardkeep.packing.zip_format import (
    CENTRAL,
    CENTRAL_MARK,
    DEFLATED,
    END,
    END_MARK,
    EXTRA,
    FULL_16,
    FULL_32,
    LARGE_END,
    LARGE_END_MARK,
    LARGE_END_PLACE,
    LARGE_END_PLACE_MARK,
    LARGE_NUMBERS,
    LOCAL,
    LOCAL_MARK,
    STORED,
    Member,
)

_MAX_COMMENT = 0xFFFF
_PACKED_PIECE = 64 * 1024
_DIRECTORY_PIECE = 64 * 1024
# Encryption (bits 0, 6, 13) and patches (5). Bit 3, sizes after the data, is fine: the
# directory has them too.
_FORBIDDEN_FLAGS = 0x2061


class InFile:
    """A zip in a file."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return os.fstat(self._descriptor).st_size

    def read_at(self, start: int, size: int) -> bytes:
        """At most `size` bytes, none at the end."""
        return os.pread(self._descriptor, size, start)

    def close(self) -> None:
        """Gives the descriptor back; further calls do nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class InMemory:
    """A zip in memory."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self._data)

    def read_at(self, start: int, size: int) -> bytes:
        """At most `size` bytes, none at the end."""
        return self._data[start : start + size]

    def close(self) -> None:
        """Lets the bytes go."""
        self._data = b""


class Lent:
    """A zip that somebody else closes, later than whoever reads it here."""

    __slots__ = ("_archive",)

    def __init__(self, archive: InFile | InMemory) -> None:
        self._archive = archive

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._archive.size

    def read_at(self, start: int, size: int) -> bytes:
        """At most `size` bytes, none at the end."""
        return self._archive.read_at(start, size)

    def close(self) -> None:
        """Nothing to give back."""


Archive = InFile | InMemory | Lent


def opened(archive: Path | bytes) -> Archive:
    """The zip in a file or in memory."""
    return InMemory(archive) if isinstance(archive, bytes) else InFile(archive)


# --- the directory ----------------------------------------------------------------------


class Directory:
    """The central directory of a zip: iterate over it for names and members.

    `count` is the number of members, `start` the offset at which it begins, and hence the
    last member must end. It is read in pieces, from the file each time.
    """

    def __init__(self, archive: Archive, *, max_members: int, max_bytes: int) -> None:
        length = archive.size
        end = _end_record(archive, length)
        _, disk, first_disk, here, count, size, start, comment = END.unpack_from(end)
        if disk or first_disk or here != count or END.size + comment != len(end):
            raise BadRequest("zip: damaged at its end, or in several parts")
        closed = length - len(end)
        if count == FULL_16 or FULL_32 in (size, start):
            count, size, start, closed = _large_end(archive, closed) or (count, size, start, closed)
        if count > max_members or size > max_bytes:
            raise BadRequest(f"zip: {count} members with a directory of {size} bytes")
        if start + size != closed:
            raise BadRequest("zip: the directory is not where the end says")
        self._archive = archive
        self._size: int = size
        self.count: int = count
        self.start: int = start

    def __iter__(self) -> Iterator[tuple[bytes, Member]]:
        data, at, read = b"", 0, 0
        for _ in range(self.count):
            if len(data) - at < CENTRAL.size + 3 * 0xFFFF and read < self._size:
                piece = self._archive.read_at(self.start + read, self._next_piece(read))
                data, at, read = data[at:] + piece, 0, read + len(piece)
            if len(data) - at < CENTRAL.size or not data.startswith(CENTRAL_MARK, at):
                raise BadRequest("zip: damaged directory")
            fields = CENTRAL.unpack_from(data, at)
            _, _, _, flags, method, _, _, crc, packed, size, *lengths, _, _, _, header = fields
            name_length, extra_length, _ = lengths
            name_end = at + CENTRAL.size + name_length
            name = data[at + CENTRAL.size : name_end]
            at += CENTRAL.size + sum(lengths)
            if at > len(data):
                raise BadRequest("zip: damaged directory")
            member = Member(flags, method, crc, packed, size, header)
            if FULL_32 in (packed, size, header):
                member = _with_long_numbers(member, data[name_end : name_end + extra_length])
            yield name, member
        if at != len(data) or read != self._size:
            raise BadRequest("zip: the directory goes on after its last member")

    def _next_piece(self, read: int) -> int:
        # An entry has at most this, so that the loop above always finds a whole one.
        return min(self._size - read, CENTRAL.size + 3 * 0xFFFF + _DIRECTORY_PIECE)


def _end_record(archive: Archive, length: int) -> bytes:
    """The bytes from the end record on."""
    end = archive.read_at(max(length - END.size, 0), END.size)
    if len(end) == END.size and end.startswith(END_MARK) and end.endswith(b"\0\0"):
        return end
    # Behind the record there may be a comment.
    furthest = max(length - END.size - _MAX_COMMENT, 0)
    tail = archive.read_at(furthest, length - furthest)
    found = tail.rfind(END_MARK)
    if found < 0 or len(tail) - found < END.size:
        raise BadRequest("zip: not a zip file, or one that is cut off")
    return tail[found:]


def _large_end(archive: Archive, closed: int) -> tuple[int, int, int, int] | None:
    """Count, size and start of the directory, and where it must end, as zip64 has them."""
    place = archive.read_at(max(closed - LARGE_END_PLACE.size, 0), LARGE_END_PLACE.size)
    if len(place) < LARGE_END_PLACE.size or not place.startswith(LARGE_END_PLACE_MARK):
        return None
    _, disk, at, disks = LARGE_END_PLACE.unpack(place)
    end = archive.read_at(at, LARGE_END.size) if at < closed else b""
    if disk or disks > 1 or len(end) < LARGE_END.size or not end.startswith(LARGE_END_MARK):
        raise BadRequest("zip: damaged at its end, or in several parts")
    _, length, _, _, disk, first_disk, here, count, size, start = LARGE_END.unpack(end)
    if disk or first_disk or here != count or at + 12 + length != closed - LARGE_END_PLACE.size:
        raise BadRequest("zip: damaged at its end, or in several parts")
    return count, size, start, at


def _with_long_numbers(member: Member, extra: bytes) -> Member:
    """The member with the numbers that zip64 keeps in an extra field."""
    at = 0
    while at + EXTRA.size <= len(extra):
        kind, length = EXTRA.unpack_from(extra, at)
        at += EXTRA.size
        if kind == LARGE_NUMBERS:
            break
        at += length
    else:
        raise BadRequest("zip: a member in zip64 form without its numbers")
    numbers = {"size": member.size, "packed": member.packed, "header": member.header}
    wanted = [name for name, number in numbers.items() if number == FULL_32]
    if min(length, len(extra) - at) < 8 * len(wanted):
        raise BadRequest("zip: a member in zip64 form without its numbers")
    long = struct.unpack_from(f"<{len(wanted)}Q", extra, at)
    return member._replace(**dict(zip(wanted, long, strict=True)))


# --- members ----------------------------------------------------------------------------


def check_form(member: Member, name: str) -> None:
    """Raises BadRequest unless the member's bytes can be read."""
    if member.flags & _FORBIDDEN_FLAGS:
        raise BadRequest(f"zip: member {name!r} is encrypted or a patch")
    if member.method not in (STORED, DEFLATED):
        raise BadRequest(f"zip: member {name!r} has compression method {member.method}")
    if member.method == STORED and member.packed != member.size:
        raise BadRequest(f"zip: member {name!r} is stored, but its sizes differ")


def data_start(archive: Archive, member: Member, end: int) -> int:
    """The offset of a member's bytes; `end` is where the next member begins.

    Overlapping members are how a small file unpacks to a large one without compression.
    """
    header = archive.read_at(member.header, LOCAL.size)
    if len(header) < LOCAL.size or not header.startswith(LOCAL_MARK):
        raise BadRequest("zip: a member is not where the directory says")
    *_, name_length, extra_length = LOCAL.unpack(header)
    start: int = member.header + LOCAL.size + name_length + extra_length
    if start + member.packed > end:
        raise BadRequest("zip: members overlap")
    return start


def source(archive: Archive, member: Member, start: int) -> ByteSource:
    """The member's bytes, unpacked; closing it closes `archive`.

    Its `read` raises BadRequest where they are not what the directory promised (length,
    checksum, broken deflate stream).
    """
    return (_Stored if member.method == STORED else _Deflated)(archive, member, start)


class _Stored:
    """The bytes of a member that is not compressed."""

    def __init__(self, archive: Archive, member: Member, start: int) -> None:
        self._archive = archive
        self._at = start
        self._member = member
        self._left = member.size
        self._crc = 0

    @property
    def size(self) -> int:
        return self._member.size

    def read(self, size: int) -> bytes:
        if not self._left:
            return b""
        data = self._take(min(size, self._left))
        self._left -= len(data)
        self._crc = crc32(data, self._crc)
        if not self._left:
            self._check_end()
            if self._crc != self._member.crc:
                raise BadRequest("zip: a member's checksum is wrong")
        return data

    def _take(self, size: int) -> bytes:
        """Between 1 and `size` bytes of the file."""
        data = self._archive.read_at(self._at, size)
        if not data:
            raise BadRequest("zip: a member ends early")
        self._at += len(data)
        return data

    def _check_end(self) -> None:
        """All bytes were taken."""

    def close(self) -> None:
        self._archive.close()


class _Deflated(_Stored):
    """The bytes of a compressed member; never unpacks more than is asked for."""

    def __init__(self, archive: Archive, member: Member, start: int) -> None:
        super().__init__(archive, member, start)
        self._end = start + member.packed
        self._inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        self._packed = b""

    def _take(self, size: int) -> bytes:
        while not self._inflater.eof:
            if data := self._inflate(size):
                return data
        raise BadRequest("zip: a member is shorter than the directory says")

    def _inflate(self, size: int) -> bytes:
        if not self._packed:
            self._packed = super()._take(min(_PACKED_PIECE, self._end - self._at))
        try:
            data = self._inflater.decompress(self._packed, size)
        except zlib.error as error:
            raise BadRequest(f"zip: a member does not unpack: {error}") from None
        self._packed = self._inflater.unconsumed_tail
        return data

    def _check_end(self) -> None:
        while not self._inflater.eof:
            if self._inflate(1):
                raise BadRequest("zip: a member is longer than the directory says")
        if self._at != self._end or self._inflater.unused_data:
            raise BadRequest("zip: a member goes on after its end")
