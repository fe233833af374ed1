# SPDX-License-Identifier: AGPL-3.0-or-later
"""Packages that are written. (tests/clients/test_packages.py has Anki import them.)"""

import hashlib
import json
import random
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from cardkeep.backups.media_source import MediaSource
from cardkeep.backups.package_reader import Limits, Package
from cardkeep.backups.package_writer import Written, write_package
from cardkeep.collection.schema.inspect import inspect
from cardkeep.errors import BadRequest
from cardkeep.records.package import Form
from tests.backups.packages import RICH_18
from tests.backups.test_package_reader import whole

NOISE = random.Random(1).randbytes(3_000_000)
FILES = {"a.png": b"aaa", "猫.mp3": NOISE, "ü": b"u" * 2_000_000}
FORMS = [Form.CURRENT, Form.OLD]


class Source:
    """Bytes in memory; knows how often it was closed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self.size = len(data)
        self.closed = 0

    def read(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def close(self) -> None:
        self.closed += 1


def file(name: str, data: bytes, sha1: bytes | None = None) -> MediaSource:
    return MediaSource(name, lambda: Source(data), sha1, len(data))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Written]:
    """Writes a package with these media to `out.colpkg`, and checks what that must leave."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def write(*media: MediaSource, form: Form = Form.CURRENT, **options: object) -> Written:
        source = Source(RICH_18.read_bytes())
        written = write_package(
            tmp_path / "out.colpkg",
            source,
            media,
            form=form,
            scratch=scratch,
            **options,  # type: ignore[arg-type]
        )
        assert source.closed
        assert list(scratch.iterdir()) == []
        assert written.size == (tmp_path / "out.colpkg").stat().st_size
        return written

    return write


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("form", FORMS)
def test_what_was_put_in_is_read(form: Form, write: Callable[..., Written], tmp_path: Path) -> None:
    written = write(*(file(name, data) for name, data in FILES.items()), form=form)
    assert written[1:] == (3, [], [], [])
    with Package(tmp_path / "out.colpkg", Limits()) as package:
        assert package.form is form
        package.verify()
        assert {each.name: whole(each.open()) for each in package.media()} == FILES
        package.extract_collection(tmp_path / "collection")
    if form is Form.CURRENT:
        assert (tmp_path / "collection").read_bytes() == RICH_18.read_bytes()
    inspect(tmp_path / "collection")


def test_the_members_are_those_of_anki(write: Callable[..., Written], tmp_path: Path) -> None:
    """Their names, order and form, of which old programs know some."""
    media = [file(name, data) for name, data in FILES.items()]
    write(*media)
    today = members(tmp_path / "out.colpkg")
    common = ["collection.anki2", "0", "1", "2", "media"]
    assert list(today) == ["meta", "collection.anki21b", *common]
    assert zstandard.ZstdDecompressor().decompressobj().decompress(today["1"]) == NOISE
    write(*media, form=Form.OLD, overwrite=True)
    old = members(tmp_path / "out.colpkg")
    assert list(old) == ["meta", "collection.anki21", *common]
    assert json.loads(old["media"]) == {"0": "a.png", "1": "猫.mp3", "2": "ü"}
    assert old["1"] == NOISE
    # What the oldest programs open: schema 11, with a journal that they know.
    (tmp_path / "notice").write_bytes(old["collection.anki2"])
    assert old["collection.anki2"][18:20] == b"\1\1"
    with closing(sqlite3.connect(tmp_path / "notice")) as db:
        assert db.execute("SELECT ver FROM col").fetchone() == (11,)
        assert "update Anki" in db.execute("SELECT flds FROM notes").fetchone()[0]


@pytest.mark.parametrize("form", FORMS)
def test_a_package_without_media(form: Form, write: Callable[..., Written], tmp_path: Path) -> None:
    assert write(form=form)[1:] == (0, [], [], [])
    with Package(tmp_path / "out.colpkg", Limits()) as package:
        assert list(package.media()) == []


