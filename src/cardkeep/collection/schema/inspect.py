# SPDX-License-Identifier: AGPL-3.0-or-later
"""Decides whether an uploaded file becomes somebody's collection (docs/collection-format.md, 9).

A file is anything that its sender wants it to be. The order of the steps is what makes them
safe: the schema is read within bounds and compared, word for word, with the tables that
belong to a collection, before any statement touches one of them; so no trigger, view, check or
generated column is ever run. Then the pages are checked, then the values, then the objects.
What clients read although it is not quite right is put right; what they fail on is refused,
in words that the client shows.
"""

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cardkeep.collection import database
from cardkeep.collection.schema import statement, values
from cardkeep.collection.schema.indexes import LARGE, put_in_order
from cardkeep.collection.schema.tables import SCHEMA_11, SCHEMA_18, SCHEMAS, Index, Schema, Table
from cardkeep.collection.schema.upgrade import finish_upgrade, upgrade_tables
from cardkeep.errors import BadRequest, NotAccepted, Unavailable
from cardkeep.records import deck, deck_config, notetype
from cardkeep.records.deck import Deck
from cardkeep.records.deck_config import DeckConfig
from cardkeep.records.notetype import Field, Notetype, Template

# CPU time after which an inspection ends, as the last defence: 500 MB take a few seconds.
_MOST_CPU_SECONDS = 120.0
# How many steps of SQLite's machine pass between two looks at the clock (some milliseconds).
_STEPS = 200_000

# What all objects of a table may be and take together. Each is decoded, and a client of an
# old version gets each kind in one JSON text.
_MOST_OBJECTS = 100_000
_MOST_BYTES = 48 * 1024 * 1024
# Parts (keys, list elements) of the JSON within an object, and how deep clients follow it.
_MOST_PARTS = 500_000
_DEEPEST = 120

# Made by SQLite's ANALYZE and AUTOINCREMENT.
_INTERNAL = {
    "sqlite_stat1": ("tbl", "idx", "stat"),
    "sqlite_stat2": ("tbl", "idx", "sampleno", "sample"),
    "sqlite_stat3": ("idx", "neq", "nlt", "ndlt", "sample"),
    "sqlite_stat4": ("tbl", "idx", "neq", "nlt", "ndlt", "sample"),
    "sqlite_sequence": ("name", "seq"),
}
# Real ones have a few hundred rows; the first is read whenever a connection is opened.
_MOST_INTERNAL_ROWS = 10_000

# Android adds this table to every database that it opens; it means nothing to anybody else.
_ANDROID = "android_metadata"

_CHECK = "In Anki, choose Tools > Check Database, then sync again."
_DAMAGED = (
    f"The collection is damaged. {_CHECK} If that does not help, restore a backup with "
    "File > Switch Profile > Open Backup."
)
_FOREIGN = "This is not an Anki collection, so the server keeps the one that it has."

# SQLite's complaints about the machine, not about the file.
_OURS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


def inspect(path: Path, *, of_server: bool = False) -> None:
    """Makes the private file at `path` ready to be stored: schema 18, in order, whole.

    An upload replaces what all devices have. A collection `of_server` is one that another server
    kept and that devices go on syncing with: its deletions stay, and rows that must be changed,
    or have no usn, get the one that every device has yet to see.

    The file is changed in place; the caller flushes and stores it. Raises NotAccepted, with a
    sentence for the user and the exact reason for the log, when it cannot be a collection,
    and Unavailable when the machine fails (a full disk); the file is then of no use any more.
    """
    _check_header(path)
    with _explained():
        connection = database.connect_private(path)
        try:
            _bound_time(connection)
            _inspect(connection, of_server)
        finally:
            database.close(connection)


