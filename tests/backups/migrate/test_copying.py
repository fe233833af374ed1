# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies of SQLite files that nobody opened where they lie."""

import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardkeep.backups.migrate import copying
from cardkeep.errors import MigrationError
from tests.backups.migrate.folders import left_alone
from tests.servers import running

_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(path: Path, *statements: str) -> Iterator[subprocess.Popen[str]]:
    """The file open in another process, which has run these statements."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, path, *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def rows(path: Path) -> list[tuple[int]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT i FROM t").fetchall()


def test_what_is_in_the_log_is_copied_too(tmp_path: Path) -> None:
    """The server was killed; its file is not complete without the log."""
    folder = tmp_path / "source"
    folder.mkdir()
    source = folder / "x.db"
    with held(
        source, "PRAGMA journal_mode = WAL", "CREATE TABLE t (i)", "INSERT INTO t VALUES (1)"
    ):
        pass
    assert source.with_name("x.db-wal").stat().st_size
    target = tmp_path / "copy.db"
    done: list[int] = []
    with left_alone(folder):
        stamp = copying.copy(source, target, done.append)
        copying.fold(target)
    assert [each[0] for each in stamp] == ["", "-wal"]
    assert sum(done) == sum(each[2] for each in stamp)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "source"]
    assert rows(target) == [(1,)]


def test_a_copy_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    """Also of the log that lay beside that."""
    source, target = tmp_path / "x.db", tmp_path / "copy.db"
    with contextlib.closing(sqlite3.connect(source)) as connection:
        connection.execute("CREATE TABLE t (i)")
    for side in ("", "-wal", "-shm", "-journal"):
        target.with_name(target.name + side).write_bytes(b"old")
    copying.copy(source, target)
    copying.fold(target)
    assert rows(target) == []
    assert not list(tmp_path.glob("copy.db-*"))


def test_a_file_that_changes_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried a few times; then somebody is at work there."""
    monkeypatch.setattr(copying, "_WAIT", 0.01)
    source = tmp_path / "x.db"
    source.write_bytes(b"0" * 100)
    grown = 100

    def grow(_: int) -> None:
        nonlocal grown
        grown += 1
        source.write_bytes(b"0" * grown)

    with pytest.raises(MigrationError, match="stop the server"):
        copying.copy(source, tmp_path / "copy", grow)
    assert grown == 105
    with pytest.raises(MigrationError, match="stop the server"):
        copying.copy(tmp_path / "nowhere", tmp_path / "copy")


def test_a_file_that_has_come_to_rest_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written while the first copy was made is in the second."""
    monkeypatch.setattr(copying, "_WAIT", 0.01)
    source = tmp_path / "x.db"
    source.write_bytes(b"old")
    once = threading.Event()

    def change(_: int) -> None:
        if not once.is_set():
            once.set()
            source.write_bytes(b"newer")

    copying.copy(source, tmp_path / "copy", change)
    assert (tmp_path / "copy").read_bytes() == b"newer"


@pytest.mark.parametrize(
    "statements",
    [
        ("BEGIN IMMEDIATE",),
        ("BEGIN", "SELECT * FROM t"),
        ("PRAGMA journal_mode = WAL", "SELECT * FROM t"),
        ("PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL", "INSERT INTO t VALUES(1)"),
    ],
)
def test_a_file_that_is_open_elsewhere_is_seen(tmp_path: Path, statements: tuple[str, ...]) -> None:
    """In each way in which a server holds its files; and nothing is locked by looking."""
    path = tmp_path / "x.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (i)")
    assert not copying.is_open(path)
    with held(path, *statements):
        assert copying.is_open(path)
    assert not copying.is_open(path)
    assert not copying.is_open(tmp_path / "nowhere")
    with held(path, "BEGIN EXCLUSIVE"):
        pass


def test_the_official_server_is_seen(tmp_path: Path) -> None:
    """It has the media index of each user open from its start on."""
    with running("official", base=tmp_path / "base") as server:
        path = server.folder("user1") / "media.db"
        assert copying.is_open(path)
        server.kill()
        assert not copying.is_open(path)
