# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whatever breaks at whichever step, a normal sync afterwards loses nothing.

Each sync carries every kind of change both ways: the device that breaks has a note, an edit, a
review, a deletion and a new deck to tell, and as much to hear.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.device import ClientError, Device, Gone
from tests.clients.proxy import Proxy, Rule
from tests.clients.story import Account, account_on
from tests.servers import Server, running

# An engine of each protocol; the oldest one for what it alone gets wrong.
RELEASES = ("26.9.3", "2.1.54")
OLDEST = "2.1.39"
STEPS = (
    "meta",
    "start",
    "applyGraves",
    "applyChanges",
    "chunk",
    "applyChunk",
    "sanityCheck2",
    "finish",
)
# After an answer is before the next request, but for the commit.
KILLS = [
    ("before", STEPS),
    ("after", ("applyChunk", "sanityCheck2", "finish")),
    pytest.param("after", STEPS[:5], marks=pytest.mark.long),
]


@dataclass
class Told:
    """What a device did, to be found everywhere in the end."""

    note: int
    edited: int
    text: str
    answered: int
    deleted: int
    deck: str


def do_everything(device: Device, stock: list[int], round_: str) -> Told:
    """Changes of every kind; `stock` are notes that nobody else touches."""
    edited, answered, deleted = (stock.pop() for _ in range(3))
    deck = f"Deck {round_} of {device}"
    note = device.add_note(f"new {round_} on {device}", "", deck=deck, tags=[f"tag-{round_}"])
    device.edit_note(edited, f"edited {round_} on {device}")
    device.answer(device.cards_of(answered)[0])
    device.delete_notes(deleted)
    text = f"edited {round_} on {device}"
    return Told(note, edited, text, answered, deleted, deck)


class Pair:
    """A device whose connection breaks and one whose does not, with notes to work on."""

    def __init__(self, account: Account, release: str) -> None:
        self.account = account
        self.breaking, self.sound = account.in_sync(
            release, "24.11" if release == "2.1.54" else "2.1.54"
        )
        # Of decks of their own: what both study in one second is a story of ties.
        self._stock = {
            device: [
                self.sound.add_note(f"stock {n}", "", deck=f"Stock of {device}") for n in range(80)
            ]
            for device in (self.sound, self.breaking)
        }
        self.sound.sync()
        self.breaking.sync()
        self._told: list[Told] = []

    def change_both(self, round_: str) -> None:
        """Both have something to tell; the sound one has told it."""
        for device in (self.sound, self.breaking):
            self._told.append(do_everything(device, self._stock[device], round_))
        self.sound.sync()

    def assert_same_numbers(self) -> None:
        """A quick look after each step: both have as many rows of each kind."""
        self.account.settle(rounds=2)
        numbers = (
            "select (select count() from notes), (select count() from cards),"
            " (select count() from revlog), (select max(id) from notes)"
        )
        assert self.breaking.sql(numbers) == self.sound.sql(numbers)

    def assert_nothing_lost(self) -> None:
        """After normal syncs both have every change once, and the server too."""
        holds = self.account.assert_converged(self.breaking, self.sound)
        notes, decks = holds["notes"], {deck["name"] for deck in holds["decks"].values()}
        for told in self._told:
            assert str(told.note) in notes
            assert notes[str(told.edited)]["flds"].split("\x1f")[0] == told.text
            assert str(told.deleted) not in notes
            assert told.deck in decks
        answered = sorted(
            card for told in self._told for card in self.sound.cards_of(told.answered)
        )
        assert sorted(entry["cid"] for entry in holds["revlog"].values()) == answered


