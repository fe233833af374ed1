# SPDX-License-Identifier: AGPL-3.0-or-later
"""Schema 11, and 15 to 17, to 18 (docs/collection-format.md, 11).

Old files carry the faults of many years of clients: ids written as text, inner ids that
differ from the keys, names that clash once they are compared properly. Each is put right as
the clients do it when they upgrade, except for new usns: a client writes -1 for "to be sent",
which on a server would fail every later sync. After an upload they are 0, since everybody
else gets the whole collection; in one that another server kept, the next number to be sent.
"""

import re
import secrets
import sqlite3
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cardkeep.collection import config, database, deck_configs, decks, notetypes
from cardkeep.collection.schema.tables import SCHEMA_11, SCHEMA_16, SCHEMA_17, SCHEMA_18
from cardkeep.errors import BadRequest, NotAccepted
from cardkeep.records import deck, deck_config, notetype
from cardkeep.records.deck import Deck
from cardkeep.records.deck_config import DeckConfig
from cardkeep.records.numbers import INT64_MAX, INT64_MIN, single
from cardkeep.records.unicase import fold

# What a JSON text of an upload may hold, so that reading it takes bounded memory. The
# largest seen have a few megabytes (notetypes with scripts and fonts in them).
_MOST_BYTES = 32 * 1024 * 1024
_MOST_PARTS = 1_000_000
# How often a name may have to be lengthened before it is nobody's like.
_MOST_NAMESAKES = 200

_MARKS = (b'"', b"[", b"{", b",")
_INTEGER = re.compile("-?[0-9]{1,20}")

_S = TypeVar("_S")
_T = TypeVar("_T")


def upgrade(path: Path, now: int | None = None) -> None:
    """Turns the private schema-11 file at `path` into schema 18, in place.

    `now` (s) is the time given to decks that must be renamed; the clock's by default.
    Raises NotAccepted, with words for the user, when its JSON cannot be read; the file is
    then of no use any more.
    """
    connection = database.connect_private(path)
    try:
        upgrade_tables(connection, int(time.time()) if now is None else now)
    finally:
        database.close(connection)


def upgrade_tables(connection: sqlite3.Connection, now: int, usn: int = 0) -> None:
    """The same for an open private file; what has to be changed gets `usn`."""
    connection.execute("BEGIN")
    for name in SCHEMA_18.tables.keys() - SCHEMA_11.tables.keys():
        connection.execute(SCHEMA_18.tables[name].sql)
    _graves(connection)
    # Before anything is stored, so that two of one name, which must not be, show at once.
    for name in SCHEMA_18.indexes.keys() - SCHEMA_11.indexes.keys():
        connection.execute(f"DROP INDEX IF EXISTS {name}")
        connection.execute(SCHEMA_18.indexes[name].sql)
    low_ease = _deck_configs(connection)
    _tags(connection)
    _configuration(connection)
    _notetypes(connection)
    users = _decks(connection, now, usn)
    _raise_low_ease(connection, [id_ for id_, uses in users.items() if uses in low_ease], usn)
    connection.execute(
        "UPDATE col SET ver = 18, conf = '', models = '', decks = '', dconf = '', tags = ''"
    )
    connection.execute("COMMIT")
    # The new tables and indexes are unknown to the statistics that queries are planned by.
    connection.execute("PRAGMA analysis_limit = 1000")
    connection.execute("ANALYZE")


def finish_upgrade(connection: sqlite3.Connection, version: int, usn: int = 0) -> None:
    """Turns an open private file of schema 15, 16 or 17 into schema 18; as `upgrade_tables`."""
    connection.execute("BEGIN")
    if version < SCHEMA_16.version:
        _ease_from_percent(connection, usn)
    if version < SCHEMA_17.version:
        _tags_from_15(connection)
    _graves(connection)
    connection.execute(SCHEMA_18.indexes["idx_graves_pending"].sql)
    connection.execute("UPDATE col SET ver = 18")
    connection.execute("COMMIT")


