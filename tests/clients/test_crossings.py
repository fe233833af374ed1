# SPDX-License-Identifier: AGPL-3.0-or-later
"""What two devices do apart crosses: no damage on either side, no forced full sync."""

import time

import pytest

from tests.clients.device import Device
from tests.clients.story import Account

PAIRS = [("26.9.3", "2.1.54"), ("2.1.39", "25.9.2"), ("24.11", "2.1.60")]


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]} and {pair[1]}")
def two(request: pytest.FixtureRequest, account: Account) -> list[Device]:
    """Two devices in sync; the first is the one that syncs first."""
    return account.in_sync(*request.param)


def names(things: dict) -> list[str]:  # type: ignore[type-arg]
    return sorted(thing["name"] for thing in things.values())


@pytest.mark.official_fails("named differently for good", strict=False)
def test_a_deck_of_the_same_name_made_on_both(account: Account, two: list[Device]) -> None:
    """Both decks stay, with their cards, under the same two names everywhere."""
    notes = [device.add_note(f"of {device}", "", deck="Same") for device in two]
    decks = [device.decks()["Same"] for device in two]
    for device in two:
        device.sync()
    holds = account.assert_converged()
    assert {holds["decks"][str(deck)]["name"] for deck in decks} > {"Same"}
    for device, note, deck in zip(two, notes, decks, strict=True):
        assert holds["cards"][str(device.cards_of(note)[0])]["did"] == deck


@pytest.mark.official_fails("named differently for good", strict=False)
def test_nested_decks_of_the_same_names_made_on_both(account: Account, two: list[Device]) -> None:
    """Parents and children of equal names, in another spelling too, end the same everywhere."""
    for device, spelling in zip(two, ("Top::Middle::Leaf", "TOP::middle::Leaf"), strict=True):
        device.add_note(f"of {device}", "", deck=spelling)
    account.settle(rounds=2)
    decks = account.assert_converged()["decks"]
    assert len({name.casefold() for name in names(decks)}) == len(decks) == 7


@pytest.mark.official_fails("named differently for good", strict=False)
def test_a_notetype_of_the_same_name_made_on_both(account: Account, two: list[Device]) -> None:
    """Both notetypes stay, with their notes, under the same two names everywhere."""
    kinds = [
        device.add_notetype("Kind", ["A", "B", "C"][: 2 + number], [("1", "{{A}}", "{{B}}")])
        for number, device in enumerate(two)
    ]
    notes = [device.add_note("a", "b", notetype="Kind") for device in two]
    holds = account.assert_converged()
    assert {holds["notetypes"][str(kind)]["name"] for kind in kinds} > {"Kind"}
    assert [holds["notes"][str(note)]["mid"] for note in notes] == kinds


@pytest.mark.official_fails("named differently for good", strict=False)
def test_a_name_taken_on_one_and_given_up_on_the_other(account: Account, two: list[Device]) -> None:
    """One renames a deck away, the other gives that name to a new one: both are as meant."""
    old = two[0].add_deck("Name")
    account.settle()
    two[0].rename_deck(old, "Other name")
    two[1].rename_deck(old, "Third name")
    new = two[1].add_deck("Name")
    account.settle(rounds=2)
    decks = account.assert_converged()["decks"]
    assert decks[str(new)]["name"] == "Name"
    assert decks[str(old)]["name"] in ("Other name", "Third name")


@pytest.mark.official_fails("named differently for good")
@pytest.mark.parametrize("syncs", ["one sync", "several syncs"])
def test_a_name_passed_on_to_a_new_object(account: Account, two: list[Device], syncs: str) -> None:
    """Who hears of it late, after the old one was changed once more, takes it as it is."""
    old = two[0].add_deck("Name")
    kind = two[0].add_notetype("Kind")
    account.settle()
    teller, listener = two

    def passes() -> None:
        time.sleep(1.01)
        if syncs == "several syncs":
            teller.sync()

    teller.rename_deck(old, "Old name")
    teller.edit_notetype(kind, name="Old kind")
    passes()
    new = teller.add_deck("Name")
    new_kind = teller.add_notetype("Kind")
    passes()
    teller.edit_deck(old, desc="changed once more")
    teller.edit_notetype(kind, css="changed once more")
    teller.sync()
    listener.sync()
    holds = account.assert_converged()
    assert [holds["decks"][str(each)]["name"] for each in (old, new)] == ["Old name", "Name"]
    kinds = [holds["notetypes"][str(each)]["name"] for each in (kind, new_kind)]
    assert kinds == ["Old kind", "Kind"]


@pytest.mark.official_fails("named differently for good", strict=False)
def test_names_that_are_swapped(account: Account, two: list[Device]) -> None:
    """Three decks take each other's names in a ring."""
    teller, listener = two
    ring = ["A", "B", "C"]
    decks = [teller.add_deck(name) for name in ring]
    account.settle()
    teller.rename_deck(decks[0], "aside")
    for deck, name in zip(reversed(decks), reversed([*ring[1:], "A"]), strict=True):
        teller.rename_deck(deck, name)
    teller.sync()
    listener.sync()
    holds = account.assert_converged()
    assert [holds["decks"][str(deck)]["name"] for deck in decks] == ["B", "C", "A"]


