# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two devices changed things that meet on the server."""

from cardkeep.messages import Changes, Graves
from tests.sync.conftest import World, card, deck, note, review


def both(world: World, **rows: object) -> None:
    """Stores rows that both devices know."""
    world.device("first").sync(**rows)  # type: ignore[arg-type]


def test_a_tie_of_cards_and_notes_goes_to_the_client(world: World) -> None:
    """Every client keeps its own card or note on a tie, so the server takes it."""
    ntid, fields = world.basic()
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(notes=[note(1, ntid, fields, mod=9, text="p")], cards=[card(1, 1, mod=9, flags=1)])
    tablet.sync(notes=[note(1, ntid, fields, mod=9, text="t")], cards=[card(1, 1, mod=9, flags=2)])
    assert world.sql("SELECT flags FROM cards") == [(2,)]
    assert world.sql("SELECT flds FROM notes")[0][0].startswith("t")
    assert phone.sync().ids("cards") == {1}


def test_the_later_card_wins(world: World) -> None:
    """An earlier change of a card that the client has not seen since is dropped."""
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(cards=[card(1, 1, mod=10, flags=1)])
    tablet.sync(cards=[card(1, 1, mod=9, flags=2)])
    assert world.sql("SELECT flags FROM cards") == [(1,)]


def test_a_card_that_the_client_has_seen_is_replaced(world: World) -> None:
    """An earlier time is no older version if the client knew the server's."""
    phone = world.device("phone")
    phone.sync(cards=[card(1, 1, mod=10, flags=1)])
    phone.sync(cards=[card(1, 1, mod=9, flags=2)])
    assert world.sql("SELECT flags FROM cards") == [(2,)]


def test_a_card_can_change_its_note(world: World) -> None:
    """The note's id is stored too, though it stands apart in the statement."""
    phone = world.device("phone")
    phone.sync(cards=[card(1, 1, mod=10)])
    phone.sync(cards=[card(1, 2, mod=11)])
    assert world.sql("SELECT nid FROM cards") == [(2,)]


def test_a_tie_of_decks_goes_to_the_server(world: World) -> None:
    """Every client takes what the server sends on a tie, so the server keeps its own."""
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(changes=Changes(decks=[deck(7, "Phone", mod=9)]))
    tablet.sync(changes=Changes(decks=[deck(7, "Tablet", mod=9)]))
    assert world.sql("SELECT name FROM decks WHERE id = 7") == [("Phone",)]


def test_a_deck_of_the_same_name_gives_way(world: World) -> None:
    """The server's own is renamed, sent under its new name, and sent before the other."""
    phone, tablet = world.device("phone"), world.device("tablet")
    third = world.device("third")
    phone.sync(changes=Changes(decks=[deck(7, "New")]))
    third.sync()
    got = tablet.sync(changes=Changes(decks=[deck(8, "new")]))
    assert [(d.id, d.name) for d in got.changes.decks if d.id != 1] == [(7, "New+")]
    assert world.sql("SELECT id, name FROM decks WHERE id != 1 ORDER BY id") == [
        (7, "New+"),
        (8, "new"),
    ]
    for device in (third, phone):
        sent = device.sync().changes.decks
        assert [(d.id, d.name) for d in sent] == [(7, "New+"), (8, "new")]


def test_names_can_be_exchanged(world: World) -> None:
    """Two decks swap their names in one sync."""
    phone = world.device("phone")
    phone.sync(changes=Changes(decks=[deck(7, "A", mod=1), deck(8, "B", mod=1)]))
    phone.sync(changes=Changes(decks=[deck(7, "B", mod=2), deck(8, "A", mod=2)]))
    assert world.sql("SELECT id, name FROM decks WHERE id != 1 ORDER BY id") == [
        (7, "B"),
        (8, "A"),
    ]


def test_a_card_of_a_deleted_note_is_deleted_for_all(world: World) -> None:
    """One device deletes a note, the other's edit gives it a new card."""
    ntid, fields = world.basic()
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(notes=[note(1, ntid, fields)], cards=[card(1, 1)])
    tablet.sync()
    phone.sync(graves=Graves(notes=[1], cards=[1]))
    tablet.sync(cards=[card(2, 1, ord=1)])
    assert world.sql("SELECT id FROM cards") == []
    for device in (phone, tablet):
        assert 2 in device.sync().graves.cards
    assert world.counts().cards == 0


