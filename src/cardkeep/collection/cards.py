# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `cards` table."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cardkeep.collection.rows import by_id
from cardkeep.messages import Row

_DID, _ODID = 2, 15

# What a client reads as a number is given as one, also where it is a real or a text.
_ROWS = """
    SELECT id, nid, did, ord, cast(mod AS integer), usn, type, queue,
        cast(due AS integer), cast(ivl AS integer), factor, reps, lapses, left,
        cast(odue AS integer), odid, flags, data
    FROM cards
"""

# Buried cards go back to the queue of their type; learning cards are due at a time in
# seconds or, when the step crosses a day, at a day number (docs/sync-protocol.md, 6.9).
_QUEUE_OF_TYPE = """
    CASE type
        WHEN 0 THEN 0
        WHEN 2 THEN 2
        ELSE CASE WHEN due > 1000000000 THEN 1 ELSE 3 END
    END
"""


def ids_since(db: sqlite3.Connection, min_usn: int, *, most: int = -1) -> list[int]:
    """Ids of cards that a client at `min_usn` has not seen, at `most` so many; -1 for all."""
    rows = db.execute("SELECT id FROM cards WHERE usn >= ? LIMIT ?", (min_usn, most))
    return [row[0] for row in rows]


def since(db: sqlite3.Connection, min_usn: int) -> list[Row]:
    """All cards that a client at `min_usn` has not seen, as rows."""
    return db.execute(f"{_ROWS} WHERE usn >= ?", (min_usn,)).fetchall()


def notes_of(db: sqlite3.Connection, ids: Sequence[int]) -> dict[int, int]:
    """Those of `ids` that exist, with the note of each."""
    return dict(by_id(db, "SELECT id, nid FROM cards WHERE id IN ({places})", ids))


def decks_of(rows: Sequence[Row]) -> set[int]:
    """Ids of the decks in which received cards are, or are at home."""
    return {row[_DID] for row in rows} | {row[_ODID] for row in rows if row[_ODID]}