@pytest.mark.official_fails("the database check finds cards without a deck", strict=False)
@pytest.mark.parametrize("deleter", [0, 1])
def test_a_deck_deleted_while_the_other_adds_a_card_to_it(
    account: Account, two: list[Device], deleter: int
) -> None:
    """The new card is on both, in a deck that exists; what was in the deck before is gone."""
    two[0].add_note("goes", "", deck="Doomed::Sub")
    account.settle()
    two[deleter].delete_deck(two[deleter].decks()["Doomed"])
    added = two[1 - deleter].add_note("stays", "", deck="Doomed::Sub")
    two[1 - deleter].answer(two[1 - deleter].cards_of(added)[0])
    holds = account.assert_converged()
    assert list(holds["notes"]) == [str(added)]
    (card,) = holds["cards"].values()
    assert str(card["did"]) in holds["decks"]


@pytest.mark.official_fails("the database check finds cards without a note", strict=False)
@pytest.mark.parametrize("deleter", [0, 1])
def test_a_note_deleted_while_the_other_gives_it_a_card(
    account: Account, two: list[Device], deleter: int
) -> None:
    """The note is gone, and so are all its cards; other notes keep theirs."""
    note = two[0].add_note("{{c1::one}}", notetype="Cloze")
    kept = two[0].add_note("{{c1::one}}", notetype="Cloze")
    account.settle()
    two[deleter].delete_notes(note)
    for changed in (note, kept):
        two[1 - deleter].edit_note(changed, "{{c1::one}} {{c2::two}} {{c3::three}}")
    holds = account.assert_converged()
    assert list(holds["notes"]) == [str(kept)]
    assert sorted(card["ord"] for card in holds["cards"].values()) == [0, 1, 2]


@pytest.mark.parametrize("deleter", [0, 1])
def test_a_note_deleted_while_the_other_answers_its_card(
    account: Account, two: list[Device], deleter: int
) -> None:
    """The note stays deleted; the review stays in the log."""
    note = two[0].add_note("note", "")
    account.settle()
    two[deleter].delete_notes(note)
    two[1 - deleter].answer(two[1 - deleter].cards_of(note)[0])
    holds = account.assert_converged()
    assert holds["notes"] == holds["cards"] == {}
    assert len(holds["revlog"]) == 1


@pytest.mark.official_fails("the database check finds damage", strict=False)
def test_a_filtered_deck_deleted_while_the_other_studies_it(
    account: Account, two: list[Device]
) -> None:
    """The cards come home with their reviews; nothing is left in a deck that is gone."""
    notes = [two[0].add_note(f"{n}", "", deck="Home") for n in range(4)]
    account.settle()
    filtered = two[0].add_filtered("Filtered", "deck:Home")
    account.settle()
    two[0].delete_deck(filtered)
    for note in notes[:2]:
        two[1].answer(two[1].cards_of(note)[0])
    holds = account.assert_converged()
    assert str(filtered) not in holds["decks"]
    for card in holds["cards"].values():
        assert str(card["did"]) in holds["decks"]
        assert card["odid"] == 0
    assert len(holds["revlog"]) == 2


def test_an_object_deleted_again_after_it_came_back(account: Account, two: list[Device]) -> None:
    """A deck that one deletes and the other's edit brings back can be deleted again, for good."""
    third = account.device("23.12").download()
    deck = two[0].add_deck("Lazarus")
    account.settle()
    two[0].delete_deck(deck)
    two[0].sync()
    two[1].edit_deck(deck, desc="edited meanwhile")
    two[1].sync()
    third.sync()
    holds = account.assert_converged()
    for device in account.devices:
        if str(deck) in holds["decks"]:
            device.delete_deck(deck)
            device.sync()
            break
    assert str(deck) not in account.assert_converged()["decks"]


def test_both_delete_and_edit_different_things(account: Account, two: list[Device]) -> None:
    """Changes of different objects on both sides all stay."""
    notes = [two[0].add_note(f"note {n}", "x", tags=["t"]) for n in range(8)]
    account.settle()
    two[0].delete_notes(notes[0])
    two[1].delete_notes(notes[1])
    two[0].edit_note(notes[2], "by the first")
    two[1].edit_note(notes[3], "by the second")
    two[0].suspend(*two[0].cards_of(notes[4]))
    two[1].answer(two[1].cards_of(notes[5])[0])
    two[0].tag(notes[6], tags="first")
    two[1].move(*two[1].cards_of(notes[7]), deck="Second")
    holds = account.assert_converged()
    assert sorted(map(int, holds["notes"])) == notes[2:]
    assert holds["notes"][str(notes[2])]["flds"].startswith("by the first")
    assert holds["notes"][str(notes[3])]["flds"].startswith("by the second")


def test_the_later_edit_of_the_same_note_stays(account: Account, two: list[Device]) -> None:
    """Whichever device syncs first, the edit with the later time wins."""
    early = two[0].add_note("one", "")
    late = two[0].add_note("two", "")
    account.settle()
    two[0].edit_note(early, "earlier, syncs first")
    two[1].edit_note(late, "earlier, syncs last")
    time.sleep(1.1)
    two[1].edit_note(early, "later, syncs last")
    two[0].edit_note(late, "later, syncs first")
    for device in two:
        device.sync()
    notes = account.assert_converged()["notes"]
    assert notes[str(early)]["flds"].startswith("later")
    assert notes[str(late)]["flds"].startswith("later")
