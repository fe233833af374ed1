# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is remembered of a database with a log."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cardkeep.disk import Remembered, stamp

LONG_AGO = (1_000_000_000, 1_000_000_000)


def connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    return db


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A database that is open, and has been as it is for a while."""
    path = tmp_path / "db"
    with closing(connect(path)) as db:
        db.execute("CREATE TABLE t (x)")
        db.execute("INSERT INTO t VALUES (1)")
        age(path)
        yield path


def age(path: Path) -> None:
    os.utime(f"{path}-wal", LONG_AGO)
    os.utime(path.parent, LONG_AGO)


class Reader:
    """Reads the number, and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = connect(path)
        self.reads = 0
        self.remembered = Remembered[int]()

    def __call__(self) -> int:
        self.reads += 1
        return int(self.db.execute("SELECT x FROM t").fetchall()[0][0])

    def look(self) -> int:
        return self.remembered.read(str(self.path), stamp(str(self.path.parent)), self)


@pytest.fixture
def reader(path: Path) -> Iterator[Reader]:
    reader = Reader(path)
    with closing(reader.db):
        yield reader


def test_it_is_read_once(reader: Reader) -> None:
    assert [reader.look() for _ in range(3)] == [1, 1, 1]
    assert reader.reads == 1


def test_what_anyone_commits_is_seen(reader: Reader, path: Path) -> None:
    """By another connection, of the same size and however often."""
    assert reader.look() == 1
    for number in range(2, 8):
        with closing(connect(path)) as db:
            db.execute("UPDATE t SET x = ?", (number,))
        assert reader.look() == number
        if number % 2:
            age(path)
            assert reader.look() == number


SECOND = 1_000_000_000


def changed(path: Path | str, age_ns: int, unit_ns: int) -> None:
    """So long ago, in a time that is no finer than the unit."""
    moment = (time.time_ns() - age_ns) // unit_ns * unit_ns
    os.utime(path, ns=(moment, moment))


def just_now(path: Path) -> None:
    changed(f"{path}-wal", -SECOND, 1)


def a_coarse_second_ago(path: Path) -> None:
    changed(f"{path}-wal", SECOND, SECOND)


def other_folder(path: Path) -> None:
    os.utime(path.parent, (1_100_000_000, 1_100_000_000))


def unsettled_folder(path: Path) -> None:
    changed(path.parent, -SECOND, 1)


@pytest.mark.parametrize(
    "change", [just_now, a_coarse_second_ago, unsettled_folder], ids=lambda one: one.__name__
)
def test_what_was_changed_just_now_is_not_remembered(
    reader: Reader, path: Path, change: Callable[[Path], None]
) -> None:
    """It may be changed again without a trace in its times."""
    change(path)
    assert [reader.look() for _ in range(3)] == [1, 1, 1]
    assert reader.reads == 3


def test_fine_times_are_soon_enough(reader: Reader, path: Path) -> None:
    """Of two changes a tenth of a second apart they tell the second."""
    for changing in (f"{path}-wal", path.parent):
        changed(changing, SECOND // 5, 1)
    assert [reader.look() for _ in range(3)] == [1, 1, 1]
    assert reader.reads == 1


def test_another_folder_is_another_look(reader: Reader, path: Path) -> None:
    """A file came, went or was replaced."""
    assert reader.look() == 1
    other_folder(path)
    assert reader.look() == 1
    assert reader.reads == 2


def test_without_a_log_nothing_is_remembered(tmp_path: Path) -> None:
    """Who writes then may write into the file itself."""
    path = tmp_path / "db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE t AS SELECT 1 AS x")
    os.utime(tmp_path, LONG_AGO)
    remembered = Remembered[int]()
    found = [remembered.read(str(path), stamp(str(tmp_path)), iter([1, 2]).__next__)]
    found.append(remembered.read(str(path), stamp(str(tmp_path)), iter([2]).__next__))
    assert found == [1, 2]