def _inspect(connection: sqlite3.Connection, of_server: bool) -> None:
    objects = read_objects(connection)
    schema = SCHEMAS[schema_version(connection, objects)]
    check_tables(objects, schema)
    stale = stale_objects(objects, schema)
    _check_internal(connection, objects)
    _check_pages(connection)
    small = schema.tables.keys() - LARGE
    # Before anything compares names: Python's sqlite3 stumbles over text that is no UTF-8
    # when SQLite hands it to a collation.
    _check_text(connection, small)
    for name in stale:
        connection.execute(f"DROP {objects[name].type} {name}")
    put_in_order(connection, schema)
    _check_order(connection, small)
    _check_values(connection, ["col"], 0)
    if of_server:
        (usn,) = connection.execute("SELECT usn FROM col").fetchone()
    else:
        usn = 0
        # A whole upload replaces everything, deletions too: nobody has to hear of them.
        connection.execute("DELETE FROM graves")
    # Tables that the upgrade makes, or makes anew, are looked at after it.
    same = [name for name in values.RULES if schema.tables.get(name) == SCHEMA_18.tables[name]]
    _check_values(connection, [name for name in same if name != "col"], usn)
    if schema is SCHEMA_11:
        upgrade_tables(connection, int(time.time()), usn)
    elif schema is not SCHEMA_18:
        finish_upgrade(connection, schema.version, usn)
    _check_values(connection, [name for name in values.RULES if name not in same], usn)
    if of_server:
        _mend_graves(connection, usn)
    _check_text(connection, LARGE)
    _check_references(connection)
    _check_blobs(connection)
    connection.execute("UPDATE col SET id = 1, conf='', models='', decks='', dconf='', tags=''")


def _mend_graves(connection: sqlite3.Connection, usn: int) -> None:
    connection.execute("DELETE FROM graves WHERE typeof(oid) <> 'integer' OR type NOT IN (0, 1, 2)")
    connection.execute(
        "UPDATE graves SET usn = ? WHERE typeof(usn) <> 'integer' OR usn < 0 OR usn >= 2147483647",
        (usn,),
    )


# --- before SQLite sees it --------------------------------------------------------------


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(100)
    if not head:
        raise NotAccepted(
            "The uploaded collection is empty, so the server keeps the one that it has.",
            "upload of 0 bytes",
        )
    if not head.startswith(b"SQLite format 3\0"):
        raise NotAccepted(_FOREIGN, "no SQLite header")
    if len(head) < 100:
        raise NotAccepted(_DAMAGED, f"{len(head)} bytes are less than a header")
    # Rollback journal or write-ahead log; anything else SQLite would not write to.
    if head[18:20] not in (b"\1\1", b"\2\2"):
        raise NotAccepted(_DAMAGED, f"format versions {head[18]}, {head[19]}")
    if head[56:60] != b"\0\0\0\1":
        raise NotAccepted(_FOREIGN, f"text encoding {head[56:60].hex()} instead of UTF-8")


# --- the schema -------------------------------------------------------------------------


class SchemaObject(msgspec.Struct, frozen=True):
    """A row of the schema table."""

    type: str
    name: str
    table: str
    sql: str | None


