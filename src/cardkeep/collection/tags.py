# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `tags` table: the list of tags, unique under the unicase collation."""

import sqlite3
from collections.abc import Iterable

from cardkeep.records.names import normalized_tag, tag_parents


def since(db: sqlite3.Connection, min_usn: int) -> list[str]:
    """Tags that a client at `min_usn` has not seen."""
    return [row[0] for row in db.execute("SELECT tag FROM tags WHERE usn >= ?", (min_usn,))]


def register(db: sqlite3.Connection, names: Iterable[str], *, usn: int) -> int:
    """Adds the tags that are not there yet, collapsed (docs/sync-protocol.md, 6.5).

    Returns how many that are.
    """
    new = 0
    for name in names:
        tag = normalized_tag(name)
        if _stored_form(db, tag) is None:
            db.execute("INSERT INTO tags VALUES (?, ?, 1, NULL)", (_below_stored(db, tag), usn))
            new += 1
    return new


def _stored_form(db: sqlite3.Connection, tag: str) -> str | None:
    row = db.execute("SELECT tag FROM tags WHERE tag = ?", (tag,)).fetchone()
    return None if row is None else str(row[0])


def _below_stored(db: sqlite3.Connection, tag: str) -> str:
    """The tag with its parents spelled as they are stored, the nearest one that is."""
    for parent in tag_parents(tag):
        stored = _stored_form(db, parent)
        if stored is not None:
            return stored + tag[len(parent) :]
    return tag
