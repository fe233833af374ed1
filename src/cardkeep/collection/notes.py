# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `notes` table."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cardkeep.collection.rows import by_id
from cardkeep.errors import BadRequest
from cardkeep.messages import Row
from cardkeep.records.note import note_fields, sort_field_and_checksum

_ROWS = "SELECT id, guid, mid, mod, usn, tags, flds FROM notes"


def ids_since(db: sqlite3.Connection, min_usn: int, *, most: int = -1) -> list[int]:
    """Ids of notes that a client at `min_usn` has not seen, at `most` so many; -1 for all."""
    rows = db.execute("SELECT id FROM notes WHERE usn >= ? LIMIT ?", (min_usn, most))
    return [row[0] for row in rows]


def since(db: sqlite3.Connection, min_usn: int) -> Iterator[Row]:
    """All notes that a client at `min_usn` has not seen, as `read` gives them."""
    return db.execute(f"{_ROWS} WHERE usn >= ?", (min_usn,))


def keys_of(db: sqlite3.Connection, ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Those of `ids` that exist, with the notetype and checksum of each."""
    rows = by_id(db, "SELECT id, mid, csum FROM notes WHERE id IN ({places})", ids)
    return {nid: (mid, csum) for nid, mid, csum in rows}


def read(db: sqlite3.Connection, ids: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The notes that exist among `ids`, as (id, guid, mid, mod, usn, tags, flds).

    They ascend as `ids` do.
    """
    return by_id(db, f"{_ROWS} WHERE id IN ({{places}}) ORDER BY id", ids)


def merge(
    db: sqlite3.Connection,
    rows: Sequence[Row],
    *,
    sort_indexes: Mapping[int, int],
    min_usn: int,
    usn: int,
) -> tuple[int, int]:
    """Stores received notes under `usn`, unless the server's own is newer (see `cards.merge`).

    `sort_indexes` gives each notetype's sort field. The sort field is bound as text: the
    column's affinity makes a number of what looks like one (docs/sync-protocol.md, 6.8).
    Notetype and checksum stand in indexes and seldom change, so they are set apart.

    Returns how many are new, and how many others were changed. Raises BadRequest for a note
    of a notetype that is not in `sort_indexes`.
    """
    before = keys_of(db, [row[0] for row in rows])
    stored = []
    for nid, guid, mid, mod, _, tags, flds in rows:
        try:
            sort_index = sort_indexes[mid]
        except KeyError:
            raise BadRequest(f"note {nid} is of notetype {mid}, which does not exist") from None
        sort_field, checksum = sort_field_and_checksum(note_fields(flds), sort_index)
        stored.append((nid, guid, mid, mod, tags, flds, sort_field, checksum))
    written = db.executemany(
        f"""
        INSERT INTO notes VALUES (?, ?, ?, ?, {usn:d}, ?, ?, ?, ?, 0, '')
        ON CONFLICT (id) DO UPDATE SET
            guid = excluded.guid,
            mod = excluded.mod,
            usn = excluded.usn,
            tags = excluded.tags,
            flds = excluded.flds,
            sfld = excluded.sfld,
            flags = 0,
            data = ''
        WHERE NOT (notes.usn >= {min_usn:d} AND notes.mod > excluded.mod)
        """,
        stored,
    ).rowcount
    keyed = [(mid, csum, nid, mod) for nid, _, mid, mod, _, _, _, csum in stored]
    db.executemany(
        f"UPDATE notes SET mid = ?, csum = ? WHERE id = ? AND usn = {usn:d} AND mod = ?",
        [key for key in keyed if before.get(key[2], key[:2]) != key[:2]],
    )
    new = len({row[0] for row in rows}) - len(before)
    return new, written - new


def delete(db: sqlite3.Connection, ids: Iterable[int]) -> int:
    """Deletes notes, and only them; returns how many there were."""
    return max(db.executemany("DELETE FROM notes WHERE id = ?", ((i,) for i in ids)).rowcount, 0)
