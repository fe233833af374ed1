# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is wrong with a data folder beside what is in the users' own things."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cardkeep.accounts.store import AccountStore
from cardkeep.backups.scratch import scratch_folder
from cardkeep.cli.data_folder import check_data_folder
from cardkeep.messages import Finding

SERVER_UID = 12_345
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A data folder with ana and ben."""
    base = tmp_path / "base"
    accounts = AccountStore(base)
    for name in ("ana", "ben"):
        accounts.add_user(name, "secret")
        (base / name / ".cardkeep").mkdir(mode=0o700, parents=True)
        (base / name / "collection.anki2").write_bytes(b"x" * 5000)
    accounts.close()
    return base


def found(base: Path, *, repair: bool = False) -> list[Finding]:
    return list(check_data_folder(base, repair=repair))


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def test_a_sound_folder(base: Path) -> None:
    """Nothing is said of it."""
    assert found(base) == []


def test_users_and_folders_that_do_not_match(base: Path) -> None:
    """They are told, and nothing is wrong with them."""
    accounts = AccountStore(base)
    accounts.add_user("eva", "secret")
    accounts.close()
    shutil.copytree(base / "ana", base / "old")
    (base / ".hidden").mkdir()
    (base / "lost+found").mkdir()
    told = found(base)
    assert kinds(told) == ["user-without-folder", "folder-without-user"]
    assert [each.harmless for each in told] == [True, True]
    assert "eva." in told[0].what
    assert "old." in told[1].what


@pytest.mark.parametrize("spoil", [lambda _: b"no database" * 1000, lambda whole: whole[:9000]])
def test_damaged_accounts(base: Path, spoil: Callable[[bytes], bytes]) -> None:
    """They are told, whatever SQLite makes of them."""
    path = base / "accounts.db"
    path.write_bytes(spoil(path.read_bytes()))
    assert kinds([each for each in found(base) if not each.harmless]) == ["accounts-damaged"]


def test_accounts_of_a_newer_version(base: Path) -> None:
    """The server would not start with them."""
    with closing(sqlite3.connect(base / "accounts.db")) as accounts:
        accounts.execute("PRAGMA user_version = 99")
    assert kinds(found(base)) == ["accounts-newer"]


def test_devices_of_nobody(base: Path) -> None:
    """References between the tables of the accounts hold."""
    with closing(sqlite3.connect(base / "accounts.db", isolation_level=None)) as accounts:
        accounts.execute("INSERT INTO devices (user, kind, created) VALUES (99, 'key', 1)")
    assert kinds(found(base)) == ["accounts-damaged"]


# --- access -----------------------------------------------------------------------------


def test_accounts_that_everybody_can_read(base: Path) -> None:
    """The mode is mended; in a folder that nobody else can enter it does not matter."""
    accounts = base / "accounts.db"
    accounts.chmod(0o644)
    base.chmod(0o700)
    assert found(base) == []
    base.chmod(0o755)
    assert kinds(found(base)) == ["readable-by-others"]
    (told,) = found(base, repair=True)
    assert told.repaired
    assert accounts.stat().st_mode & 0o777 == 0o640
    assert found(base) == []


def owned(base: Path) -> None:
    """Gives everything to the user as whom a server runs, if that can be another one."""
    if IS_ROOT:
        for path in (base, *base.rglob("*")):
            os.chown(path, SERVER_UID, SERVER_UID)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("accounts.db", 0o400),
        ("ana/collection.anki2", 0o400),
        ("ana", 0o500),
        ("ana/.cardkeep", 0o500),
        ("ana/media/a.png", 0o200),
    ],
)
def test_what_the_server_cannot_use(base: Path, name: str, mode: int) -> None:
    """It is named, whoever runs the check."""
    (base / "ana" / "media").mkdir()
    (base / "ana" / "media" / "a.png").write_bytes(b"x")
    owned(base)
    (base / name).chmod(mode)
    told = [each for each in found(base) if each.kind == "not-accessible"]
    (base / name).chmod(0o700)
    assert [f"cannot use {base / name}." in each.what for each in told] == [True]


@pytest.mark.skipif(not IS_ROOT, reason="only root can give a file to somebody else")
def test_owners(base: Path) -> None:
    """A file of another owner is told if the server can use it, and wrong if not."""
    owned(base)
    collection = base / "ben" / "collection.anki2"
    os.chown(collection, 0, 0)
    collection.chmod(0o600)
    assert kinds(found(base)) == ["not-accessible"]
    collection.chmod(0o666)
    (told,) = found(base)
    assert (told.kind, told.harmless) == ("owner", True)


# --- room, leftovers --------------------------------------------------------------------


def test_too_little_room(base: Path) -> None:
    """For an upload of the largest collection and the copy that is kept of it."""
    with (base / "ben" / "collection.anki2").open("r+b") as file:
        file.truncate(shutil.disk_usage(base).free // 2)
    (told,) = found(base)
    assert told.kind == "free-space"
    assert "ben's collection" in told.what


def test_folders_of_killed_commands(base: Path) -> None:
    """However young; that of a command which is at work is nobody's business."""
    spool = base / ".cardkeep" / "spool"
    dead = spool / "command-dead"
    dead.mkdir(parents=True)
    (dead / "import.anki2").touch()
    (told,) = found(base)
    assert (told.kind, told.repairable) == ("leftover", True)
    (told,) = found(base, repair=True)
    assert (told.repaired, dead.exists()) == (True, False)
    with scratch_folder(spool) as living:
        assert found(base, repair=True) == []
        assert living.exists()


def test_shared_media_that_nobody_has(base: Path) -> None:
    """They were a user's whose folder is gone."""
    used, unused = (base / ".cardkeep" / "media" / name / (name * 20) for name in ("aa", "bb"))
    for path in (used, unused):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    (base / "ben" / "picture").hardlink_to(used)
    (told,) = found(base, repair=True)
    assert (told.kind, told.repaired, unused.name in told.what) == ("leftover", True, True)
    assert (used.exists(), unused.exists()) == (True, False)
    assert found(base) == []


def test_leftovers(base: Path) -> None:
    """Temporary files of killed processes go once nobody can be using them any more."""
    spool = base / ".cardkeep" / "spool"
    spool.mkdir(parents=True)
    removed = base / ".cardkeep" / "removed-abc"
    removed.mkdir()
    (removed / "file").write_bytes(b"x")
    fresh = base / "ana" / ".cardkeep" / "new.anki2"
    old = [spool / "body-abc", spool / "body-def.anki2", removed, fresh]
    young = [spool / "body-new", base / "ben" / ".cardkeep" / "new.anki2"]
    for path in (*old, *young):
        if path != removed:
            path.write_bytes(b"x")
    for path in old:
        os.utime(path, (time.time() - 90_000, time.time() - 90_000))
    (told,) = found(base)
    assert (told.kind, told.harmless, told.repairable) == ("leftover", True, True)
    assert all(path.exists() for path in old)
    (told,) = found(base, repair=True)
    assert told.repaired
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in young)
    assert found(base) == []
