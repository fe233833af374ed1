# SPDX-License-Identifier: AGPL-3.0-or-later
"""What becomes of uploaded files: accepted as they are, put in order, or refused."""

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cardkeep.collection.schema.inspect import inspect
from cardkeep.collection.schema.tables import SCHEMA_18
from cardkeep.errors import NotAccepted
from tests.collection.schema.files import (
    PAGE,
    VECTORS,
    copied,
    edit,
    fresh,
    integrity,
    objects,
    opened,
    patch,
    remade,
    rewrite_schema,
    rows,
    tables,
)

COMPLETE = {
    *(("table", name) for name in SCHEMA_18.tables),
    *(("index", name) for name in SCHEMA_18.indexes),
}

# --- accepted ---------------------------------------------------------------------------


def test_an_upload_of_a_client_is_stored_as_it_is(tmp_path: Path) -> None:
    """A sound schema-18 file keeps every row, and a second look changes nothing."""
    path = copied("rich-schema18", tmp_path)
    inspect(path)
    before = tables(path)
    theirs = tables(copied("small-schema18", tmp_path))
    small = copied("small-schema18", tmp_path)
    inspect(small)
    for name, found in tables(small).items():
        # A copy of a client's own file, so what it had not sent yet has usn -1.
        assert [[0 if v == -1 else v for v in row] for row in found] == [
            [0 if v == -1 else v for v in row] for row in theirs[name]
        ]
    small.unlink()
    inspect(path)
    assert tables(path) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["small-schema11", "rich-schema11", "odd-schema11"])
def test_schema_11_is_upgraded(tmp_path: Path, name: str) -> None:
    """An upload of an old client becomes schema 18, whatever client sends it."""
    path = copied(name, tmp_path)
    inspect(path)
    assert rows(path, "SELECT ver FROM col") == [(18,)]
    assert objects(path) == COMPLETE
    assert integrity(path) == "ok"


def test_rows_to_be_sent_count_as_sent(tmp_path: Path) -> None:
    """After an upload everybody has everything: no usn is below 0, and no graves are left."""
    path = copied("rich-schema18", tmp_path)
    inspect(path)
    with_usn = [
        table
        for table, made in SCHEMA_18.tables.items()
        if any(column.name == "usn" for column in made.columns)
    ]
    assert len(with_usn) == 11
    # Clients leave -1 in the configuration, and nobody reads it.
    with_usn.remove("config")
    for table in with_usn:
        assert rows(path, f"SELECT count(*) FROM {table} WHERE usn < 0") == [(0,)], table
    assert rows(path, "SELECT count(*) FROM graves") == [(0,)]


@pytest.mark.parametrize("name", ["rich-schema18", "rich-schema11", "odd-schema11"])
def test_what_devices_have_yet_to_hear_of_a_server_is_kept(tmp_path: Path, name: str) -> None:
    """Its deletions and numbers stay; what has no number, or is changed here, gets the next."""
    path = copied(name, tmp_path)
    edit(
        path,
        "UPDATE col SET usn = 70",
        "UPDATE cards SET usn = 5",
        "UPDATE notes SET usn = -1 WHERE id = (SELECT max(id) FROM notes)",
        "UPDATE notes SET usn = 7 WHERE id = (SELECT min(id) FROM notes)",
        "DELETE FROM graves",
        "INSERT INTO graves (oid, type, usn) VALUES (5, 0, 3), (6, 1, -1), (7, 2, 70)",
    )
    before = rows(path, "SELECT crt, mod, scm, usn, ls FROM col")
    inspect(path, of_server=True)
    assert rows(path, "SELECT crt, mod, scm, usn, ls FROM col") == before
    assert rows(path, "SELECT * FROM graves") == [(5, 0, 3), (6, 1, 70), (7, 2, 70)]
    assert rows(path, "SELECT usn FROM notes WHERE id = (SELECT max(id) FROM notes)") == [(70,)]
    assert rows(path, "SELECT usn FROM notes WHERE id = (SELECT min(id) FROM notes)") == [(7,)]
    if name == "odd-schema11":
        # A card had too low an ease.
        assert rows(path, "SELECT count(*) FROM cards WHERE usn = 70") == [(1,)]


