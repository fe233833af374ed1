# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rows that devices leave in the user's history: which, and with which numbers."""

import asyncio
import dataclasses
from typing import Any

import pytest

from cardkeep.backups.history import NONE, Kind, Numbers, Row
from cardkeep.errors import BadRequest, WrongCredentials
from cardkeep.messages import (
    ApplyChanges,
    ApplyChunk,
    Caller,
    Changes,
    Chunk,
    Counts,
    Finish,
    Graves,
    HostKey,
    MediaEntry,
    Meta,
    NextChunk,
    Start,
    UploadChanges,
)
from cardkeep.records.deck_config import DeckConfig
from cardkeep.sync.steps import Steps
from cardkeep.sync.traffic import Traffic
from tests.http.serving import Bytes
from tests.sync.conftest import USER, Device, World, card, deck, note, review

NUMBERS = [name for name in Row.__struct_fields__ if isinstance(getattr(Row(0, ""), name), Numbers)]


def rows(world: World) -> list[Row]:
    """Newest first."""
    context = world.context
    return list(context.history.rows(context.library.folder(USER), world.clock.ms))


def changed(row: Row) -> dict[str, Numbers]:
    """The numbers that are not zero."""
    return {name: getattr(row, name) for name in NUMBERS if getattr(row, name) != NONE}


# --- syncs ------------------------------------------------------------------------------


def test_a_commit_is_one_row_with_what_it_changed(world: World) -> None:
    """Added, changed and deleted, of each kind."""
    phone = world.device("7")
    ntid, fields = world.basic()
    phone.sync(
        notes=[note(n, ntid, fields) for n in (1, 2, 3)],
        cards=[card(n, n) for n in (1, 2, 3)],
        revlog=[review(n, 1) for n in (1, 2)],
        changes=Changes(
            decks=[deck(7, "D"), deck(8, "E")],
            deck_configs=[DeckConfig(9, "P", 0, 99, b"")],
            tags=["a", "b::c"],
        ),
    )
    phone.sync(
        graves=Graves(cards=[3, 99], notes=[3], decks=[8]),
        notes=[note(1, ntid, fields, mod=5), note(4, ntid, fields)],
        cards=[card(1, 1, mod=5), card(2, 2, mod=5), card(4, 4)],
        revlog=[review(2, 1), review(3, 1)],
        changes=Changes(
            decks=[deck(7, "D", mod=5)],
            deck_configs=[DeckConfig(9, "P", 5, 99, b"")],
            tags=["A", "d"],
        ),
    )
    second, first = rows(world)
    assert changed(first) == {
        "notes": Numbers(3),
        "cards": Numbers(3),
        "reviews": Numbers(2),
        "decks": Numbers(2),
        "deck_configs": Numbers(1),
        "tags": Numbers(2),
    }
    assert changed(second) == {
        "notes": Numbers(1, 1, 1),
        "cards": Numbers(1, 2, 1),
        "reviews": Numbers(1),
        "decks": Numbers(0, 1, 1),
        "deck_configs": Numbers(0, 1),
        "tags": Numbers(1),
    }
    assert (second.kind, second.device, second.address) == (Kind.SYNC, "7", "127.0.0.1")


def test_what_the_server_keeps_is_not_changed(world: World) -> None:
    """An older version of a note, a card or a deck counts for nothing."""
    phone, tablet = world.device("1"), world.device("2")
    ntid, fields = world.basic()
    for device, mod in ((phone, 9), (tablet, 5)):
        device.sync(
            notes=[note(1, ntid, fields, mod=mod)],
            cards=[card(1, 1, mod=mod)],
            changes=Changes(decks=[deck(7, "D", mod=mod)]),
        )
    assert changed(rows(world)[0]) == {}
    phone.sync(notes=[note(1, ntid, fields, mod=10)])
    assert changed(rows(world)[0]) == {"notes": Numbers(0, 1)}


def test_a_sync_without_changes_is_a_row_too(world: World) -> None:
    """A device was there, and committed."""
    world.device("3").sync()
    (row,) = rows(world)
    assert (row.kind, changed(row), row.note) == (Kind.SYNC, {}, "")


