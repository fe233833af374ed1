# SPDX-License-Identifier: AGPL-3.0-or-later
"""A normal sync: a journal, then one commit."""

import pytest

from cardkeep.errors import BadRequest, Conflict
from cardkeep.messages import ApplyChunk, Changes, Chunk, Counts, Graves, SanityCheck
from cardkeep.records.deck_config import DeckConfig
from tests.sync.conftest import USER, World, card, deck, note, review


def test_nothing_is_stored_before_the_commit(world: World) -> None:
    """What a client sent is only in the journal until the counts were compared."""
    phone = world.device("phone")
    ntid, fields = world.basic()
    phone.meta()
    phone.start()
    phone.change()
    phone.push(notes=[note(1, ntid, fields)], cards=[card(1, 1)], revlog=[review(1, 1)])
    assert world.sql("SELECT count(*) FROM notes") == [(0,)]
    answer = phone.check(Counts(1, 1, 1, 0, 0, 0))
    assert not answer.ok
    assert answer.server is not None
    assert answer.server.cards == 1
    assert world.sql("SELECT count(*) FROM notes") == [(0,)]


def test_a_failed_check_ends_the_sync(world: World) -> None:
    """After "bad" there is nothing left to finish."""
    phone = world.device("phone")
    phone.meta()
    phone.start()
    phone.change()
    assert not phone.check(Counts(5, 5, 5, 5, 5, 5)).ok
    with pytest.raises(Conflict):
        phone.finish()


def test_rows_get_the_sessions_usn(world: World) -> None:
    """Whatever usn a client writes on a row, the server stamps its own."""
    ntid, fields = world.basic()
    world.device("phone").sync(
        notes=[note(1, ntid, fields)],
        cards=[card(1, 1)],
        revlog=[review(1, 1)],
        changes=Changes(decks=[deck(7, "D")], tags=["t"]),
    )
    for table in ("notes", "cards", "revlog", "decks WHERE id = 7", "tags"):
        source = table if "WHERE" in table else f"{table} WHERE 1"
        assert world.sql(f"SELECT DISTINCT usn FROM {source}") == [(0,)], table
    assert world.sql("SELECT usn FROM col") == [(1,)]


def test_the_usn_rises_and_the_time_moves_with_every_sync(world: World) -> None:
    """Also when nothing changed, and when the clock went back."""
    phone = world.device("phone")
    phone.sync()
    before = phone.meta().mod
    world.clock.ms -= 10_000_000
    phone.sync()
    after = phone.meta()
    assert after.usn == 2
    assert after.mod > before


def test_the_other_device_gets_everything(world: World) -> None:
    """Rows, objects and deletions reach a second device."""
    phone, tablet = world.device("phone"), world.device("tablet")
    ntid, fields = world.basic()
    phone.sync(
        notes=[note(1, ntid, fields), note(2, ntid, fields)],
        cards=[card(1, 1), card(2, 2)],
        revlog=[review(1, 1)],
        changes=Changes(decks=[deck(7, "D")], tags=["t"]),
    )
    phone.sync(graves=Graves(cards=[2], notes=[2], decks=[7]))
    got = tablet.sync()
    assert got.ids("notes") == {1}
    assert got.ids("cards") == {1}
    assert got.ids("revlog") == {1}
    assert (list(got.graves.cards), list(got.graves.notes), list(got.graves.decks)) == (
        [2],
        [2],
        [7],
    )
    assert got.changes.tags == ["t"]
    assert tablet.sync().ids("notes") == set()


def test_what_the_client_deletes_is_not_sent_to_it(world: World) -> None:
    """Chunks leave out what this very sync deletes."""
    phone, tablet = world.device("phone"), world.device("tablet")
    ntid, fields = world.basic()
    phone.sync(notes=[note(1, ntid, fields)], cards=[card(1, 1)])
    got = tablet.sync(graves=Graves(cards=[1], notes=[1]))
    assert got.ids("notes") == got.ids("cards") == set()
    assert world.sql("SELECT count(*) FROM cards") == [(0,)]