ACCEPTED: dict[str, tuple[str, ...]] = {
    "a card without note and deck": ("UPDATE cards SET nid = 5, did = 6",),
    # A normal sync brings them too.
    "a note and a card with id 0": (
        "UPDATE notes SET id = 0 WHERE id = (SELECT min(id) FROM notes)",
        "UPDATE cards SET id = 0 WHERE id = (SELECT min(id) FROM cards)",
    ),
    "comments and quotes in a statement": (
        "DROP TABLE graves",
        """
        CREATE TABLE IF NOT EXISTS [graves] (oid /* of what */ INT NOT NULL, `type` integer,
        "usn" integer NOT NULL DEFAULT -1, -- last
        PRIMARY KEY (oid ASC, type)) WITHOUT ROWID
        """,
    ),
    "no statistics": ("DROP TABLE sqlite_stat1", "DROP TABLE sqlite_stat4"),
    "what Android adds": ("CREATE TABLE android_metadata (locale TEXT)",),
    "incremental vacuum": ("PRAGMA auto_vacuum = 2", "VACUUM"),
    "small pages": ("PRAGMA page_size = 512", "VACUUM"),
    "large pages": ("PRAGMA page_size = 65536", "VACUUM"),
    "missing indexes": ("DROP INDEX ix_cards_nid", "DROP INDEX idx_decks_name"),
    "an index of other columns": (
        "DROP INDEX ix_cards_sched",
        "CREATE INDEX ix_cards_sched ON cards (did, due)",
    ),
    "an index that is unique now": (
        "DROP INDEX ix_notes_usn",
        "CREATE INDEX ix_notes_usn ON notes (mod)",
    ),
    "free pages": (
        "INSERT INTO config SELECT 'k' || value, 0, 0, randomblob(3000) "
        "FROM json_each('[1,2,3,4,5,6,7,8,9]')",
        "DELETE FROM config WHERE KEY LIKE 'k%'",
    ),
}


@pytest.mark.parametrize("statements", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_harmless_differences_are_put_in_order(tmp_path: Path, statements: tuple[str, ...]) -> None:
    """What does no harm is accepted; the schema is complete afterwards."""
    path = edit(copied("small-schema18", tmp_path), *statements)
    inspect(path)
    assert objects(path) == COMPLETE
    assert integrity(path) == "ok"
    assert rows(path, "SELECT name FROM pragma_index_info('ix_cards_sched')") == [
        ("did",),
        ("queue",),
        ("due",),
    ]


def test_the_description_of_a_deck_may_hold_pictures(tmp_path: Path) -> None:
    """Some megabytes of an object are no reason to refuse a whole collection."""
    path = copied("small-schema18", tmp_path)
    (kind,) = rows(path, "SELECT kind FROM decks WHERE id = 1")[0]
    text = b"A" * (4 * 1024 * 1024)
    # NormalDeck, within it the description: lengths of four bytes each.
    inner = kind[2:] + b"\x22\x80\x80\x80\x02" + text
    length = len(inner)
    size = bytes(length >> 7 * at & 127 | (128 if at < 3 else 0) for at in range(4))
    with opened(path) as connection:
        connection.execute("UPDATE decks SET kind = ? WHERE id = 1", (b"\x0a" + size + inner,))
    inspect(path)
    assert len(rows(path, "SELECT kind FROM decks WHERE id = 1")[0][0]) > len(text)


# Values that clients read as others (docs/collection-format.md, 8).
MENDED: dict[str, tuple[str, str, object]] = {
    "real due": ("cards", "due = 12.5", 12),
    "text due": ("cards", "due = 'soon'", 0),
    "huge due": ("cards", "due = 99999999999", 0),
    "real odue": ("cards", "odue = -3.7", -3),
    "real interval": ("cards", "ivl = 4.9", 4),
    "real modification time": ("cards", "mod = 1795423254.765", 1795423254),
    "card data that is no text": ("cards", "data = x'00ff'", ""),
    "negative usn": ("cards", "usn = -7", 0),
    "huge usn": ("cards", "usn = 3000000000", 0),
    "text usn": ("cards", "usn = 'x'", 0),
    "real review interval": ("revlog", "ivl = -60.5", -60),
    "real last interval": ("revlog", "lastIvl = 2.5", 2),
    "negative review time": ("revlog", "time = -1", 0),
    "unknown review kind": ("revlog", "type = 9", 0),
    "text checksum": ("notes", "csum = 'x'", 0),
    "sort field that is no text": ("notes", "sfld = x'ff'", ""),
    "note usn": ("notes", "usn = -1", 0),
    "tag usn": ("tags", "usn = -1", 0),
    "tag neither open nor closed": ("tags", "collapsed = 7", 1),
    "deck usn": ("decks", "usn = -1", 0),
    "col.dty": ("col", "dty = -1", 0),
    "col.ls": ("col", "ls = 'x'", 0),
    "texts of schema 11": ("col", "decks = '{}'", ""),
}


@pytest.mark.parametrize(("table", "change", "value"), MENDED.values(), ids=MENDED.keys())
def test_what_clients_read_as_something_else_is_stored_as_that(
    tmp_path: Path, table: str, change: str, value: object
) -> None:
    """So each device, and the server, reads the same."""
    column = change.split(" = ")[0]
    path = edit(
        copied("small-schema18", tmp_path),
        "INSERT INTO tags VALUES ('a', 0, 0, NULL)",
        f"UPDATE {table} SET {change}",
    )
    inspect(path)
    assert set(rows(path, f"SELECT {column} FROM {table}")) == {(value,)}
    assert integrity(path) == "ok"


def test_an_index_that_disagrees_with_its_table_is_made_anew(tmp_path: Path) -> None:
    """A row that its index hides would never reach other devices."""
    path = copied("rich-schema18", tmp_path)
    for name in ("ix_cards_usn", "ix_revlog_cid", "idx_notes_mid", "idx_cards_odid"):
        [(page,)] = rows(path, f"SELECT rootpage FROM sqlite_schema WHERE name = '{name}'")
        # An empty leaf of an index, whole in itself.
        patch(path, (page - 1) * PAGE, b"\x0a\0\0\0\0\x10\0\0")
    assert "missing from index" in integrity(path)
    inspect(path)
    assert integrity(path) == "ok"


# --- refused ----------------------------------------------------------------------------

Spoil = Callable[[Path], object]


def sql(*statements: str) -> Spoil:
    return lambda path: edit(path, *statements)


def schema(statement: str, *values: object) -> Spoil:
    return lambda path: rewrite_schema(path, statement, *values)


def table(name: str, old: str, new: str) -> Spoil:
    return lambda path: remade(path, name, old, new)


def replaced_by(statement: str, name: str) -> Spoil:
    return sql(f"DROP TABLE {name}", statement)


def content(data: bytes) -> Spoil:
    return lambda path: path.write_bytes(data)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 20 * PAGE])