def test_the_same_when_the_deletion_comes_second(world: World) -> None:
    """The other order of the two devices."""
    ntid, fields = world.basic()
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(notes=[note(1, ntid, fields)], cards=[card(1, 1)])
    tablet.sync()
    phone.sync(cards=[card(2, 1, ord=1)])
    got = tablet.sync(graves=Graves(notes=[1], cards=[1]))
    assert got.ids("cards") == {2}
    for device in (phone, tablet):
        assert 2 in device.sync().graves.cards


def test_a_card_of_a_deleted_deck_moves_to_the_default_deck(world: World) -> None:
    """One device deletes a deck while the other adds a card to it."""
    ntid, fields = world.basic()
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(changes=Changes(decks=[deck(7, "D")]))
    tablet.sync()
    phone.sync(graves=Graves(decks=[7]))
    tablet.sync(notes=[note(1, ntid, fields)], cards=[card(1, 1, did=7)])
    assert world.sql("SELECT did FROM cards") == [(1,)]
    for device in (phone, tablet):
        rows = [row for chunk in device.sync().chunks for row in chunk.cards]
        assert [row[2] for row in rows] == [1]


def test_a_card_changed_before_its_new_deck_was_heard_of(world: World) -> None:
    """The device knows that the deck is gone, but not yet where its card went."""
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(changes=Changes(decks=[deck(7, "D")]))
    tablet.sync()
    phone.sync(graves=Graves(decks=[7]))
    tablet.sync(cards=[card(1, 1, did=7)])
    tablet.sync(cards=[card(1, 1, did=7, flags=3, mod=2_000_000_000)])
    assert world.sql("SELECT did, flags FROM cards") == [(1, 3)]
    rows = [row for chunk in tablet.sync().chunks for row in chunk.cards]
    assert [row[2] for row in rows] == [1]


def test_a_card_of_a_deleted_filtered_deck_goes_home(world: World) -> None:
    """Its place in the home deck's queue comes back with it."""
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(changes=Changes(decks=[deck(7, "Filtered"), deck(8, "Home")]))
    tablet.sync()
    phone.sync(graves=Graves(decks=[7]))
    tablet.sync(
        cards=[card(1, 1, did=7, odid=8, odue=55, due=-100, type=2, queue=2)],
        revlog=[review(1, 1)],
    )
    assert world.sql("SELECT did, odid, due, odue, queue FROM cards") == [(8, 0, 55, 0, 2)]


def test_a_card_whose_home_deck_was_deleted_gets_the_default_one(world: World) -> None:
    """The filtered deck still exists; the way home must lead somewhere."""
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(changes=Changes(decks=[deck(7, "Filtered"), deck(8, "Home")]))
    tablet.sync()
    phone.sync(graves=Graves(decks=[8]))
    tablet.sync(cards=[card(1, 1, did=7, odid=8, odue=55)])
    assert world.sql("SELECT did, odid, odue FROM cards") == [(7, 1, 55)]


def test_two_cards_for_one_template_become_one(world: World) -> None:
    """Both devices made the note's second card; the one that was studied stays."""
    ntid, fields = world.basic()
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(notes=[note(1, ntid, fields)], cards=[card(1, 1)])
    tablet.sync()
    phone.sync(cards=[card(20, 1, ord=1, reps=0)])
    tablet.sync(cards=[card(21, 1, ord=1, reps=3)])
    assert world.sql("SELECT id FROM cards ORDER BY id") == [(1,), (21,)]
    assert 20 in phone.sync().graves.cards
    assert 20 in tablet.sync().graves.cards


def test_a_grave_is_passed_on_again(world: World) -> None:
    """A second deletion of an object that had come back reaches everybody."""
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(cards=[card(1, 1)])
    phone.sync(graves=Graves(cards=[1]))
    phone.sync(cards=[card(1, 1)])
    assert tablet.sync().ids("cards") == {1}
    phone.sync(graves=Graves(cards=[1]))
    assert 1 in tablet.sync().graves.cards


def test_a_deck_below_a_deleted_one_gets_its_parents_back(world: World) -> None:
    """One device deletes a deck while the other makes one below it."""
    phone, tablet = world.device("phone"), world.device("tablet")
    phone.sync(changes=Changes(decks=[deck(7, "D")]))
    tablet.sync()
    phone.sync(graves=Graves(decks=[7]))
    tablet.sync(changes=Changes(decks=[deck(8, "D\x1fE\x1fF")]))
    names = [row[0] for row in world.sql("SELECT name FROM decks WHERE id != 1 ORDER BY name")]
    assert names == ["D", "D\x1fE", "D\x1fE\x1fF"]
    for device in (phone, tablet):
        assert {"D", "D\x1fE"} <= {one.name for one in device.sync().changes.decks}
    phone.sync(counts=world.counts())
