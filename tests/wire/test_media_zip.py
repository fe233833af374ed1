# SPDX-License-Identifier: AGPL-3.0-or-later
"""Zip files of media, both ways."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardkeep.errors import BadRequest, TooLarge
from cardkeep.messages import ByteSource
from cardkeep.wire import media_zip
from cardkeep.wire.media_zip import pack, read_upload
from tests.wire.zips import Files, Member, crafted_zip, deflate, meta, upload_zip

TRAFFIC = Path(__file__).parent.parent / "vectors" / "traffic"
A = Member(b"0", b"bytes of a")
B = Member(b"1", b"bytes of b, which are others")


def whole(source: ByteSource, piece: int = 1 << 20) -> bytes:
    try:
        pieces = []
        while data := source.read(piece):
            assert len(data) <= piece
            pieces.append(data)
        return b"".join(pieces)
    finally:
        source.close()


def read(body: bytes, folder: Path, piece: int = 1 << 20, **limits: int) -> Files:
    """The elements of an upload with their bytes; from a file and from memory alike."""
    archive = folder / "upload.zip"
    archive.write_bytes(body)
    try:
        in_memory = _read(body, piece, **limits)
    except BadRequest as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            _read(archive, piece, **limits)
        raise
    assert _read(archive, piece, **limits) == in_memory
    return in_memory


def _read(archive: Path | bytes, piece: int, **limits: int) -> Files:
    entries = read_upload(archive, **limits)
    found: list[tuple[str, bytes | None]] = []
    for entry in entries:
        if entry.data is None:
            found.append((entry.name, None))
            continue
        source = entry.data()
        size = source.size
        data = whole(source, piece)
        assert len(data) == size
        found.append((entry.name, data))
    return found


class Source:
    """Bytes in memory."""

    def __init__(self, data: bytes, step: int = 1 << 30) -> None:
        self._data = io.BytesIO(data)
        self._step = step
        self.size = len(data)
        self.closed = 0

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, self._step))

    def close(self) -> None:
        self.closed += 1


# --- what clients send ------------------------------------------------------------------

FILES: Files = [
    ("a.png", b"a" * 70_000),
    ("gone.mp3", None),
    ("Ä 猫.ogg", bytes(range(256)) * 20),
    ("a.png", b"again"),
    ("random", os.urandom(3_000_000)),
]


@pytest.mark.parametrize("piece", [1 << 20, 4096])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"method": zipfile.ZIP_DEFLATED, "deletion": ""},
        {"method": zipfile.ZIP_DEFLATED, "deletion": "", "streamed": True},
        {"streamed": True},
    ],
    ids=["engine", "desktop 2.1.27", "AnkiDroid 2.15", "streamed"],
)
def test_uploads_of_every_client_are_read(how: dict[str, Any], piece: int, tmp_path: Path) -> None:
    assert read(upload_zip(FILES, **how), tmp_path, piece) == FILES


def test_an_empty_list_is_fine(tmp_path: Path) -> None:
    assert read(upload_zip([]), tmp_path) == []


def test_twenty_five_files_are_taken(tmp_path: Path) -> None:
    files = [(f"{n}.png", b"%d" % n) for n in range(25)]
    assert read(upload_zip(files), tmp_path) == files


def test_a_comment_and_members_without_a_name_are_no_harm(tmp_path: Path) -> None:
    body = crafted_zip([A, B, Member(b"dir/x", b"?"), meta(("a", "0"))], comment=b"PK\x05 hello")
    assert read(body, tmp_path) == [("a", A.data)]


def test_two_names_may_share_a_member(tmp_path: Path) -> None:
    body = crafted_zip([A, meta(("a", "0"), ("b", "0"))])
    assert read(body, tmp_path) == [("a", A.data), ("b", A.data)]


def recorded(folder: str, method: str) -> list[dict[str, Any]]:
    index = json.loads((TRAFFIC / folder / "index.json").read_text())
    return [e for e in index["exchanges"] if f"/msync/{method} " in e["request_line"]]


def payload(folder: str, exchange: dict[str, Any]) -> bytes:
    """The body of a recorded request: zstd in protocol 11, else the part `data` of a form."""
    body = (TRAFFIC / folder / exchange["request_body"]).read_bytes()
    if "anki_sync" in exchange:
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    _, _, tail = body.partition(b'name="data"')
    boundary = body[: body.index(b"\r\n")]
    return tail[tail.index(b"\r\n\r\n") + 4 : tail.index(b"\r\n" + boundary)]


@pytest.mark.parametrize(
    ("folder", "exchange"),
    [
        pytest.param(folder, exchange, id=f"{folder}: {exchange['step']}")
        for folder in ("v11", "v10", "errors-and-legacy")
        for exchange in recorded(folder, "uploadChanges")
    ],
)
def test_recorded_uploads_are_taken_or_refused_as_by_the_official_server(
    folder: str, exchange: dict[str, Any], tmp_path: Path
) -> None:
    body = payload(folder, exchange)
    if exchange["status"] == 400:
        with pytest.raises(BadRequest):
            read(body, tmp_path)
    else:
        processed = exchange["response_json"]["data"][0]
        assert len(read(body, tmp_path)) == processed > 0


# --- what nobody may send ---------------------------------------------------------------

GOOD_META = meta(("a", "0"))
BOMB = deflate(bytes(1 << 20))


def with_meta(text: bytes) -> bytes:
    return crafted_zip([A, Member(b"_meta", text)])


BAD: dict[str, bytes] = {
    "no bytes": b"",
    "text": b"hello",
    "zeros": bytes(100_000),
    "only an end": crafted_zip([]),
    "cut off": upload_zip(FILES)[:-30],
    "cut off in the end record": upload_zip(FILES)[:-1],
    "beginning cut off": upload_zip(FILES)[10:],
    "bytes before it": b"MZ" + upload_zip(FILES),
    "bytes behind it": upload_zip(FILES) + b"x",
    "bytes between directory and end": crafted_zip([A, GOOD_META], before_end=b"?"),
    "in two parts": crafted_zip([A, GOOD_META], disk=1),
    "count too small": crafted_zip([A, GOOD_META], count=1),
    "count too large": crafted_zip([A, GOOD_META], count=3),
    "count of zip64": crafted_zip([A, GOOD_META], count=0xFFFF),
    "directory of zip64": crafted_zip([A, GOOD_META], directory_size=0xFFFFFFFF),
    "directory beyond the end": crafted_zip([A, GOOD_META], directory_start=10_000),
    "directory at the start": crafted_zip([A, GOOD_META], directory_start=0),
    "directory with a tail": crafted_zip([A, GOOD_META], directory_tail=b"tail"),
    "4,000 members": crafted_zip(
        [Member(b"%d" % n, b"") for n in range(4000)] + [GOOD_META], count=4001
    ),
    "a member twice": crafted_zip([A, A, GOOD_META]),
    "no _meta": crafted_zip([A]),
    "_meta of another case": crafted_zip([A, Member(b"_META", b"[]")]),
    "_meta too long": with_meta(b"[" + b" " * 51_200 + b"]"),
    "_meta a bomb": crafted_zip([Member(b"_meta", bytes(1 << 20)).deflated()]),
    "_meta a bomb that lies": crafted_zip(
        [Member(b"_meta", b"[]", packed=BOMB, method=8, size=100)]
    ),
    "_meta not JSON": with_meta(b"a, b"),
    "_meta empty": with_meta(b""),
    "_meta not UTF-8": with_meta(b'[["\xff","0"]]'),
    "_meta with a lone surrogate": with_meta(rb'[["\ud800","0"]]'),
    "_meta deep": with_meta(b"[" * 50_000),
    "_meta an object": with_meta(b'{"a":"0"}'),
    "_meta null": with_meta(b"null"),
    "_meta of strings": with_meta(b'["a","0"]'),
    "_meta with three": with_meta(b'[["a","0","x"]]'),
    "_meta with one": with_meta(b'[["a"]]'),
    "_meta with a number for a member": with_meta(b'[["a",0]]'),
    "_meta with a number for a name": with_meta(b'[[1,"0"]]'),
    "_meta with two texts": with_meta(b'[["a","0"]][]'),
    "26 elements": crafted_zip([A, meta(*[(f"{n}", "0") for n in range(26)])]),
    "a member that is not there": crafted_zip([A, meta(("a", "1"))]),
    "no bytes in a file": crafted_zip([Member(b"0", b""), GOOD_META]),
    "no bytes in a file that lies": crafted_zip([Member(b"0", b"", size=5), GOOD_META]),
    "encrypted": crafted_zip([Member(b"0", b"x" * 20, flags=1), GOOD_META]),
    "strongly encrypted": crafted_zip([Member(b"0", b"x" * 20, flags=0x41), GOOD_META]),
    "encrypted _meta": crafted_zip([Member(b"_meta", b"[]", flags=1)]),
    "method bzip2": crafted_zip([Member(b"0", b"x" * 20, method=12), GOOD_META]),
    "method lzma": crafted_zip([Member(b"0", b"x" * 20, method=14), GOOD_META]),
    "method zstd": crafted_zip([Member(b"0", b"x" * 20, method=93), GOOD_META]),
    "size of zip64": crafted_zip([Member(b"0", b"x", size=0xFFFFFFFF), GOOD_META]),
    "sizes of zip64": crafted_zip(
        [Member(b"0", b"x", size=0xFFFFFFFF, packed_size=0xFFFFFFFF), GOOD_META]
    ),
    "place of zip64": crafted_zip([Member(b"0", b"x", header=0xFFFFFFFF), GOOD_META]),
    "stored, sizes differ": crafted_zip([Member(b"0", b"xx", size=1), GOOD_META]),
    "stored, beyond its place": crafted_zip(
        [Member(b"0", b"xx", size=5000, packed_size=5000), GOOD_META]
    ),
    "stored, wrong checksum": crafted_zip([Member(b"0", b"xx", crc=1), GOOD_META]),
    "deflated, wrong checksum": crafted_zip(
        [Member(b"0", b"xx", packed=deflate(b"xx"), method=8, crc=1), GOOD_META]
    ),
    "deflated, shorter than stated": crafted_zip(
        [Member(b"0", b"xx", packed=deflate(b"xx"), method=8, size=3), GOOD_META]
    ),
    "deflated, longer than stated": crafted_zip(
        [Member(b"0", b"xx", packed=deflate(b"xx"), method=8, size=1), GOOD_META]
    ),
    "deflated, longer than stated, checksum right": crafted_zip(
        [Member(b"0", b"x", packed=deflate(b"xx"), method=8), GOOD_META]
    ),
    "deflated, broken": crafted_zip(
        [Member(b"0", b"xx", packed=b"\xff" * 50, method=8), GOOD_META]
    ),
    "deflated, cut off": crafted_zip(
        [Member(b"0", b"x" * 99, packed=deflate(b"x" * 99)[:-1], method=8), GOOD_META]
    ),
    "deflated, more behind it": crafted_zip(
        [Member(b"0", b"x", packed=deflate(b"x") + b"more", method=8), GOOD_META]
    ),
    "deflated, much more behind it": crafted_zip(
        [Member(b"0", b"x", packed=deflate(b"x") + bytes(200_000), method=8), GOOD_META]
    ),
    "deflated, a bomb that lies": crafted_zip(
        [Member(b"0", b"x" * 10, packed=BOMB, method=8), GOOD_META]
    ),
    "two members in one place": crafted_zip(
        [A, Member(b"1", A.data, header=0, absent=True), meta(("a", "0"), ("b", "1"))]
    ),
    "a member within another": crafted_zip(
        [
            Member(b"0", b"PK\x03\x04" + bytes(60)),
            Member(b"1", b"x", header=31, absent=True),
            meta(("a", "0")),
        ]
    ),
    "a member within the directory": crafted_zip(
        [A, Member(b"1", b"x", header=200, absent=True), GOOD_META]
    ),
    "a local header that reaches into the next": crafted_zip(
        [
            Member(b"0", b"xyz", header=0, packed_size=90, size=90),
            Member(b"1", b"b" * 30),
            GOOD_META,
        ]
    ),
    "no local header": crafted_zip([Member(b"0", b"x", local_mark=b"PK\x07\x08"), GOOD_META]),
    "a local header with a long extra field": crafted_zip(
        [Member(b"0", b"x", local_extra=b"?" * 30, packed_size=60, size=60), GOOD_META]
    ),
    "name empty": upload_zip([("", b"x")]),
    "name .": upload_zip([(".", b"x")]),
    "name ..": upload_zip([("..", b"x")]),
    "name with NUL": upload_zip([("a\0b", b"x")]),
    "name with a slash": upload_zip([("a/b", b"x")]),
    "name with a backslash": upload_zip([("a\\b", b"x")]),
    "name with a drive": upload_zip([("C:\\x", b"x")]),
    "name with a newline": upload_zip([("a\nb", b"x")]),
    "name not NFC": upload_zip([("e\u0301", b"x")]),
    "name too long": upload_zip([("é" * 128, b"x")]),
    "deletion of an empty name": upload_zip([("", None)]),
    "deletion of ..": upload_zip([("..", None)]),
    "deletion of a path": upload_zip([("../a", None)], deletion=""),
    "deletion with NUL": upload_zip([("\0", None)]),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_a_bad_zip_is_refused(body: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        read(body, tmp_path)


def test_what_the_table_of_bad_zips_varies_is_good(tmp_path: Path) -> None:
    """Else its rows would be refused for another reason than theirs."""
    assert read(crafted_zip([A, GOOD_META]), tmp_path) == [("a", A.data)]
    assert read(crafted_zip([A.deflated(), GOOD_META]), tmp_path) == [("a", A.data)]
    extra = Member(b"0", b"x", local_extra=b"?" * 30)
    assert read(crafted_zip([extra, GOOD_META]), tmp_path) == [("a", b"x")]


def test_a_deletion_of_an_odd_name_is_read(tmp_path: Path) -> None:
    """Folders of the official server have such names, and clients delete them."""
    assert read(upload_zip([("a\\b", None)]), tmp_path) == [("a\\b", None)]


# --- limits -----------------------------------------------------------------------------


def test_a_file_of_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    files = [("a", b"x" * 1000)]
    assert read(upload_zip(files), tmp_path, max_file=1000, max_total=1) == files


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_above_the_limit_is_refused_by_the_settings_name(
    method: int, tmp_path: Path
) -> None:
    with pytest.raises(TooLarge) as refusal:
        read(upload_zip([("a", b"x" * 1001)], method=method), tmp_path, max_file=1000)
    assert refusal.value.setting == "max_media_file"


def test_files_that_are_too_much_together_are_refused_by_the_settings_name(
    tmp_path: Path,
) -> None:
    body = crafted_zip([A, meta(("a", "0"), ("b", "0"), ("c", "0"))])
    assert len(read(body, tmp_path, max_file=10, max_total=30)) == 3
    with pytest.raises(TooLarge) as refusal:
        read(body, tmp_path, max_file=10, max_total=29)
    assert refusal.value.setting == "max_media_zip"


def test_the_limit_of_the_official_server_is_the_default(tmp_path: Path) -> None:
    """100 MiB inclusive; the directory alone decides, before anything is unpacked."""
    archive = tmp_path / "upload.zip"
    for size in (104_857_600, 104_857_601):
        archive.write_bytes(zip_of_bomb(BOMB, size))
        if size == media_zip.MAX_FILE:
            assert [entry.name for entry in read_upload(archive)] == ["f0"]
        else:
            with pytest.raises(TooLarge):
                read_upload(archive)


MEASURE = """
import resource, sys
from pathlib import Path
from cardkeep.errors import BadRequest
from cardkeep.wire.media_zip import read_upload
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try:
    for entry in read_upload(Path(sys.argv[1])):
        source = entry.data()
        while source.read(1 << 20):
            pass
        source.close()
    print("read")
