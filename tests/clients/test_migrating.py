# SPDX-License-Identifier: AGPL-3.0-or-later
"""Real devices go on with a server that took over the folder of another one."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backups.migrate import folders
from tests.backups.migrate.folders import left_alone
from tests.clients.device import ClientError, Device, dump
from tests.clients.story import Account, differences, disagreements
from tests.servers import PASSWORD, Server, running

USER = "user1"


def migrate(source: Path, base: Path, *flags: str, **environment: str) -> str:
    """Runs the command, which must leave the source as it is; what it said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SYNC_")}
    with left_alone(source):
        done = subprocess.run(
            [sys.executable, "-m", "cardkeep", "migrate", source, "--yes", *flags],
            env={**kept, "CARDKEEP_FOLDER": str(base), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def served(base: Path, *users: str) -> Iterator[Server]:
    """The folder under cardkeep, whose users are those of the environment if any."""
    server = Server("cardkeep", base, list(users))
    server.start()
    try:
        yield server
    finally:
        server.kill()


def work(*devices: Device) -> None:
    """Each adds a note with a file, reviews it and syncs."""
    for device in devices:
        device.sync()
        note = device.add_note(f"of {device}", "", tags=["made"])
        device.answer(device.cards_of(note)[0])
        device.add_media(f"{device}.txt", f"{device}".encode())
        device.sync()
        device.sync_media()


def live(account: Account, *releases: str) -> list[Device]:
    """Devices with some history, of which the second has yet to hear the last of it."""
    first, second, *_ = devices = account.in_sync(*releases)
    work(*devices)
    for device in devices:
        device.sync()
        device.sync_media()
    doomed = first.add_note("deleted later", "")
    first.add_media("deleted later.txt", b"gone")
    first.sync()
    first.sync_media()
    for device in devices:
        device.sync()
        device.sync_media()
    # What the second device has yet to hear of: a change, a deletion, and of media the same.
    first.delete_notes(doomed)
    first.edit_note(first.notes()[0], "edited")
    first.delete_media("deleted later.txt")
    first.add_media("added later.txt", b"new")
    first.sync()
    first.sync_media()
    # And what the server has yet to hear of.
    second.add_note("made meanwhile", "")
    return devices


def assert_in_step(server: Server, devices: list[Device], folder: Path) -> None:
    """After normal syncs all have the same; nobody was asked for a direction."""
    for _ in range(2):
        for device in devices:
            device.sync()
            device.sync_media()
    holds = dump(server.copy_of_collection(USER, folder))
    for device in devices:
        assert disagreements(holds, device) == []
        assert device.damage() == []
    fields = [note["flds"].split("\x1f")[0] for note in holds["notes"].values()]
    assert "made meanwhile" in fields
    assert "edited" in fields
    assert "deleted later" not in fields
    assert len({frozenset(device.media().items()) for device in devices}) == 1
    assert "added later.txt" in devices[0].media()
    assert "deleted later.txt" not in devices[0].media()


def test_from_the_official_server(tmp_path: Path) -> None:
    """With its SYNC_USERn the passwords come along; devices log in and go on."""
    source, base = tmp_path / "official", tmp_path / "base"
    with running("official", base=source) as official:
        account = Account(official, tmp_path / "devices")
        devices = live(account, "26.9.3", "2.1.54")
        before = account.contents()
    with contextlib.closing(account):
        said = migrate(source, base, SYNC_USER1=f"{USER}:{PASSWORD}")
        assert "taken over (SYNC_USER1)" in said
        with served(base) as server:
            copy = server.copy_of_collection(USER, tmp_path / "copy")
            assert differences(before, dump(copy)) == []
            with pytest.raises(ClientError):
                devices[0].log_in(server, USER, "wrong")
            for device in devices:
                device.log_in(server, USER)
            assert_in_step(server, devices, tmp_path / "after")


@pytest.mark.parametrize("release", ["26.9.3", "2.1.54"])
def test_media_that_were_spoilt_there_come_back_from_devices(tmp_path: Path, release: str) -> None:
    """A device notices that the numbers differ, says so once, and sends what is missing."""
    source, base = tmp_path / "official", tmp_path / "base"
    with running("official", base=source) as official:
        account = Account(official, tmp_path / "devices")
        [device] = account.in_sync(release)
        for name in ("right", "spoilt", "lost"):
            device.add_media(f"{name}.txt", name.encode())
        device.sync_media()
    with contextlib.closing(account):
        media = source / USER / "media"
        (media / "spoilt.txt").write_bytes(b"rotten")
        (media / "lost.txt").unlink()
        assert "media files left out: 2" in migrate(source, base)
        with served(base, USER) as server:
            device.use_key(server, USER, device.key)
            device.sync()
            with pytest.raises(ClientError):
                device.sync_media()
            for _ in range(2):
                device.sync()
                device.sync_media()
            there = base / USER / "media"
            assert {path.name: path.read_text() for path in there.iterdir()} == {
                f"{name}.txt": name for name in ("right", "spoilt", "lost")
            }
            assert device.media().keys() == {"right.txt", "spoilt.txt", "lost.txt"}


def test_with_the_same_users_in_the_environment_nobody_logs_in(tmp_path: Path) -> None:
    """Started with its SYNC_USERn, the keys of the official server go on to be right."""
    source, base = tmp_path / "official", tmp_path / "base"
    with running("official", base=source) as official:
        account = Account(official, tmp_path / "devices")
        devices = live(account, "2.1.60", "2.1.54")
    with contextlib.closing(account):
        migrate(source, base)
        with served(base, USER) as server:
            for device in devices:
                device.use_key(server, USER, device.key)
            assert_in_step(server, devices, tmp_path / "after")


@pytest.mark.parametrize("schema", [11, 16, 18])
def test_from_ankisyncd(tmp_path: Path, schema: int) -> None:
    """Devices stay logged in and go on; the old password is right, and hashed anew."""
    source, base = tmp_path / "ankisyncd", tmp_path / "base"
    with running("official", base=tmp_path / "official") as official:
        account = Account(official, tmp_path / "devices")
        devices = live(account, "2.1.54", "2.1.49")
    with contextlib.closing(account):
        folders.as_ankisyncd(tmp_path / "official", source, schema)
        folders.auth_db(source, {USER: folders.hashed(USER, PASSWORD)})
        keys = [folders.host_key(USER, moment) for moment in (1_600_000_000, 1_650_000_000)]
        folders.session_db(source, dict.fromkeys(keys, USER))
        said = migrate(source, base)
        assert "logins that stay: 2" in said
        with served(base) as server:
            for device, key in zip(devices, keys, strict=True):
                device.use_key(server, USER, key)
            assert_in_step(server, devices, tmp_path / "after")
            for _ in range(2):
                with pytest.raises(ClientError):
                    devices[0].log_in(server, USER, "wrong")
                devices[0].log_in(server, USER)
                devices[0].sync()
            devices[1].sync()
        text = (base / "accounts.db").read_bytes() + (base / "accounts.db-wal").read_bytes()
        assert b"$scrypt$" in text


def test_from_anki_sync_server_rs(tmp_path: Path) -> None:
    """From 1.0 on devices log in again, with the old password, and go on."""
    source, base = tmp_path / "rs", tmp_path / "base"
    with running("official-2.1.60", base=tmp_path / "official") as official:
        account = Account(official, tmp_path / "devices")
        devices = live(account, "2.1.60", "2.1.54")
    with contextlib.closing(account):
        folders.as_rs(tmp_path / "official", source)
        hashed = folders.hashed(USER, PASSWORD)
        folders.auth_db(source, {USER: hashed})
        migrate(source, base)
        with served(base) as server:
            devices[0].use_key(server, USER, hashed)
            with pytest.raises(ClientError):
                devices[0].sync()
            for device in devices:
                device.log_in(server, USER)
            assert_in_step(server, devices, tmp_path / "after")
