# SPDX-License-Identifier: AGPL-3.0-or-later
"""A tiny collection that says something: what old programs find in a package not for them."""

import sqlite3
from contextlib import closing
from pathlib import Path

from cardkeep.collection import database
from cardkeep.collection.schema.create import create
from cardkeep.collection.schema.downgrade import downgrade
from cardkeep.records.note import sort_field_and_checksum


def create_notice(path: Path, words: str, now_ms: int) -> None:
    """Makes a collection of schema 11 with one note and card, the words on its front.

    Raises FileExistsError if there is a file at `path`.
    """
    create(path, now_ms)
    with closing(database.connect_private(path)) as connection:
        _add_note(connection, words, now_ms)
    downgrade(path)
    with closing(database.connect_private(path)) as connection:
        # Most pages of so small a collection are nearly empty.
        connection.execute("PRAGMA page_size = 512")
        connection.execute("VACUUM")


def _add_note(connection: sqlite3.Connection, words: str, now_ms: int) -> None:
    (notetype,) = connection.execute("SELECT min(id) FROM notetypes").fetchone()
    sort_field, checksum = sort_field_and_checksum([words, ""], 0)
    connection.execute(
        """
        INSERT INTO notes (id, guid, mid, mod, usn, tags, flds, sfld, csum, flags, data)
        VALUES (?, 'cardkeep', ?, ?, 0, '', ?, ?, ?, 0, '')
        """,
        (now_ms, notetype, now_ms // 1000, f"{words}\x1f", sort_field, checksum),
    )
    connection.execute(
        """
        INSERT INTO cards (id, nid, did, ord, mod, usn, type, queue, due, ivl, factor, reps,
            lapses, left, odue, odid, flags, data)
        VALUES (?, ?, 1, 0, ?, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, '')
        """,
        (now_ms, now_ms, now_ms // 1000),
    )
