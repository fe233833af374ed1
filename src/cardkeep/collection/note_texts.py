# SPDX-License-Identifier: AGPL-3.0-or-later
"""The texts of notes: whether they are text, fit their notetype, and what is derived from them.

The longest of all looks, so it is many short transactions.
"""

import sqlite3
from collections.abc import Iterator
from typing import Any

from cardkeep.collection import notetypes
from cardkeep.collection.faults import CHECK_DATABASE, NAMED, is_utf8, told
from cardkeep.errors import BadRequest
from cardkeep.messages import Finding
from cardkeep.records import notetype
from cardkeep.records.note import FIELD_SEPARATOR, note_fields, sort_field_and_checksum

_BATCH = 2000
_WORDS = {
    "text": "{n} note{s} with text that clients cannot read",
    "note-fields": "{n} note{s} with more or fewer fields than the notetype",
    "derived": "{n} note{s} whose sort field or checksum is not that of the text",
}


class Texts:
    """Goes through the notes, some thousands in a transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._last = -(2**63)
        self._version = 0
        self._layouts: dict[int, tuple[int, int | None]] = {}
        self._found: dict[str, list[int]] = {kind: [] for kind in _WORDS}
        self._counts = dict.fromkeys(_WORDS, 0)
        #: What is wrong of the last batch: sort field, checksum, id, and the text they are from.
        self.underived: list[tuple[str, int, int, bytes]] = []

    def next_batch(self) -> int:
        """Looks at the next notes; how many there were."""
        self._db.execute("BEGIN")
        try:
            rows = self._db.execute(
                """
                SELECT id, mid, CAST(guid AS blob), CAST(tags AS blob), CAST(flds AS blob),
                    CASE typeof(sfld) WHEN 'text' THEN CAST(sfld AS blob) ELSE sfld END, csum
                FROM notes NOT INDEXED
                WHERE id > ? AND typeof(flds) = 'text'
                ORDER BY id
                LIMIT ?
                """,
                (self._last, _BATCH),
            ).fetchall()
            self._see_layouts()
            self.underived.clear()
            for row in rows:
                self._look(*row)
        finally:
            self._db.execute("COMMIT")
        if rows:
            self._last = rows[-1][0]
        return len(rows)

    def _see_layouts(self) -> None:
        """Notetypes may have been replaced by an upload since the last batch."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return
        self._version = version
        configs = notetypes.configs(self._db)
        self._layouts = {
            ntid: (layout.fields, _sort_index(configs[ntid]))
            for ntid, layout in notetypes.layouts(self._db).items()
        }

    def _look(
        self, nid: int, mid: int, guid: bytes, tags: bytes, flds: bytes, sfld: Any, csum: Any
    ) -> None:
        texts = (guid, tags, flds, sfld if isinstance(sfld, bytes) else b"")
        if not all(map(is_utf8, texts)):
            self._note("text", nid)
            return
        fields, sort_index = self._layouts.get(mid, (0, None))
        if fields and flds.count(FIELD_SEPARATOR.encode()) + 1 != fields:
            self._note("note-fields", nid)
        if sort_index is None:
            return
        sort_field, checksum = sort_field_and_checksum(note_fields(flds.decode()), sort_index)
        if csum != checksum or not self._is_stored_as(nid, sort_field, sfld):
            self._note("derived", nid)
            self.underived.append((sort_field, checksum, nid, flds))

    def _is_stored_as(self, nid: int, sort_field: str, stored: Any) -> bool:
        if isinstance(stored, bytes):
            return stored == sort_field.encode()
        # A number where the text looks like one: SQLite compares as it stores.
        found = self._db.execute("SELECT sfld IS ? FROM notes WHERE id = ?", (sort_field, nid))
        return bool(found.fetchone()[0])

    def _note(self, kind: str, nid: int) -> None:
        self._counts[kind] += 1
        if len(self._found[kind]) < NAMED:
            self._found[kind].append(nid)

    def derive(self) -> None:
        """Stores what the last batch lacks. It is never sent, so no device hears of it."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "UPDATE notes SET sfld = ?, csum = ? WHERE id = ? AND CAST(flds AS blob) = ?",
            self.underived,
        )
        self._db.execute("COMMIT")

    def findings(self, *, repaired: bool) -> Iterator[Finding]:
        """What was wrong with all of them."""
        for kind, count in self._counts.items():
            if count:
                derived = kind == "derived"
                advice = "" if derived else CHECK_DATABASE
                yield Finding(
                    kind,
                    told(_WORDS[kind], self._found[kind], count, advice),
                    repaired=derived and repaired,
                    repairable=derived,
                    harmless=derived,
                )


def _sort_index(config: bytes) -> int | None:
    try:
        return notetype.sort_index(config)
    except (BadRequest, TypeError):
        return None