def read_objects(connection: sqlite3.Connection) -> dict[str, SchemaObject]:
    """Everything in the schema, by lower-case name; `connect_private` bounded their number."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
    for row in rows:
        if not all(isinstance(each, str) for each in row[:3]):
            raise NotAccepted(_DAMAGED, "a schema row that is no text")
    return {row[1].lower(): SchemaObject(*row) for row in rows}


def schema_version(connection: sqlite3.Connection, objects: dict[str, SchemaObject]) -> int:
    """`col.ver`, 11 or 15 to 18. NotAccepted for another one, or if there is no such single row."""
    if "col" not in objects:
        raise NotAccepted(_FOREIGN, "no table col")
    _check_table(objects["col"], SCHEMA_18.tables["col"])
    rows = connection.execute("SELECT ver, typeof(ver) FROM col NOT INDEXED LIMIT 2").fetchall()
    if len(rows) != 1:
        raise NotAccepted(_DAMAGED, f"{'no' if not rows else 'more than one'} row in col")
    version, type_ = rows[0]
    if type_ != "integer":
        raise NotAccepted(_DAMAGED, f"col.ver is {type_}")
    if version > SCHEMA_18.version:
        raise NotAccepted(
            "This collection was made by a newer Anki than the server knows. Update the server, "
            "or use an earlier version of Anki.",
            f"schema version {version}",
        )
    if version not in SCHEMAS:
        raise NotAccepted(
            "This collection is in the form of an old or unfinished version of Anki. Open it with "
            "a current version of Anki, close Anki, then sync again.",
            f"schema version {version}",
        )
    return int(version)


def check_tables(objects: dict[str, SchemaObject], schema: Schema) -> None:
    """That all tables are there, as Anki makes them. Raises NotAccepted."""
    for name, table in schema.tables.items():
        if name not in objects:
            raise NotAccepted(
                f"The collection is incomplete: its table “{name}” is missing. {_CHECK}",
                f"no table {name}",
            )
        _check_table(objects[name], table)


def stale_objects(objects: dict[str, SchemaObject], schema: Schema) -> list[str]:
    """Names of what is to be dropped or made anew; NotAccepted for what does not belong."""
    stale = []
    for name, found in objects.items():
        if name in schema.tables:
            continue
        if found.type == "table" and name in _INTERNAL:
            _check_internal_table(found)
        elif found.type == "table" and name == _ANDROID:
            _read_statement(statement.read_table, found)
            stale.append(name)
        elif found.type == "index" and name in SCHEMA_18.indexes:
            if not _is_index(found, SCHEMA_18.indexes[name]) or name not in schema.indexes:
                stale.append(name)
        else:
            raise _not_ours(found)
    return stale


def _check_table(found: SchemaObject, wanted: Table) -> None:
    if found.type != "table":
        raise _not_ours(found)
    table = _read_statement(statement.read_table, found)
    if _lowered(table) != _lowered(wanted):
        raise NotAccepted(
            f"The table “{wanted.name}” of this collection is not as Anki makes it. {_CHECK}",
            f"table {wanted.name} is {_one_line(found.sql)}",
        )


def _lowered(table: Table) -> Any:
    """What of a table matters, in one spelling."""
    # Only this very word makes the id of a row the row's own number.
    rowid = not table.without_rowid and len(table.key) == 1
    return (
        table.name.lower(),
        [
            (
                column.name.lower(),
                statement.affinity(column.type),
                rowid and column.name == table.key[0] and column.type.lower() == "integer",
                column.collation,
            )
            for column in table.columns
        ],
        tuple(name.lower() for name in table.key),
        table.without_rowid,
    )


def _is_index(found: SchemaObject, wanted: Index) -> bool:
    """Whether it is made as it should be; one that is not even plain is refused."""
    index = _read_statement(statement.read_index, found)
    if index.where and index.name.lower() != "idx_cards_odid":
        raise _not_ours(found)
    lower = str.lower
    return (
        lower(index.table) == wanted.table
        and tuple(map(lower, index.columns)) == tuple(map(lower, wanted.columns))
        and index.unique == wanted.unique
        and lower(index.where) == wanted.where
    )


def _check_internal_table(found: SchemaObject) -> None:
    table = _read_statement(statement.read_table, found)
    columns = tuple(column.name for column in table.columns)
    if columns != _INTERNAL[found.name.lower()] or table.key or table.without_rowid:
        raise _not_ours(found)


def _check_internal(connection: sqlite3.Connection, objects: dict[str, SchemaObject]) -> None:
    for name in _INTERNAL.keys() & objects.keys():
        many = connection.execute(f"SELECT 1 FROM {name} LIMIT 1 OFFSET {_MOST_INTERNAL_ROWS}")
        if many.fetchone():
            raise _not_ours(objects[name])


def _read_statement(read: Callable[[str], Any], found: SchemaObject) -> Any:
    try:
        return read(found.sql or "")
    except statement.UnreadableError as error:
        raise _not_ours(found) from error


def _not_ours(found: SchemaObject) -> NotAccepted:
    return NotAccepted(
        f"The collection contains the {_shown(found.type)} “{_shown(found.name)}”, which does not "
        "belong to Anki. An add-on or another program may have made it; it must be removed before "
        "the collection can be uploaded.",
        f"{found.type} {found.name!r:.80}: {_one_line(found.sql)}",
    )


def _shown(name: str) -> str:
    """A name out of a file, fit to be shown; clients show words as rich text."""
    plain = "".join(c if c.isprintable() and c not in "<>&" else "?" for c in name[:60])
    return plain if len(name) <= 60 else plain + "…"


def _one_line(sql: str | None) -> str:
    return f"{' '.join((sql or '').split())!r:.300}"


# --- pages and values -------------------------------------------------------------------


def _check_pages(connection: sqlite3.Connection) -> None:
    """That each page is sound and used once; so nothing below can go round in circles."""
    _check_pragma(connection, "quick_check(1)")


def _check_order(connection: sqlite3.Connection, tables: Iterable[str]) -> None:
    """That rows are where searches look for them; in the small tables a key may be a name."""
    for table in tables:
        _check_pragma(connection, f"integrity_check({table})")


def _check_pragma(connection: sqlite3.Connection, pragma: str) -> None:
    (found,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    if found != "ok":
        raise NotAccepted(_DAMAGED, f"{pragma}: {_one_line(str(found))}")


def _check_values(connection: sqlite3.Connection, tables: list[str], usn: int) -> None:
    found = values.mend(connection, tables, usn)
    if found:
        raise NotAccepted(
            f"The collection holds values that Anki cannot read (table “{found.table}”, column "
            f"“{found.column}”, {found.count} times). {_CHECK}",
            f"{found.count} bad values in {found.table}.{found.column}",
        )


#: Text that clients read as such, by table. In SQLite text is any bytes.
TEXTS = {
    "notes": "guid, tags, flds, CAST(sfld AS text)",
    "cards": "data",
    "config": "KEY",
    "deck_config": "name",
    "decks": "name",
    "notetypes": "name",
    "fields": "name",
    "templates": "name",
    "tags": "tag",
}


def _check_text(connection: sqlite3.Connection, tables: Iterable[str]) -> None:
    for table, columns in TEXTS.items():
        if table not in tables:
            continue
        rows = connection.execute(f"SELECT {columns} FROM {table} NOT INDEXED")
        try:
            # Reading decodes. Nothing is kept, and SQLite works without the interpreter's lock.
            for _ in rows:
                pass
        except sqlite3.OperationalError as error:
            if "UTF-8" not in str(error):
                raise
            raise NotAccepted(
                f"The collection holds text that Anki cannot read (table “{table}”). {_CHECK}",
                f"text in {table} ({columns}) that is no UTF-8",
            ) from error


def _check_references(connection: sqlite3.Connection) -> None:
    """That what clients cannot do without is there. Cards without note or deck are mended by
    the clients' own check, and are let through."""
    missing = [
        "the default deck" * (not _exists(connection, "decks WHERE id = 1")),
        "the default deck options" * (not _exists(connection, "deck_config WHERE id = 1")),
        "a notetype with a field and a card"
        * (
            not _exists(
                connection,
                """
                notetypes AS n
                WHERE EXISTS (SELECT 1 FROM fields WHERE ntid = n.id)
                AND EXISTS (SELECT 1 FROM templates WHERE ntid = n.id)
                """,
            )
        ),
    ]
    for what in filter(None, missing):
        raise NotAccepted(f"The collection lacks {what}. {_CHECK}", f"no {what}")
    (orphans,) = connection.execute(
        "SELECT count(*) FROM notes NOT INDEXED WHERE mid NOT IN (SELECT id FROM notetypes)"
    ).fetchone()
    if orphans:
        raise NotAccepted(
            f"The collection has {orphans} notes without a notetype. {_CHECK}",
            f"{orphans} notes whose notetype is missing",
        )


