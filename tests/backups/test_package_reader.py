# SPDX-License-Identifier: AGPL-3.0-or-later
"""Packages that are read: those of every Anki, and those that nobody should have made."""

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from cardkeep.backups.package_reader import Limits, Package
from cardkeep.errors import BadRequest, TooLarge
from cardkeep.messages import ByteSource
from cardkeep.packing.zip_writer import ZipWriter
from cardkeep.records import package
from cardkeep.records.package import Form
from tests.backups.packages import RICH_11, RICH_18, Files, olds, todays, zstd
from tests.wire.test_media_zip import bomb
from tests.wire.zips import Member, _Unseekable, crafted_zip

NOISE = random.Random(1).randbytes(3_000_000)
FILES = [("a.png", b"aaa"), ("猫.mp3", NOISE), ("ü", b"u" * 2_000_000), ("empty", b"")]
LIMITS = Limits(collection=1_000_000, media_list=10_000, members=100)


def whole(source: ByteSource | None, piece: int = 100_000) -> bytes:
    assert source is not None
    pieces = []
    while data := source.read(piece):
        assert len(data) <= piece
        pieces.append(data)
    source.close()
    assert sum(map(len, pieces)) == source.size
    return b"".join(pieces)


def read(body: bytes, folder: Path, limits: Limits = LIMITS) -> tuple[Form, bytes, Files]:
    """Everything in a package."""
    path = folder / "a.colpkg"
    path.write_bytes(body)
    target = folder / "collection"
    target.unlink(missing_ok=True)
    with Package(path, limits) as opened:
        opened.extract_collection(target)
        opened.verify()
        files = [(file.name, whole(file.open())) for file in opened.media()]
        assert opened.media_files == len(files)
        assert opened.media_bytes == sum(len(data) for _, data in files)
        for file, (_, data) in zip(opened.media(), files, strict=True):
            assert file.size == len(data)
            assert file.sha1 in (None, hashlib.sha1(data).digest())
        return opened.form, target.read_bytes(), files


# --- what Anki makes --------------------------------------------------------------------


def test_a_package_of_today(tmp_path: Path) -> None:
    expected = (Form.CURRENT, RICH_18.read_bytes(), FILES)
    assert read(crafted_zip(todays(FILES)), tmp_path) == expected


def test_an_older_package(tmp_path: Path) -> None:
    expected = (Form.OLD, RICH_11.read_bytes(), FILES)
    assert read(crafted_zip(olds(FILES)), tmp_path) == expected


def test_an_older_package_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    """Before 2.1.50 the better collection counts, if there are two."""
    collection = RICH_11.read_bytes()
    both = olds(FILES, meta=None)
    assert read(crafted_zip(both), tmp_path) == (Form.OLD, collection, FILES)
    one = olds(FILES, meta=None, anki21=None, anki2=Member(b"collection.anki2", collection))
    assert read(crafted_zip(one), tmp_path) == (Form.OLDEST, collection, FILES)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_package_of_another_zip_program(tmp_path: Path, streamed: bool) -> None:
    """As Python made them, with folders counted among the files; as Java still does; packed
    anew on a Mac, with its extras."""
    target = _Unseekable() if streamed else io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        archive.writestr("collection.anki2", RICH_11.read_bytes())
        archive.writestr("3", b"three")
        archive.writestr("10", b"ten", zipfile.ZIP_STORED)
        archive.writestr("__MACOSX/._3", b"of a Mac")
        archive.writestr("03", b"no number")
        archive.writestr("media", json.dumps({"10": "é.png", "3": "e\u0301.jpg"}))
    data = target.data if isinstance(target, _Unseekable) else target
    _, _, files = read(data.getvalue(), tmp_path)
    assert files == [("é.png", b"ten"), ("é.jpg", b"three")]


# --- what nobody should have made -------------------------------------------------------

ONE = [("a.png", b"the bytes of a")]
ENTRY = package.entry("a.png", 14, hashlib.sha1(ONE[0][1]).digest())


def listing(*entries: bytes) -> Member:
    return Member(b"media", zstd(b"".join(entries)))


def mapped(text: str) -> Member:
    return Member(b"media", text.encode())


BOMB = zstandard.ZstdCompressor().compress(bytes(2_000_000))
GOOD = crafted_zip(todays(ONE))
A = todays(ONE)[3]

