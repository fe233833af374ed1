# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is particular to zips of zip64 form; the rest is tested where zips are used
(tests/wire/test_media_zip.py, tests/backups/test_package_reader.py)."""

import struct

import pytest

from cardkeep.errors import BadRequest
from cardkeep.packing.zip_format import CENTRAL, Member, central_header, end_of_directory
from cardkeep.packing.zip_reader import Directory, InMemory

MEMBER = Member(0, 0, 0, 1, 1, 0)


def large_zip(
    *, count: int = 0xFFFF, place: int = 0, mark: bytes = b"PK\x06\x06", disks: int = 1, **end: int
) -> bytes:
    """A zip of 65,535 members in zip64 form, in which one thing may be wrong."""
    directory = b"".join(central_header(b"%d" % n, MEMBER) for n in range(0xFFFF))
    numbers = {"length": 44, "disk": 0, "here": count, "count": count} | end
    size = end.get("size", len(directory))
    large = struct.pack(
        "<4sQ2H2I4Q",
        mark,
        numbers["length"],
        45,
        45,
        numbers["disk"],
        0,
        numbers["here"],
        numbers["count"],
        size,
        end.get("start", 0),
    )
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(directory) + place, disks)
    small = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return directory + large + locator + small


def read(data: bytes, most: int = 100_000) -> list[tuple[bytes, Member]]:
    return list(Directory(InMemory(data), max_members=most, max_bytes=10_000_000))


def test_a_good_one_is_read() -> None:
    found = read(large_zip())
    assert len(found) == 0xFFFF
    assert found[500] == (b"500", MEMBER)


def test_exactly_65535_members_need_no_zip64() -> None:
    """And most programs write none."""
    directory = b"".join(central_header(b"%d" % n, MEMBER) for n in range(0xFFFF))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    assert len(read(directory + end)) == 0xFFFF


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0xFFFF + 1},
        {"count": 0xFFFF - 1},
        {"here": 1},
        {"disk": 1},
        {"length": 45},
        {"length": 2**63},
        {"size": 2**63},
        {"start": 1},
        {"start": 2**63},
        {"place": 1},
        {"place": -1},
        {"place": 2**40},
        {"disks": 2},
    ],
    ids=str,
)
def test_a_wrong_number_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadRequest):
        read(large_zip(**wrong))  # type: ignore[arg-type]


def test_a_wrong_mark_is_refused() -> None:
    with pytest.raises(BadRequest):
        read(large_zip(mark=b"PK\x06\x05"))
    data = bytearray(large_zip())
    data[-22 - 20] ^= 1
    with pytest.raises(BadRequest):
        read(bytes(data))


def test_the_limit_counts_in_this_form_too() -> None:
    with pytest.raises(BadRequest, match="65535 members"):
        read(large_zip(), most=65_534)


@pytest.mark.parametrize(
    ("extra", "taken"),
    [
        (struct.pack("<2H3Q", 1, 24, 1, 2, 3), True),
        (struct.pack("<2H3QI", 1, 28, 1, 2, 3, 0), True),
        (struct.pack("<2H5s2H3Q", 7, 5, b"other", 1, 24, 1, 2, 3), True),
        (struct.pack("<2H2Q", 1, 16, 1, 2), False),
        (struct.pack("<2H2Q", 1, 24, 1, 2), False),
        (struct.pack("<2H3Q", 1, 16, 1, 2, 3), False),
        (struct.pack("<2H3Q", 2, 24, 1, 2, 3), False),
        (struct.pack("<2H", 7, 0xFFFF), False),
        (b"\1", False),
        (b"", False),
    ],
)
def test_the_long_numbers_of_a_member(extra: bytes, taken: bool) -> None:
    """All three are too long for their places."""
    numbers = (45, 45, 0, 0, 0, 33, 0, *[0xFFFFFFFF] * 2, 1, len(extra), 0, 0, 0, 0, 0xFFFFFFFF)
    directory = CENTRAL.pack(b"PK\x01\x02", *numbers) + b"a" + extra
    data = directory + end_of_directory(1, len(directory), 0)
    if taken:
        ((_, member),) = read(data)
        assert (member.size, member.packed, member.header) == (1, 2, 3)
    else:
        with pytest.raises(BadRequest, match="zip64"):
            read(data)


def test_a_directory_is_read_in_pieces_of_any_content() -> None:
    """Entries lie across the pieces; extra fields and comments have any length."""
    entries = []
    for n in range(3000):
        name, extra, comment = b"%d" % n, bytes(n * 7 % 900), b"c" * (n * 13 % 500)
        lengths = (len(name), len(extra), len(comment), 0, 0, 0, n)
        entries.append(
            CENTRAL.pack(b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, *lengths)
            + name
            + extra
            + comment
        )
    directory = b"".join(entries)
    assert len(directory) > 2_000_000
    data = directory + end_of_directory(len(entries), len(directory), 0)
    assert [(name, member.header) for name, member in read(data)] == [
        (b"%d" % n, n) for n in range(3000)
    ]