def _exists(connection: sqlite3.Connection, what: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {what} LIMIT 1").fetchone() is not None


# --- objects ----------------------------------------------------------------------------


def _check_blobs(connection: sqlite3.Connection) -> None:
    """That every object decodes and can be given to clients of all versions."""
    for table, columns, check in OBJECTS:
        total = 0
        rows = connection.execute(f"SELECT {columns} FROM {table} NOT INDEXED")
        for count, row in enumerate(rows, 1):
            blobs = [each for each in row if isinstance(each, bytes)]
            total += sum(map(len, blobs))
            if count > _MOST_OBJECTS or total > _MOST_BYTES or any(map(_has_too_many_parts, blobs)):
                raise NotAccepted(
                    f"The collection has too much in its table “{table}” to be synced.",
                    f"{table}: more than {_MOST_OBJECTS} objects, {_MOST_BYTES} bytes, or "
                    f"{_MOST_PARTS} parts in one",
                )
            try:
                check(*row)
            except (BadRequest, RecursionError) as error:
                raise NotAccepted(
                    f"The collection holds an object that Anki cannot read (table “{table}”). "
                    f"{_CHECK}",
                    f"{table}: {error}",
                ) from error


def _check_deck(*row: Any) -> None:
    deck.to_json(Deck(*row))


def _check_deck_config(*row: Any) -> None:
    deck_config.to_json(DeckConfig(*row))


def _check_notetype(ntid: int, name: str, mtime_secs: int, usn: int, config: bytes) -> None:
    notetype.to_json(Notetype(ntid, name, mtime_secs, usn, config, [], []))


def _check_field(ntid: int, name: str, config: bytes) -> None:
    notetype.to_json(Notetype(ntid, "", 0, 0, b"", [Field(name, config)], []))


def _check_template(ntid: int, name: str, config: bytes) -> None:
    notetype.to_json(Notetype(ntid, "", 0, 0, b"", [], [Template(name, config)]))


def _check_config(key: str, value: bytes) -> None:
    try:
        decoded = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"{key!r:.60}: {error}") from error
    if not _is_shallow(decoded):
        raise BadRequest(f"{key!r:.60}: deeper than {_DEEPEST} levels")