def test_what_was_put_right_is_said(world: World) -> None:
    """The server's own deletions and additions are no part of what the device changed."""
    phone, tablet = world.device("1"), world.device("2")
    ntid, fields = world.basic()
    phone.sync(notes=[note(1, ntid, fields)], cards=[card(1, 1)])
    tablet.sync()
    phone.sync(graves=Graves(cards=[1], notes=[1]))
    tablet.sync(cards=[card(2, 1)], changes=Changes(decks=[deck(7, "A\x1fB")]))
    row = rows(world)[0]
    assert changed(row) == {"cards": Numbers(1), "decks": Numbers(1)}
    assert row.note == (
        "put right what crossing changes broke (surplus cards deleted: 1, missing decks added: 1)"
    )


def test_only_a_commit_is_a_row(world: World) -> None:
    """No sync that failed, was given up, or only looked."""
    phone = world.device("1")
    ntid, fields = world.basic()
    phone.meta()
    phone.start()
    phone.change()
    phone.push(notes=[note(1, ntid, fields)])
    assert not phone.check(Counts(5, 5, 5, 5, 5, 5)).ok
    phone.meta()
    phone.start()
    phone.change()
    with pytest.raises(BadRequest):
        phone.push(notes=[note(1, ntid, fields + 1)])
    phone.meta()
    assert rows(world) == []


def test_a_sync_took_from_its_start_to_its_commit(world: World) -> None:
    """Whatever the other requests take."""
    phone = world.device("1")
    phone.meta()
    world.clock.ms += 70_000
    phone.start()
    phone.change()
    world.clock.ms += 5000
    phone.push()
    phone.fetch()
    phone.finish()
    (row,) = rows(world)
    assert 5000 <= row.took < 5200
    assert abs(row.time - world.clock.ms) < 100


def test_a_clock_that_went_back_makes_no_negative_time(world: World) -> None:
    """The row says that it took no time."""
    phone = world.device("1")
    phone.meta()
    phone.start()
    phone.change()
    world.clock.ms -= 50_000
    phone.fetch()
    phone.push()
    phone.finish()
    assert rows(world)[0].took == 0


# --- media ------------------------------------------------------------------------------


def _upload(device: Device, *files: tuple[str, bytes | None]) -> None:
    def entry(name: str, data: bytes | None) -> MediaEntry:
        return MediaEntry(name, None if data is None else lambda: Bytes(data))

    device.say(UploadChanges([entry(*file) for file in files]))


def test_media_that_change_are_a_row(world: World) -> None:
    """Files that are new, have other bytes, or are gone; not those that were there already."""
    phone = world.device("4")
    _upload(phone, ("a", b"1"), ("b", b"2"), ("c", b"3"))
    _upload(phone, ("a", b"1"), ("b", b"9"), ("c", None), ("d", b"4"), ("x", None))
    _upload(phone, ("a", b"1"), ("c", None))
    _upload(phone, ("c", b"3"), ("e", b"5"), ("e", None), ("f", b"6"), ("f", b"7"))
    assert [(row.kind, changed(row)) for row in rows(world)] == [
        (Kind.MEDIA, {"media": Numbers(2)}),
        (Kind.MEDIA, {"media": Numbers(1, 1, 1)}),
        (Kind.MEDIA, {"media": Numbers(3)}),
    ]


# --- logins -----------------------------------------------------------------------------


def _log_in(world: World, user: str, password: str) -> None:
    login = Steps(world.context).login
    asyncio.run(login(HostKey(user, password), client="26,x,linux", address="2001:db8::1"))


def test_a_login_is_a_row_of_a_user_who_was_never_there(world: World) -> None:
    """The folder is made that the first request would make; it is whole for that request."""
    world.context.accounts.add_user("eva", "secret")
    folder = world.context.library.folder("eva")
    _log_in(world, "eva", "secret")
    (row,) = world.context.history.rows(folder, world.clock.ms)
    (device,) = world.context.accounts.devices("eva")
    assert (row.kind, row.device) == (Kind.LOGIN, device.id)
    assert (row.client, row.address) == ("26,x,linux", "2001:db8::1")
    with world.context.library.lend("eva") as db:
        assert db.execute("SELECT count(*) FROM cards").fetchone() == (0,)


