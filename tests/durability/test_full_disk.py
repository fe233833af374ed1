# SPDX-License-Identifier: AGPL-3.0-or-later
"""A disk without room: a clean error, nothing lost, and everything works once there is room."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cardkeep.collection.check import check_collection
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.schema.inspect import inspect
from tests.clients.device import ClientError, Device
from tests.clients.story import Account, account_on, differences
from tests.collection.schema.files import VECTORS, edit, integrity, rows
from tests.servers import Server, running

MIB = 1024 * 1024
#: Room that is left: none at all, and some, so that the disk fills up on the way.
ROOM = [0, 40_000, 200_000, MIB]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be made here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def server(disk: Path) -> Iterator[Server]:
    with running("cardkeep", users=2, base=disk / "base") as started:
        yield started


@pytest.fixture
def account(server: Server, tmp_path: Path) -> Iterator[Account]:
    with account_on(server, tmp_path) as made:
        yield made


@contextlib.contextmanager
def full(disk: Path, room: int) -> Iterator[None]:
    """Leaves `room` bytes on the disk for the length of the block."""
    ballast = disk / "ballast"
    while True:
        status = os.statvfs(disk)
        free = status.f_bavail * status.f_frsize
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(free - room, 1))
            break
        ballast.unlink()  # the server took some of it meanwhile
    try:
        yield
    finally:
        ballast.unlink()


def tried(deed: Callable[[], object]) -> bool:
    """Whether it could be done; a failure is one that the client understands."""
    with contextlib.suppress(ClientError):
        deed()
        return True
    return False


def assert_serves(account: Account) -> None:
    """Nothing that the server said ended in a traceback, and it goes on serving."""
    assert account.server.answers()
    assert "Traceback" not in account.server.log()
    assert "status=500" not in account.server.log()


def large_notes(device: Device, number: int) -> None:
    for n in range(number):
        device.add_note(f"{n}", os.urandom(6000).hex())


@pytest.mark.parametrize("release", ["26.9.3", "2.1.54"])
def test_a_sync_on_a_full_disk(account: Account, disk: Path, release: str) -> None:
    """It fails as a whole; the next one, with room, brings everything without a full sync."""
    device, other = account.in_sync(release, "26.9.3")
    device.add_note("before", "")
    account.settle()
    for room in ROOM:
        large_notes(device, 60)
        before = account.contents()
        with full(disk, room):
            done = tried(device.sync)
        assert room or not done
        if not done:
            assert differences(account.contents(), before) == []
        device.sync()
        other.sync()
        assert_serves(account)
    account.assert_converged()
    assert len(other.notes()) == 1 + 60 * len(ROOM)


def test_an_upload_on_a_full_disk(account: Account, disk: Path) -> None:
    """The server keeps what it has, and says so in words that the client shows."""
    (device,) = account.in_sync("26.9.3")
    large_notes(device, 200)
    device.upload()
    for room in [*ROOM, 3 * MIB, 6 * MIB]:
        large_notes(device, 10)
        before = account.contents()
        with full(disk, room):
            done = tried(device.upload)
        assert room >= MIB or not done
        if not done:
            assert differences(account.contents(), before) == []
            with full(disk, 0), pytest.raises(ClientError) as refused:
                device.upload()
            assert "disk is full" in refused.value.text
        device.upload()
        assert len(account.contents()["notes"]) == len(device.notes())
        assert_serves(account)
    assert list((disk / "base" / ".cardkeep" / "spool").glob("body-*")) == []


def test_media_on_a_full_disk(account: Account, disk: Path) -> None:
    """No file is half there; with room all arrive."""
    device, other = account.in_sync("26.9.3", "26.9.3")
    device.add_note("before", "")
    device.sync(media=True)
    for number, room in enumerate(ROOM):
        for n in range(5):
            device.add_media(f"{number}-{n}.bin", os.urandom(100_000))
        with full(disk, room):
            done = tried(device.sync_media)
        assert room > 5 * 100_000 or not done
        device.sync_media()
        other.sync(media=True)
        assert other.media() == device.media()
        assert_serves(account)
    assert len(other.media()) == 5 * len(ROOM)


def test_copies_and_restores_on_a_full_disk(account: Account, disk: Path) -> None:
    """The commands say why, leave nothing behind, and change nothing."""
    (device,) = account.in_sync("26.9.3")
    large_notes(device, 300)
    device.upload()
    command = account.server.command
    command("snapshot", "take", account.user)
    large_notes(device, 50)
    device.sync()
    kept = disk / "base" / account.user / ".cardkeep" / "snapshots"
    for verb in ("take", "restore"):
        before, copies = account.contents(), sorted(kept.iterdir())
        for room in [0, 100_000, MIB]:
            arguments = ["latest"] if verb == "restore" else []
            with full(disk, room):
                failed = command("snapshot", verb, account.user, *arguments, check=False)
            assert failed.returncode == 1
            assert "No space left" in failed.stderr or "full" in failed.stderr
            assert "Traceback" not in failed.stderr
            assert differences(account.contents(), before) == []
            assert sorted(kept.iterdir()) == copies
    device.sync()
    command("snapshot", "restore", account.user, "latest")
    assert len(account.contents()["notes"]) == 300
    assert_serves(account)


def test_packages_on_a_full_disk(account: Account, disk: Path, tmp_path: Path) -> None:
    """An export leaves no half file; an import that fails leaves the old collection."""
    (device,) = account.in_sync("26.9.3")
    large_notes(device, 300)
    device.add_media("a.bin", os.urandom(300_000))
    package = device.export_package(tmp_path / "theirs.colpkg")
    large_notes(device, 50)
    device.upload()
    before = account.contents()
    command = account.server.command
    out = disk / "out.colpkg"
    for room in [0, 100_000, MIB]:
        for arguments in (
            ("export", account.user, str(out)),
            ("export", account.user, str(out), "--legacy"),
            ("import", account.user, str(package), "--replace"),
        ):
            with full(disk, room):
                failed = command(*arguments, check=False)
            assert failed.returncode == 1
            assert "No space left" in failed.stderr or "full" in failed.stderr
            assert "Traceback" not in failed.stderr
            assert differences(account.contents(), before) == []
            assert list(disk.glob("*out*")) == []
            assert list((disk / "base" / ".cardkeep" / "spool").iterdir()) == []
    device.add_note("one", "more")
    device.sync()
    command("import", account.user, str(package), "--replace")
    assert len(account.contents()["notes"]) == 300
    assert device.asks_for() == "full"
    device.download().sync_media()
    assert_serves(account)


@pytest.mark.parametrize("room", ROOM)
def test_a_check_that_repairs_on_a_full_disk(disk: Path, room: int) -> None:
    """It says so; the collection is the old one or the mended one, and sound either way."""
    folder = UserFolder(disk / "ana")
    folder.make()
    folder.collection.write_bytes((VECTORS / "rich-schema18.anki2").read_bytes())
    inspect(folder.collection)
    edit(
        folder.collection,
        "INSERT INTO revlog WITH n(n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM n WHERE n < 9000) "
        "SELECT n, 1, -1, 3, 1, 1, 2500, 1000, 1 FROM n",
        "UPDATE notes SET csum = 7",
        "DROP INDEX ix_revlog_cid",
    )
    with full(disk, room):
        told = list(check_collection(folder, now_ms=lambda: 1, repair=True))
        assert told
    assert integrity(folder.collection) == "ok"
    assert rows(folder.collection, "SELECT count(*) FROM revlog") == [(8909,)]
    for finding in check_collection(folder, now_ms=lambda: 1, repair=True):
        assert finding.repaired, finding
    assert list(check_collection(folder, now_ms=lambda: 1)) == []
