# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whatever a device replaces or deletes on the server, the server can give back."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.device import ClientError, Device, FullSyncRequired, Json
from tests.clients.environments import NEWEST
from tests.clients.story import PAIR, Account, account_on, differences
from tests.servers import running


def copies(account: Account) -> list[dict[str, Any]]:
    """The kept copies, as the command lists them for programs."""
    listed = account.server.command("snapshot", "list", account.user, "--json")
    found: list[dict[str, Any]] = json.loads(listed.stdout)
    return found


def wait_for_copies(account: Account, number: int) -> list[dict[str, Any]]:
    """The daily copy is made beside the sync that asks for it."""
    for _ in range(200):
        if len(found := copies(account)) >= number:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{number} copies expected, there are {found}")


def with_notes(device: Device, number: int) -> list[int]:
    notes = [device.add_note(f"front {n}", f"back {n}") for n in range(number)]
    for card in device.cards()[:5]:
        device.answer(card)
    return notes


def lost(before: Json, now: Json, release: str = NEWEST) -> list[str]:
    """What is not as it was; that every device must ask for the direction is as it should be."""
    return [line for line in differences(before, now, release) if not line.startswith("/col/scm:")]


def shrunk(account: Account, release: str) -> Device:
    """A device that was in sync, with a nearly empty collection since then."""
    other = account.device(release)
    other.add_note("all that is left", "")
    return other


@pytest.mark.parametrize("release", PAIR)
def test_an_upload_the_wrong_way_is_put_back(account: Account, release: str) -> None:
    """Upload instead of Download; restore; Download: every device has the old collection again."""
    device = account.device(release)
    with_notes(device, 150)
    device.upload()
    before = account.contents()
    culprit = shrunk(account, release)
    culprit.upload()
    assert len(account.contents()["notes"]) == 1

    newest = copies(account)[0]
    assert newest["reason"] == "upload"
    assert newest["pinned"]
    assert (newest["cards"], newest["notes"], newest["reviews"]) == (150, 150, 5)
    done = account.server.command("snapshot", "restore", account.user, newest["id"])
    assert "150 cards" in done.stdout

    assert lost(before, account.contents()) == []
    for each in (culprit, device):
        outcome = each.sync_outcome()
        assert outcome["action"] == "full"
        assert "choose Download" in outcome["message"]
        each.download()
        assert lost(before, each.contents(), each.release) == []
        assert each.sync_outcome() == {"action": "none", "message": "", "new_endpoint": ""}
    device.add_note("goes on", "")
    device.sync()
    account.assert_converged()
    # What the restore replaced is kept too.
    assert [copy["reason"] for copy in copies(account)][:2] == ["restore", "upload"]


@pytest.mark.parametrize("release", PAIR)
def test_the_user_is_told_once_what_was_kept(account: Account, release: str) -> None:
    """After an upload that holds far less, in words that name both counts and the way back."""
    device = account.device(release)
    with_notes(device, 120)
    device.upload()
    culprit = shrunk(account, release)
    culprit.upload()
    [copy] = copies(account)
    told = culprit.sync_outcome()["message"]
    assert "120 cards" in told
    assert "1 cards" in told
    assert f"cardkeep snapshot restore {account.user} {copy['id']}" in told
    assert culprit.sync_outcome()["message"] == ""
    # The other device is asked for the direction, and told the same.
    assert copy["id"] in device.sync_outcome()["message"]
    assert device.sync_outcome()["message"] == ""


def test_a_like_upload_is_kept_but_not_spoken_of(account: Account) -> None:
    """An upload that loses little leaves a copy, no pin and no words."""
    device = account.device("26.9.3")
    notes = with_notes(device, 120)
    device.upload()
    device.delete_notes(*notes[:50])
    device.upload()
    [copy] = copies(account)
    assert (copy["reason"], copy["pinned"], copy["notes"]) == ("upload", False, 120)
    assert device.sync_outcome()["message"] == ""


def test_the_same_collection_twice_is_kept_once(account: Account) -> None:
    """A copy of a state that is kept already is not taken again."""
    device = account.device("26.9.3")
    with_notes(device, 3)
    device.upload()
    for _ in range(2):
        account.server.command("snapshot", "take", account.user)
    assert [copy["reason"] for copy in copies(account)] == ["manual"]


@pytest.mark.parametrize("release", PAIR)
def test_a_large_deletion_leaves_a_copy(account: Account, release: str) -> None:
    """More than a fifth and more than a hundred notes deleted in a normal sync."""
    device, other = account.in_sync(release, release)
    notes = with_notes(device, 240)
    device.sync()
    device.delete_notes(*notes[:101])
    device.sync()
    kept = copies(account)
    assert ("deletion", 240) in [(copy["reason"], copy["notes"]) for copy in kept]
    other.sync()
    account.assert_converged()
    account.server.command("snapshot", "restore", account.user, kept[0]["id"])
    device.sync_outcome()
    device.download()
    assert len(device.notes()) == 240