def test_a_wrong_login_is_no_row_and_makes_no_folder(world: World) -> None:
    """Neither for a user without folder nor for a name that nobody has."""
    world.context.accounts.add_user("eva", "secret")
    for name in ("eva", "nobody"):
        with pytest.raises(WrongCredentials):
            _log_in(world, name, "wrong")
        assert not world.context.library.folder(name).root.exists()


# --- bytes ------------------------------------------------------------------------------

ROWS = Chunk(done=True)


class Worker:
    """One of several processes that serve the user: the same disk, another memory."""

    def __init__(self, world: World, device: str) -> None:
        self.steps = Steps(dataclasses.replace(world.context, traffic=Traffic()))
        self.world = world
        self.device = device

    def serve(self, session: str, message: Any, *, received: int, sent: int) -> None:
        """A request of that many bytes, and its answer."""
        caller = Caller(USER, self.device, 11, session, "", "", received=received, arrival=0)
        answer = asyncio.run(_perform(self.steps, caller, message))
        self.steps.answered(caller, answer, sent=sent, complete=True)


async def _perform(steps: Steps, caller: Caller, message: Any) -> Any:
    return await steps.perform(caller, message)


def _whole_sync(first: Worker, second: Worker, *, chunk: int) -> Row:
    """Requests of 1, 10, 100, … bytes; `chunk` is asked for at the second worker."""
    session = f"s{chunk}{first.device}"
    first.serve(session, Meta(11, ""), received=1, sent=2)
    first.serve(session, Start(0, True), received=10, sent=20)
    first.serve(session, ApplyChanges(Changes()), received=100, sent=200)
    second.serve(session, NextChunk(), received=1000, sent=chunk)
    first.serve(session, ApplyChunk(Chunk(True)), received=10_000, sent=3)
    first.serve(session, Finish(), received=100_000, sent=4)
    return rows(first.world)[0]


def test_bytes_are_those_from_start_to_commit(world: World) -> None:
    """The answers are those before the request that commits, the one to `meta` among them."""
    worker = Worker(world, "1")
    row = _whole_sync(worker, worker, chunk=2000)
    assert (row.received, row.sent) == (111_110, 2225)


def test_a_large_answer_counts_whichever_process_sent_it(world: World) -> None:
    """It is in the user's folder, and not only in that process."""
    row = _whole_sync(Worker(world, "1"), Worker(world, "1"), chunk=65_536)
    assert (row.received, row.sent) == (111_110, 65_536 + 225)


def test_of_several_processes_only_small_answers_are_missed(world: World) -> None:
    """Those that the process has not yet been asked for again."""
    row = _whole_sync(Worker(world, "1"), Worker(world, "1"), chunk=65_535)
    assert (row.received, row.sent) == (111_110, 225)


def test_a_large_answer_is_never_added_to_another_sync(world: World) -> None:
    """When its own was taken over meanwhile, by the same device or another."""
    one, two = Worker(world, "1"), Worker(world, "2")
    row = _whole_sync(one, one, chunk=100)
    caller = Caller(USER, "1", 11, "gone", "", "")
    one.steps.answered(caller, ROWS, sent=1_000_000, complete=True)
    assert rows(world) == [row]
    assert _whole_sync(two, two, chunk=100).sent == 325


def test_what_is_remembered_is_bounded() -> None:
    """The sessions of longest ago are forgotten first."""
    traffic = Traffic()
    callers = [Caller(USER, "1", 11, f"s{n}", "", "") for n in range(1500)]
    for caller in callers:
        traffic.note(caller, 5)
    traffic.note(callers[500], 5)
    traffic.note(callers[0], 1)
    assert [traffic.take(caller) for caller in callers] == [1] + [0] * 499 + [10, 0] + [5] * 998
    assert [traffic.take(caller) for caller in callers] == [0] * 1500