except BadRequest as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def measured(body: bytes, tmp_path: Path) -> tuple[str, int]:
    """What reading ends with, and by how many KiB it raises the memory of a fresh process."""
    archive = tmp_path / "bomb.zip"
    archive.write_bytes(body)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, archive], capture_output=True, text=True, check=True
    )
    outcome, kilobytes = run.stdout.splitlines()
    return outcome, int(kilobytes)


def bomb(size: int) -> bytes:
    """`size` zero bytes, deflated: about a thousandth."""
    packer = zlib.compressobj(9, wbits=-15)
    mebibyte = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return mebibyte * (size >> 20) + deflate(b"")


@pytest.fixture(scope="module")
def two_megabytes() -> bytes:
    return bomb(2 << 30)


def zip_of_bomb(packed: bytes, stated: int, times: int = 1) -> bytes:
    members = [Member(b"%d" % n, b"", packed=packed, method=8, size=stated) for n in range(times)]
    return crafted_zip([*members, meta(*[(f"f{n}", f"{n}") for n in range(times)])])


def test_a_bomb_of_two_megabytes_costs_no_memory(two_megabytes: bytes, tmp_path: Path) -> None:
    """It holds 2 GiB and says so: refused before anything is unpacked."""
    outcome, kilobytes = measured(zip_of_bomb(two_megabytes, 2 << 30), tmp_path)
    assert "max_media_file" in outcome
    assert kilobytes < 10_000


