# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep check` with real clients: their own check of the database is the judge."""

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cardkeep.collection import database
from cardkeep.collection.check import check_collection
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.schema.inspect import inspect
from cardkeep.messages import Finding
from tests.clients.device import Device, borrow, give_back
from tests.clients.environments import NEWEST
from tests.clients.story import FAMILY, PAIR, Account
from tests.collection.schema.files import VECTORS, edit

SERVERS = ("cardkeep",)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def check(folder: Path, **how: bool) -> list[Finding]:
    return list(check_collection(UserFolder(folder), now_ms=now_ms, **how))


def wrong(findings: list[Finding]) -> list[str]:
    return sorted({f.kind for f in findings if not (f.harmless or f.repaired)})


def judged(collection: Path, folder: Path) -> list[str]:
    """What the newest engine's check finds in a copy of the collection."""
    folder.mkdir(parents=True)
    copy = shutil.copy(collection, folder / "collection.anki2")
    judge = borrow(NEWEST)
    try:
        judge.do("open", str(copy))
        found: list[str] = judge.do("check_database")
        judge.do("close")
    finally:
        give_back(judge)
    return found


# --- what the engine finds, and what it does not ----------------------------------------

CARD = "(SELECT min(id) FROM cards WHERE odid = 0)"
NEW_CARD = (
    "INSERT INTO cards SELECT 9, {}, did, {}, mod, usn, type, queue, due, ivl, factor, reps, "
    f"lapses, left, odue, odid, flags, data FROM cards WHERE id = {CARD}"
)

# What is done; whether the repair here leaves nothing for the engine to find.
FOUND_BY_THE_ENGINE: dict[str, tuple[str, bool]] = {
    "a card of no note": (NEW_CARD.format("5", "ord"), True),
    "twins": (NEW_CARD.format("nid", "ord"), True),
    "a card of no template": (NEW_CARD.format("nid", "7"), False),
    "a card in no deck": (f"UPDATE cards SET did = 6 WHERE id = {CARD}", True),
    "a home without a filtered deck": (f"UPDATE cards SET odid = 1 WHERE id = {CARD}", True),
    "a home that does not exist": (f"UPDATE cards SET odid = 6 WHERE id = {CARD}", True),
    "a position too high": (
        f"UPDATE cards SET type = 0, queue = 0, due = 2000001 WHERE id = {CARD}",
        True,
    ),
    "a day too high": (
        f"UPDATE cards SET type = 2, queue = 2, due = 100001 WHERE id = {CARD}",
        True,
    ),
    "a day at home without a home": (
        f"UPDATE cards SET type = 2, queue = 2, due = 5, odue = 5 WHERE id = {CARD}",
        True,
    ),
    "a fraction of a day": (
        f"UPDATE cards SET type = 2, queue = 2, due = 5.5 WHERE id = {CARD}",
        True,
    ),
    "a fraction of an interval": (f"UPDATE cards SET ivl = 5.5 WHERE id = {CARD}", True),
    "a review": ("UPDATE revlog SET ivl = 5.5, time = -1", True),
    "a note of no notetype": (
        "UPDATE notes SET mid = 77 WHERE id = (SELECT min(id) FROM notes)",
        False,
    ),
    "a field too many": (
        "UPDATE notes SET flds = flds || char(31) WHERE id = (SELECT min(id) FROM notes)",
        False,
    ),
    "text that is none": (
        "UPDATE notes SET flds = CAST(x'ff1f41' AS text) WHERE id = (SELECT min(id) FROM notes)",
        False,
    ),
    "a deck without its parents": (
        "INSERT INTO decks SELECT 9, 'a' || char(31) || 'b' || char(31) || 'c', 1, 0, common, "
        "kind FROM decks WHERE id = 1",
        True,
    ),
}


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client's collection with something of everything, as an upload leaves it."""
    path = tmp_path_factory.mktemp("rich") / "rich.anki2"
    path.write_bytes((VECTORS / "rich-schema18.anki2").read_bytes())
    inspect(path)
    return path