def test_a_small_deletion_leaves_none(account: Account) -> None:
    """A hundred notes go without a copy of their own."""
    (device,) = account.in_sync("26.9.3")
    notes = with_notes(device, 120)
    device.sync()
    device.delete_notes(*notes[:100])
    device.sync()
    assert "deletion" not in [copy["reason"] for copy in copies(account)]


def test_each_day_begins_with_a_copy(account: Account) -> None:
    """Of the state before the day's first sync that changes something, and of no later one."""
    device, other = account.in_sync("26.9.3", "2.1.54")
    notes = with_notes(device, 10)
    device.sync()  # nothing was there before, so nothing is kept
    device.add_note("eleven", "")
    device.sync()
    [copy] = wait_for_copies(account, 1)
    assert (copy["reason"], copy["notes"]) == ("daily", len(notes))
    other.sync()
    other.add_note("twelve", "")
    other.sync()
    assert copies(account) == [copy]
    copied = account.server.folder(account.user) / ".cardkeep" / "copied"
    yesterday = time.time() - 86_400
    os.utime(copied, (yesterday, yesterday))
    device.sync()
    device.add_note("thirteen", "")
    device.sync()
    newest, _ = wait_for_copies(account, 2)
    assert (newest["reason"], newest["notes"]) == ("daily", 12)


def test_a_restore_ends_a_running_sync_without_damage(account: Account) -> None:
    """The client that is in the middle of a sync is told to try again, then asked."""
    device, other = account.in_sync("26.9.3", "26.9.3")
    with_notes(device, 30)
    device.sync()
    account.server.command("snapshot", "take", account.user)
    with_notes(device, 5)
    device.sync()
    newest = copies(account)[0]
    for n in range(400):
        other.add_note(f"other {n}", "")
    running_sync = other.begin_sync()
    account.server.command("snapshot", "restore", account.user, newest["id"])
    try:
        running_sync.result()
    except (ClientError, FullSyncRequired):
        assert other.asks_for() == "full"
    else:
        assert other.asks_for() == "full"
    other.download()
    assert other.damage() == []
    account.assert_converged(other)


# --- settings ---------------------------------------------------------------------------


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Account]:
    """An account on a server that refuses uploads which lose much."""
    with running("cardkeep", environment={"CARDKEEP_SHRINK_GUARD": "refuse"}) as server:
        with account_on(server, tmp_path) as account:
            yield account


@pytest.mark.parametrize("release", PAIR)
def test_a_shrinking_upload_is_refused_in_words(strict: Account, release: str) -> None:
    """Naming both counts and how to allow it once; then it is taken, once."""
    device = strict.device(release)
    with_notes(device, 120)
    device.upload()
    before = strict.contents()
    culprit = shrunk(strict, release)
    with pytest.raises(ClientError) as refused:
        culprit.upload()
    assert "1 cards" in refused.value.text
    assert "120 cards" in refused.value.text
    assert f"cardkeep snapshot allow {strict.user}" in refused.value.text
    assert differences(strict.contents(), before) == []
    assert copies(strict) == []

    strict.server.command("snapshot", "allow", strict.user)
    culprit.upload()
    assert len(strict.contents()["notes"]) == 1
    [copy] = copies(strict)
    assert copy["pinned"]
    strict.server.command("snapshot", "restore", strict.user, copy["id"])
    device.sync_outcome()
    device.download()
    culprit.add_note("again", "")
    with pytest.raises(ClientError):
        culprit.upload()


def test_the_guard_can_be_off(tmp_path: Path) -> None:
    """Then a shrinking upload leaves its copy, but no pin and no words."""
    with (
        running("cardkeep", environment={"CARDKEEP_SHRINK_GUARD": "off"}) as server,
        account_on(server, tmp_path) as account,
    ):
        device = account.device("26.9.3")
        with_notes(device, 120)
        device.upload()
        culprit = shrunk(account, "26.9.3")
        culprit.upload()
        [copy] = copies(account)
        assert (copy["reason"], copy["pinned"]) == ("upload", False)
        assert culprit.sync_outcome()["message"] == ""


def test_two_workers_keep_one_daily_copy(tmp_path: Path) -> None:
    """What is due is on disk, not in a process."""
    with (
        running("cardkeep", environment={"CARDKEEP_WORKERS": "2"}) as server,
        account_on(server, tmp_path) as account,
    ):
        (device,) = account.in_sync("26.9.3")
        with_notes(device, 5)
        device.sync()
        for n in range(6):
            device.add_note(f"more {n}", "")
            device.sync()
        assert [copy["reason"] for copy in wait_for_copies(account, 1)] == ["daily"]


# --- commands ---------------------------------------------------------------------------