BAD_PACKAGES = {
    "0 bytes": b"",
    "text": b"once upon a time " * 100,
    "no members": crafted_zip([]),
    "nothing of Anki's": crafted_zip([Member(b"photo.jpg", b"x")]),
    "no collection": crafted_zip(todays(ONE, anki21b=None)),
    "no older collection": crafted_zip(olds(ONE, anki21=None)),
    "no collection at all": crafted_zip(olds(ONE, meta=None, anki21=None, anki2=None)),
    "no list": crafted_zip(todays(ONE, media=None)),
    "no older list": crafted_zip(olds(ONE, media=None)),
    "form 0": crafted_zip(todays(ONE, meta=Member(b"meta", b""))),
    "form 4": crafted_zip(todays(ONE, meta=Member(b"meta", b"\x08\x04"))),
    "a form that is none": crafted_zip(todays(ONE, meta=Member(b"meta", b"\xff\xff"))),
    "a long meta": crafted_zip(todays(ONE, meta=Member(b"meta", bytes(5000)))),
    "an older form that is none": crafted_zip(olds(ONE, meta=Member(b"meta", b"\x08\x03"))),
    "two collections": crafted_zip([*todays(ONE), todays()[1]]),
    "two files 0": crafted_zip([*todays(ONE), A]),
    "two lists": crafted_zip([*todays(ONE), listing()]),
    "a file that is not there": crafted_zip(todays(ONE, n0=None)),
    "an older file that is not there": crafted_zip(olds(ONE, n0=None)),
    "a number that cannot be": crafted_zip(olds(ONE, media=mapped('{"99999999":"a.png"}'))),
    "a negative number": crafted_zip(olds(ONE, media=mapped('{"-1":"a.png"}'))),
    "a number twice": crafted_zip(olds(ONE, media=mapped('{"0":"a.png","0":"b.png"}'))),
    "a list that is none": crafted_zip(todays(ONE, media=listing(b"xyz"))),
    "a list cut off": crafted_zip(todays(ONE, media=listing(ENTRY[:-3]))),
    "a list not packed": crafted_zip(todays(ONE, media=Member(b"media", ENTRY))),
    "a list packed badly": crafted_zip(todays(ONE, media=Member(b"media", zstd(ENTRY)[:-2]))),
    "a long list": crafted_zip(todays(ONE, media=listing(*[ENTRY] * 1000))),
    "a bomb of a list": crafted_zip(todays(ONE, media=Member(b"media", BOMB))),
    "an older list that is none": crafted_zip(olds(ONE, media=mapped("[]"))),
    "an older list cut off": crafted_zip(olds(ONE, media=mapped('{"0":"a.png"'))),
    "a long older list": crafted_zip(olds(ONE, media=mapped(" " * 20_000 + "{}"))),
    "a bomb of an older list": crafted_zip(
        olds(ONE, media=Member(b"media", b"", packed=bomb(10 << 20), method=8, size=10 << 20))
    ),
    "an older list that lies": crafted_zip(
        olds(ONE, media=Member(b"media", b"", packed=bomb(10 << 20), method=8, size=100))
    ),
    "encrypted collection": crafted_zip(
        todays(ONE, anki21b=Member(b"collection.anki21b", b"x", flags=1))
    ),
    "encrypted file": crafted_zip(todays(ONE, n0=replace(A, flags=1))),
    "encrypted list": crafted_zip(todays(ONE, media=replace(listing(ENTRY), flags=1))),
    "encrypted meta": crafted_zip(todays(ONE, meta=Member(b"meta", b"\x08\x03", flags=1))),
    "method zstd": crafted_zip(todays(ONE, n0=replace(A, method=93))),
    "stored, sizes differ": crafted_zip(todays(ONE, n0=replace(A, size=5))),
    "a file in the place of another": crafted_zip(todays(ONE, n0=replace(A, header=0))),
    "a file in the directory": crafted_zip(todays(ONE, n0=replace(A, header=len(GOOD) - 60))),
    "a file beyond the end": crafted_zip(todays(ONE, n0=replace(A, header=1 << 31))),
    "a file without its own header": crafted_zip(
        todays(ONE, n0=replace(A, local_mark=b"PK\x07\x08"))
    ),
    "a file in the midst of another": crafted_zip(todays(ONE, n0=replace(A, header=500))),
    "zip64 without its numbers": crafted_zip(todays(ONE, n0=replace(A, header=0xFFFFFFFF))),
    "too many members": crafted_zip([*todays(ONE), *(Member(b"x%d" % n, b"") for n in range(101))]),
    "a count that lies": crafted_zip(todays(ONE), count=4),
    "a count of zip64": crafted_zip(todays(ONE), count=0xFFFF),
    "a directory elsewhere": crafted_zip(todays(ONE), directory_start=77),
    "a directory with a tail": crafted_zip(todays(ONE), directory_tail=b"tail"),
    "in two parts": crafted_zip(todays(ONE), disk=1),
}
BAD_NAMES = (
    "",
    ".",
    "..",
    "../a",
    "a/b",
    "/etc/passwd",
    "a\0b",
    "a/",
    "../../.ssh/authorized_keys",
)
BAD_PACKAGES |= {f"a name {name!r}": crafted_zip(todays([(name, b"x")])) for name in BAD_NAMES} | {
    f"an older name {name!r}": crafted_zip(olds([(name, b"x")])) for name in BAD_NAMES
}


