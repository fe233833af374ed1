# SPDX-License-Identifier: AGPL-3.0-or-later
"""Zips that are written: Python's own reader and ours find in them what was put in."""

import io
import os
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardkeep.packing import zip_format
from cardkeep.packing.zip_reader import Directory, InFile, Lent, check_form, data_start, source
from cardkeep.packing.zip_writer import ZipWriter

NOISE = random.Random(7).randbytes(3_000_000)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "written.zip", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def contents(path: Path) -> dict[str, bytes]:
    """By our own reader, as from a stranger."""
    archive = InFile(path)
    found = {}
    directory = Directory(archive, max_members=100_000, max_bytes=10_000_000)
    for name, member in directory:
        check_form(member, name.decode())
        bytes_ = source(Lent(archive), member, data_start(archive, member, directory.start))
        pieces = []
        while piece := bytes_.read(100_000):
            pieces.append(piece)
        bytes_.close()
        found[name.decode()] = b"".join(pieces)
    archive.close()
    return found


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_what_was_put_in_is_found(
    descriptor: int, tmp_path: Path, deflate: bool, large: bool
) -> None:
    files = {"empty": b"", "small": b"x", "large": NOISE, "even": b"a" * 5_000_000}
    writer = ZipWriter(descriptor, tmp_path)
    for name, data in files.items():
        pieces = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
        writer.add(name.encode(), pieces, deflate=deflate, large=large)
    assert writer.finish() == os.fstat(descriptor).st_size
    writer.close()
    assert contents(tmp_path / "written.zip") == files
    with zipfile.ZipFile(tmp_path / "written.zip") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == files
        assert (archive.getinfo("even").compress_size < 100_000) == deflate


@pytest.mark.parametrize("count", [65_534, 65_535, 65_536])
def test_there_may_be_more_members_than_16_bits_can_say(
    descriptor: int, tmp_path: Path, count: int
) -> None:
    writer = ZipWriter(descriptor, tmp_path)
    for n in range(count):
        writer.add(b"%d" % n, [b"x"] if n % 100 == 0 else [])
    writer.finish()
    writer.close()
    archive = InFile(tmp_path / "written.zip")
    names = [name for name, _ in Directory(archive, max_members=count, max_bytes=5_000_000)]
    archive.close()
    assert names == [b"%d" % n for n in range(count)]
    with zipfile.ZipFile(tmp_path / "written.zip") as read:
        assert len(read.namelist()) == count
        assert read.read("600") == b"x"


def test_offsets_may_need_more_than_32_bits(
    descriptor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first member is a hole of 4 GiB, which takes no room on the disk."""
    writer = ZipWriter(descriptor, tmp_path)
    monkeypatch.setattr(writer, "_at", (1 << 32) + 5)
    writer.add(b"far", [b"far away"])
    writer.add(b"farther", [b"abc"] * 1000, deflate=True)
    writer.finish()
    writer.close()
    assert contents(tmp_path / "written.zip") == {"far": b"far away", "farther": b"abc" * 1000}
    with zipfile.ZipFile(tmp_path / "written.zip") as archive:
        assert archive.read("far") == b"far away"


def test_sizes_of_more_than_32_bits_are_written_as_python_reads_them() -> None:
    """Every mixture of long and short numbers."""
    short, long = 5, (1 << 32) + 7
    for size in (short, long):
        for packed in (short, long):
            for header in (short, long):
                member = zip_format.Member(0, 8, 1, packed, size, header)
                directory = zip_format.central_header(b"name", member)
                start = 1 << 33
                end = zip_format.end_of_directory(1, len(directory), start)
                file = io.BytesIO(directory + end)
                read = zipfile.ZipFile(_Shifted(file, start))  # type: ignore[arg-type]
                info = read.getinfo("name")
                assert (info.compress_size, info.file_size) == (packed, size)
                assert info.header_offset == header
                ours = Directory(_Far(file.getvalue(), start), max_members=1, max_bytes=100)  # type: ignore[arg-type]
                assert list(ours) == [(b"name", member)]


def test_a_member_that_passes_4_gib_unannounced_is_an_error(
    descriptor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cardkeep.packing.zip_writer.FULL_32", 1000)
    writer = ZipWriter(descriptor, tmp_path)
    with pytest.raises(ValueError, match="announced"):
        writer.add(b"0", [b"x" * 1000])
    writer.close()


class _Shifted:
    """A file before which lie `start` bytes that nobody reads."""

    def __init__(self, file: io.BytesIO, start: int) -> None:
        self._file, self._start = file, start
        self.mode = "rb"

    def seek(self, to: int, whence: int = 0) -> int:
        if whence == 2:
            return self._start + self._file.seek(max(to, -len(self._file.getvalue())), 2)
        return self._start + self._file.seek(max(to - self._start, 0))

    def tell(self) -> int:
        return self._start + self._file.tell()

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing to give back."""


class _Far:
    """The same for our reader."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start = data, start
        self.size = start + len(data)

    def read_at(self, start: int, size: int) -> bytes:
        at = max(start - self._start, 0)
        return self._data[at : at + size]


@pytest.mark.parametrize("header", [0, 77, (1 << 32) - 2, (1 << 32) - 1, 1 << 40])
@pytest.mark.parametrize("method", [zip_format.STORED, zip_format.DEFLATED])
def test_both_headers_of_a_member_at_once(header: int, method: int) -> None:
    """They are what each is by itself."""
    member = zip_format.Member(0x800, method, 0x01020304, 11, 12, header)
    assert zip_format.headers("ä".encode(), member) == (
        zip_format.local_header("ä".encode(), member),
        zip_format.central_header("ä".encode(), member),
    )
