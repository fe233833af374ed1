# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `graves` table: what was deleted, and under which usn."""

import sqlite3
from collections.abc import Iterable

from cardkeep.messages import Graves

CARD, NOTE, DECK = 0, 1, 2
_MANY = 300


def since(db: sqlite3.Connection, min_usn: int) -> Graves:
    """The deletions that a client at `min_usn` has not heard of."""
    found: dict[int, list[int]] = {CARD: [], NOTE: [], DECK: []}
    for oid, kind in db.execute("SELECT oid, type FROM graves WHERE usn >= ?", (min_usn,)):
        found[kind].append(oid)
    return Graves(cards=found[CARD], notes=found[NOTE], decks=found[DECK])


def are_many(db: sqlite3.Connection, min_usn: int) -> bool:
    """Whether `since` would take a noticeable time."""
    found = db.execute(
        "SELECT 1 FROM graves WHERE usn >= ? LIMIT 1 OFFSET ?", (min_usn, _MANY)
    ).fetchone()
    return found is not None


def has_decks(db: sqlite3.Connection, min_usn: int) -> bool:
    """Whether a deck was deleted since `min_usn`."""
    found = db.execute("SELECT 1 FROM graves WHERE usn >= ? AND type = 2 LIMIT 1", (min_usn,))
    return found.fetchone() is not None


def bury(db: sqlite3.Connection, kind: int, ids: Iterable[int], usn: int) -> None:
    """Records deletions under `usn`.

    A grave that exists gets the new usn too: otherwise the second deletion of a
    re-created object would not be passed on (docs/sync-protocol.md, 6.1).
    """
    db.executemany(
        """
        INSERT INTO graves (oid, type, usn) VALUES (?, ?, ?)
        ON CONFLICT (oid, type) DO UPDATE SET usn = excluded.usn
        """,
        ((oid, kind, usn) for oid in ids),
    )
