# SPDX-License-Identifier: AGPL-3.0-or-later
"""Repairing what the crossing changes of two devices broke.

Each device deletes and adds what it knows of; together that can leave cards without a note
or a deck, two cards for one template, or a deck without its parents. Both sides of the running
sync have the same damage, so their counts agree; the repair is a change of the server's own under
the next usn, which every device gets with its next sync.
"""

import sqlite3

import msgspec

from cardkeep.collection import cards, decks, graves
from cardkeep.collection.session_file import State


class Mended(msgspec.Struct, frozen=True):
    """What a repair did."""

    cards_deleted: int
    cards_moved: int
    decks_added: int


def mend(
    db: sqlite3.Connection,
    state: State,
    now_ms: int,
    *,
    new_cards: int,
    new_deck_names: bool,
    homes: set[int],
) -> Mended | None:
    """Repairs what the sync in `state`, applied and checked, broke or left broken.

    `new_cards` is how many the sync added, whatever it deleted; `new_deck_names` whether a
    deck was added or renamed; `homes` the decks of the cards that it stored, or more. Returns
    None if there was nothing to repair.
    """
    usn, now = state.usn + 1, now_ms // 1000
    surplus = set(cards.of_deleted_notes(db, state.min_usn))
    if new_cards:
        surplus.update(cards.twins(db, min_usn=state.min_usn, usn=state.usn))
    decks_deleted = graves.has_decks(db, state.min_usn)
    homeless = []
    if decks_deleted or not homes <= decks.all_ids(db):
        found = cards.without_deck(db, min_usn=state.min_usn, usn=state.usn)
        homeless = [card for card in found if card not in surplus]
    orphaned = new_deck_names or decks_deleted
    parents = list(decks.missing_parents(decks.names(db))) if orphaned else []
    if not (surplus or homeless or parents):
        return None
    deleted = cards.delete(db, surplus)
    graves.bury(db, graves.CARD, surplus, usn)
    cards.give_deck(db, homeless, mod=now, usn=usn)
    decks.add(db, parents, now_ms=now_ms, usn=usn)
    return Mended(deleted, len(homeless), len(parents))
