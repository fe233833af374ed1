# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `decks` table; names are unique under the unicase collation."""

import sqlite3
from collections.abc import Iterable, Iterator

from cardkeep.records.deck import NEW_COMMON, NEW_KIND, Deck
from cardkeep.records.unicase import fold

_COLUMNS = "id, name, mtime_secs, usn, common, kind"
_SEPARATOR = "\x1f"


def since(db: sqlite3.Connection, min_usn: int) -> list[Deck]:
    """Decks that a client at `min_usn` has not seen."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM decks WHERE usn >= ?", (min_usn,))
    return [Deck(*row) for row in rows]


def get(db: sqlite3.Connection, deck_id: int) -> Deck | None:
    """One deck."""
    row = db.execute(f"SELECT {_COLUMNS} FROM decks WHERE id = ?", (deck_id,)).fetchone()
    return None if row is None else Deck(*row)


def named(db: sqlite3.Connection, name: str) -> Deck | None:
    """The deck of that native name, compared as the collation does."""
    row = db.execute(f"SELECT {_COLUMNS} FROM decks WHERE name = ?", (name,)).fetchone()
    return None if row is None else Deck(*row)


def names(db: sqlite3.Connection) -> list[str]:
    """The native names of all decks."""
    return [row[0] for row in db.execute("SELECT name FROM decks")]


def all_ids(db: sqlite3.Connection) -> set[int]:
    """The ids of all decks."""
    return {row[0] for row in db.execute("SELECT id FROM decks")}


def put(db: sqlite3.Connection, deck: Deck) -> None:
    """Stores a deck, new or in place of the one with its id."""
    db.execute(
        """
        INSERT INTO decks VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET
            name = excluded.name,
            mtime_secs = excluded.mtime_secs,
            usn = excluded.usn,
            common = excluded.common,
            kind = excluded.kind
        """,
        (deck.id, deck.name, deck.mtime_secs, deck.usn, deck.common, deck.kind),
    )


def replace(db: sqlite3.Connection, deck: Deck) -> None:
    """Stores everything of a deck but its name, which it has already.

    Looking the name up among the others costs more than all the rest.
    """
    db.execute(
        "UPDATE decks SET mtime_secs = ?, usn = ?, common = ?, kind = ? WHERE id = ?",
        (deck.mtime_secs, deck.usn, deck.common, deck.kind, deck.id),
    )


def rename(db: sqlite3.Connection, deck_id: int, name: str, *, mtime: int, usn: int) -> None:
    """Gives a deck another native name."""
    db.execute(
        "UPDATE decks SET name = ?, mtime_secs = ?, usn = ? WHERE id = ?",
        (name, mtime, usn, deck_id),
    )


def delete(db: sqlite3.Connection, ids: Iterable[int]) -> int:
    """Deletes decks, and only them; returns how many there were."""
    return max(db.executemany("DELETE FROM decks WHERE id = ?", ((i,) for i in ids)).rowcount, 0)


def missing_parents(names: list[str]) -> Iterator[str]:
    """Native names of decks that others are below of, but that are not there, outermost first."""
    known = {fold(name) for name in names}
    for name in sorted(names):
        end = name.find(_SEPARATOR)
        while end > 0:
            parent = name[:end]
            if fold(parent) not in known:
                known.add(fold(parent))
                yield parent
            end = name.find(_SEPARATOR, end + 1)


def add(db: sqlite3.Connection, names: Iterable[str], *, now_ms: int, usn: int) -> None:
    """Adds decks of these native names as a client's own check of the database does."""
    deck_id = now_ms
    for name in names:
        while get(db, deck_id) is not None:
            deck_id += 1
        put(db, Deck(deck_id, name, now_ms // 1000, usn, NEW_COMMON, NEW_KIND))
