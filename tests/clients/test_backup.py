# SPDX-License-Identifier: AGPL-3.0-or-later
"""A server that is restored from a backup, and the devices that synced with the one before."""

import hashlib
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.clients.device import ClientError, Device
from tests.clients.story import Account, account_on
from tests.servers import Server, running

SERVERS = ("cardkeep",)


@contextmanager
def restored(
    account: Account, file: Path, base: Path, devices: Sequence[Device]
) -> Iterator[Server]:
    """Another server, on what the backup holds, to which the devices turn, still logged in."""
    account.server.command("backup", "--restore", str(file), "--folder", str(base))
    assert_whole(base / account.user)
    with running("cardkeep", base=base) as server:
        before, account.server = account.server, server
        for device in devices:
            device.use_key(server, account.user, device.key)
        try:
            yield server
        finally:
            account.server = before


def listed(folder: Path) -> dict[str, str]:
    """SHA-1 of each media file that the index has, by name."""
    if not (folder / "media.db").exists():
        return {}
    with closing(sqlite3.connect(folder / "media.db")) as index:
        rows = index.execute("SELECT fname, hex(csum) FROM media WHERE size > 0").fetchall()
        assert index.execute("SELECT total_nonempty_files FROM meta").fetchone() == (len(rows),)
        return {name: checksum.lower() for name, checksum in rows}


def assert_whole(folder: Path) -> None:
    """Every file that the index lists is there, with the bytes that it lists."""
    for name, checksum in listed(folder).items():
        assert hashlib.sha1((folder / "media" / name).read_bytes()).hexdigest() == checksum, name


@pytest.fixture
def lone_account(tmp_path: Path, server_kind: str) -> Iterator[Account]:
    """An account on a server of its own."""
    assert server_kind == "cardkeep"
    with running("cardkeep") as server, account_on(server, tmp_path / "devices") as account:
        yield account


def back_up(account: Account, file: Path) -> Path:
    done = account.server.command("backup", str(file))
    assert done.stderr == ""
    assert "verified" in done.stdout
    return file


def work(device: Device, text: str) -> int:
    """Everything that a day brings: a note, its review, a tag, a deck, a picture."""
    note = device.add_note(text, "", deck=f"Deck of {text}", tags=[text.replace(" ", "-")])
    device.answer(device.cards_of(note)[0])
    device.add_media(f"{text}.jpg", text.encode() * 100)
    return note


def test_a_move_to_another_machine_is_not_noticed(lone_account: Account, tmp_path: Path) -> None:
    """No device logs in again or is asked for a direction; what it had not sent yet arrives."""
    account = lone_account
    devices = account.in_sync("26.9.3", "24.11", "2.1.54", "2.1.39")
    made = [work(device, f"before {number}") for number, device in enumerate(devices)]
    for _ in range(2):
        for device in devices:
            device.sync().sync_media()
    before = account.contents()
    made += [work(device, f"unsent {number}") for number, device in enumerate(devices)]
    account.server.stop()
    file = back_up(account, tmp_path / "moved.tar.zst")
    with restored(account, file, tmp_path / "restored", devices):
        assert {**account.contents(), "col": None} == {**before, "col": None}
        for _ in range(2):
            for device in devices:
                device.sync().sync_media()
        holds = account.assert_converged()
        assert sorted(map(int, holds["notes"])) == sorted(made)
        assert len(holds["revlog"]) == len(made)
        for device in devices:
            assert len(device.media()) == len(made)
        newcomer = account.device("26.9.3").download()
        assert newcomer.sync_media().media() == devices[0].media()


def test_a_device_that_knows_more_asks_for_the_direction(
    lone_account: Account, tmp_path: Path
) -> None:
    """After a crash: who synced since the backup is found, who did not goes on as before."""
    account = lone_account
    behind, ahead, old = account.in_sync("26.9.3", "25.9.2", "2.1.54")
    note = work(behind, "in the backup")
    account.settle()
    file = back_up(account, tmp_path / "old.tar.zst")
    # Edited, not added: no comparison of counts would ever find what is missing.
    ahead.edit_note(note, "known to one device alone")
    ahead.sync()
    with restored(account, file, tmp_path / "restored", [behind, ahead, old]):
        unsent = work(behind, "not sent before the crash")
        behind.sync()
        old.sync()
        assert str(unsent) in account.contents()["notes"]

        with pytest.raises(ClientError):
            ahead.sync()
        outcome = ahead.sync_outcome()
        assert outcome["action"] == "full"
        assert "backup" in outcome["message"]
        ahead.upload()
        for device in (behind, old):
            outcome = device.sync_outcome()
            assert outcome["action"] == "full"
            device.download()
        for device in (behind, ahead, old):
            assert device.sync_outcome()["message"] == ""
        holds = account.assert_converged()
        assert holds["notes"][str(note)]["flds"].startswith("known to one device alone")


@pytest.mark.parametrize(
    "release", ["26.9.3", "2.1.39", pytest.param("2.1.54", marks=pytest.mark.long)]
)
def test_whichever_device_comes_first(lone_account: Account, tmp_path: Path, release: str) -> None:
    """One that knows more and comes after many syncs of others is found all the same."""
    account = lone_account
    behind, ahead = account.in_sync("24.11", release)
    note = work(behind, "in the backup")
    account.settle()
    file = back_up(account, tmp_path / "old.tar.zst")
    ahead.edit_note(note, "known to one device alone")
    ahead.sync()
    with restored(account, file, tmp_path / "restored", [behind, ahead]):
        for number in range(5):
            behind.add_note(f"after the crash {number}", "")
            behind.sync()
        with pytest.raises(ClientError):
            ahead.sync()
        assert ahead.asks_for() == "full"
        ahead.download()
        assert behind.asks_for() == "full"
        behind.upload()
        ahead.download()
        # And from then on all is as ever, whatever numbers an upload has brought.
        for round_ in range(3):
            for device in (behind, ahead):
                device.add_note(f"on {device} {round_}", "")
                device.sync()
        account.assert_converged()


