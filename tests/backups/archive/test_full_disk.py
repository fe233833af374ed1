# SPDX-License-Identifier: AGPL-3.0-or-later
"""A disk without room, at every amount of room: an error in words, and nothing is left behind."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardkeep.backups.archive.file import check, save
from cardkeep.backups.archive.restore import restore, restore_user
from cardkeep.errors import BackupError
from tests.backups.archive.conftest import MEDIA, tree, unseen

MIB = 1024 * 1024
SIZE = 32 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", path],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be made here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@contextlib.contextmanager
def room(disk: Path, size: int) -> Iterator[None]:
    """Leaves `size` bytes on the disk for the length of the block."""
    ballast = disk / "ballast"
    status = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(status.f_bavail * status.f_frsize - size, 1))
    try:
        yield
    finally:
        ballast.unlink()


def test_a_backup_onto_a_full_disk(base: Path, disk: Path) -> None:
    """The older one stays, whatever the new one was at."""
    base = shutil.copytree(base, disk.parent / "copy")
    (base / "ana" / "media" / "noise").write_bytes(os.urandom(3 * MIB))
    file = disk / "b.tar.zst"
    file.write_bytes(b"older")
    for size in (0, 4096, 100_000, MIB, 2 * MIB, 3 * MIB):
        with room(disk, size):
            with pytest.raises(BackupError, match=r"No space left|full"):
                save(base, file, unseen)
            assert {path.name for path in disk.iterdir()} == {"b.tar.zst", "ballast"}
            assert file.read_bytes() == b"older"
    save(base, file, unseen)
    check(file, unseen)


def test_a_full_data_folder_can_be_backed_up(base: Path, disk: Path, tmp_path: Path) -> None:
    """Onto another disk, as somebody does just then; SQLite needs a little room even so."""
    full = shutil.copytree(base, disk / "base")
    with room(disk, 0):
        with pytest.raises(BackupError, match=r"the disk of .* is full"):
            save(full, tmp_path / "b.tar.zst", unseen)
    with room(disk, 100_000):
        save(full, tmp_path / "b.tar.zst", unseen)
    restore(tmp_path / "restored", tmp_path / "b.tar.zst", unseen)
    for name, data in MEDIA.items():
        assert (tmp_path / "restored" / "ana" / "media" / name).read_bytes() == data


def test_a_restore_onto_a_full_disk(base: Path, disk: Path, tmp_path: Path) -> None:
    """Nothing is there afterwards, and with room everything is."""
    save(base, tmp_path / "b.tar.zst", unseen)
    target = disk / "base"
    for size in (0, 4096, 100_000, MIB, 3 * MIB, 6 * MIB):
        with room(disk, size):
            with pytest.raises(BackupError, match=r"no room|No space left"):
                restore(target, tmp_path / "b.tar.zst", unseen)
            assert not target.exists()
    restore(target, tmp_path / "b.tar.zst", unseen)
    assert (target / "ana" / "media" / "a.txt").read_bytes() == b"a"


def test_one_user_onto_a_full_disk(base: Path, disk: Path, tmp_path: Path) -> None:
    """The server's other users keep what they have."""
    save(base, tmp_path / "b.tar.zst", unseen)
    there = shutil.copytree(base, disk / "base")
    shutil.rmtree(there / "ana")
    before = tree(there)
    for size in (0, 100_000, 3 * MIB):
        with room(disk, size):
            with pytest.raises(BackupError, match=r"no room|No space left"):
                restore_user(there, tmp_path / "b.tar.zst", "ana", unseen)
            assert tree(there) == before
    restore_user(there, tmp_path / "b.tar.zst", "ana", unseen)
