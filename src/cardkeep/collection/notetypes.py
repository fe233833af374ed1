# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `notetypes`, `fields` and `templates` tables: one notetype is rows in all three."""

import sqlite3
from dataclasses import dataclass

from cardkeep.records.notetype import Field, Notetype, Template


@dataclass(frozen=True, slots=True)
class Layout:
    """What must not change without a one-way sync, and how many fields a note must have."""

    fields: int
    templates: int


def since(db: sqlite3.Connection, min_usn: int) -> list[Notetype]:
    """Notetypes that a client at `min_usn` has not seen."""
    ids = db.execute("SELECT id FROM notetypes WHERE usn >= ?", (min_usn,)).fetchall()
    return [found for (ntid,) in ids if (found := get(db, ntid)) is not None]


def get(db: sqlite3.Connection, ntid: int) -> Notetype | None:
    """One notetype with its fields and templates."""
    row = db.execute(
        "SELECT id, name, mtime_secs, usn, config FROM notetypes WHERE id = ?", (ntid,)
    ).fetchone()
    if row is None:
        return None
    fields = db.execute("SELECT name, config FROM fields WHERE ntid = ? ORDER BY ord", (ntid,))
    templates = db.execute(
        "SELECT name, config FROM templates WHERE ntid = ? ORDER BY ord", (ntid,)
    )
    _, name, mtime, usn, blob = row
    return Notetype(
        ntid,
        name,
        mtime,
        usn,
        blob,
        [Field(*field) for field in fields],
        [Template(*template) for template in templates],
    )


def stamp(db: sqlite3.Connection, ntid: int) -> tuple[int, int] | None:
    """Time (s) and usn of a notetype."""
    row = db.execute("SELECT mtime_secs, usn FROM notetypes WHERE id = ?", (ntid,)).fetchone()
    return None if row is None else (row[0], row[1])


def named(db: sqlite3.Connection, name: str) -> int | None:
    """Id of the notetype of that name, compared as the collation does."""
    row = db.execute("SELECT id FROM notetypes WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def layouts(db: sqlite3.Connection) -> dict[int, Layout]:
    """The layout of every notetype."""
    rows = db.execute(
        """
        SELECT id,
            (SELECT count(*) FROM fields WHERE ntid = notetypes.id),
            (SELECT count(*) FROM templates WHERE ntid = notetypes.id)
        FROM notetypes
        """
    )
    return {ntid: Layout(fields, templates) for ntid, fields, templates in rows}


def configs(db: sqlite3.Connection) -> dict[int, bytes]:
    """The config blob of every notetype."""
    return dict(db.execute("SELECT id, config FROM notetypes"))


def put(db: sqlite3.Connection, notetype: Notetype) -> None:
    """Stores a notetype, new or in place of the one with its id, with all its rows."""
    ntid = notetype.id
    db.execute(
        """
        INSERT INTO notetypes VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET
            name = excluded.name,
            mtime_secs = excluded.mtime_secs,
            usn = excluded.usn,
            config = excluded.config
        """,
        (ntid, notetype.name, notetype.mtime_secs, notetype.usn, notetype.config),
    )
    db.execute("DELETE FROM fields WHERE ntid = ?", (ntid,))
    db.executemany(
        "INSERT INTO fields VALUES (?, ?, ?, ?)",
        [(ntid, at, field.name, field.config) for at, field in enumerate(notetype.fields)],
    )
    db.execute("DELETE FROM templates WHERE ntid = ?", (ntid,))
    db.executemany(
        "INSERT INTO templates VALUES (?, ?, ?, 0, 0, ?)",
        [(ntid, at, made.name, made.config) for at, made in enumerate(notetype.templates)],
    )


def rename(db: sqlite3.Connection, ntid: int, name: str, *, mtime: int, usn: int) -> None:
    """Gives a notetype another name."""
    db.execute(
        "UPDATE notetypes SET name = ?, mtime_secs = ?, usn = ? WHERE id = ?",
        (name, mtime, usn, ntid),
    )
