# SPDX-License-Identifier: AGPL-3.0-or-later
"""Schema 18 to 11 (docs/collection-format.md, 12), for downloads of version 8 to 10 clients.

What schema 11 has no place for is lost: which tags are collapsed, times and usns of
configuration entries, protobuf fields that we do not know. So it is a copy that is
converted, never the collection itself.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from cardkeep.collection import config, database, deck_configs, decks, notetypes
from cardkeep.collection.schema.tables import SCHEMA_11, SCHEMA_18
from cardkeep.records import deck, deck_config, notetype

# Everything has a usn above this one.
_ALL = -(2**31)


def downgrade(path: Path) -> None:
    """Turns the private schema-18 file at `path` into schema 11, in place.

    It then asks for a rollback journal, as those clients need, and is whole by itself.
    Raises BadRequest when a blob does not decode; the file is then of no use any more.
    """
    connection = database.connect_private(path)
    try:
        connection.execute("BEGIN")
        connection.execute(
            "UPDATE col SET ver = 11, conf = ?, models = ?, decks = ?, dconf = ?, tags = ?",
            (
                _json(config.read(connection)),
                _json(_by_id(map(notetype.to_json, notetypes.since(connection, _ALL)))),
                _json(_by_id(map(deck.to_json, decks.since(connection, _ALL)))),
                _json(_by_id(map(deck_config.to_json, deck_configs.since(connection, _ALL)))),
                _json(dict(connection.execute("SELECT tag, usn FROM tags"))),
            ),
        )
        _graves(connection)
        for name in SCHEMA_18.tables.keys() - SCHEMA_11.tables.keys():
            connection.execute(f"DROP TABLE {name}")
        for name in SCHEMA_18.indexes.keys() - SCHEMA_11.indexes.keys():
            connection.execute(f"DROP INDEX IF EXISTS {name}")
        connection.execute("COMMIT")
    finally:
        database.close(connection)


def _graves(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE graves RENAME TO graves_18")
    connection.execute(SCHEMA_11.tables["graves"].sql)
    connection.execute("INSERT INTO graves SELECT usn, oid, type FROM graves_18")
    connection.execute("DROP TABLE graves_18")


def _by_id(objects: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return {str(obj["id"]): obj for obj in objects}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