@pytest.mark.parametrize(("protocol", "largest"), [(10, 250), (11, 2000)])
def test_chunks_hold_each_row_once(world: World, protocol: int, largest: int) -> None:
    """The rows come in slices of what the client takes; the last one says so."""
    ntid, fields = world.basic()
    world.device("phone").sync(
        notes=[note(i, ntid, fields) for i in range(1, 601)],
        cards=[card(i, i) for i in range(1, 601)],
        revlog=[review(i, i) for i in range(1, 1402)],
    )
    tablet = world.device("tablet", protocol=protocol)
    got = tablet.sync()
    sizes = [len(c.notes) + len(c.cards) + len(c.revlog) for c in got.chunks]
    assert max(sizes) == largest
    assert sum(sizes) == 600 + 600 + 1401
    assert len(got.ids("notes") | got.ids("cards")) == 600
    assert [c.done for c in got.chunks] == [False] * (len(sizes) - 1) + [True]


def test_chunks_are_bounded_in_bytes(world: World) -> None:
    """A few long notes fill a chunk."""
    ntid, fields = world.basic()
    long_notes = [note(i, ntid, fields, text="y" * 40_000) for i in range(1, 201)]
    world.device("phone").sync(notes=long_notes)
    got = world.device("tablet").sync()
    assert len(got.chunks) > 2
    assert got.ids("notes") == set(range(1, 201))


def test_very_long_notes_come_one_by_one(world: World) -> None:
    """So the server never holds many of them at once; a deleted one among them is left out."""
    ntid, fields = world.basic()
    notes = [note(i, ntid, fields, text="y" * 1_100_000) for i in range(1, 6)]
    world.device("phone").sync(notes=notes)
    tablet = world.device("tablet")
    got = tablet.sync(graves=Graves(notes=[2, 5]))
    assert [[row[0] for row in chunk.notes] for chunk in got.chunks] == [[1], [3], [4]]


def test_a_chunk_in_parts_is_one_chunk(world: World) -> None:
    """The rows of all its parts are stored."""
    ntid, fields = world.basic()
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.meta()
    phone.start()
    phone.change()
    parts = [
        Chunk(False, notes=[note(1, ntid, fields)]),
        Chunk(False, notes=[note(2, ntid, fields)], cards=[card(7, 1)]),
    ]
    phone.say(ApplyChunk(Chunk(True), parts))
    phone.finish()
    got = tablet.sync()
    assert (got.ids("notes"), got.ids("cards")) == ({1, 2}, {7})


def test_a_part_that_does_not_fit_ends_the_sync(world: World) -> None:
    """The parts before it are not kept either."""
    ntid, fields = world.basic()
    phone = world.device("phone")
    phone.meta()
    phone.start()
    phone.change()
    parts = [
        Chunk(False, notes=[note(1, ntid, fields)]),
        Chunk(False, notes=[note(2, ntid, fields + 1)]),
    ]
    with pytest.raises(BadRequest):
        phone.say(ApplyChunk(Chunk(True), parts))
    with pytest.raises(Conflict):
        phone.finish()
    assert world.sql("SELECT count(*) FROM notes") == [(0,)]


def test_a_session_needs_its_key(world: World) -> None:
    """Another key, or none that is open, is a conflict."""
    phone = world.device("phone")
    with pytest.raises(Conflict):
        phone.change()
    phone.meta()
    phone.start()
    phone.session = "other"
    with pytest.raises(Conflict):
        phone.fetch()


def test_a_note_must_fit_its_notetype(world: World) -> None:
    """A note of an unknown notetype, or with another number of fields, ends the sync."""
    ntid, fields = world.basic()
    for bad in (note(1, 12345, fields), note(1, ntid, fields + 1)):
        phone = world.device("phone")
        phone.meta()
        phone.start()
        phone.change()
        with pytest.raises(BadRequest):
            phone.push(notes=[bad])
        with pytest.raises(Conflict):
            phone.finish()


def test_the_collection_must_be_the_one_that_start_saw(world: World) -> None:
    """A change from outside between start and commit is a conflict, and nothing is stored."""
    phone = world.device("phone")
    phone.meta()
    phone.start()
    phone.change()
    phone.push(revlog=[review(1, 1)])
    world.sql("UPDATE col SET usn = usn + 1")
    with pytest.raises(Conflict):
        phone.check(world.counts())
    assert world.sql("SELECT count(*) FROM revlog") == [(0,)]