@pytest.mark.parametrize("body", BAD_PACKAGES.values(), ids=list(BAD_PACKAGES))
def test_a_bad_package_is_refused_before_anything_is_taken_from_it(
    body: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.colpkg"
    path.write_bytes(body)
    before = descriptors()
    with pytest.raises(BadRequest) as refused:
        Package(path, LIMITS)
    assert refused.value.reason
    assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


wide = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
).compressobj()
BAD_COLLECTIONS = {
    "not packed": Member(b"collection.anki21b", b"SQLite format 3\0" * 10),
    "cut off": Member(b"collection.anki21b", zstd(RICH_18.read_bytes())[:-10]),
    "wrong checksum": Member(b"collection.anki21b", zstd(b"x"), crc=1),
    "a bomb": Member(b"collection.anki21b", BOMB),
    "a bomb of tiny blocks": Member(
        b"collection.anki21b", b"\x28\xb5\x2f\xfd\x00\x58" + b"\x02\x00\x10x" * 5000
    ),
    "a wide window": Member(
        b"collection.anki21b",
        wide.compress(bytes(1000)) + wide.flush(),
    ),
    "an old bomb": Member(b"collection.anki21", b"", packed=bomb(2 << 20), method=8, size=2 << 20),
    "an old one that lies": Member(
        b"collection.anki21", b"", packed=bomb(2 << 20), method=8, size=1000
    ),
    "an old one with a tail": replace(Member(b"collection.anki21", b"x" * 100).deflated(), size=50),
    "an old one that is short": replace(
        Member(b"collection.anki21", b"x" * 100).deflated(), size=500
    ),
    "an old one with a wrong checksum": Member(b"collection.anki21", b"x", crc=1),
}


@pytest.mark.parametrize("member", BAD_COLLECTIONS.values(), ids=list(BAD_COLLECTIONS))
def test_a_bad_collection_is_refused_and_never_larger_than_the_limit(
    member: Member, tmp_path: Path
) -> None:
    todays_ = member.name == b"collection.anki21b"
    members = todays(anki21b=member) if todays_ else olds(anki21=member)
    path = tmp_path / "a.colpkg"
    path.write_bytes(crafted_zip(members))
    with Package(path, LIMITS) as opened:
        with pytest.raises(BadRequest):
            opened.extract_collection(tmp_path / "collection")
    written = tmp_path / "collection"
    assert not written.exists() or written.stat().st_size <= LIMITS.collection


def test_the_refusal_of_a_large_collection_names_the_setting(tmp_path: Path) -> None:
    for name in ("a bomb", "an old bomb"):
        member = BAD_COLLECTIONS[name]
        old = member.name == b"collection.anki21"
        body = crafted_zip(olds(anki21=member) if old else todays(anki21b=member))
        with pytest.raises(TooLarge) as refused:
            read(body, tmp_path)
        assert refused.value.setting == "max_collection"


def told(size: int, sha1: bytes, packed: bytes) -> list[Member]:
    """A package of today with one file, of which something else is told."""
    return todays(ONE, n0=Member(b"0", packed), media=listing(package.entry("a.png", size, sha1)))


SHA1 = hashlib.sha1(ONE[0][1]).digest()
BAD_MEDIA = {
    "a byte more": told(13, SHA1, zstd(ONE[0][1])),
    "a byte less": told(15, SHA1, zstd(ONE[0][1])),
    "a bomb": told(14, SHA1, BOMB),
    "nothing": told(14, SHA1, b""),
    "other bytes": told(14, SHA1, zstd(b"THE BYTES OF A")),
    "a wrong checksum": told(14, bytes(20), zstd(ONE[0][1])),
    "not packed": told(14, SHA1, ONE[0][1]),
    "cut off": told(14, SHA1, zstd(ONE[0][1])[:-3]),
    "a wrong zip checksum": todays(ONE, n0=replace(A, crc=1)),
    "an older bomb": olds(ONE, n0=Member(b"0", b"", packed=bomb(2 << 20), method=8, size=14)),
    "an older wrong checksum": olds(ONE, n0=Member(b"0", b"x", crc=1)),
    "an older one that is short": olds(
        ONE, n0=replace(Member(b"0", b"x" * 50).deflated(), size=51)
    ),
}