def overwritten(path: Path) -> None:
    [(page,)] = rows(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'cards'")
    patch(path, (page - 1) * PAGE, random.Random(1).randbytes(PAGE))


def with_free_pages(path: Path) -> int:
    """The first page of the list of free pages."""
    edit(
        path,
        "CREATE TABLE filler (x)",
        "INSERT INTO filler SELECT randomblob(3000) FROM json_each('[1,2,3,4,5,6,7,8]')",
        "DROP TABLE filler",
    )
    return int.from_bytes(path.read_bytes()[32:36], "big")


def circular_free_list(path: Path) -> None:
    trunk = with_free_pages(path)
    patch(path, (trunk - 1) * PAGE, trunk.to_bytes(4, "big"))
    patch(path, 36, (2**31 - 1).to_bytes(4, "big"))


def circular_tree(path: Path) -> None:
    """An inner page whose four hundred children are all itself."""
    [(page,)] = rows(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'notes'")
    cells = 400
    child = page.to_bytes(4, "big")
    head = b"\x05\0\0" + cells.to_bytes(2, "big") + (3000).to_bytes(2, "big") + b"\0" + child
    pointers = b"".join((3000 + 2 * 0).to_bytes(2, "big") for _ in range(cells))
    patch(path, (page - 1) * PAGE, head + pointers)
    patch(path, (page - 1) * PAGE + 3000, child + b"\1")


def wrong_order(path: Path) -> None:
    """The first key of a table that is ordered by its keys becomes the last."""
    data = path.read_bytes()
    assert b"activeDecks" in data
    path.write_bytes(data.replace(b"activeDecks", b"zctiveDecks"))


def not_utf_8(name: str, column: str) -> Spoil:
    return sql(
        f"UPDATE {name} SET {column} = CAST(x'61ff62' AS text) "
        f"WHERE id = (SELECT max(id) FROM {name})"
    )


NOT_A_COLLECTION: dict[str, tuple[Spoil, str]] = {
    "nothing": (content(b""), "0 bytes"),
    "text": (content(b"<html>413 Request Entity Too Large</html>" * 100), "no SQLite header"),
    "zeros": (content(bytes(10 * PAGE)), "no SQLite header"),
    "only a signature": (content(b"SQLite format 3\0"), "less than a header"),
    "a header and nothing": (content(b"SQLite format 3\0" + bytes(84)), "format versions"),
    "an encrypted file": (
        lambda path: patch(path, 100, random.Random(2).randbytes(PAGE - 100)),
        "malformed",
    ),
    "UTF-16": (lambda path: patch(path, 56, b"\0\0\0\2"), "text encoding"),
    "a future file format": (lambda path: patch(path, 18, b"\3\3"), "format versions"),
    "page size 0": (lambda path: patch(path, 16, b"\0\0"), "not a database"),
    "another database": (
        lambda path: (path.unlink(), edit(path, "CREATE TABLE moz_places (id integer)")),
        "no table col",
    ),
    "a database without tables": (
        lambda path: (path.unlink(), edit(path, "PRAGMA user_version = 1")),
        "text encoding|no table col",
    ),
}

BROKEN: dict[str, tuple[Spoil, str]] = {
    "half of it": (shortened, "malformed|quick_check"),
    "an overwritten page": (overwritten, "malformed|quick_check"),
    "a free list that goes in circles": (circular_free_list, "quick_check"),
    "a tree that goes in circles": (circular_tree, "quick_check|malformed"),
    "a row out of order": (wrong_order, "integrity_check|malformed"),
    "billions of pages": (lambda path: patch(path, 28, b"\xff\xff\xff\xfe"), "malformed"),
    "a schema page beyond the end": (
        schema("UPDATE sqlite_schema SET rootpage = 1000000 WHERE name = 'cards'"),
        "malformed|invalid rootpage",
    ),
    "two tables on one page": (
        schema(
            "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema "
            "WHERE name = 'notes') WHERE name = 'cards'"
        ),
        "quick_check|malformed",
    ),
    "a statement that is none": (
        schema("UPDATE sqlite_schema SET sql = 'CREATE TABLE cards (' WHERE name = 'cards'"),
        "malformed",
    ),
    "a statement with broken text": (
        schema("UPDATE sqlite_schema SET sql = CAST(x'ff' AS text) WHERE name = 'cards'"),
        "malformed|utf-8|UTF-8",
    ),
}

STRANGE: dict[str, tuple[Spoil, str]] = {
    "an unknown table": (sql("CREATE TABLE heatmap (x integer)"), "heatmap"),
    "an unknown index": (sql("CREATE INDEX ix_mine ON cards (mod)"), "ix_mine"),
    "a trigger": (
        sql("CREATE TRIGGER spy AFTER INSERT ON notes BEGIN DELETE FROM revlog; END"),
        "spy",
    ),
    "a trigger without end": (
        sql(
            "CREATE TRIGGER loop AFTER UPDATE ON col BEGIN INSERT INTO graves SELECT x, 9, 0 FROM "
            "(WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c); END"
        ),
        "loop",
    ),
    "a view": (sql("CREATE VIEW v AS SELECT 1"), "view 'v'"),
    "a view without end in place of a table": (
        replaced_by(
            "CREATE VIEW decks AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
            "SELECT x AS id, x AS name, x AS mtime_secs, x AS usn, x AS common, x AS kind FROM c",
            "decks",
        ),
        "view 'decks'",
    ),
    "a full-text table": (sql("CREATE VIRTUAL TABLE words USING fts5(x)"), "words"),
    "a virtual table in place of a table": (
        replaced_by("CREATE VIRTUAL TABLE tags USING fts5(tag, usn, collapsed, config)", "tags"),
        "tags",
    ),
    "a virtual table of a module that does not exist": (
        schema(
            "INSERT INTO sqlite_schema VALUES "
            "('table', 'evil', 'evil', 0, 'CREATE VIRTUAL TABLE evil USING nothing(1)')"
        ),
        "evil",
    ),
    "a table named like a module": (sql("CREATE TABLE json_each (x)"), "json_each"),
    "a generated column": (
        table("graves", "usn integer NOT NULL", "usn integer AS (oid + 1)"),
        "graves",
    ),
    "a generated column in many words": (
        table(
            "revlog", "(\n", "(\n  more blob GENERATED ALWAYS AS (zeroblob(1000000000)) VIRTUAL,"
        ),
        "revlog",
    ),
    "a check": (
        table("notes", "csum integer NOT NULL", "csum integer CHECK (csum > 0)"),
        "notes",
    ),
    "a check of the table": (table("config", "val blob NOT NULL", "val blob, CHECK (1)"), "config"),
    "a foreign key": (
        table("graves", "usn integer NOT NULL", "usn integer REFERENCES col (id)"),
        "graves",
    ),
    "a unique column": (
        table("notes", "guid text NOT NULL", "guid text NOT NULL UNIQUE"),
        "notes",
    ),
    "another conflict rule": (
        table("cards", "PRIMARY KEY", "PRIMARY KEY ON CONFLICT IGNORE"),
        "cards",
    ),
    "a computed default": (
        table("revlog", "time integer NOT NULL", "time integer DEFAULT (random())"),
        "revlog",
    ),
    "a strict table": (
        table("graves", ") WITHOUT ROWID", ") STRICT, WITHOUT ROWID"),
        "graves",
    ),
    "an index of an expression": (
        sql("DROP INDEX ix_notes_csum", "CREATE INDEX ix_notes_csum ON notes (abs(csum))"),
        "ix_notes_csum",
    ),
    "a partial index": (
        sql("DROP INDEX ix_cards_usn", "CREATE INDEX ix_cards_usn ON cards (usn) WHERE usn != 0"),
        "ix_cards_usn",
    ),
    "a partial index with a computed condition": (
        sql(
            "DROP INDEX idx_cards_odid",
            "CREATE INDEX idx_cards_odid ON cards (odid) WHERE abs(odid) != 0",
        ),
        "idx_cards_odid",
    ),
    "statistics that are something else": (
        schema(
            "UPDATE sqlite_schema SET sql = 'CREATE TABLE sqlite_stat1(tbl,idx,stat,more)' "
            "WHERE name = 'sqlite_stat1'"
        ),
        "sqlite_stat1",
    ),
    "statistics without end": (
        sql(
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000) "
            "INSERT INTO sqlite_stat1 SELECT 'cards', 'x' || x, '1' FROM c"
        ),
        "sqlite_stat1",
    ),
}

ILL_FORMED: dict[str, tuple[Spoil, str]] = {
    **{
        f"no table {name}": (sql(f"DROP TABLE {name}"), f"no table {name}")
        for name in SCHEMA_18.tables
    },
    "a column too few": (sql("ALTER TABLE cards DROP COLUMN data"), "table cards"),
    "a column too many": (sql("ALTER TABLE notes ADD COLUMN more text"), "table notes"),
    "another column": (sql("ALTER TABLE revlog RENAME COLUMN time TO taken"), "table revlog"),
    "columns in another order": (
        table("decks", "mtime_secs integer NOT NULL,\n  usn", "usn integer,\n  mtime_secs"),
        "table decks",
    ),
    "another type": (table("notes", "flds text", "flds blob"), "table notes"),
    "numbers for names": (table("cards", "data text", "data numeric"), "table cards"),
    "an id that is no row number": (
        table("notetypes", "id integer NOT NULL PRIMARY KEY", "id int NOT NULL PRIMARY KEY"),
        "table notetypes",
    ),
    "another collation": (table("tags", "COLLATE unicase", "COLLATE NOCASE"), "table tags"),
    "no collation": (table("decks", "COLLATE unicase", ""), "table decks"),
    "another key": (table("fields", "(ntid, ord)", "(ntid, name)"), "table fields"),
    "row numbers where none belong": (table("config", "without rowid", ""), "table config"),
    "an index in place of a table": (
        lambda path: edit(path, "DROP TABLE graves", "CREATE INDEX graves ON cards (mod)"),
        "index 'graves'",
    ),
}

VERSIONS: dict[str, tuple[Spoil, str]] = {
    **{
        f"version {version}": (sql(f"UPDATE col SET ver = {version}"), f"version {version}")
        for version in (-1, 0, 10, 12, 13, 14, 19, 2**40)
    },
    "version 16 on a schema-18 file": (sql("UPDATE col SET ver = 16"), "table tags"),
    "version 17 on a schema-18 file": (sql("UPDATE col SET ver = 17"), "table graves"),
    "version 11 on a schema-18 file": (sql("UPDATE col SET ver = 11"), "table graves"),
    "version in words": (sql("UPDATE col SET ver = 'eighteen'"), "ver is text"),
    "no row in col": (sql("DELETE FROM col"), "no row in col"),
    "two rows in col": (
        sql("INSERT INTO col SELECT 2, crt, mod, scm, ver, dty, usn, ls, '','','','','' FROM col"),
        "more than one row",
    ),
}

VALUES: dict[str, tuple[Spoil, str]] = {
    f"{name}.{change}": (
        sql(f"UPDATE {name} SET {change} WHERE rowid = (SELECT min(rowid) FROM {name})")
        if SCHEMA_18.tables[name].key == ("id",)
        else sql(f"UPDATE {name} SET {change}"),
        rf"values in {name}\.{change.split(' = ')[0]}",
    )
    for name, change in (
        ("col", "crt = 'x'"),
        ("col", "mod = -1"),
        ("col", "scm = 1.5"),
        ("col", "usn = 2147483647"),
        ("notes", "guid = x'41'"),
        ("notes", "mid = 'x'"),
        ("notes", "mod = 'x'"),
        ("notes", "tags = x'41'"),
        ("notes", "flds = x'41'"),
        ("cards", "nid = 1.5"),
        ("cards", "did = 'x'"),
        ("cards", "ord = 65536"),
        ("cards", "ord = -1"),
        ("cards", "mod = 'x'"),
        ("cards", "type = 4"),
        ("cards", "queue = -4"),
        ("cards", "queue = 5"),
        ("cards", "ivl = -1"),
        ("cards", "ivl = 'x'"),
        ("cards", "factor = 65536"),
        ("cards", "factor = 2.5"),
        ("cards", "reps = -1"),
        ("cards", "lapses = 4294967296"),
        ("cards", "left = 'x'"),
        ("cards", "odid = 0.5"),
        ("cards", "flags = 256"),
        ("revlog", "cid = 'x'"),
        ("revlog", "ease = 256"),
        ("revlog", "ivl = 2147483648"),
        ("revlog", "factor = -1"),
        ("config", "val = 'true'"),
        ("deck_config", "config = 'x'"),
        ("decks", "common = 'x'"),
        ("decks", "kind = zeroblob(8388609)"),
        ("notetypes", "config = 5"),
        ("notetypes", "config = zeroblob(8388609)"),
        ("notetypes", "name = x'41'"),
        ("fields", "config = 'x'"),
        ("templates", "config = 'x'"),
        ("tags", "tag = x'41'"),
    )
}

OBJECTS: dict[str, tuple[Spoil, str]] = {
    "a deck with id 0": (sql("UPDATE decks SET id = 0 WHERE id = 1"), "decks.id"),
    "deck options with id 0": (sql("UPDATE deck_config SET id = 0"), "deck_config.id"),
    "a notetype with id 0": (
        sql("UPDATE notetypes SET id = 0 WHERE id = (SELECT min(id) FROM notetypes)"),
        "notetypes.id",
    ),
    "no default deck": (sql("UPDATE decks SET id = 2 WHERE id = 1"), "no the default deck"),
    "no default deck options": (sql("UPDATE deck_config SET id = 2"), "default deck options"),
    "no notetype": (sql("DELETE FROM notetypes"), "no a notetype"),
    "no field": (sql("DELETE FROM fields"), "no a notetype"),
    "no template": (sql("DELETE FROM templates"), "no a notetype"),
    "a note without notetype": (sql("UPDATE notes SET mid = 12345"), "notes whose notetype"),
    "a deck that is not decodable": (sql("UPDATE decks SET common = x'08'"), "decks: deck 1"),
    "a deck of no kind": (sql("UPDATE decks SET kind = x''"), "neither normal nor filtered"),
    "deck options that are not decodable": (
        sql("UPDATE deck_config SET config = x'0a05'"),
        "deck_config: deck config 1",
    ),
    "a notetype that is not decodable": (
        sql("UPDATE notetypes SET config = x'1a02ffff'"),
        "notetypes: notetype",
    ),
    "a field that is not decodable": (sql("UPDATE fields SET config = x'ff'"), "fields: notetype"),
    "a template that is not decodable": (
        sql("UPDATE templates SET config = x'0aff'"),
        "templates: notetype",
    ),
    "configuration that is no JSON": (
        sql("UPDATE config SET val = x'7b' WHERE KEY = 'schedVer'"),
        "'schedVer'",
    ),
    "configuration of 100,000 levels": (
        lambda path: deep_config(path, 100_000),
        "recursion",
    ),
    "configuration of 200 levels": (lambda path: deep_config(path, 200), "deeper than"),
    "millions of required fields": (
        lambda path: set_blob(path, "notetypes", b"\x42\0" * 2_000_000),
        "parts",
    ),
    "millions of lists beyond what Anki knows": (
        lambda path: set_blob(path, "notetypes", other(b"[[]" + b",[]" * 2_000_000 + b"]")),
        "parts",
    ),
    "more decks than anybody has": (
        sql(
            "WITH RECURSIVE c(x) AS (SELECT 2 UNION ALL SELECT x + 1 FROM c WHERE x < 100002) "
            "INSERT INTO decks SELECT x, 'd' || x, 0, 0, common, kind FROM c, "
            "(SELECT common, kind FROM decks WHERE id = 1)"
        ),
        "objects",
    ),
    "decks of one name": (
        sql(
            "DROP INDEX idx_decks_name",
            "INSERT INTO decks SELECT 7, 'DEFAULT', 0, 0, common, kind FROM decks WHERE id = 1",
        ),
        "UNIQUE",
    ),
    "a note that is no UTF-8": (not_utf_8("notes", "flds"), "notes"),
    "a guid that is no UTF-8": (not_utf_8("notes", "guid"), "notes"),
    "card data that is no UTF-8": (not_utf_8("cards", "data"), "cards"),
    "a deck name that is no UTF-8": (
        sql("DROP INDEX idx_decks_name", "UPDATE decks SET name = CAST(x'61ff62' AS text)"),
        "decks",
    ),
    "a tag that is no UTF-8": (
        # Inserting it would compare it, which the interpreter cannot do.
        sql("DELETE FROM tags", "INSERT INTO tags VALUES (CAST(x'ff' AS text), 0, 0, NULL)"),
        "tags",
    ),
    "deck names that are no UTF-8 and must be compared": (
        sql(
            "DROP INDEX idx_decks_name",
            "INSERT INTO decks SELECT 7, CAST(x'80' AS text), 0, 0, x'', x'' ",
            "INSERT INTO decks SELECT 8, CAST(x'81' AS text), 0, 0, x'', x''",
        ),
        "decks",
    ),
}


def other(json_text: bytes) -> bytes:
    """The protobuf field that holds unknown JSON keys."""
    text = b'{"x":' + json_text + b"}"
    size, length = bytearray(), len(text)
    while length:
        length, low = length >> 7, length & 127
        size.append(low | (128 if length else 0))
    return b"\xfa\x0f" + bytes(size) + text


def deep_config(path: Path, levels: int) -> None:
    value = b"[" * levels + b"]" * levels
    with opened(path) as connection:
        connection.execute("INSERT INTO config VALUES ('deep', 0, 0, ?)", (value,))


def set_blob(path: Path, name: str, blob: bytes) -> None:
    with opened(path) as connection:
        connection.execute(f"UPDATE {name} SET config = ?", (blob,))


def many_tables(path: Path) -> None:
    rewrite_schema(
        path,
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 300000) "
        "INSERT INTO sqlite_schema SELECT 'table', 't' || x, 't' || x, 2, "
        "'CREATE TABLE t' || x || '(a, b, c)' FROM c",
    )