def _ease_from_percent(connection: sqlite3.Connection, usn: int) -> None:
    low_ease = set()
    rows = connection.execute("SELECT id, name, mtime_secs, usn, config FROM deck_config")
    for row in rows.fetchall():
        config = _read(_with_true_ease, DeckConfig(*row), "deck options")
        if _initial_ease_is_low(config):
            low_ease.add(config.id)
            config = deck_config.with_initial_ease(config, lambda _: 2.5)
        deck_configs.put(connection, config)
    if low_ease:
        users = [
            row[0]
            for row in connection.execute(
                "SELECT id, name, mtime_secs, usn, common, kind FROM decks"
            )
            if _options_of(Deck(*row)) in low_ease
        ]
        _raise_low_ease(connection, users, usn)


def _with_true_ease(config: DeckConfig) -> DeckConfig:
    return deck_config.with_initial_ease(config, lambda ease: single(ease / 100))


def _options_of(row: Deck) -> int | None:
    """The deck config of a normal deck."""
    json = _read(deck.to_json, row, "decks")
    return None if json["dyn"] else json["conf"]


def _tags_from_15(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE tags RENAME TO tags_15")
    connection.execute(SCHEMA_18.tables["tags"].sql)
    connection.execute("INSERT INTO tags SELECT tag, usn, 1, NULL FROM tags_15")
    connection.execute("DROP TABLE tags_15")


def _graves(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE graves RENAME TO graves_11")
    connection.execute(SCHEMA_18.tables["graves"].sql)
    connection.execute(
        "INSERT INTO graves SELECT oid, type, max(usn) FROM graves_11 GROUP BY oid, type"
    )
    connection.execute("DROP TABLE graves_11")


def _deck_configs(connection: sqlite3.Connection) -> set[int]:
    """Stores them; returns the ids of those whose ease was too low."""
    low = set()
    for key, obj in _objects(connection, "dconf", "deck options"):
        # Old clients wrote wrong ids inside; the key is what decks refer to.
        obj["id"] = key or _free_id()
        row = _read(deck_config.from_json, obj, "deck options")
        row = deck_config.with_initial_ease(row, _through_percent)
        if _initial_ease_is_low(row):
            low.add(row.id)
            row = deck_config.with_initial_ease(row, lambda _: 2.5)
        deck_configs.put(connection, row)
    return low


def _through_percent(ease: float) -> float:
    """Schema 15 held percents; on the way the last bit can change."""
    return single(single(ease * 100) / 100)


def _initial_ease_is_low(row: deck_config.DeckConfig) -> bool:
    found: list[float] = []

    def look(ease: float) -> float:
        found.append(ease)
        return ease

    deck_config.with_initial_ease(row, look)
    return found[0] <= single(1.3)


def _raise_low_ease(connection: sqlite3.Connection, deck_ids: list[int], usn: int) -> None:
    for deck_id in deck_ids:
        connection.execute(
            """
            UPDATE cards SET factor = 2500, usn = ?
            WHERE factor != 0 AND factor <= 2000 AND ? IN (did, odid)
            """,
            (usn, deck_id),
        )


def _tags(connection: sqlite3.Connection) -> None:
    tags = _decoded(connection, "tags", "tags", dict[str, int])
    connection.executemany(
        "INSERT OR IGNORE INTO tags VALUES (?, ?, 1, NULL)",
        ((tag, usn) for tag, usn in tags.items()),
    )


def _configuration(connection: sqlite3.Connection) -> None:
    raw = _decoded(connection, "conf", "configuration", dict[str, msgspec.Raw])
    for key, value in raw.items():
        config.put(connection, key, _value(value, "configuration"), usn=0, now=0)


def _notetypes(connection: sqlite3.Connection) -> None:
    names = _Names("notetypes", "_")

    def in_use(ntid: int) -> bool:
        found = connection.execute("SELECT 1 FROM notes WHERE mid = ? LIMIT 1", (ntid,))
        return found.fetchone() is not None

    moved = {}
    for key, obj in _with_own_ids(_objects(connection, "models", "notetypes"), in_use):
        moved[key] = obj["id"]
        row = _read(notetype.from_json, obj, "notetypes")
        fields, templates = _Names("fields of a notetype", "+"), _Names("cards of a notetype", "+")
        row = msgspec.structs.replace(
            row,
            name=names.free(_composed(row.name)),
            fields=[notetype.Field(fields.free(_composed(f.name)), f.config) for f in row.fields],
            templates=[
                notetype.Template(templates.free(_composed(t.name)), t.config)
                for t in row.templates
            ],
        )
        notetypes.put(connection, row)
    for key in moved.keys() - moved.values():
        connection.execute("UPDATE notes SET mid = ? WHERE mid = ?", (moved[key], key))


def _decks(connection: sqlite3.Connection, now: int, usn: int) -> dict[int, int]:
    """Stores them; returns which deck config each normal one uses."""
    names = _Names("decks", "_")
    uses = {}
    for _, obj in _with_own_ids(_objects(connection, "decks", "decks"), lambda _: False):
        row = _read(deck.from_json, obj, "decks")
        name = names.free(row.name)
        if name != row.name or deck.to_json(row)["name"] != obj["name"]:
            row = msgspec.structs.replace(row, name=name, mtime_secs=now, usn=usn)
        decks.put(connection, row)
        json = deck.to_json(row)
        if not json["dyn"]:
            uses[row.id] = json["conf"]
    return uses


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


class _Names:
    """Makes names unique, as the unicase collation compares them, by lengthening the later."""

    def __init__(self, what: str, suffix: str) -> None:
        self._what = what
        self._suffix = suffix
        self._taken: set[str] = set()

    def free(self, name: str) -> str:
        for _ in range(_MOST_NAMESAKES):
            folded = fold(name)
            if folded not in self._taken:
                self._taken.add(folded)
                return name
            name += self._suffix
        raise _unreadable(self._what, f"more than {_MOST_NAMESAKES} have one name")


def _with_own_ids(
    objects: Iterator[tuple[int, dict[str, Any]]], in_use: Callable[[int], bool]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Key and object, under the id inside it, or else under its key.

    The two differ in damaged files only. Clients go by the inner id, and lose an object when
    two have the same; here the one whose key it is keeps it, and an id that others use is
    preferred to one that nobody uses.
    """
    waiting = []
    taken = set()
    for key, obj in objects:
        id_ = _integer(obj.get("id"))
        if id_ == key and key:
            taken.add(key)
            yield key, obj
        else:
            waiting.append((key, id_, obj))
    for key, id_, obj in waiting:
        # 0 as a key was seen in the wild; the clients give such an object a new id too.
        wanted = [each for each in (id_, key) if key and each and each not in taken]
        wanted.sort(key=in_use, reverse=True)
        chosen = wanted[0] if wanted else _free_id()
        taken.add(chosen)
        yield key, obj | {"id": chosen}


def _free_id() -> int:
    """An id that is no time of the last fifty years, like those of everything else."""
    return secrets.randbelow(2**32 - 2) + 2


def _integer(value: Any) -> int | None:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if type(value) is int and INT64_MIN <= value <= INT64_MAX:
        return value
    return None


# --- reading the JSON texts -------------------------------------------------------------


def _objects(
    connection: sqlite3.Connection, column: str, what: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Key and object of each entry; of duplicate keys the last."""
    for text, raw in _decoded(connection, column, what, dict[str, msgspec.Raw]).items():
        key = _integer(text)
        if key is None:
            raise _unreadable(what, f"the key {text[:20]!r} is no id")
        obj = _value(raw, what)
        if type(obj) is not dict:
            raise _unreadable(what, f"{key} is no object")
        yield key, obj


def _decoded(connection: sqlite3.Connection, column: str, what: str, type_: type[_T]) -> _T:
    (size,) = connection.execute(f"SELECT length(CAST({column} AS blob)) FROM col").fetchone()
    if size > _MOST_BYTES:
        raise _unreadable(what, f"{size} bytes of JSON are more than {_MOST_BYTES}")
    (text,) = connection.execute(f"SELECT CAST({column} AS blob) FROM col").fetchone()
    if sum(map(text.count, _MARKS)) > _MOST_PARTS:
        raise _unreadable(what, f"more than {_MOST_PARTS} parts")
    try:
        return msgspec.json.decode(text, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(what, str(error)) from error


def _value(raw: msgspec.Raw, what: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(what, str(error)) from error


def _read(convert: Callable[[_S], _T], obj: _S, what: str) -> _T:
    try:
        return convert(obj)
    except BadRequest as error:
        raise _unreadable(what, error.reason) from error


def _unreadable(what: str, reason: str) -> NotAccepted:
    return NotAccepted(
        f"The {what} of this collection cannot be read. In Anki, choose Tools > Check Database, "
        "then sync again.",
        f"upgrade: {what}: {reason}",
    )
