# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `revlog` table: reviews, which are only ever added."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from cardkeep.collection.rows import by_id
from cardkeep.messages import Row

# What a client reads as a number is given as one, also where it is a real or a text.
_ROWS = """
    SELECT id, cid, usn, ease, cast(ivl AS integer), cast(lastIvl AS integer),
        cast(factor AS integer), cast(time AS integer), type
    FROM revlog
"""


def ids_since(db: sqlite3.Connection, min_usn: int, *, most: int = -1) -> list[int]:
    """Ids of reviews that a client at `min_usn` has not seen, at `most` so many; -1 for all."""
    rows = db.execute("SELECT id FROM revlog WHERE usn >= ? LIMIT ?", (min_usn, most))
    return [row[0] for row in rows]


def since(db: sqlite3.Connection, min_usn: int) -> list[Row]:
    """All reviews that a client at `min_usn` has not seen, as rows."""
    return db.execute(f"{_ROWS} WHERE usn >= ?", (min_usn,)).fetchall()


def ids_between(db: sqlite3.Connection, first_usn: int, last_usn: int) -> list[int]:
    """Ids of reviews that the syncs `first_usn` to `last_usn` stored."""
    rows = db.execute("SELECT id FROM revlog WHERE usn BETWEEN ? AND ?", (first_usn, last_usn))
    return [row[0] for row in rows]


def read(db: sqlite3.Connection, ids: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The reviews that exist among `ids`, as rows."""
    return by_id(db, f"{_ROWS} WHERE id IN ({{places}})", ids)


def add(db: sqlite3.Connection, rows: Sequence[Row], usn: int) -> int:
    """Adds reviews under `usn`; one whose id exists is left as it is. Returns how many are new."""
    return db.executemany(
        f"INSERT OR IGNORE INTO revlog VALUES (?, ?, {usn:d}, ?, ?, ?, ?, ?, ?)",
        [(*row[:2], *row[3:]) for row in rows],
    ).rowcount
