# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rows that devices leave in the user's history: which, and with which numbers."""

import asyncio
from typing import Any

import pytest

from cardkeep.backups.history import NONE, Kind, Numbers, Row
from cardkeep.collection.session_file import SessionFile
from cardkeep.errors import BadRequest, WrongCredentials
from cardkeep.messages import (
    ApplyChanges,
    ApplyChunk,
    Caller,
    Changes,
    Chunk,
    CollectionFile,
    Counts,
    Finish,
    Graves,
    HostKey,
    MediaEntry,
    MediaFiles,
    NextChunk,
    Nothing,
    SanityCheck,
    Start,
    UploadChanges,
)
from cardkeep.records.deck_config import DeckConfig
from cardkeep.sync.steps import Steps
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

    device.say(UploadChanges(lambda: [entry(*file) for file in files]))


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


def _ask(world: World, session: str, message: Any, *, received: int = 0, sent: int = 0) -> None:
    """A request; `received` and `sent` are what is told of the ones before it."""
    caller = Caller(USER, "7", 11, session, "", "", "", received, sent)
    asyncio.run(_perform(Steps(world.context), caller, message))


async def _perform(steps: Steps, caller: Caller, message: Any) -> Any:
    return await steps.perform(caller, message)


def _tell(world: World, session: str, answer: Any, *, received: int = 0, sent: int = 0) -> bool:
    """A large request or answer."""
    caller = Caller(USER, "7", 11, session, "", "")
    steps = Steps(world.context)
    return steps.answered(caller, answer, received=received, sent=sent, complete=True)


def test_the_bytes_of_a_sync_are_added_up(world: World) -> None:
    """Those told with its requests from `start` on, and large ones that were told at once."""
    _ask(world, "s", Start(0, True), received=1, sent=2)
    _ask(world, "s", ApplyChanges(Changes()), received=10, sent=20)
    _ask(world, "s", NextChunk(), received=100, sent=200)
    assert _tell(world, "s", Chunk(True), received=1000, sent=2000)
    _ask(world, "s", ApplyChunk(Chunk(True)))
    assert _tell(world, "s", Nothing(), received=10_000, sent=20_000)
    _ask(world, "s", Finish(), received=100_000, sent=200_000)
    (row,) = rows(world)
    assert (row.received, row.sent) == (111_111, 222_222)


def test_large_answers_of_no_live_sync_are_not_added_to_another(world: World) -> None:
    """Neither after the commit nor when its sync was taken over, nor those of media."""
    assert not _tell(world, "s", Chunk(True), sent=1000)
    _ask(world, "s", Start(0, True))
    assert not _tell(world, "another", Chunk(True), sent=1000)
    assert not _tell(world, "s", MediaFiles(tuple), sent=1000)
    _ask(world, "s", ApplyChanges(Changes()))
    _ask(world, "s", SanityCheck(world.counts()))
    assert not _tell(world, "s", Chunk(True), sent=1000)
    _ask(world, "s", Finish())
    assert [row.sent for row in rows(world)] == [0]


def test_a_large_answer_never_waits_for_the_users_lock(world: World) -> None:
    """It is told again with the next request instead."""
    _ask(world, "s", Start(0, True))
    with SessionFile(world.context.library.folder(USER), wait=True):
        assert not _tell(world, "s", Chunk(True), sent=1000)
    assert _tell(world, "s", Chunk(True), sent=1000)


def test_a_download_that_was_cut_off_is_a_row_that_says_so(world: World) -> None:
    """With the bytes that were sent."""
    steps = Steps(world.context)
    caller = Caller(USER, "7", 11, "s", "", "2001:db8::1")
    answer = CollectionFile(Bytes(b""), world.clock.ms - 3000)
    assert steps.answered(caller, answer, received=5, sent=77, complete=False)
    (row,) = rows(world)
    assert (row.kind, row.device, row.address) == (Kind.DOWNLOAD, "7", "2001:db8::1")
    assert (row.sent, row.note) == (77, "cut off before its end")
    assert 3000 <= row.took < 3100