@pytest.mark.parametrize("members", BAD_MEDIA.values(), ids=list(BAD_MEDIA))
def test_a_damaged_file_is_found_by_reading_all(members: list[Member], tmp_path: Path) -> None:
    """And named; and whoever reads it never gets more bytes than were told."""
    path = tmp_path / "a.colpkg"
    path.write_bytes(crafted_zip(members))
    before = descriptors()
    with Package(path, LIMITS) as opened:
        with pytest.raises(BadRequest, match=r"a\.png"):
            opened.verify()
        (file,) = opened.media()
        taken: list[bytes] = []
        with pytest.raises(BadRequest):
            take_all(file.open(), taken)
        assert sum(map(len, taken)) <= file.size
    assert descriptors() == before


def take_all(source: ByteSource | None, taken: list[bytes]) -> None:
    assert source is not None
    while data := source.read(1000):
        taken.append(data)


@pytest.mark.parametrize("body", [crafted_zip(todays(FILES)), crafted_zip(olds(FILES))])
def test_a_package_that_is_cut_off_anywhere_is_refused(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.colpkg"
    for share in range(40):
        path.write_bytes(body[: len(body) * share // 40])
        with pytest.raises(BadRequest):
            Package(path, LIMITS)
    for missing in (1, 10, 21, 22, 23, 60):
        path.write_bytes(body[:-missing])
        with pytest.raises(BadRequest):
            Package(path, LIMITS)


@pytest.mark.parametrize("make", [todays, olds])
def test_a_flipped_byte_is_found_or_means_nothing(make: object, tmp_path: Path) -> None:
    """Everything that is read is covered by a checksum, or is a number that must fit others."""
    body = crafted_zip(make(ONE))  # type: ignore[operator]
    good = read(body, tmp_path)
    place = random.Random(2)
    found = 0
    for _ in range(300):
        at = place.randrange(len(body))
        damaged = body[:at] + bytes([body[at] ^ 1 << place.randrange(8)]) + body[at + 1 :]
        try:
            assert read(damaged, tmp_path) == good, at
        except BadRequest:
            found += 1
    assert found > 200


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/tmp"])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(BadRequest, match="no file"):
        Package(Path(path), LIMITS)


# --- memory -----------------------------------------------------------------------------

MEASURE = """
import resource, sys, tempfile
from pathlib import Path
from cardkeep.backups.package_reader import Limits, Package
from cardkeep.errors import BadRequest
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
try:
    with Package(Path(sys.argv[1]), Limits(collection=300 << 20)) as package:
        package.verify()
        package.extract_collection(Path(sys.argv[2]))
    print("read")
except BadRequest as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def measured(members: list[Member], tmp_path: Path) -> tuple[str, int]:
    """What reading ends with, and by how many KiB it raises the memory of a fresh process."""
    package_ = tmp_path / "a.colpkg"
    descriptor = os.open(package_, os.O_RDWR | os.O_CREAT)
    writer = ZipWriter(descriptor, tmp_path)
    for member in members:
        writer.add(member.name, [member.data])
    writer.finish()
    writer.close()
    os.close(descriptor)
    (tmp_path / "collection").unlink(missing_ok=True)
    command = [sys.executable, "-c", MEASURE, package_, tmp_path / "collection"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    outcome, kilobytes = run.stdout.splitlines()
    return outcome, int(kilobytes)


def zeros(size: int) -> bytes:
    """A zstd frame that unpacks to so many bytes: blocks of 128 KiB, four bytes each."""
    blocks = size // (128 << 10)
    rle = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x00\x58" + rle * blocks + last


def test_bombs_cost_no_memory(tmp_path: Path) -> None:
    """300 kB that unpack to 10 GB, as collection, list and file."""
    ten_gb = zeros(10 << 30)
    assert len(ten_gb) < 400_000
    for members, why in (
        (todays(anki21b=Member(b"collection.anki21b", ten_gb)), "max_collection"),
        (todays(media=Member(b"media", ten_gb)), "list"),
        (told(1 << 20, SHA1, ten_gb), "1048576 bytes"),
    ):
        outcome, kilobytes = measured(members, tmp_path)
        assert why in outcome
        assert kilobytes < 16_000


def test_many_files_cost_little_memory(tmp_path: Path) -> None:
    """Some 45 bytes each, and the list where it is JSON."""
    many = 30_000
    for make in (todays, olds):
        files = [(f"file number {n}.png", b"") for n in range(many)]
        outcome, kilobytes = measured(make(files), tmp_path)  # type: ignore[operator]
        assert outcome == "read"
        assert kilobytes < 20_000, make
