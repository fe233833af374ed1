# SPDX-License-Identifier: AGPL-3.0-or-later
"""Looking up many rows by id with a statement that is prepared once."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

# One statement text for any number of ids: a batch is padded with NULL, which equals nothing.
BATCH = 250
PLACES = ", ".join("?" * BATCH)


def by_id(db: sqlite3.Connection, statement: str, ids: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """Rows of `statement` (which has an `IN ({places})`) for all `ids`, in batches."""
    prepared = statement.format(places=PLACES)
    for first in range(0, len(ids), BATCH):
        batch = list(ids[first : first + BATCH])
        yield from db.execute(prepared, batch + [None] * (BATCH - len(batch)))