def read(db: sqlite3.Connection, ids: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The cards that exist among `ids`, as rows."""
    return by_id(db, f"{_ROWS} WHERE id IN ({{places}})", ids)


def merge(
    db: sqlite3.Connection, rows: Sequence[Row], *, min_usn: int, usn: int
) -> tuple[int, int]:
    """Stores received cards under `usn`, unless the server's own is newer.

    The server's own is newer if the client has not seen it (`usn >= min_usn`) and its
    time is later. On a tie the client's wins, since the client keeps and sends its own.
    Returns how many cards are new, and how many others were changed.

    A card hardly ever changes its note. Naming `nid` among the columns to update would
    rewrite its index entry each time, so it is set apart, only where it differs.
    """
    if _update_all(db, rows, min_usn=min_usn, usn=usn):
        return 0, len(rows)
    before = notes_of(db, [row[0] for row in rows])
    written = db.executemany(
        f"""
        INSERT INTO cards VALUES (?, ?, ?, ?, ?, {usn:d}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET
            did = excluded.did,
            ord = excluded.ord,
            mod = excluded.mod,
            usn = excluded.usn,
            type = excluded.type,
            queue = excluded.queue,
            due = excluded.due,
            ivl = excluded.ivl,
            factor = excluded.factor,
            reps = excluded.reps,
            lapses = excluded.lapses,
            left = excluded.left,
            odue = excluded.odue,
            odid = excluded.odid,
            flags = excluded.flags,
            data = excluded.data
        WHERE NOT (cards.usn >= {min_usn:d} AND cards.mod > excluded.mod)
        """,
        [(*row[:5], *row[6:]) for row in rows],
    ).rowcount
    moved = [row for row in rows if before.get(row[0], row[1]) != row[1]]
    db.executemany(
        f"UPDATE cards SET nid = ? WHERE id = ? AND usn = {usn:d} AND mod = ?",
        [(row[1], row[0], row[4]) for row in moved],
    )
    new = len({row[0] for row in rows}) - len(before)
    return new, written - new


def _update_all(db: sqlite3.Connection, rows: Sequence[Row], *, min_usn: int, usn: int) -> bool:
    """Stores cards that all exist and win, as a day's reviews do, at half the price.

    False if some are new, moved to another note or older: then all are still to be merged,
    which changes nothing about those that were stored here.
    """
    if db.execute("SELECT 1 FROM cards WHERE id = ?", (rows[0][0],)).fetchone() is None:
        return False
    updated = db.executemany(
        f"""
        UPDATE cards SET
            did = ?, ord = ?, mod = ?, usn = {usn:d}, type = ?, queue = ?, due = ?, ivl = ?,
            factor = ?, reps = ?, lapses = ?, left = ?, odue = ?, odid = ?, flags = ?, data = ?
        WHERE id = ? AND nid = ? AND NOT (usn >= {min_usn:d} AND mod > ?)
        """,
        [(*row[2:5], *row[6:], row[0], row[1], row[4]) for row in rows],
    ).rowcount
    return updated == len(rows)


def delete(db: sqlite3.Connection, ids: Iterable[int]) -> int:
    """Deletes cards; returns how many there were."""
    return max(db.executemany("DELETE FROM cards WHERE id = ?", ((i,) for i in ids)).rowcount, 0)


def unbury(db: sqlite3.Connection) -> None:
    """Gives buried cards back their queue, without changing `mod` or `usn`, as clients do."""
    db.execute(f"UPDATE cards SET queue = {_QUEUE_OF_TYPE} WHERE queue IN (-2, -3)")


# --- what crossing changes can break ----------------------------------------------------
#
# Each of these starts from what was deleted or changed since the client's `min_usn`, so
# that its cost follows the change.


def of_deleted_notes(db: sqlite3.Connection, min_usn: int) -> list[int]:
    """Ids of cards whose note was deleted since `min_usn`."""
    rows = db.execute(
        """
        SELECT cards.id
        FROM graves CROSS JOIN cards ON cards.nid = graves.oid
        WHERE graves.usn >= ? AND graves.type = 1
            AND NOT EXISTS (SELECT 1 FROM notes WHERE notes.id = cards.nid)
        """,
        (min_usn,),
    )
    return [row[0] for row in rows]


def without_deck(db: sqlite3.Connection, *, min_usn: int, usn: int) -> list[int]:
    """Ids of cards whose deck, or home deck, does not exist.

    Those of decks that were deleted since `min_usn`, and those that were stored under `usn`:
    a device can change a card after it heard that the deck is gone, and before it hears
    where the card went.
    """
    rows = db.execute(
        """
        SELECT cards.id
        FROM graves CROSS JOIN cards ON cards.did = graves.oid
        WHERE graves.usn >= ? AND graves.type = 2
            AND NOT EXISTS (SELECT 1 FROM decks WHERE decks.id = graves.oid)
        UNION
        SELECT cards.id
        FROM graves CROSS JOIN cards ON cards.odid = graves.oid AND cards.odid != 0
        WHERE graves.usn >= ? AND graves.type = 2
            AND NOT EXISTS (SELECT 1 FROM decks WHERE decks.id = graves.oid)
        UNION
        SELECT id
        FROM cards
        WHERE usn = ?
            AND (did NOT IN (SELECT id FROM decks)
                OR (odid != 0 AND odid NOT IN (SELECT id FROM decks)))
        """,
        (min_usn, min_usn, usn),
    )
    return [row[0] for row in rows]


def give_deck(db: sqlite3.Connection, ids: Iterable[int], *, mod: int, usn: int) -> None:
    """Gives cards of missing decks one that exists.

    A card of a deleted filtered deck goes home, as if the deck had been emptied; where
    the home is gone too, and for every other card, that is the default deck.
    """
    for card in ids:
        db.execute(
            f"""
            UPDATE cards SET
                due = CASE WHEN odid != 0 AND odue != 0 THEN odue ELSE due END,
                queue = CASE
                    WHEN odid = 0 OR queue < 0 THEN queue
                    WHEN type = 0 THEN 0
                    WHEN type = 2 THEN 2
                    WHEN (CASE WHEN odue != 0 THEN odue ELSE due END) > 1000000000 THEN 1
                    ELSE 3
                END,
                did = CASE WHEN odid IN (SELECT id FROM decks) THEN odid ELSE 1 END,
                odue = 0,
                odid = 0,
                mod = {mod:d},
                usn = {usn:d}
            WHERE id = ? AND did NOT IN (SELECT id FROM decks)
            """,
            (card,),
        )
        db.execute(
            f"""
            UPDATE cards SET odid = 1, mod = {mod:d}, usn = {usn:d}
            WHERE id = ? AND odid != 0 AND odid NOT IN (SELECT id FROM decks)
            """,
            (card,),
        )


def twins(db: sqlite3.Connection, *, min_usn: int, usn: int) -> list[int]:
    """Ids of surplus cards: a note has one card for each `ord`.

    A device made one under `usn`, another one between `min_usn` and that. The one that
    was studied more is kept, then the older one.
    """
    rows = db.execute(
        """
        SELECT mine.id, mine.reps, theirs.id, theirs.reps
        FROM cards AS theirs CROSS JOIN cards AS mine
            ON mine.nid = theirs.nid AND mine.ord = theirs.ord AND mine.id != theirs.id
        WHERE theirs.usn >= ? AND theirs.usn < ? AND mine.usn = ?
        """,
        (min_usn, usn, usn),
    )
    return [
        max((-mine_reps, mine), (-their_reps, theirs))[1]
        for mine, mine_reps, theirs, their_reps in rows
    ]