#: Table, columns, and what raises BadRequest or RecursionError for a row that clients cannot read.
OBJECTS: Sequence[tuple[str, str, Callable[..., None]]] = (
    ("decks", "id, name, mtime_secs, usn, common, kind", _check_deck),
    ("deck_config", "id, name, mtime_secs, usn, config", _check_deck_config),
    ("notetypes", "id, name, mtime_secs, usn, config", _check_notetype),
    ("fields", "ntid, name, config", _check_field),
    ("templates", "ntid, name, config", _check_template),
    ("config", "KEY, val", _check_config),
)


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        children = [
            each.values() if isinstance(each, dict) else each
            for each in level
            if isinstance(each, dict | list)
        ]
        if not children:
            return True
        level = list(itertools.chain.from_iterable(children))
    return False


def _has_too_many_parts(blob: bytes) -> bool:
    """Counted roughly and fast, before anything is made of the blob.

    JSON cannot have more keys, lists and elements than it has of these marks; `B` begins each
    element of the only list of messages in a large blob (a notetype's required fields).
    """
    return len(blob) > _MOST_PARTS and sum(map(blob.count, b'"[{,B')) > _MOST_PARTS


# --- bounds and errors ------------------------------------------------------------------


def _bound_time(connection: sqlite3.Connection) -> None:
    end = time.thread_time() + _MOST_CPU_SECONDS
    connection.set_progress_handler(lambda: time.thread_time() > end, _STEPS)


@contextmanager
def _explained() -> Iterator[None]:
    """Turns SQLite's errors into words for the user, or for the operator."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in _OURS:
            raise Unavailable(f"the upload could not be inspected: {error}") from error
        if code == sqlite3.SQLITE_NOTADB:
            raise NotAccepted(_FOREIGN, str(error)) from error
        if code == sqlite3.SQLITE_INTERRUPT:
            raise NotAccepted(
                f"The collection is too complicated to be inspected. {_CHECK}",
                f"interrupted: too many objects in the schema, or {_MOST_CPU_SECONDS} s of CPU",
            ) from error
        if code == sqlite3.SQLITE_TOOBIG:
            raise NotAccepted(
                "The collection holds a note or another object that is too large to be synced.",
                str(error),
            ) from error
        if code == sqlite3.SQLITE_CONSTRAINT:
            raise NotAccepted(
                f"Two things in this collection have one name. {_CHECK}", str(error)
            ) from error
        raise NotAccepted(_DAMAGED, str(error)) from error
    except UnicodeDecodeError as error:
        # An error message of SQLite with bytes of the file in it.
        raise NotAccepted(_DAMAGED, f"{error.object!r:.200}") from error
    except SystemError as error:
        # What Python 3.11 makes of an error in a collation that SQLite did not notice.
        raise NotAccepted(_DAMAGED, f"{error.__cause__!r:.200}") from error
