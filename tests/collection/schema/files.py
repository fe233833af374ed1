# SPDX-License-Identifier: AGPL-3.0-or-later
"""Collection files to test with, and ways to spoil them."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cardkeep.collection.schema.create import create
from cardkeep.records import unicase

VECTORS = Path(__file__).parents[2] / "vectors" / "collections"
NOW_MS = 1_795_423_254_765
PAGE = 4096


def copied(name: str, folder: Path) -> Path:
    """A private copy of a recorded collection."""
    path = folder / f"{name}.anki2"
    path.write_bytes((VECTORS / path.name).read_bytes())
    return path


def fresh(folder: Path) -> Path:
    """A new collection."""
    path = folder / "fresh.anki2"
    create(path, NOW_MS)
    return path


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A bare connection, as any program makes it, that leaves no side files."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.create_collation("unicase", unicase.compare)
    connection.execute("PRAGMA journal_mode = DELETE")
    try:
        yield connection
    finally:
        connection.close()


def edit(path: Path, *statements: str) -> Path:
    """Runs statements on the file."""
    with opened(path) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


def rewrite_schema(path: Path, statement: str, *values: Any) -> Path:
    """Runs a statement that changes the schema table itself."""
    with opened(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(statement, values)
    return path


def remade(path: Path, table: str, old: str, new: str) -> Path:
    """Makes a table anew with its statement changed, its rows and indexes kept."""
    with opened(path) as connection:
        rows = connection.execute(f"SELECT * FROM {table}").fetchall()
        statements = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE tbl_name = ? AND sql IS NOT NULL "
            "ORDER BY type DESC",
            (table,),
        ).fetchall()
        connection.execute(f"DROP TABLE {table}")
        assert old in statements[0][0]
        connection.execute(statements[0][0].replace(old, new))
        for (statement,) in statements[1:]:
            connection.execute(statement)
        for row in rows:
            marks = ", ".join("?" for _ in row)
            connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)
    return path


def patch(path: Path, offset: int, data: bytes) -> Path:
    """Overwrites bytes."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a query gives."""
    with opened(path) as connection:
        return connection.execute(sql).fetchall()


def tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, by table."""
    with opened(path) as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' "
            "ESCAPE '\\'"
        ).fetchall()
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in names}


def objects(path: Path) -> set[tuple[str, str]]:
    """Type and name of everything in the schema but SQLite's own tables."""
    return set(
        rows(
            path,
            "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )
    )


def integrity(path: Path) -> str:
    """What SQLite says about the whole file."""
    return str(rows(path, "PRAGMA integrity_check")[0][0])
