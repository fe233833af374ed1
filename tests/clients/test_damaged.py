# SPDX-License-Identifier: AGPL-3.0-or-later
"""A collection that the server's disk has ruined: words, and a way back that loses nothing."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.device import ClientError, Device
from tests.clients.story import PAIR, Account, account_on


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(60_000))


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def shortened(file: Path) -> None:
    os.truncate(file, 9_000)


DAMAGE = [garbage, emptied, shortened]


def ruined(account: Account, device: Device, damage: Callable[[Path], None]) -> bytes:
    """A copy of 20 notes is kept, the device has one more, and the server has this for it."""
    for number in range(20):
        device.add_note(f"front {number}", "back")
    device.upload()
    account.server.command("snapshot", "take", account.user)
    device.add_note("later", "work")
    device.sync()
    return damaged(account, damage)


def damaged(account: Account, damage: Callable[[Path], None]) -> bytes:
    """What lies there now; while the server does not run, as it has pages in memory."""
    file = account.server.folder(account.user) / "collection.anki2"
    account.server.stop()
    damage(file)
    account.server.start()
    return file.read_bytes()


def refusal(device: Device) -> str:
    with pytest.raises(ClientError) as caught:
        device.sync()
    return caught.value.text


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("release", PAIR)
def test_a_copy_takes_the_place_of_a_damaged_collection(
    account: Account, release: str, damage: Callable[[Path], None]
) -> None:
    """The client shows the command; after it, the device with later work loses none of it."""
    device = account.device(release)
    lies = ruined(account, device, damage)
    [copy] = json.loads(account.server.command("snapshot", "list", account.user, "--json").stdout)
    words = refusal(device)
    assert "damaged" in words
    assert f"cardkeep snapshot restore {account.user} {copy['id']}" in words
    assert "Traceback" not in account.server.log()

    done = account.server.command("snapshot", "restore", account.user, copy["id"])
    (aside,) = (account.server.folder(account.user) / ".cardkeep" / "damaged").iterdir()
    assert str(aside) in done.stdout
    if damage is not emptied:  # SQLite takes that for a new file, and begins it
        assert (aside / "collection.anki2").read_bytes() == lies
    assert len(account.contents()["notes"]) == 20
    outcome = device.sync_outcome()
    assert outcome["action"] == "full"
    assert "choose Upload" in outcome["message"]
    device.upload()
    device.sync()
    assert len(account.assert_converged()["notes"]) == 21
    assert "all is well" in account.server.command("check", account.user).stdout


def test_an_import_takes_its_place_too(account: Account, tmp_path: Path) -> None:
    """Where no copy is kept, what a device exports is as good."""
    device = account.device("26.9.3")
    device.add_note("front", "back")
    device.upload()
    damaged(account, emptied)
    assert f"cardkeep import {account.user} FILE --replace" in refusal(device)
    file = device.copy(tmp_path / "exported.anki2")
    account.server.command("import", account.user, str(file), "--replace")
    device.download()
    device.sync()
    assert len(account.assert_converged()["notes"]) == 1


def test_other_users_notice_nothing(account: Account, tmp_path: Path) -> None:
    """And what needs no collection goes on: logins, media."""
    device = account.device("26.9.3")
    ruined(account, device, garbage)
    with account_on(account.server, tmp_path / "others") as others:
        other = others.device("26.9.3")
        other.add_note("front", "back")
        other.upload()
        other.sync()
        others.assert_converged()
    device.log_in(account.server, account.user)
    device.add_media("picture.jpg", b"picture")
    device.sync_media()


@pytest.mark.parametrize("release", PAIR)
def test_a_damaged_index_of_media(account: Account, release: str) -> None:
    """Collections are synced meanwhile; the repair has devices compare all their files once."""
    device, other = account.in_sync(release, release)
    device.add_media("old.jpg", b"old")
    device.sync_media()
    other.sync_media()
    account.server.stop()
    (account.server.folder(account.user) / "media.db").write_bytes(os.urandom(20_000))
    account.server.start()
    device.add_note("front", "back")
    device.sync()
    other.sync()
    account.assert_converged()
    device.upload()
    device.add_media("new.jpg", b"new")
    with pytest.raises(ClientError):
        device.sync_media()

    assert "a new one" in account.server.command("check", account.user, "--repair").stdout
    other.add_media("other.jpg", b"other")
    for each in (device, other, device, other):
        each.sync_media()
    assert set(device.media()) == {"old.jpg", "new.jpg", "other.jpg"}
    assert device.media() == other.media()
    assert "all is well" in account.server.command("check", account.user).stdout