def test_a_bomb_that_denies_it_costs_no_memory(two_megabytes: bytes, tmp_path: Path) -> None:
    """It says 100 MiB: unpacking stops there, a mebibyte at a time."""
    outcome, kilobytes = measured(zip_of_bomb(two_megabytes, 100 << 20), tmp_path)
    assert "longer" in outcome
    assert kilobytes < 10_000


def test_many_bombs_are_bounded_by_their_sum(tmp_path: Path) -> None:
    outcome, kilobytes = measured(zip_of_bomb(bomb(100 << 20), 100 << 20, 25), tmp_path)
    assert "max_media_zip" in outcome
    assert kilobytes < 10_000


def test_an_honest_large_file_costs_no_memory(tmp_path: Path) -> None:
    body = upload_zip([("a", bytes(50 << 20))], method=zipfile.ZIP_DEFLATED)
    outcome, kilobytes = measured(body, tmp_path)
    assert outcome == "read"
    assert kilobytes < 10_000


def test_a_million_members_cost_no_memory(tmp_path: Path) -> None:
    """46 MB of directory, of which not even the names are read."""
    directory = b"".join(
        b"PK\x01\x02" + bytes(24) + b"\x07\0" + bytes(16) + b"%07d" % n for n in range(1_000_000)
    )
    for count in (0xFFFF, 26):
        end = b"PK\x05\x06" + bytes(4) + count.to_bytes(2, "little") * 2
        end += len(directory).to_bytes(4, "little") + bytes(6)
        outcome, kilobytes = measured(directory + end, tmp_path)
        assert "directory" in outcome
        assert kilobytes < 10_000


