# SPDX-License-Identifier: AGPL-3.0-or-later
"""SIGKILL at any point of a backup or a restore leaves the old state or the new one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardkeep.backups import base_lock
from cardkeep.backups.archive.file import check, save
from cardkeep.backups.archive.restore import restore
from cardkeep.errors import BackupError, Unavailable
from tests.backups.archive.conftest import MEDIA, rows, tree, unseen

ROOT = Path(__file__).parents[3]


def kills(action: str, base: Path, file: Path, stride: int, word: str = "") -> Iterator[str]:
    """What was just about to happen or had happened when the action was killed, each time."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.backups.archive.crashing"),
            *(action, base, file, str(stride), word),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            yield line.strip()
            if line.strip() == "the end":
                break
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == 0


@pytest.fixture(params=[29, pytest.param(1, marks=pytest.mark.long)])
def stride(request: pytest.FixtureRequest) -> int:
    """One of several steps, or each."""
    chosen: int = request.param
    return chosen


@pytest.fixture
def file(base: Path, tmp_path: Path) -> Path:
    """A backup of the base."""
    (tmp_path / "disk").mkdir()
    save(base, tmp_path / "disk" / "b.tar.zst", unseen)
    return tmp_path / "disk" / "b.tar.zst"


def resting(base: Path) -> dict[str, bytes | None]:
    """All but databases, whose files change in form when they are opened."""
    return {
        path: data
        for path, data in tree(base).items()
        if ".db" not in path and ".anki2" not in path
    }


def test_a_killed_backup_leaves_the_older_one(base: Path, file: Path, stride: int) -> None:
    """Under its name there is the old file or the new one; the next backup tidies up."""
    before, old = resting(base), file.read_bytes()
    killed = new = 0
    for _ in kills("save", base, file, stride):
        killed += 1
        if file.read_bytes() != old:
            new += 1
            check(file, unseen)
            file.write_bytes(old)
    assert killed > 5
    assert new >= 1
    save(base, file, unseen)
    assert list(file.parent.iterdir()) == [file]
    assert resting(base) == before
    assert rows(base / "ana" / "collection.anki2", "SELECT count(*) FROM notes") == [(9,)]


def is_whole(base: Path) -> bool:
    return (base / "accounts.db").exists() and all(
        (base / "ana" / "media" / name).read_bytes() == data for name, data in MEDIA.items()
    )


def can_serve(base: Path) -> bool:
    try:
        os.close(base_lock.share(base))
    except Unavailable:
        return False
    return True


def test_a_killed_restore_is_run_again(file: Path, tmp_path: Path, stride: int) -> None:
    """Each time a server finds nothing, a refusal, or everything; and a rerun brings everything."""
    target = tmp_path / "restored"
    killed = 0
    for where in kills("restore", target, file, stride):
        killed += 1
        there = {path.name for path in target.iterdir()} if target.exists() else set()
        complete = {"accounts.db", "ana", "ben"} <= there
        if there and can_serve(target):
            assert complete or there == {base_lock.UNFINISHED}, where
        if where != "the end":
            try:
                restore(target, file, unseen)
            except BackupError:
                assert complete, where  # it was done but for saying so
        assert is_whole(target), where
        assert can_serve(target)
        assert {path.name for path in target.iterdir()} == {"accounts.db", "ana", "ben"}
        shutil.rmtree(target)
    assert killed > 5


def test_a_restore_killed_among_the_moves(file: Path, tmp_path: Path) -> None:
    """What is left is done by the next restore of this backup, and refused to another."""
    target = tmp_path / "restored"
    other = file.with_name("other.tar.zst")
    save(tmp_path / "base", other, unseen)
    found = 0
    for where in kills("restore", target, file, 1, "rename"):
        if not (target / "accounts.db").exists() or where == "the end":
            shutil.rmtree(target)
            continue
        found += 1
        assert not can_serve(target)
        with pytest.raises(BackupError, match="another backup"):
            restore(target, other, unseen)
        restore(target, file, unseen)
        assert is_whole(target)
        shutil.rmtree(target)
    assert found == 5


def test_a_killed_restore_of_one_user(base: Path, file: Path, stride: int) -> None:
    """The user is there wholly or not at all, and the server is not kept from starting."""
    shutil.rmtree(base / "ana")
    killed = 0
    for where in kills("restore user", base, file, stride):
        killed += 1
        assert can_serve(base)
        if (base / "ana").exists():
            assert is_whole(base), where
            shutil.rmtree(base / "ana")
    assert killed > 5
