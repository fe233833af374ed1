# SPDX-License-Identifier: AGPL-3.0-or-later
"""Collections to upload: a small one of an engine's make, whole or spoiled on purpose."""

import functools
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cardkeep.records.unicase import compare

COLLECTIONS = Path(__file__).parents[1] / "vectors" / "collections"

# What is in the small collection.
BASIC = 1795425543024
DECK = 1795425543145
NOTES = (1795425543163, 1795425543164)
CARDS = (1795425543164, 1795425543165)
FIRST_USN = 1
# cards, notes, reviews, notetypes, decks, presets
COUNTS = (2, 2, 1, 6, 3, 1)

AS_CLIENTS_DO = """
delete from graves;
update notes set usn = 0;
update cards set usn = 0;
update revlog set usn = 0;
update col set usn = usn + 1, ls = scm, mod = scm;
"""


def opened(path: Path) -> sqlite3.Connection:
    """A plain connection that can read the names' indexes."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.create_collation("unicase", compare)
    return connection


@functools.cache
def uploadable(schema: int = 18) -> bytes:
    """The small collection as a client uploads it: nothing pending, no graves."""

    def put_in_order(connection: sqlite3.Connection) -> None:
        connection.executescript(AS_CLIENTS_DO)
        if schema == 18:
            for table in ("decks", "deck_config", "notetypes", "tags"):
                connection.execute(f"update {table} set usn = 0")
        else:
            for column in ("decks", "dconf", "models", "tags"):
                (text,) = connection.execute(f"select {column} from col").fetchone()
                things = {key: _with_usn_0(thing) for key, thing in json.loads(text).items()}
                connection.execute(f"update col set {column} = ?", [json.dumps(things)])

    return changed(put_in_order, schema, source=None)


def _with_usn_0(thing: Any) -> Any:
    return {**thing, "usn": 0} if isinstance(thing, dict) else 0


def spoiled(*statements: str, schema: int = 18) -> bytes:
    """An upload that these statements have spoiled."""

    def spoil(connection: sqlite3.Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    return changed(spoil, schema, source=uploadable(schema))


def changed(
    change: Callable[[sqlite3.Connection], object], schema: int, source: bytes | None
) -> bytes:
    """The bytes of a collection after `change`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collection.anki2"
        if source is None:
            shutil.copy(COLLECTIONS / f"small-schema{schema}.anki2", path)
        else:
            path.write_bytes(source)
        connection = opened(path)
        change(connection)
        connection.close()
        return path.read_bytes()


def read(collection: bytes, look: Callable[[sqlite3.Connection], Any]) -> Any:
    """What `look` finds in a downloaded collection."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collection.anki2"
        path.write_bytes(collection)
        connection = opened(path)
        try:
            return look(connection)
        finally:
            connection.close()