def test_a_legacy_client_reports_its_own_failure(world: World) -> None:
    """The sync ends; nothing is stored."""
    phone = world.device("phone", protocol=10)
    phone.meta()
    phone.start()
    phone.change()
    phone.push(revlog=[review(1, 1)])
    answer = phone.say(SanityCheck(None))
    assert not answer.ok  # type: ignore[union-attr]
    assert world.sql("SELECT count(*) FROM revlog") == [(0,)]


def test_counts_are_kept_and_right(world: World) -> None:
    """Kept numbers, counted without counting, equal what counting gives."""
    ntid, fields = world.basic()
    phone = world.device("phone")
    phone.sync(
        notes=[note(i, ntid, fields) for i in range(1, 11)],
        cards=[card(i, i) for i in range(1, 11)],
        revlog=[review(i, 1) for i in range(1, 6)],
    )
    phone.sync(
        notes=[note(i, ntid, fields, mod=5) for i in range(9, 13)],
        cards=[card(i, i, mod=5) for i in range(9, 13)],
        revlog=[review(i, 1) for i in range(4, 9)],
        graves=Graves(notes=[1, 77], cards=[1, 2, 88]),
    )
    folder = world.context.library.folder(USER)
    assert folder.counts.exists()
    expected = world.counts()
    assert (expected.notes, expected.cards, expected.revlog) == (11, 10, 8)
    phone.sync(counts=expected)


def test_a_deck_config_is_stored(world: World) -> None:
    """Presets travel like decks; their names need not be unique."""
    configs = [DeckConfig(5, "Default", 10, 99, b""), DeckConfig(6, "default", 10, 99, b"")]
    world.device("phone").sync(changes=Changes(deck_configs=configs))
    got = world.device("tablet").sync()
    assert {one.id for one in got.changes.deck_configs} >= {5, 6}


def test_the_newer_side_gives_configuration_and_creation_day(world: World) -> None:
    """Sent by the client if it is newer, by the server if not, never by both."""
    phone = world.device("phone")
    phone.meta()
    phone.start(local_newer=True)
    answer = phone.change(Changes(conf={"a": [1, {"b": None}]}, crt=1_600_000_000))
    assert answer.conf is None
    assert answer.crt is None
    phone.fetch()
    assert phone.check(world.counts()).ok
    phone.finish()
    tablet = world.device("tablet")
    tablet.meta()
    tablet.start(local_newer=False)
    answer = tablet.change()
    assert answer.conf is not None
    assert answer.conf["a"] == [1, {"b": None}]
    assert "curDeck" not in answer.conf
    assert answer.crt == 1_600_000_000


def test_an_empty_chunk_is_enough(world: World) -> None:
    """A client with nothing to send says so once."""
    assert world.device("phone").sync().chunks == [Chunk(done=True, revlog=[], cards=[], notes=[])]


@pytest.mark.parametrize("reviews", [1, 3000])
def test_after_the_last_chunk_comes_an_empty_one(world: World, reviews: int) -> None:
    """A client that asks once more gets no row twice; however many chunks there were."""
    world.device("phone").sync(revlog=[review(i, 1) for i in range(1, reviews + 1)])
    tablet = world.device("tablet")
    tablet.meta()
    tablet.start()
    tablet.change()
    assert sum(len(chunk.revlog) for chunk in tablet.fetch()) == reviews
    assert tablet.fetch() == [Chunk(done=True)]


def test_legacy_deletions_come_with_the_start(world: World) -> None:
    """They are applied like all others, and not sent back."""
    phone = world.device("phone")
    phone.sync(cards=[card(1, 1)])
    old = world.device("old", protocol=10)
    old.meta()
    assert list(old.start(graves=Graves(cards=[1])).cards) == []
    old.change()
    assert old.fetch()[0].cards == []
    old.finish()
    assert world.counts().cards == 0
    assert list(phone.sync().graves.cards) == [1]