def long_statement(path: Path) -> None:
    rewrite_schema(
        path,
        "UPDATE sqlite_schema SET sql = ? WHERE name = 'cards'",
        "CREATE TABLE cards (" + ", ".join(f"c{at}" for at in range(1_000_000)) + ")",
    )


def long_comment(path: Path) -> None:
    rewrite_schema(
        path,
        "UPDATE sqlite_schema SET sql = replace(sql, '(', '(/*' || ? || '*/') WHERE name = 'cards'",
        "x" * 5_000_000,
    )


def many_views(path: Path) -> None:
    """Each is parsed into a tree that takes a hundred times its text."""
    body = "SELECT " + ",".join(["1"] * 90) + " UNION ALL "
    rewrite_schema(
        path,
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 3000) "
        "INSERT INTO sqlite_schema SELECT 'view', 'v' || x, 'v' || x, 0, "
        "'CREATE VIEW v' || x || ' AS ' || ? FROM c",
        body * 30 + "SELECT " + ",".join(["1"] * 90),
    )


def huge_row(path: Path) -> None:
    edit(path, "UPDATE notes SET flds = printf('%.*c', 150000000, 'x')")


SWELLING: dict[str, tuple[Spoil, str]] = {
    "300,000 tables": (many_tables, "interrupted"),
    "a statement of megabytes": (long_statement, "malformed|too big|too many"),
    "a comment of megabytes": (long_comment, "malformed|too big"),
    "thousands of views": (many_views, "malformed|interrupted|too big"),
    "a note of 150 MB": (huge_row, "too big"),
}

