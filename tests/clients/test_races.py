# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two devices of one user meet in the middle of their syncs."""

from contextlib import suppress
from pathlib import Path

import pytest

from tests.clients.device import ClientError
from tests.clients.proxy import Proxy
from tests.clients.story import PAIR, Account, account_on

STEPS = ("start", "applyChanges", "chunk", "applyChunk", "sanityCheck2", "finish")


@pytest.mark.parametrize("release", ["26.9.3", "2.1.60", "2.1.54", "2.1.39"])
@pytest.mark.official_fails("the usn of `meta` is stored, though another sync came between")
def test_a_whole_sync_between_meta_and_start_hides_nothing(
    account: Account, proxy: Proxy, release: str
) -> None:
    """What the late one sends reaches the device that synced meanwhile, with no full sync."""
    late, other, third = account.in_sync(release, "24.11", "2.1.54")
    shared, theirs = late.add_note("shared", "note"), late.add_note("theirs", "note")
    account.settle()
    late.edit_note(shared, "edited by the late one")
    late.answer(late.cards_of(shared)[0])
    new = late.add_note("new", "note", deck="New deck", tags=["new-tag"])
    late.add_notetype("New notetype")
    late.through(proxy.url)
    held = proxy.hold_request("start")
    syncing = late.begin_sync()
    held.wait()
    quick = other.add_note("quick", "note")
    other.sync()
    # Of this review the late one hears now, and by its usn it would hear once more.
    third.answer(third.cards_of(theirs)[0])
    third.sync()
    held.release()
    syncing.result()
    holds = account.assert_converged()
    assert sorted(map(int, holds["notes"])) == sorted([shared, theirs, new, quick])
    assert other.note(shared)["fields"][0] == "edited by the late one"
    assert len(holds["revlog"]) == 2
    assert "New notetype" in other.notetypes()


@pytest.mark.parametrize("releases", [PAIR, ("2.1.60", "25.9.2"), ("2.1.39", "2.1.54")], ids=str)
@pytest.mark.official_fails("a `start` or `meta` ends the other's sync", strict=False)
def test_two_devices_at_the_same_moment_both_succeed(
    account: Account, releases: tuple[str, str]
) -> None:
    """24 times both start to sync at once; neither is told to wait, and nothing is lost."""
    one, two = account.in_sync(*releases)
    made = []
    for n in range(24):
        made.append(one.add_note(f"one {n}", "", deck=f"deck {n % 3}"))
        made.append(two.add_note(f"two {n}", "", tags=[f"tag{n}"]))
        if n % 3 == 0:
            two.answer(two.cards_of(made[-1])[0])
        running = [one.begin_sync(), two.begin_sync()]
        for sync in running:
            sync.result()
    holds = account.assert_converged()
    assert sorted(map(int, holds["notes"])) == sorted(made)
    assert len(holds["revlog"]) == 8


@pytest.mark.official_fails("a `start` or `meta` ends the other's sync")
def test_the_second_waits_until_the_first_is_done(account: Account, proxy: Proxy) -> None:
    """A sync that another device's holds up goes on when that one has finished."""
    slow, quick = account.in_sync(*PAIR)
    slow.add_note("slow", "")
    quick.add_note("quick", "")
    slow.through(proxy.url)
    held = proxy.hold_request("applyChunk")
    with Proxy(account.server.port) as watched:
        quick.through(watched.url)
        waiting = watched.when("start", before=held.release)
        first = slow.begin_sync()
        held.wait()
        second = quick.begin_sync()
        first.result()
        second.result()
        assert waiting.happened.is_set()
        assert len(account.assert_converged()["notes"]) == 2


@pytest.mark.parametrize(
    "step",
    [
        step if step in ("applyChanges", "finish") else pytest.param(step, marks=pytest.mark.long)
        for step in STEPS
    ],
)
def test_a_sync_that_stands_still_is_taken_over(account: Account, proxy: Proxy, step: str) -> None:
    """The second device gets on in bounded time; the first syncs again and loses nothing."""
    still, other = account.in_sync(*PAIR)
    mine, deck = still.add_note("mine", ""), still.add_deck("Mine")
    theirs = other.add_note("theirs", "")
    still.through(proxy.url)
    held = proxy.hold_request(step)
    stuck = still.begin_sync()
    held.wait()
    for _ in range(2):
        try:
            other.sync()
        except ClientError:
            # The official server has ended the first at once; nothing is wrong with that.
            continue
        break
    held.release()
    # Once all is committed, the one that stood still may hear so.
    expected = pytest.raises(ClientError) if step != "finish" else suppress(ClientError)
    with expected:
        stuck.result()
    holds = account.assert_converged()
    assert sorted(map(int, holds["notes"])) == sorted([mine, theirs])
    assert str(deck) in holds["decks"]


def test_logins_media_and_other_users_do_not_wait(
    account: Account, proxy: Proxy, tmp_path: Path
) -> None:
    """While a collection sync stands still, a login, media and another user's sync go through."""
    syncing, other = account.in_sync(*PAIR)
    syncing.add_note("a", "b")
    syncing.through(proxy.url)
    held = proxy.hold_request("applyChunk")
    running = syncing.begin_sync()
    held.wait()
    other.log_in(account.server, account.user)
    other.add_media("a.txt", b"a")
    other.sync_media()
    with account_on(account.server, tmp_path / "somebody") as somebody:
        theirs, again = somebody.in_sync(*PAIR)
        theirs.add_note("1", "2")
        theirs.sync()
        again.sync()
        assert again.notes() == theirs.notes()
    held.release()
    running.result()
    account.assert_converged()


@pytest.mark.long
@pytest.mark.parametrize("release", PAIR)
def test_an_upload_takes_over_a_sync_that_stands_still(
    account: Account, proxy: Proxy, release: str
) -> None:
    """The upload stays; the sync that stood still ends in an error and asks for a full one."""
    still, uploader = account.in_sync("2.1.60", release)
    still.add_note("lost by the user's choice", "")
    still.through(proxy.url)
    held = proxy.hold_request("applyChanges")
    stuck = still.begin_sync()
    held.wait()
    kept = uploader.add_note("kept", "")
    uploader.upload()
    held.release()
    with pytest.raises(ClientError):
        stuck.result()
    assert still.asks_for() == "full"
    still.download()
    assert still.notes() == [kept]
    account.assert_converged()


@pytest.mark.parametrize("release", PAIR)
def test_a_download_beside_a_running_sync_is_whole(
    account: Account, proxy: Proxy, release: str
) -> None:
    """A device that downloads while another syncs gets the state before or after."""
    syncing, *_ = account.in_sync("24.11")
    first = syncing.add_note("first", "")
    syncing.sync()
    syncing.through(proxy.url)
    fresh = account.device(release)
    syncing.add_note("second", "")
    held = proxy.hold_answer("finish")
    running = syncing.begin_sync()
    held.wait()
    fresh.download()
    assert first in fresh.notes()
    assert len(fresh.cards()) == len(fresh.notes())
    held.release()
    running.result()
    assert len(account.assert_converged()["notes"]) == 2
