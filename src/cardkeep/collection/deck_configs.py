# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `deck_config` table: presets; their names need not be unique."""

import sqlite3

from cardkeep.records.deck_config import DeckConfig

_COLUMNS = "id, name, mtime_secs, usn, config"


def since(db: sqlite3.Connection, min_usn: int) -> list[DeckConfig]:
    """Deck configs that a client at `min_usn` has not seen."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM deck_config WHERE usn >= ?", (min_usn,))
    return [DeckConfig(*row) for row in rows]


def get(db: sqlite3.Connection, config_id: int) -> DeckConfig | None:
    """One deck config."""
    row = db.execute(f"SELECT {_COLUMNS} FROM deck_config WHERE id = ?", (config_id,)).fetchone()
    return None if row is None else DeckConfig(*row)


def put(db: sqlite3.Connection, config: DeckConfig) -> None:
    """Stores a deck config, new or in place of the one with its id."""
    db.execute(
        "INSERT OR REPLACE INTO deck_config VALUES (?, ?, ?, ?, ?)",
        (config.id, config.name, config.mtime_secs, config.usn, config.config),
    )
