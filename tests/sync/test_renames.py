# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two devices made an object of the same name."""

from collections.abc import Sequence

from cardkeep.records.deck import Deck
from cardkeep.records.unicase import fold
from cardkeep.sync.journal import Renamed
from cardkeep.sync.renames import make_way, sending_order

NOW = 1_700_000_000


def deck(did: int, name: str, *, usn: int = 0, mtime: int = 0) -> Deck:
    return Deck(did, name, mtime, usn, b"", b"")


def given_way(stored: Sequence[Deck], received: Sequence[Deck], gone: set[int]) -> list[Renamed]:
    by_name = {fold(one.name): one.id for one in stored}
    names = {one.id: one.name for one in stored}
    return make_way(received, lambda n: by_name.get(fold(n)), names.__getitem__, gone, NOW)


def test_the_servers_own_gives_way() -> None:
    """The stored deck is renamed, whatever the case of the letters."""
    assert given_way([deck(1, "Deck")], [deck(2, "dECK")], set()) == [Renamed(1, "Deck+", NOW)]


def test_the_new_name_is_free_on_both_sides() -> None:
    """Neither a stored nor a received name is taken a second time."""
    stored = [deck(1, "A"), deck(2, "A+")]
    assert given_way(stored, [deck(3, "a"), deck(4, "A++")], set()) == [Renamed(1, "A+++", NOW)]


def test_an_object_that_is_received_too_keeps_its_place() -> None:
    """What the client renames itself needs no way made."""
    assert given_way([deck(1, "A")], [deck(1, "B"), deck(2, "A")], set()) == []


def test_an_object_that_this_sync_deletes_needs_no_name() -> None:
    """A deck deleted and made anew under its name is no clash."""
    assert given_way([deck(1, "A")], [deck(2, "A")], {1}) == []


def test_what_gave_way_is_sent_first() -> None:
    """A client that still has deck 1 as `A` can store both, one after the other."""
    sent = sending_order([deck(2, "A", usn=4), deck(1, "a+", usn=5), deck(3, "Z", usn=3)], {})
    assert [one.id for one in sent] == [1, 3, 2]


def test_several_that_gave_way_go_longest_name_first() -> None:
    """`A++` left before `A+` could become that."""
    sent = sending_order([deck(1, "A+"), deck(2, "A++"), deck(3, "A")], {})
    assert [one.id for one in sent] == [2, 1, 3]


def test_otherwise_what_changed_earlier_goes_first() -> None:
    """A name is freed before it is taken, as a rule, in later syncs and within one."""
    sent = sending_order(
        [deck(1, "X", usn=6), deck(2, "Y", usn=5, mtime=9), deck(3, "W", usn=5)], {}
    )
    assert [one.id for one in sent] == [3, 2, 1]


def test_what_had_a_name_goes_before_what_took_it() -> None:
    """However late it was changed once more; through any number of names."""
    objects = [deck(1, "B", usn=9), deck(2, "C", usn=8), deck(3, "D", usn=7), deck(4, "A", usn=6)]
    sent = sending_order(objects, {1: "a", 2: "B", 3: "C"})
    assert [one.id for one in sent] == [3, 2, 1, 4]
    long = [deck(n, str(n + 1), usn=9999 - n) for n in range(1, 5000)]
    sent = sending_order(long, {n: str(n) for n in range(1, 5000)})
    assert [one.id for one in sent] == list(range(4999, 0, -1))


def test_a_ring_of_names_is_opened() -> None:
    """One goes twice, first under a name of its own."""
    objects = [deck(1, "B", usn=1), deck(2, "C", usn=2), deck(3, "A", usn=3), deck(4, "D", usn=4)]
    sent = sending_order(objects, {1: "A", 2: "B", 3: "C"})
    assert [(one.id, one.name) for one in sent] == [
        (1, "B 1"),
        (3, "A"),
        (2, "C"),
        (1, "B"),
        (4, "D"),
    ]


def test_one_that_changed_the_case_of_its_name_is_in_nobodys_way() -> None:
    sent = sending_order([deck(1, "a", usn=2), deck(2, "B", usn=1)], {1: "A"})
    assert [one.id for one in sent] == [2, 1]
