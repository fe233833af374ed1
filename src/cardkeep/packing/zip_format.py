# SPDX-License-Identifier: AGPL-3.0-or-later
"""The records of a zip file (PKWARE's APPNOTE, 4.3): their layout, and how they are written.

Numbers are little-endian. One that does not fit into its 16 or 32 bits is all ones there, and
stands in full in a record of zip64.
"""

import struct
from typing import NamedTuple

LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
_REST_OF_ENTRY = struct.Struct("<10xI")  # of a member without comment and attributes
END = struct.Struct("<4s4H2IH")
LARGE_END = struct.Struct("<4sQ2H2I4Q")
LARGE_END_PLACE = struct.Struct("<4sIQI")
EXTRA = struct.Struct("<2H")

LOCAL_MARK, CENTRAL_MARK, END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
LARGE_END_MARK, LARGE_END_PLACE_MARK = b"PK\x06\x06", b"PK\x06\x07"

#: What stands where a number has its place in a record of zip64.
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF
#: The extra field that holds the long numbers of a member.
LARGE_NUMBERS = 1

STORED, DEFLATED = 0, 8

# The version of the format that a reader must know, times ten.
_NEEDED, _NEEDED_FOR_LARGE = {STORED: 10, DEFLATED: 20}, 45
# 1980-01-01, the first day that the format knows.
_NO_TIME, _NO_DATE = 0, 0x21


class Member(NamedTuple):
    """A member as the central directory has it; sizes in bytes, `header` is an offset."""

    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


def local_header(name: bytes, member: Member, *, large: bool = False) -> bytes:
    """What stands before a member's bytes; `large` makes room for sizes of more than 32 bits.

    With room or without, the header of a member has one length whatever its sizes are.
    """
    extra = b""
    if large:
        extra = EXTRA.pack(LARGE_NUMBERS, 16) + _long(member.size, member.packed)
        member = member._replace(size=FULL_32, packed=FULL_32)
    common = _common(member, large=large)
    return LOCAL.pack(LOCAL_MARK, *common, len(name), len(extra)) + name + extra


def central_header(name: bytes, member: Member) -> bytes:
    """A member's entry in the central directory."""
    extra = b""
    if large := max(member.size, member.packed, member.header) >= FULL_32:
        numbers = {"size": member.size, "packed": member.packed, "header": member.header}
        long = {kind: number for kind, number in numbers.items() if number >= FULL_32}
        extra = EXTRA.pack(LARGE_NUMBERS, 8 * len(long)) + _long(*long.values())
        member = member._replace(**dict.fromkeys(long, FULL_32))
    needed, *_ = common = _common(member, large=large)
    lengths = (len(name), len(extra), 0, 0, 0, 0)
    return CENTRAL.pack(CENTRAL_MARK, needed, *common, *lengths, member.header) + name + extra


def headers(name: bytes, member: Member) -> tuple[bytes, bytes]:
    """What stands before a member's bytes, and its entry in the central directory."""
    local = local_header(name, member)
    if max(member.size, member.packed, member.header) >= FULL_32:
        return local, central_header(name, member)
    # All of the one after its mark stands in the other, where the version stands twice.
    entry = CENTRAL_MARK + local[4:6] + local[4 : LOCAL.size] + _REST_OF_ENTRY.pack(member.header)
    return local, entry + name


def end_of_directory(count: int, size: int, start: int) -> bytes:
    """What follows the central directory, which has `count` entries and begins at `start`."""
    large = b""
    if count >= FULL_16 or size >= FULL_32 or start >= FULL_32:
        needed = _NEEDED_FOR_LARGE
        length = LARGE_END.size - 12
        large = LARGE_END.pack(
            LARGE_END_MARK, length, needed, needed, 0, 0, count, count, size, start
        ) + LARGE_END_PLACE.pack(LARGE_END_PLACE_MARK, 0, start + size, 1)
    count, size, start = min(count, FULL_16), min(size, FULL_32), min(start, FULL_32)
    return large + END.pack(END_MARK, 0, 0, count, count, size, start, 0)


def _common(member: Member, *, large: bool) -> tuple[int, ...]:
    """What both headers of a member have."""
    flags, method, crc, packed, size, _ = member
    needed = _NEEDED_FOR_LARGE if large else _NEEDED[method]
    return (needed, flags, method, _NO_TIME, _NO_DATE, crc, packed, size)


def _long(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)