REFUSED = {
    f"{kind}: {name}": case
    for kind, cases in {
        "not a collection": NOT_A_COLLECTION,
        "broken": BROKEN,
        "strange": STRANGE,
        "ill-formed": ILL_FORMED,
        "version": VERSIONS,
        "value": VALUES,
        "object": OBJECTS,
        "swelling": SWELLING,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize(("spoil", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(tmp_path: Path, spoil: Spoil, reason: str) -> None:
    """The user is told in a sentence, the log exactly, and no side file is left."""
    path = copied("small-schema18", tmp_path)
    spoil(path)
    with pytest.raises(NotAccepted) as refused:
        inspect(path)
    assert re.search(reason, refused.value.reason), refused.value.reason
    assert refused.value.words.endswith(".")
    assert 20 < len(refused.value.words) < 400
    assert refused.value.words.isprintable()
    assert "\n" not in refused.value.reason
    assert len(refused.value.reason) < 1000
    assert list(tmp_path.iterdir()) == [path]


def words(path: Path) -> str | None:
    """What the user is told about a file, None if it was accepted."""
    try:
        inspect(path)
    except NotAccepted as refused:
        return refused.words
    return None


def test_nonsense_never_surprises(tmp_path: Path) -> None:
    """Whatever bytes change in a file: it is refused in words, or sound afterwards."""
    chance = random.Random(20)
    sources = [
        (VECTORS / f"{name}.anki2").read_bytes()
        for name in ("small-schema18", "small-schema11", "odd-schema11", "rich-schema18")
    ]
    path = tmp_path / "upload"
    accepted = 0
    for _ in range(400):
        data = bytearray(chance.choice(sources))
        for _ in range(chance.choice([1, 2, 20])):
            page = chance.randrange(len(data) // PAGE) * PAGE
            at = chance.choice([chance.randrange(100), page + chance.randrange(60), page + 100])
            data[at : at + 4] = chance.choice(
                [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\2", chance.randbytes(4)]
            )
        path.write_bytes(data)
        if words(path) is None:
            accepted += 1
            assert integrity(path) == "ok"
        assert list(tmp_path.iterdir()) == [path]
    assert 0 < accepted < 400


IN_A_CHILD = """
import resource, signal, sys
from pathlib import Path
from cardkeep.collection.schema.inspect import inspect
from cardkeep.errors import CardkeepError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = int(sys.argv[2])
if size:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    inspect(Path(sys.argv[1]))
    print("accepted")
except CardkeepError as error:
    print(type(error).__name__)
# Not ru_maxrss, which begins with the size of the parent.
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) // 1024)
"""


def in_a_child(path: Path, largest_file: int = 0) -> tuple[str, int]:
    """How an inspection ends in a process of its own, and the most memory that it took, MiB."""
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CHILD, path, str(largest_file)],
        capture_output=True,
        text=True,
        check=True,
    )
    result, memory = done.stdout.split()
    return result, int(memory)


@pytest.mark.parametrize(
    "spoil",
    [
        *(spoil for spoil, _ in SWELLING.values()),
        OBJECTS["millions of required fields"][0],
        OBJECTS["millions of lists beyond what Anki knows"][0],
        OBJECTS["configuration of 100,000 levels"][0],
        BROKEN["a tree that goes in circles"][0],
    ],
)
def test_a_hostile_file_takes_little_memory(tmp_path: Path, spoil: Spoil) -> None:
    """Whatever its size, refusing it stays within the bound for the whole server."""
    path = copied("small-schema18", tmp_path)
    spoil(path)
    result, memory = in_a_child(path)
    assert result == "NotAccepted"
    assert memory < 120


def test_a_large_collection_takes_little_memory(tmp_path: Path) -> None:
    """Rows are looked at one by one."""
    path = edit(
        copied("small-schema18", tmp_path),
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000) "
        "INSERT INTO notes SELECT x, 'g' || x, mid, mod, 0, '', printf('%.*c', 2500, 'x'), '', 0, "
        "0, '' FROM c, (SELECT mid, mod FROM notes LIMIT 1)",
    )
    assert path.stat().st_size > 50_000_000
    result, memory = in_a_child(path)
    assert result == "accepted"
    assert memory < 80


def test_a_full_disk_is_not_the_uploads_fault(tmp_path: Path) -> None:
    """When the machine fails, the client is told to try again, and not that its file is bad."""
    path = copied("small-schema11", tmp_path)
    result, _ = in_a_child(path, path.stat().st_size // 2)
    assert result == "Unavailable"


def test_the_collection_in_use_is_not_taken_for_an_upload(tmp_path: Path) -> None:
    """A file with a write-ahead log is not whole by itself."""
    path = fresh(tmp_path)
    (tmp_path / "fresh.anki2-wal").write_bytes(b"x")
    with pytest.raises(ValueError, match="write-ahead log"):
        inspect(path)
