# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several devices at once, and clients that vanish."""

import threading

import msgspec
import pytest

from cardkeep.errors import Conflict, Unavailable
from cardkeep.messages import Abort
from cardkeep.sync import session
from tests.sync.conftest import World, card, review


def test_the_second_device_waits(world: World) -> None:
    """A start finds a live sync and begins right after that one's commit."""
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.meta()
    tablet.meta()
    phone.start()
    began = threading.Event()

    def second() -> None:
        tablet.start()
        began.set()

    waiting = threading.Thread(target=second)
    waiting.start()
    assert not began.wait(0.2)
    phone.change()
    phone.fetch()
    phone.push(cards=[card(1, 1)])
    counts = world.counts()
    assert phone.check(msgspec.structs.replace(counts, cards=counts.cards + 1)).ok
    assert began.wait(5)
    waiting.join()
    assert phone.finish()
    assert tablet.change() is not None
    assert [row[0] for chunk in tablet.fetch() for row in chunk.cards] == [1]


def test_after_the_time_of_waiting_the_second_takes_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one taken over gets a conflict, and has changed nothing."""
    monkeypatch.setattr(session, "TAKE_OVER_AFTER", 0.1)
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.meta()
    phone.start()
    phone.change()
    phone.push(revlog=[review(1, 1)])
    tablet.sync()
    with pytest.raises(Conflict):
        phone.check(world.counts())
    assert world.counts().revlog == 0


@pytest.mark.parametrize(("device", "silent"), [("phone", 3_100), ("tablet", 60_100)])
def test_a_silent_sync_is_taken_over_at_once(world: World, device: str, silent: int) -> None:
    """The same device comes back after seconds, another waits until the first has surely gone."""
    phone = world.device("phone")
    phone.meta()
    phone.start()
    world.clock.ms += silent
    world.device(device).sync()


def test_a_clock_that_went_back_ends_no_sync(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that seems to come from the future is as alive as any other."""
    monkeypatch.setattr(session, "TAKE_OVER_AFTER", 60)
    monkeypatch.setattr(session, "_GIVE_UP_AFTER", 0.2)
    phone = world.device("phone")
    phone.meta()
    phone.start()
    world.clock.ms -= 10_000
    tablet = world.device("tablet")
    tablet.meta()
    with pytest.raises(Unavailable):
        tablet.start()
    phone.change()


def test_meta_disturbs_nobody(world: World) -> None:
    """Another device may look while a sync is under way."""
    phone = world.device("phone")
    phone.meta()
    phone.start()
    world.device("tablet").meta()
    phone.change()
    phone.fetch()
    assert phone.check(world.counts()).ok
    world.device("tablet").meta()
    assert phone.finish()


def test_abort_ends_only_the_callers_own_sync(world: World) -> None:
    """An abort under another key changes nothing; it always succeeds."""
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.meta()
    phone.start()
    tablet.session = "other"
    tablet.say(Abort())
    phone.change()
    phone.say(Abort())
    with pytest.raises(Conflict):
        phone.fetch()


def test_a_lost_answer_to_finish(world: World) -> None:
    """The client sends the same again; the collection stays the same."""
    phone = world.device("phone")
    rows = {"cards": [card(1, 1, mod=5)], "revlog": [review(1, 1)]}
    phone.sync(**rows)
    phone.usn = 0
    got = phone.sync(**rows)
    assert got.ids("revlog") == {1}
    assert world.counts().revlog == 1


def test_an_old_client_does_not_get_its_own_reviews_back(world: World) -> None:
    """It would store them twice. Cards are sent all the same."""
    phone = world.device("phone", protocol=10)
    rows = {"cards": [card(1, 1, mod=5)], "revlog": [review(1, 1)]}
    phone.sync(**rows)
    other = world.device("tablet")
    other.sync(revlog=[review(2, 1)])
    phone.usn = 0
    got = phone.sync(**rows)
    assert got.ids("revlog") == {2}
    assert got.ids("cards") == {1}


def test_nor_after_another_device_came_between_its_meta_and_start(world: World) -> None:
    """It believes in a usn one too low, and asks from there the next time."""
    phone, tablet = world.device("phone", protocol=10), world.device("tablet")
    tablet.sync()
    phone.sync()
    phone.meta()
    claimed = phone.known.usn if phone.known else 0
    tablet.sync(revlog=[review(5, 1)])
    phone.start()
    phone.change()
    phone.fetch()
    mine = review(6, 1)
    mine[2] = claimed
    phone.push(revlog=[mine])
    expected = world.counts()
    answer = phone.check(
        type(expected)(
            expected.cards,
            expected.notes,
            expected.revlog + 1,
            expected.notetypes,
            expected.decks,
            expected.deck_configs,
        )
    )
    assert answer.ok
    phone.finish()
    assert phone.usn == claimed + 1
    assert phone.sync().ids("revlog") == set()
    assert tablet.sync().ids("revlog") == {6}


def test_a_failed_check_heals_a_wrong_guess(world: World) -> None:
    """The official key is shared by devices: what was kept back is sent the next time."""
    phone = world.device("shared", protocol=10)
    phone.sync(revlog=[review(1, 1)])
    other = world.device("shared", protocol=10)
    other.meta()
    other.start()
    other.change()
    assert [row for chunk in other.fetch() for row in chunk.revlog] == []
    expected = world.counts()
    wrong = type(expected)(
        expected.cards,
        expected.notes,
        expected.revlog - 1,
        expected.notetypes,
        expected.decks,
        expected.deck_configs,
    )
    assert not other.check(wrong).ok
    assert other.sync().ids("revlog") == {1}