def test_a_second_restore_finds_those_who_synced_with_the_first(
    lone_account: Account, tmp_path: Path
) -> None:
    """The same backup restored twice: numbers of the first life are not taken for new ones."""
    account = lone_account
    behind, ahead = account.in_sync("26.9.3", "2.1.54")
    note = work(behind, "in the backup")
    account.settle()
    file = back_up(account, tmp_path / "old.tar.zst")
    with restored(account, file, tmp_path / "first", [behind, ahead]):
        ahead.edit_note(note, "known to one device alone")
        ahead.sync()
    time.sleep(3)  # numbers are seconds, and nobody syncs more often than that
    with restored(account, file, tmp_path / "second", [behind, ahead]):
        behind.add_note("goes on", "")
        behind.sync()
        with pytest.raises(ClientError):
            ahead.sync()
        assert ahead.asks_for() == "full"


def test_media_that_are_newer_than_the_backup_come_back(
    lone_account: Account, tmp_path: Path
) -> None:
    """Files added since are sent again, files deleted since come back, though the numbers match."""
    account = lone_account
    device, other, old = account.in_sync("26.9.3", "24.11", "2.1.54")
    for number in range(30):
        device.add_media(f"{number}.txt", b"%d" % number)
    device.sync_media()
    other.sync_media()
    file = back_up(account, tmp_path / "old.tar.zst")
    device.delete_media("1.txt")
    device.add_media("new.txt", b"new")
    device.sync_media()
    with restored(account, file, tmp_path / "restored", [device, other, old]):
        for round_ in range(3):
            for each in (device, other, old):
                try:
                    each.sync_media()
                except ClientError as error:
                    # The counts differ: a client says so once, and puts it right then.
                    assert "sync again" in error.text or "media" in error.text.casefold()  # noqa: PT017
                    assert round_ < 2
        assert {*device.media()} == {*(f"{number}.txt" for number in range(30)), "new.txt"}
        assert device.media() == other.media() == old.media()


def test_devices_sync_while_the_backup_is_made(lone_account: Account, tmp_path: Path) -> None:
    """Collections and media both ways, without an error; what is restored is a state there was."""
    account = lone_account
    sender, deleter = account.in_sync("26.9.3", "24.11")
    for number in range(40):
        sender.add_media(f"stays {number}.txt", b"%d" % number * 3000)
        deleter.add_media(f"goes {number}.txt", b"%d" % number * 30000)
    for number in range(100):
        sender.add_note(f"before {number}", "x" * 1000)
    for device in (sender, deleter, sender):
        device.sync().sync_media()
    before = {*account.contents()["notes"]}
    done = threading.Event()
    syncs = 0

    def use() -> None:
        nonlocal syncs
        while not done.is_set():
            sender.add_note(f"during {syncs}", "")
            sender.add_media(f"during {syncs}.txt", b"during %d" % syncs)
            deleter.delete_media(f"goes {syncs % 40}.txt")
            deleter.replace_media(f"stays {syncs % 40}.txt", b"replaced %d" % syncs)
            for device in (sender, deleter):
                device.sync().sync_media()
            syncs += 1

    files = []
    user = threading.Thread(target=use)
    user.start()
    try:
        for number in range(4):
            files.append(tmp_path / f"{number}.tar.zst")
            told = account.server.command("backup", str(files[-1]), check=False)
            assert told.returncode == 0, told.stderr
    finally:
        done.set()
        user.join()
    assert syncs > 4
    holds = {*account.contents()["notes"]}
    for file in (files[0], files[-1]):
        with restored(account, file, tmp_path / file.stem, []) as server:
            newcomer = Device("26.9.3", tmp_path / f"newcomer-{file.stem}")
            account.devices.append(newcomer)
            newcomer.log_in(server, account.user)
            newcomer.download().sync_media()
            assert newcomer.damage() == []
            assert before < {*map(str, newcomer.notes())} <= holds
            assert newcomer.media() == listed(server.folder(account.user))


def test_without_cardkeep_the_official_server_goes_on(
    lone_account: Account, tmp_path: Path
) -> None:
    """What `tar --zstd -xf` makes of a backup is a data folder: devices log in and sync on."""
    account = lone_account
    devices = account.in_sync("26.9.3", "2.1.54")
    made = [work(device, f"before {number}") for number, device in enumerate(devices)]
    for device in devices * 2:
        device.sync().sync_media()
    made.append(work(devices[0], "unsent"))
    file = back_up(account, tmp_path / "b.tar.zst")
    base = tmp_path / "unpacked"
    base.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", file, "-C", base], check=True)
    with running("official", base=base) as server:
        before, account.server = account.server, server
        for device in devices:
            device.log_in(server, account.user)
        for device in devices * 2:
            device.sync().sync_media()
        holds = account.assert_converged()
        account.server = before
    assert sorted(map(int, holds["notes"])) == sorted(made)
    assert len(devices[0].media()) == len(devices[1].media()) == len(made)