@contextlib.contextmanager
def at(step: str) -> Iterator[None]:
    """Says with a failure which step it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"at {step}")
        raise


@pytest.fixture
def own_server(server_kind: str) -> Iterator[Server]:
    """A server that a test may kill."""
    with running(server_kind) as server:
        yield server


@pytest.fixture(params=[*RELEASES, pytest.param(OLDEST, marks=pytest.mark.long)])
def release(request: pytest.FixtureRequest) -> str:
    """The release of the device that breaks."""
    chosen: str = request.param
    return chosen


@pytest.mark.official_fails("2.1.39 stores its own reviews twice", strict=False)
@pytest.mark.parametrize("release", [*RELEASES, OLDEST])
@pytest.mark.parametrize("lose", [Proxy.lose_request, Proxy.cut_request, Proxy.lose_answer])
def test_a_request_or_answer_is_lost(
    account: Account, proxy: Proxy, release: str, lose: Callable[[Proxy, str], Rule]
) -> None:
    """The connection breaks at any step; the device changes more, syncs again, and all is well."""
    pair = Pair(account, release)
    pair.breaking.through(proxy.url)
    for step in STEPS:
        with at(step):
            pair.change_both(f"{step} 1")
            broken = lose(proxy, step)
            with pytest.raises(ClientError):
                pair.breaking.sync()
            assert broken.happened.is_set()
            proxy.well_again()
            pair.breaking.sync()
            pair.change_both(f"{step} 2")
            pair.assert_same_numbers()
    pair.assert_nothing_lost()


@pytest.mark.official_fails("a deck studied again in the same second differs", strict=False)
@pytest.mark.parametrize("lose", [Proxy.lose_request, Proxy.lose_answer])
def test_the_other_device_syncs_after_a_loss(
    account: Account, proxy: Proxy, release: str, lose: Callable[[Proxy, str], Rule]
) -> None:
    """While one is left in the middle and goes on working, the other syncs; then the first."""
    pair = Pair(account, release)
    pair.breaking.through(proxy.url)
    for step in STEPS:
        with at(step):
            pair.change_both(f"{step} 1")
            lose(proxy, step)
            with pytest.raises(ClientError):
                pair.breaking.sync()
            proxy.well_again()
            pair.change_both(f"{step} 2")
            pair.assert_same_numbers()
    pair.assert_nothing_lost()


@pytest.mark.official_fails("a deck studied again in the same second differs", strict=False)
@pytest.mark.parametrize(("side", "steps"), KILLS, ids=["before", "after", "after all"])
def test_the_server_is_killed(
    own_server: Server, tmp_path: Path, release: str, side: str, steps: Sequence[str]
) -> None:
    """SIGKILL just before a request arrives, or just after its answer was sent, at any step."""
    with account_on(own_server, tmp_path / "account") as account, Proxy(own_server.port) as proxy:
        pair = Pair(account, release)
        pair.breaking.through(proxy.url)
        for step in steps:
            with at(step):
                pair.change_both(f"{step} 1")
                killed = proxy.when(step, **{side: own_server.kill})
                with contextlib.suppress(ClientError):
                    # After the answer to `finish` the client has all it needs.
                    pair.breaking.sync()
                assert killed.happened.is_set()
                own_server.start()
                proxy.well_again()
                pair.breaking.sync()
                pair.change_both(f"{step} 2")
                pair.assert_same_numbers()
        pair.assert_nothing_lost()


@pytest.mark.official_fails("a deck studied again in the same second differs", strict=False)
@pytest.mark.parametrize(
    "step",
    [
        step if step == "applyChunk" else pytest.param(step, marks=pytest.mark.long)
        for step in STEPS[1:]
    ],
)
def test_the_other_device_comes_first_after_a_kill(
    own_server: Server, tmp_path: Path, release: str, step: str
) -> None:
    """What is left of the sync that a SIGKILL ended holds the other device up, but not for long."""
    with account_on(own_server, tmp_path / "account") as account, Proxy(own_server.port) as proxy:
        pair = Pair(account, release)
        pair.breaking.through(proxy.url)
        pair.change_both("1")
        proxy.when(step, before=own_server.kill)
        with pytest.raises(ClientError):
            pair.breaking.sync()
        own_server.start()
        proxy.well_again()
        pair.change_both("2")
        pair.assert_nothing_lost()


@pytest.mark.parametrize(("side", "steps"), KILLS, ids=["before", "after", "after all"])
def test_the_client_is_killed(
    account: Account, proxy: Proxy, release: str, side: str, steps: Sequence[str]
) -> None:
    """The client dies with a request or an answer on its way; it starts again and syncs."""
    pair = Pair(account, release)
    for step in steps:
        with at(step):
            pair.breaking.through(proxy.url)
            pair.change_both(f"{step} 1")
            killed = proxy.when(step, **{side: pair.breaking.kill})
            with pytest.raises(Gone):
                pair.breaking.sync()
            assert killed.happened.is_set()
            proxy.well_again()
            pair.breaking.restart()
            pair.breaking.sync()
            pair.change_both(f"{step} 2")
            pair.assert_same_numbers()
    pair.assert_nothing_lost()


@pytest.mark.parametrize("side", ["before", "after"])
def test_the_server_is_killed_at_an_upload(
    own_server: Server, tmp_path: Path, release: str, side: str
) -> None:
    """The account has the old collection or the new one, whole, and no device is stuck."""
    with account_on(own_server, tmp_path / "account") as account, Proxy(own_server.port) as proxy:
        device, other = account.in_sync(release, "24.11")
        old = device.add_note("old", "")
        account.settle()
        new = device.add_note("new", "")
        device.through(proxy.url)
        proxy.when("upload", **{side: own_server.kill})
        with contextlib.suppress(ClientError):
            device.upload()
        own_server.start()
        proxy.well_again()
        held = [int(note) for note in account.contents()["notes"]]
        assert held == ([old] if side == "before" else [old, new])
        device.upload()
        assert other.asks_for() in ("full", "download")
        other.download()
        assert other.notes() == [old, new]
        account.assert_converged()


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("method", ["uploadChanges", "downloadFiles", "mediaChanges"])
def test_the_server_is_killed_at_a_media_sync(
    own_server: Server, tmp_path: Path, release: str, method: str, side: str
) -> None:
    """Every file is on every device after the next media sync."""
    with account_on(own_server, tmp_path / "account") as account, Proxy(own_server.port) as proxy:
        device, other = account.device(release), account.device("24.11")
        for n in range(30):
            other.add_media(f"other {n}", b"o%d" % n)
        other.sync_media()
        for n in range(60):
            device.add_media(f"own {n}", b"%d" % n)
        device.through(proxy.url)
        killed = proxy.when(method, **{side: own_server.kill})
        with pytest.raises(ClientError):
            device.sync_media()
        assert killed.happened.is_set()
        own_server.start()
        proxy.well_again()
        for _ in range(2):
            device.sync_media()
            other.sync_media()
        assert len(device.media()) == 90
        assert device.media() == other.media()
