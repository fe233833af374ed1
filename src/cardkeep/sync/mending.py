# SPDX-License-Identifier: AGPL-3.0-or-later
"""Repairing what the crossing changes of two devices broke.

Each device deletes and adds what it knows of; together that can leave cards without a note
or a deck, or two cards for one template. Both sides of the running sync have the same
damage, so their counts agree; the repair is a change of the server's own under the next
usn, which every device gets with its next sync.
"""

import sqlite3

from cardkeep.collection import cards, graves
from cardkeep.collection.session_file import State


def mend(db: sqlite3.Connection, state: State, now: int, *, new_cards: int) -> int | None:
    """Repairs what the sync in `state`, applied and checked, broke or left broken.

    `new_cards` is how many the sync added, whatever it deleted; `now` in s. Returns how many
    cards were deleted, or None if there was nothing to repair.
    """
    usn = state.usn + 1
    surplus = set(cards.of_deleted_notes(db, state.min_usn))
    if new_cards:
        surplus.update(cards.twins(db, min_usn=state.min_usn, usn=state.usn))
    found = cards.without_deck(db, min_usn=state.min_usn, usn=state.usn)
    homeless = [card for card in found if card not in surplus]
    if not surplus and not homeless:
        return None
    deleted = cards.delete(db, surplus)
    graves.bury(db, graves.CARD, surplus, usn)
    cards.give_deck(db, homeless, mod=now, usn=usn)
    return deleted
