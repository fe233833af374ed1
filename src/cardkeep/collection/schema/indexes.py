# SPDX-License-Identifier: AGPL-3.0-or-later
"""Puts the indexes of an upload in order.

An index that disagrees with its table hides rows from syncs, and clients refuse a file with
one. SQLite's own comparison (`integrity_check` beyond `quick_check`) looks every row up in
every index, which takes more time than all the rest of an inspection; sums over both sides
take a fifth of it. What they find unequal is made anew, as are the indexes of small tables.

Sums cannot tell entries out of order from entries in order. No accident leaves exactly the
same entries, in sound pages, in another order.
"""

import sqlite3
from collections.abc import Sequence

from cardkeep.collection.schema.tables import Index, Schema

# With up to millions of rows. Their columns are numbers, so no collation is involved.
LARGE = ("notes", "cards", "revlog")


def put_in_order(connection: sqlite3.Connection, schema: Schema) -> None:
    """Makes missing and wrong indexes of `schema` anew.

    The others have been compared with the schema by name and definition. Raises
    sqlite3.IntegrityError when two rows have one name that must be unique.
    """
    existing = {
        name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type='index'")
    }
    for index in schema.indexes.values():
        if index.name not in existing:
            connection.execute(index.sql)
        elif index.table not in LARGE:
            connection.execute(f"REINDEX {index.name}")
    for table in LARGE:
        indexes = [index for index in schema.indexes.values() if index.table == table]
        for index in disagreeing(connection, table, indexes):
            connection.execute(f"REINDEX {index.name}")


def disagreeing(
    connection: sqlite3.Connection, table: str, indexes: Sequence[Index]
) -> list[Index]:
    """Those of the table's `indexes` that are not as the table is; all of them exist.

    One pass over the table for all of its indexes, one over each index.
    """
    sums = ", ".join(
        f"{each} FILTER (WHERE {index.where or 'TRUE'})"
        for index in indexes
        for each in _sums(index)
    )
    rows = connection.execute(f"SELECT {sums} FROM {table} NOT INDEXED").fetchone()
    expected = [rows[at : at + 4] for at in range(0, len(rows), 4)]
    wrong = []
    for index, wanted in zip(indexes, expected, strict=True):
        where = f"WHERE {index.where}" if index.where else ""
        found = connection.execute(
            f"SELECT {', '.join(_sums(index))} FROM {table} INDEXED BY {index.name} {where}"
        ).fetchone()
        if found != wanted:
            wrong.append(index)
    return wrong


def _sums(index: Index) -> Sequence[str]:
    """Four sums over its entries: how many, their rows, their keys, and which goes with which."""
    key = " + ".join(f"{2 * at + 1} * {column}" for at, column in enumerate(index.columns))
    prime = 2**31 - 1
    return (
        "count(*)",
        f"total(id % {prime})",
        f"total(({key}) % {prime})",
        f"total((({key}) & 65535) * (id & 65535))",
    )
