# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is written is read by anybody; what is not as it was written, or not ours, is refused."""

import io
import shutil
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.backups.archive.records import SUMS
from cardkeep.backups.archive.stream import Member, TarReader, TarWriter
from cardkeep.errors import BackupError, DamagedBackup
from tests.media.looking import Bytes

Files = dict[str, bytes]
SOME: Files = {
    "a": b"1",
    "empty": b"",
    "block": b"x" * 512,
    "folder/ü 日本語 " + "n" * 180: b"long name",
    "new\nline \\ backslash": b"odd name",
    "large": bytes(range(256)) * 5000,
}


def written(files: Files, spool: Path, level: int = 3) -> bytes:
    output = io.BytesIO()
    with closing(TarWriter(output, spool, level=level)) as writer:
        writer.folder("folder", 12)
        for path, data in files.items():
            if len(data) > 1000:
                writer.stream(path, Bytes(data, step=333_333), 34.5)
            else:
                writer.add(path, data, 34.5)
        writer.finish()
    return output.getvalue()


def read(packed: bytes, spool: Path) -> Files:
    with closing(TarReader(io.BytesIO(packed), spool)) as reader:
        return {member.path: b"".join(reader.pieces()) for member in reader if not member.is_folder}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Names, bytes, times; also what is skipped is checked."""
    packed = written(SOME, tmp_path)
    assert read(packed, tmp_path) == SOME
    with closing(TarReader(io.BytesIO(packed), tmp_path)) as reader:
        members = list(reader)
    assert members[0] == Member("folder", True, 0, 12)
    assert members[1] == Member("a", False, 1, 34)


names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1)


@given(st.dictionaries(names.filter(lambda name: name not in (".", "..", SUMS)), st.binary()))
def test_any_names_and_bytes(tmp_path_factory: pytest.TempPathFactory, files: Files) -> None:
    spool = tmp_path_factory.getbasetemp()
    assert read(written(files, spool), spool) == files


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed")
def test_other_programs_read_it(tmp_path: Path) -> None:
    """`tar --zstd -xf` and `sha256sum -c`, also the odd names."""
    (tmp_path / "b.tar.zst").write_bytes(written(SOME, tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", tmp_path / "b.tar.zst", "-C", out], check=True)
    for path, data in SOME.items():
        assert (out / path).read_bytes() == data
        assert (out / path).stat().st_mode & 0o777 == 0o600
        assert (out / path).stat().st_mtime == 34
    assert (out / "folder").stat().st_mode & 0o777 == 0o700
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", SUMS], cwd=out, check=True, capture_output=True, text=True
    )
    assert checked.stdout.count("OK") == len(SOME)


def test_a_source_that_ends_early_is_an_error(tmp_path: Path) -> None:
    source = Bytes(b"12345")
    source.size = 6
    with closing(TarWriter(io.BytesIO(), tmp_path)) as writer:
        with pytest.raises(BackupError, match="became shorter"):
            writer.stream("a", source, 0)


# --- damage -----------------------------------------------------------------------------


def test_every_truncation_is_found(tmp_path: Path) -> None:
    """Wherever the file ends too early, and if anything follows it."""
    packed = written({"a": b"abc", "b": bytes(range(100))}, tmp_path)
    for length in range(len(packed)):
        with pytest.raises(DamagedBackup):
            read(packed[:length], tmp_path)
    for more in (b"\0", b"x", packed):
        with pytest.raises(DamagedBackup):
            read(packed + more, tmp_path)


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    """A flipped bit anywhere: in a header of zstd, in the data, in its checksum."""
    files = {"a": b"abc", "b": bytes(range(100, 250))}
    packed = written(files, tmp_path)
    unnoticed = 0
    for place in range(len(packed)):
        for bit in (0, 3, 7):
            flipped = bytearray(packed)
            flipped[place] ^= 1 << bit
            try:
                found = read(bytes(flipped), tmp_path)
            except DamagedBackup:
                continue
            # Some bits (of the size of the window, say) change nothing of what comes out.
            assert found == files
            unnoticed += 1
    assert unnoticed < 20


def unpacked(packed: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(packed)


def test_changed_content_is_named(tmp_path: Path) -> None:
    """Also where somebody packed it again, so that zstd finds nothing wrong."""
    plain = unpacked(written({"a": b"abcdef", "ü": b"ghijkl"}, tmp_path))
    with pytest.raises(DamagedBackup, match="checksum of 'ü'"):
        read(zstandard.compress(plain.replace(b"ghi", b"gXi")), tmp_path)


def test_a_missing_or_added_line_of_the_list_is_found(tmp_path: Path) -> None:
    """The list must be of exactly these files."""
    whole = unpacked(written({"a": b"1", "b": b"2"}, tmp_path))
    only_a, only_b = (unpacked(written({name: b"1"}, tmp_path)) for name in "ab")
    assert len(whole) == len(only_a) == len(only_b)
    for plain in (
        only_a[:1536] + whole[1536:2560] + only_a[1536:],  # b is added, not listed
        whole[:1536] + whole[2560:],  # b is taken away, but listed
    ):
        with pytest.raises(DamagedBackup):
            read(zstandard.compress(plain), tmp_path)


# --- hostile files ----------------------------------------------------------------------


def tar(
    *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], fmt: int = tarfile.PAX_FORMAT
) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=fmt) as archive:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


def extended(text: bytes, size: int | None = None) -> bytes:
    header = entry("x", tarfile.XHDTYPE, size=len(text) if size is None else size)
    return header.tobuf() + text.ljust(512, b"\0") + tar(entry("a"))


def said(key: str, value: str) -> bytes:
    """A file of which an extended header says this."""
    return tar(entry("a", pax_headers={key: value}))


NEITHER = "neither a file nor a folder"
NO_PATH = "which none can have"
NO_HEADER = "extended header that is none"
UNKNOWN = "header of the unknown kind"
HOSTILE = {
    "absolute": (tar(entry("/etc/passwd")), NO_PATH),
    "dot dot": (tar(entry("a/../../b")), NO_PATH),
    "dot": (tar(entry("a/./b")), NO_PATH),
    "double slash": (tar(entry("a//b")), NO_PATH),
    "only dot dot": (tar(entry("..", tarfile.DIRTYPE)), NO_PATH),
    "symbolic link": (tar(entry("a", tarfile.SYMTYPE, linkname="/etc/passwd")), NEITHER),
    "hard link": (tar(entry("b", tarfile.LNKTYPE, linkname="a")), NEITHER),
    "device": (tar(entry("a", tarfile.CHRTYPE, devmajor=1, devminor=3)), NEITHER),
    "block device": (tar(entry("a", tarfile.BLKTYPE)), NEITHER),
    "pipe": (tar(entry("a", tarfile.FIFOTYPE)), NEITHER),
    "GNU long name": (tar(entry("n" * 300), fmt=tarfile.GNU_FORMAT), NEITHER),
    "sparse": (entry("a", tarfile.GNUTYPE_SPARSE).tobuf() + bytes(1024), NEITHER),
    "contiguous": (tar(entry("a", tarfile.CONTTYPE)), NEITHER),
    "global header": (tar(entry("pax", tarfile.XGLTYPE)), NEITHER),
    "header after header": (extended(b"10 path=a\n")[:1024] + extended(b"10 path=a\n"), NEITHER),
    "header before the end": (extended(b"10 path=a\n")[:1024] + bytes(1024), NEITHER),
    "NUL in a path": (said("path", "a\0b"), NO_PATH),
    "long path": (tar(entry("a/" * 2500 + "b")), NO_PATH),
    "dot dot by header": (said("path", "../b"), NO_PATH),
    "a file with a slash at its end": (said("path", "b/"), NO_PATH),
    "negative size": (entry("a", size=-99).tobuf(tarfile.GNU_FORMAT) + bytes(1024), NO_PATH),
    "negative size by header": (said("size", "-1"), NO_PATH),
    "endless time": (said("mtime", "inf"), NO_PATH),
    "no time": (said("mtime", "nan"), NO_PATH),
    "a folder with bytes": (entry("a", tarfile.DIRTYPE, size=9).tobuf() + bytes(1024), NO_PATH),
    "no number as size": (said("size", "many"), NO_HEADER),
    "unknown header": (said("SCHILY.xattr.user.x", "1"), UNKNOWN),
    "link by header": (said("linkpath", "/etc/passwd"), UNKNOWN),
    "header of a gigabyte": (extended(b"", 1 << 30), "header that is too long"),
    "header without numbers": (extended(b"ab path=x\n"), NO_HEADER),
    "header that is not UTF-8": (extended(b"10 path=\xff\n"), NO_HEADER),
    "header of no length": (extended(b"0 path=a\n"), UNKNOWN),
    "header of negative length": (extended(b"-1 path=a\n"), UNKNOWN),
    "header without a line's end": (extended(b"10 path=abc"), UNKNOWN),
    "noise": (b"\xa5" * 2048, "header that is none"),
    "nothing": (bytes(10240), "no list of checksums"),
    "no list": (tar((entry("a"), b"1")), "no list of checksums"),
    "one empty block": (bytes(512) + b"x" * 512, "goes on after its end"),
    "an unlisted file": (tar((entry("a"), b"1"), entry(SUMS)), "list of checksums is too short"),
}


@pytest.mark.parametrize(("plain", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_no_backup_holds_is_refused(plain: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedBackup, match=words):
        read(zstandard.compress(plain), tmp_path)


@pytest.mark.parametrize(
    "packed",
    [b"", b"x", b"PK\3\4" + bytes(100), zstandard.compress(b""), b"\x28\xb5\x2f\xfd", bytes(100)],
)
def test_what_is_no_backup_at_all(packed: bytes, tmp_path: Path) -> None:
    with pytest.raises(DamagedBackup):
        read(packed, tmp_path)


def test_another_frame_is_refused(tmp_path: Path) -> None:
    """`cat one.zst two.zst` is one file to zstd, not to us."""
    packed = written({"a": b"1"}, tmp_path)
    with pytest.raises(DamagedBackup):
        read(zstandard.compress(b"") + packed, tmp_path)


MEASURED = """
import sys, resource
from pathlib import Path
from cardkeep.backups.archive.stream import TarReader
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = 0
with open(sys.argv[1], "rb") as raw:
    reader = TarReader(raw, Path(sys.argv[2]))
    for member in reader:
        for piece in reader.pieces():
            size += len(piece)
print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """256 MB of zeros in 30 kB are read in pieces."""

    class Zeros(Bytes):
        def __init__(self, size: int) -> None:
            super().__init__(b"")
            self.size = size

        def read(self, size: int) -> bytes:
            return bytes(size)

    file = tmp_path / "bomb"
    with file.open("wb") as output, closing(TarWriter(output, tmp_path)) as writer:
        writer.stream("zeros", Zeros(1 << 28), 0)
        writer.finish()
    assert file.stat().st_size < 300_000
    command = [sys.executable, "-c", MEASURED, file, tmp_path]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(told[0]) == 1 << 28
    assert int(told[1]) < 30_000  # kB
