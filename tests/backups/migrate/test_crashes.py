# SPDX-License-Identifier: AGPL-3.0-or-later
"""A take-over that is killed, at whatever point, leaves nobody half there; the next goes on."""

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cardkeep.accounts.store import AccountStore
from cardkeep.media import index
from tests.backups.migrate.crashing import take_over
from tests.backups.migrate.folders import left_alone
from tests.collection.schema.files import integrity, rows, tables


def state(base: Path) -> dict[str, Any]:
    """What a server would find there."""
    found: dict[str, Any] = {}
    for folder in sorted(base.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            found[folder.name] = {
                "collection": tables(folder / "collection.anki2"),
                "sound": integrity(folder / "collection.anki2"),
                "files": {path.name: path.read_bytes() for path in sorted(folder.glob("media/*"))},
                "media": media_of(folder),
                "marked": (folder / ".cardkeep" / "migrated").exists(),
            }
    return found


def media_of(folder: Path) -> object:
    if not (folder / "media.db").exists():
        return None
    assert not list(folder.glob("media.db-*"))
    with contextlib.closing(sqlite3.connect(folder / "media.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (4,)
        return index.totals(connection), index.changes(connection, 0)


def users(base: Path) -> list[str]:
    store = AccountStore(base)
    try:
        return [user.name for user in store.users()]
    finally:
        store.close()


@pytest.mark.parametrize(
    "every", [pytest.param(47, id="some"), pytest.param(1, id="all", marks=pytest.mark.long)]
)
def test_whenever_it_is_killed_the_next_run_goes_on(
    official: Path, tmp_path: Path, every: int
) -> None:
    """Each user is there whole or not at all; in the end all are as if nothing had happened."""
    whole = tmp_path / "whole"
    assert take_over(official, whole) == ["ana", "ben"]
    expected = state(whole)
    assert rows(whole / "ana" / "collection.anki2", "SELECT usn FROM col") == [(7,)]
    assert rows(whole / "ana" / "collection.anki2", "SELECT * FROM graves") == [(5, 0, 6)]
    assert expected["ana"]["files"] == {"a.txt": b"aa", "é.png": b"ee"}
    assert expected["ana"]["media"][0] == (4, 4, 2)
    with left_alone(official):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.backups.migrate.crashing"),
                *(official, tmp_path / "after", str(every)),
            ],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        steps = [line.split(" ", 1) for line in done.stdout.splitlines()]
        assert steps[-1][1] == "the end"
        assert len(steps) > 300 // every
        for number, where in steps:
            base = tmp_path / "after" / number
            between = state(base)
            for name, found in between.items():
                assert found == expected[name], where
            assert set(users(base)) <= {"own", *between}, where
            take_over(official, base)
            assert state(base) == expected, where
            assert users(base) == ["ana", "ben", "own"], where
            assert take_over(official, base) == []
            assert not (base / ".cardkeep" / "migrate").exists(), where