GOOD = upload_zip([("a", b"aaa" * 20), ("b", None), ("c", b"c")], method=zipfile.ZIP_DEFLATED)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_zip_is_refused_or_read_but_never_breaks_the_reader(
    tmp_path: Path, data: st.DataObject
) -> None:
    body = bytearray(data.draw(st.sampled_from([GOOD, upload_zip(FILES[1:4])])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        if data.draw(st.booleans()):
            body[at] = data.draw(st.integers(0, 255))
        else:
            del body[at : at + data.draw(st.integers(1, 40))]
            if not body:
                return
    with contextlib.suppress(BadRequest):
        read(bytes(body), tmp_path)


# --- packing ----------------------------------------------------------------------------


def packed(files: Sequence[tuple[str, bytes]], spool: Path, step: int = 1 << 30) -> bytes:
    sources = [(name, Source(data, step)) for name, data in files]
    body = pack(sources, spool)
    assert all(source.closed == 1 for _, source in sources)
    size = body.size
    data = whole(body, 100_000)
    assert len(data) == size
    assert list(spool.iterdir()) == []
    return data


def unzipped(data: bytes) -> list[tuple[str, bytes]]:
    """What a client finds in it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert not any(info.flag_bits for info in archive.infolist())
        names = json.loads(archive.read("_meta"))
        members = [info.filename for info in archive.infolist() if info.filename != "_meta"]
        assert members == [str(n) for n in range(len(names))]
        return [(names[member], archive.read(member)) for member in members]


SIZES = {
    "none": [],
    "one byte": [1],
    "small ones": [10, 20_000, 30],
    "together too much for memory": [300_000] * 9,
    "a large one": [5_000_000],
    "a large one between": [100, 3_000_000, 100, 2_000_000, 7],
    "exactly a piece": [1 << 20, (1 << 20) + 1, (1 << 20) - 1],
}


@pytest.mark.parametrize("step", [1 << 30, 65_537], ids=["whole reads", "short reads"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_what_is_packed_is_a_plain_zip(sizes: Sequence[int], step: int, tmp_path: Path) -> None:
    files = [(f"Ä {n}.png", os.urandom(size)) for n, size in enumerate(sizes)]
    assert unzipped(packed(files, tmp_path, step)) == files


@pytest.mark.parametrize(("folder", "exchange"), [("v11", 0), ("v11", 1), ("v10", 0), ("v10", 1)])
def test_packing_what_the_official_server_packed_gives_the_same_members(
    folder: str, exchange: int, tmp_path: Path
) -> None:
    found = recorded(folder, "downloadFiles")[exchange]
    body = (TRAFFIC / folder / found["response_body"]).read_bytes()
    if folder == "v11":
        body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    files = unzipped(body)
    assert files
    assert unzipped(packed(files, tmp_path)) == files


def test_what_is_packed_lies_in_memory_only_while_it_is_small(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    small = pack([("a", Source(b"x" * 1000))], tmp_path)
    assert descriptors() == before
    large = pack([("a", Source(b"x" * 3_000_000))], tmp_path)
    assert descriptors() == before + 1
    for body in (small, large):
        body.close()
        body.close()
    assert descriptors() == before


def failing(error: Exception) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        raise error

    return read


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_source_that_fails_leaves_nothing_behind(size: int, tmp_path: Path) -> None:
    sources = [Source(b"x" * 2_000_000), Source(b"y" * size), Source(b"z")]
    sources[1].read = failing(OSError("broken disk"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="broken disk"):
        pack([(str(n), source) for n, source in enumerate(sources)], tmp_path)
    assert [source.closed for source in sources] == [1, 1, 1]
    assert list(tmp_path.iterdir()) == []


def test_the_limits_are_those_of_the_protocol() -> None:
    assert (media_zip.MAX_FILES, media_zip.MAX_FILE) == (25, 104_857_600)