@pytest.mark.parametrize("form", FORMS)
def test_files_that_are_not_as_they_were_told_are_told(
    form: Form, write: Callable[..., Written], tmp_path: Path
) -> None:
    """Gone, changed, and with names for which Anki would take none of the media."""
    gone = MediaSource("gone", lambda: None, None, 5)
    written = write(
        file("a", b"a", hashlib.sha1(b"a").digest()),
        gone,
        file("b", b"b", hashlib.sha1(b"B").digest()),
        file("a:b", b"c"),
        file("d", b"d"),
        form=form,
    )
    assert written.missing == ["gone"]
    assert written.changed == ["b"]
    assert written.unfit == (["a:b"] if form is Form.CURRENT else [])
    with Package(tmp_path / "out.colpkg", Limits()) as package:
        package.verify()
        found = {each.name: whole(each.open()) for each in package.media()}
    kept = {} if form is Form.CURRENT else {"a:b": b"c"}
    assert found == {"a": b"a", "b": b"b", "d": b"d"} | kept


def test_a_file_that_grows_while_it_is_read_is_taken_as_read(
    write: Callable[..., Written], tmp_path: Path
) -> None:
    source = Source(b"longer than it was")
    source.size = 6
    write(MediaSource("a", lambda: source, None, 6))
    assert source.closed == 1
    with Package(tmp_path / "out.colpkg", Limits()) as package:
        (found,) = package.media()
        assert whole(found.open()) == b"longer than it was"


def test_progress_is_told_of_all_bytes(write: Callable[..., Written]) -> None:
    media = [file(name, data) for name, data in FILES.items()]
    for form in FORMS:
        told: list[int] = []
        write(*media, form=form, progress=told.append, overwrite=True)
        assert sum(told) == RICH_18.stat().st_size + sum(map(len, FILES.values()))


def test_an_error_leaves_no_package(tmp_path: Path) -> None:
    """A disk that fails, a collection that is none; what was there stays."""
    broken = Source(b"x" * 10)
    broken.read = failing  # type: ignore[method-assign]
    out = tmp_path / "out.colpkg"
    out.write_bytes(b"old")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    media = [MediaSource("a", lambda: broken, None, 10)]
    collection = Source(RICH_18.read_bytes())
    with pytest.raises(OSError, match="broken disk"):
        write_package(out, collection, media, form=Form.CURRENT, scratch=scratch, overwrite=True)
    assert (collection.closed > 0, broken.closed) == (True, 1)
    for nonsense in (b"", b"nonsense" * 1000):
        collection = Source(nonsense)
        with pytest.raises((sqlite3.DatabaseError, BadRequest)):
            write_package(out, collection, [], form=Form.OLD, scratch=scratch, overwrite=True)
        assert collection.closed
    with pytest.raises(FileExistsError):
        write_package(out, Source(b""), [], form=Form.CURRENT, scratch=scratch)
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.colpkg", "scratch"]


def failing(_: int) -> bytes:
    raise OSError("broken disk")


MEASURE = """
import resource, sys
from pathlib import Path
from cardkeep.backups.media_source import MediaSource
from cardkeep.backups.package_writer import write_package
from cardkeep.records.package import Form
from tests.backups.packages import RICH_18

class Bytes:
    def __init__(self, size):
        self.size = self.left = size
    def read(self, size):
        piece = bytes(min(size, self.left))
        self.left -= len(piece)
        return piece
    def close(self):
        pass

folder = Path(sys.argv[1])
media = (MediaSource(f"file number {n}", lambda: Bytes(1), None, 1) for n in range(30_000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_package(folder / "a.colpkg", Bytes(300 << 20), media, form=Form.CURRENT, scratch=folder)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_package_costs_no_memory(tmp_path: Path) -> None:
    """300 MB of collection, 30,000 files."""
    command = [sys.executable, "-c", MEASURE, tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 20_000
    assert (tmp_path / "a.colpkg").stat().st_size > 2_000_000