def test_the_sound_one_is_sound_to_both(rich: Path, tmp_path: Path) -> None:
    """The judge has nothing to say before it is damaged, nor has the check here."""
    shutil.copy(rich, tmp_path / "collection.anki2")
    assert check(tmp_path) == []
    assert judged(rich, tmp_path / "judge") == []


@pytest.mark.parametrize(
    ("statement", "mends"), FOUND_BY_THE_ENGINE.values(), ids=FOUND_BY_THE_ENGINE.keys()
)
def test_what_the_engine_finds(rich: Path, tmp_path: Path, statement: str, mends: bool) -> None:
    """It is found here; and where it is mended here, the engine finds nothing any more."""
    collection = Path(shutil.copy(rich, tmp_path / "collection.anki2"))
    edit(collection, statement)
    assert judged(collection, tmp_path / "before")
    assert wrong(check(tmp_path))
    left = wrong(check(tmp_path, repair=True))
    assert bool(left) is not mends
    assert bool(judged(collection, tmp_path / "after")) is not mends


# --- on accounts ------------------------------------------------------------------------


def server_check(account: Account, **how: bool) -> list[Finding]:
    return check(account.server.folder(account.user), **how)


def on_server(account: Account, *statements: str) -> None:
    """Damages the server's own collection, while it is served."""
    with closing(database.connect(account.server.folder(account.user) / "collection.anki2")) as db:
        for statement in statements:
            db.execute(statement)


def study(device: Device, name: str) -> None:
    """Something of everything."""
    notes = [device.add_note(f"{name} {n}", "<b>back</b>", deck=f"{name}::Sub") for n in range(6)]
    device.add_note("{{c1::one}} {{c2::two}}", notetype="Cloze", tags=[name])
    cards = [device.cards_of(note)[0] for note in notes]
    device.answer(cards[0])
    device.suspend(cards[1])
    device.flag(cards[2], flag=3)
    device.make_due(cards[3], days=5)
    device.add_filtered(f"{name} filtered", f"deck:{name}", limit=3)
    device.delete_notes(notes[4])
    device.add_options(f"{name} options")


@pytest.mark.parametrize("releases", [PAIR, pytest.param(FAMILY, marks=pytest.mark.long)])
def test_what_clients_make_is_sound(account: Account, releases: tuple[str, ...]) -> None:
    """Whatever they sync, of old and new protocol, the check finds nothing, nor do they."""
    devices = account.in_sync(*releases)
    assert wrong(server_check(account)) == []
    for number, device in enumerate(devices):
        study(device, f"Deck {number}")
    account.assert_converged()
    devices[0].delete_deck(devices[0].decks()["Deck 0"])
    account.assert_converged()
    assert server_check(account) == []


MENDABLE = (
    NEW_CARD.format("5", "ord").replace("SELECT 9", "SELECT 1700000000001"),
    NEW_CARD.format("nid", "ord").replace("SELECT 9", "SELECT 1700000000002"),
    "UPDATE cards SET did = 6 WHERE id = (SELECT max(id) FROM cards WHERE odid = 0)",
    "UPDATE cards SET type = 2, queue = 2, due = 100001 WHERE id = "
    "(SELECT min(id) FROM cards WHERE flags = 3)",
    "INSERT INTO decks SELECT 1700000000003, 'Lone' || char(31) || 'Child', 1, "
    "(SELECT usn FROM col), common, kind FROM decks WHERE id = 1",
    "INSERT INTO decks SELECT 1700000000004, ' odd: ', 1, 0, common, kind FROM decks WHERE id = 1",
    "UPDATE notes SET usn = -1, flds = replace(flds, 'back', 'server'), mod = mod + 5 "
    "WHERE id = (SELECT min(id) FROM notes)",
    "UPDATE tags SET usn = 9999",
    "DROP INDEX ix_cards_nid",
)


