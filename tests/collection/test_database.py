# SPDX-License-Identifier: AGPL-3.0-or-later
"""Connections, and the locks that they hold against other processes."""

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cardkeep.collection import database
from cardkeep.errors import Unavailable

# What another process finds when it tries to become the only user of the file: in WAL mode
# every open connection holds a shared lock on it that prevents this.
_OTHER_PROCESS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    print(connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0])
except sqlite3.OperationalError as error:
    print(error)
"""


def what_another_process_gets(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS, path], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def connect_and_read(path: Path) -> sqlite3.Connection:
    """A connection holds its shared lock from its first look at the content."""
    connection = database.connect(path)
    connection.execute("SELECT count(*) FROM t").fetchall()
    return connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "collection.anki2"
    with database.connect_private(path) as connection:
        connection.execute("CREATE TABLE t (name text NOT NULL COLLATE unicase)")
    connection.close()
    return path


def test_a_connection_writes_ahead_and_flushes_each_commit(path: Path) -> None:
    """A connection is in WAL mode with full flushing, and checkpoints only when told to."""
    connection = database.connect(path)
    pragmas = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in (
            "journal_mode",
            "synchronous",
            "wal_autocheckpoint",
            "trusted_schema",
            "cell_size_check",
            "secure_delete",
            "query_only",
        )
    }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "wal_autocheckpoint": 0,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "secure_delete": 0,
        "query_only": 0,
    }
    assert connection.isolation_level is None
    connection.close()


def test_names_compare_as_anki_compares_them(path: Path) -> None:
    """The unicase collation folds full case."""
    connection = database.connect(path)
    connection.execute("INSERT INTO t VALUES ('Straße')")
    assert connection.execute("SELECT count(*) FROM t WHERE name = 'STRASSE'").fetchone() == (1,)
    connection.close()


def test_a_missing_collection_is_not_made(tmp_path: Path) -> None:
    """Opening a collection that is not there fails and leaves nothing behind."""
    with pytest.raises(FileNotFoundError):
        database.connect(tmp_path / "collection.anki2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a?mode=memory#%41.anki2", "жук & 犬.anki2"])
def test_odd_path_names_are_only_names(tmp_path: Path, name: str) -> None:
    """Characters that mean something in a URI do not in a path."""
    path = tmp_path / name
    database.connect_private(path).close()
    connection = database.connect(path)
    assert connection.execute("PRAGMA database_list").fetchone()[2] == str(path)
    connection.close()


def test_a_reading_connection_cannot_write(path: Path) -> None:
    """A connection opened for reading refuses writes and leaves the journal mode alone."""
    connection = database.connect(path, read_only=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("INSERT INTO t VALUES ('x')")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_a_file_held_by_another_program_is_unavailable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that the official server (which locks exclusively) has open is unavailable."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="locked by another program"):
        database.connect(path)
    other.close()
    database.connect(path).close()


def test_a_bare_open_and_close_would_drop_the_locks(path: Path) -> None:
    """The danger is real: one descriptor closed elsewhere, and the file is anybody's."""
    connection = connect_and_read(path)
    assert what_another_process_gets(path) == "database is locked"
    os.close(os.open(path, os.O_RDONLY))
    assert what_another_process_gets(path) == "delete"
    connection.close()


def test_raw_reading_keeps_the_locks(path: Path) -> None:
    """The locks of a connection survive that the file is read raw meanwhile."""
    connection = connect_and_read(path)
    with database.raw_reader(path) as reader:
        assert reader.read_at(0, 16) == b"SQLite format 3\0"
        with database.raw_reader(path) as second:
            assert second.size == reader.size
    assert what_another_process_gets(path) == "database is locked"
    connection.execute("INSERT INTO t VALUES ('still writable')")
    connection.close()
    assert what_another_process_gets(path) == "delete"


def test_raw_reading_from_before_the_connection_keeps_the_locks(path: Path) -> None:
    """The order of opening does not matter."""
    reader = database.raw_reader(path)
    connection = connect_and_read(path)
    other = connect_and_read(path)
    reader.release()
    reader.release()
    other.close()
    assert what_another_process_gets(path) == "database is locked"
    connection.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_nothing_stays_open(path: Path) -> None:
    """However connections and readers are mixed, all descriptors are given back at the end."""
    before = open_descriptors()
    connection = database.connect(path)
    readers = [database.raw_reader(path) for _ in range(5)]
    assert open_descriptors() <= before + 4  # file, -wal, -shm, and one raw for all readers
    for reader in readers:
        reader.release()
    connection.close()
    connection.close()
    assert open_descriptors() == before
    assert database._held == {}


def test_many_threads_open_and_close_without_losing_a_lock(path: Path) -> None:
    """Whatever other threads open and give back meanwhile, a connection's lock stays."""
    before = open_descriptors()
    connection = connect_and_read(path)

    def come_and_go(_: int) -> None:
        for _ in range(20):
            with database.raw_reader(path) as reader:
                database.close(connect_and_read(path))
                assert reader.read_at(0, 6) == b"SQLite"

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come_and_go, range(4)))
    assert what_another_process_gets(path) == "database is locked"
    # Descriptors that could not be closed without dropping it are closed now.
    connection.close()
    assert open_descriptors() == before
    assert database._held == {}


def test_a_reader_keeps_the_file_that_it_opened(path: Path, tmp_path: Path) -> None:
    """A download goes on with the old file when an upload takes its place."""
    reader = database.raw_reader(path)
    size = reader.size
    new = tmp_path / "new"
    new.write_bytes(b"another")
    new.rename(path)
    assert reader.size == size
    with database.raw_reader(path) as second:
        assert second.read_at(0, 100) == b"another"
        assert second.read_at(3, 2) == b"th"
        assert second.read_at(100, 2) == b""
    reader.release()
    with pytest.raises(ValueError, match="after release"):
        reader.read_at(0, 1)


def test_a_private_connection_makes_no_side_files(path: Path) -> None:
    """A file that asks for a write-ahead log is turned to the rollback form."""
    database.connect(path).close()
    assert path.read_bytes()[18:20] == b"\2\2"
    connection = database.connect_private(path)
    connection.execute("INSERT INTO t VALUES ('x')")
    assert list(path.parent.iterdir()) == [path]
    connection.close()
    assert path.read_bytes()[18:20] == b"\1\1"


def test_half_a_collection_is_not_taken_for_whole(path: Path) -> None:
    """A file with a write-ahead log beside it is refused as private: part of it is there."""
    connection = database.connect(path)
    connection.execute("INSERT INTO t VALUES ('in the log')")
    with pytest.raises(ValueError, match="write-ahead log"):
        database.connect_private(path)
    connection.close()