def test_a_copy_is_written_to_a_file(account: Account, tmp_path: Path) -> None:
    """`--to FILE.anki2` gives a collection that Anki opens; the server keeps what it has."""
    device = account.device("26.9.3")
    with_notes(device, 7)
    device.upload()
    before = account.contents()
    command = account.server.command
    command("snapshot", "take", account.user)
    device.add_note("more", "")
    device.sync()
    target = tmp_path / "back.anki2"
    command("snapshot", "restore", account.user, "latest", "--to", str(target))
    opened = account.device("26.9.3", target)
    assert differences(before, opened.contents()) == []
    assert len(account.contents()["notes"]) == 8
    again = command("snapshot", "restore", account.user, "latest", "--to", str(target), check=False)
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_copies_are_pinned_and_deleted(account: Account) -> None:
    """A pinned copy is not deleted before its pin is taken out; an unknown id is told."""
    device = account.device("26.9.3")
    with_notes(device, 3)
    device.upload()
    command = account.server.command
    command("snapshot", "take", account.user)
    [copy] = copies(account)
    assert copy.keys() >= {"id", "time", "reason", "cards", "notes", "reviews", "bytes", "pinned"}
    command("snapshot", "pin", account.user, copy["id"])
    refused = command("snapshot", "delete", account.user, copy["id"], check=False)
    assert (refused.returncode, "is pinned" in refused.stderr) == (1, True)
    command("snapshot", "pin", account.user, copy["id"], "--off")
    command("snapshot", "delete", account.user, copy["id"])
    assert copies(account) == []
    for verb in ("restore", "pin", "delete"):
        unknown = command("snapshot", verb, account.user, "20200101-000000", check=False)
        assert (unknown.returncode, "no kept copy" in unknown.stderr) == (1, True)
    nobody = command("snapshot", "list", "nobody", check=False)
    assert (nobody.returncode, "no user nobody" in nobody.stderr) == (1, True)


def test_a_damaged_copy_is_not_put_back(account: Account) -> None:
    """What does not come out byte for byte as it went in changes nothing."""
    device = account.device("26.9.3")
    with_notes(device, 30)
    device.upload()
    account.server.command("snapshot", "take", account.user)
    [copy] = copies(account)
    folder = account.server.folder(account.user) / ".cardkeep" / "snapshots" / copy["id"]
    packed = folder / "collection.anki2.zst"
    content = bytearray(packed.read_bytes())
    before = account.contents()
    for damaged in (content[: len(content) // 2], content[:100] + b"\0" * 50 + content[150:]):
        packed.write_bytes(damaged)
        failed = account.server.command(
            "snapshot", "restore", account.user, copy["id"], check=False
        )
        assert failed.returncode == 1
        assert copy["id"] in failed.stderr
        assert differences(account.contents(), before) == []
        assert device.asks_for() == "none"


# --- media ------------------------------------------------------------------------------


@pytest.mark.parametrize("release", PAIR)
def test_deleted_and_replaced_media_come_back(account: Account, release: str) -> None:
    """A restore gives each file the bytes that it had; what was added since stays."""
    device, other = account.in_sync(release, "26.9.3")
    with_notes(device, 3)
    for name in ("kept.txt", "deleted.txt", "replaced.txt"):
        device.add_media(name, f"first {name}".encode())
    device.sync(media=True)
    other.sync(media=True)
    before = other.media()
    account.server.command("snapshot", "take", account.user)
    device.delete_media("deleted.txt")
    time.sleep(1.1)  # old clients see by the second of its time that a file is another one
    device.replace_media("replaced.txt", b"second")
    device.add_media("added.txt", b"added")
    device.sync(media=True)
    other.sync(media=True)
    assert "deleted.txt" not in other.media()

    done = account.server.command("snapshot", "restore", account.user, "latest")
    assert "2 media files came back" in done.stdout
    for each in (device, other):
        each.sync_outcome()
        each.download()
        each.sync_media()
        assert each.media() == {**before, "added.txt": each.media()["added.txt"]}


def test_a_copy_as_a_package_has_the_media_of_then(account: Account, tmp_path: Path) -> None:
    """`--to FILE.colpkg` takes deleted files out of the trash, and changes nothing."""
    device = account.device("26.9.3")
    with_notes(device, 3)
    device.add_media("old.txt", b"old")
    device.upload()
    device.sync_media()
    before = account.contents()
    command = account.server.command
    command("snapshot", "take", account.user)
    device.replace_media("old.txt", b"new")
    device.sync_media()
    with_notes(device, 2)
    device.sync()
    target = tmp_path / "then.colpkg"
    command("snapshot", "restore", account.user, "latest", "--to", str(target))
    assert len(account.contents()["notes"]) == 5
    fresh = account.device("26.9.3")
    fresh.import_package(target)
    assert lost(before, fresh.contents()) == []
    assert fresh.media() == {"old.txt": hashlib.sha1(b"old").hexdigest()}