def test_what_is_mended_reaches_every_device(account: Account) -> None:
    """With normal syncs all hold the same, and no engine finds damage, of old or new protocol."""
    devices = account.in_sync(*PAIR, "24.11")
    study(devices[0], "Deck")
    account.settle()
    on_server(account, *MENDABLE)
    assert wrong(server_check(account)) == [
        "card-due",
        "card-twin",
        "card-without-deck",
        "card-without-note",
        "counts",
        "deck-name",
        "deck-without-parent",
        "index-missing",
        "usn",
    ]
    assert wrong(server_check(account, repair=True)) == []
    holds = account.assert_converged()
    names = {deck["name"] for deck in holds["decks"].values()}
    assert {"Lone", "Lone::Child", "odd"} <= names
    assert any("server" in note["flds"] for note in holds["notes"].values())
    assert not {"1700000000001", "1700000000002"} & holds["cards"].keys()
    assert server_check(account) == []


def test_a_device_that_changed_what_was_mended(account: Account) -> None:
    """Its own later change stays; both sides end the same."""
    one, other = account.in_sync(*PAIR)
    kept = one.add_note("kept", "", deck="Deck")
    note = one.add_note("front", "", deck="Deck")
    account.settle()
    (card,) = one.cards_of(note)
    on_server(account, f"UPDATE cards SET did = 6 WHERE id = {card}")
    assert wrong(server_check(account, repair=True)) == []
    time.sleep(1.1)
    other.move(card, deck="Mine")
    one.edit_note(kept, "edited")
    holds = account.assert_converged(other, one)
    assert holds["cards"][str(card)]["did"] == other.decks()["Mine"]
    assert holds["notes"][str(kept)]["flds"].startswith("edited")


# --- beside syncs -----------------------------------------------------------------------


@pytest.fixture
def repeatedly() -> Iterator[Callable[[Callable[[], object]], list[Exception]]]:
    """Runs something again and again in a thread until the test ends; gives what it raised."""
    stop, threads, raised = threading.Event(), [], []

    def start(deed: Callable[[], object]) -> list[Exception]:
        def run() -> None:
            try:
                while not stop.is_set():
                    deed()
            except Exception as error:  # noqa: BLE001 (told to the test)
                raised.append(error)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return raised

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_syncs_go_on_beside_checks(
    account: Account, repeatedly: Callable[[Callable[[], object]], list[Exception]]
) -> None:
    """No sync, upload or download fails or waits for one, and none is found to be damage."""
    one, other = account.in_sync(*PAIR)
    for number in range(30):
        one.add_note(f"note {number}", "x" * 2000)
    one.sync()
    rounds: list[list[str]] = []
    raised = repeatedly(lambda: rounds.append(wrong(server_check(account))))
    slowest = 0.0
    for number in range(8):
        one.answer(one.cards()[number])
        other.add_note(f"other {number}", "")
        for deed in (one.sync, other.sync):
            began = time.monotonic()
            deed()
            slowest = max(slowest, time.monotonic() - began)
    one.download()
    other.upload()
    account.assert_converged(other)
    assert raised == []
    assert len(rounds) > 10
    assert all(found == [] for found in rounds)
    assert slowest < 5


def test_syncs_go_on_beside_repairs(
    account: Account, repeatedly: Callable[[Callable[[], object]], list[Exception]]
) -> None:
    """A repair waits for a running sync; what it mended in between arrives."""
    one, other = account.in_sync(*PAIR)
    note = one.add_note("front", "back")
    account.settle()
    mended: list[bool] = []

    def damage_and_repair() -> None:
        on_server(account, "UPDATE notes SET usn = 9999", "UPDATE tags SET usn = -1")
        mended.extend(finding.repaired for finding in server_check(account, repair=True))
        time.sleep(0.05)

    raised = repeatedly(damage_and_repair)
    end = time.monotonic() + 30
    for number in itertools.count():
        one.edit_note(note, f"front {number}")
        one.sync()
        other.add_note(f"note {number}", "", tags=[f"tag{number}"])
        other.sync()
        if raised or len(mended) > 12 or time.monotonic() > end:
            break
    account.settle()
    assert raised == []
    assert len(mended) > 12
    assert all(mended)
