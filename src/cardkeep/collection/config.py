# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `config` table: the configuration, JSON values under text keys."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec


def read(db: sqlite3.Connection) -> dict[str, Any]:
    """The whole configuration, values decoded."""
    decode = msgspec.json.decode
    return {key: decode(val) for key, val in db.execute("SELECT KEY, val FROM config")}


def get(db: sqlite3.Connection, key: str) -> Any:
    """One value, decoded; None if there is none or it cannot be read."""
    return get_some(db, [key]).get(key)


def get_some(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Any]:
    """Those of the values that exist and can be read, decoded."""
    places = ", ".join("?" * len(keys))
    found = {}
    for key, val in db.execute(f"SELECT KEY, val FROM config WHERE KEY IN ({places})", keys):
        with suppress(msgspec.DecodeError, TypeError):
            found[key] = msgspec.json.decode(val)
    return found


def put(db: sqlite3.Connection, key: str, value: Any, *, usn: int, now: int) -> None:
    """Stores one value. It is bound as bytes: clients fail on a text value."""
    db.execute(
        "INSERT OR REPLACE INTO config VALUES (?, ?, ?, ?)",
        (key, usn, now, msgspec.json.encode(value)),
    )


def replace(db: sqlite3.Connection, values: Mapping[str, Any], *, usn: int, now: int) -> None:
    """Makes the configuration exactly `values`; entries that are equal already stay untouched."""
    stored = dict(db.execute("SELECT KEY, val FROM config"))
    encoded = {key: msgspec.json.encode(value) for key, value in values.items()}
    db.executemany("DELETE FROM config WHERE KEY = ?", [(k,) for k in stored.keys() - encoded])
    db.executemany(
        "INSERT OR REPLACE INTO config VALUES (?, ?, ?, ?)",
        [(k, usn, now, val) for k, val in encoded.items() if stored.get(k) != val],
    )
