# SPDX-License-Identifier: AGPL-3.0-or-later
"""CREATE statements: those of Anki's tables are read, everything else is not."""

import sqlite3

import pytest

from cardkeep.collection.schema.statement import (
    UnreadableError,
    affinity,
    read_index,
    read_table,
)
from cardkeep.collection.schema.tables import SCHEMA_11, SCHEMA_18, Column, Index, Table
from tests.collection.schema.files import VECTORS

SCHEMAS = {"schema11": SCHEMA_11, "schema18": SCHEMA_18}
TABLES = [table for schema in SCHEMAS.values() for table in schema.tables.values()]
INDEXES = [index for schema in SCHEMAS.values() for index in schema.indexes.values()]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_tables_come_back(table: Table) -> None:
    """What is written is read again."""
    assert read_table(table.sql) == table


@pytest.mark.parametrize("index", INDEXES, ids=lambda index: index.name)
def test_indexes_come_back(index: Index) -> None:
    """What is written is read again."""
    assert read_index(index.sql) == index


@pytest.mark.parametrize("form", SCHEMAS)
def test_the_clients_statements_are_ours(form: str) -> None:
    """Tables and indexes in the clients' files are those that are expected."""
    connection = sqlite3.connect(f"file:{VECTORS / f'small-{form}.anki2'}?immutable=1", uri=True)
    found = connection.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).fetchall()
    connection.close()
    schema = SCHEMAS[form]
    assert {name for type_, name, _ in found if type_ == "table"} == schema.tables.keys()
    for type_, name, statement in found:
        if type_ == "index":
            assert read_index(statement) == schema.indexes[name]
        else:
            table = read_table(statement)
            wanted = schema.tables[name]
            assert table.key == wanted.key
            assert table.without_rowid == wanted.without_rowid
            assert [(c.name, c.type, c.collation) for c in table.columns] == [
                (c.name, c.type, c.collation) for c in wanted.columns
            ]


READ = {
    'CREATE TABLE "t" (a integer PRIMARY KEY ASC AUTOINCREMENT, b)': Table(
        "t", (Column("a", "integer", nullable=True), Column("b", "", nullable=True)), ("a",)
    ),
    'create table `a``b`("c""d" unsigned big int NULL, [e f] text NOT NULL collate NoCase)': Table(
        "a`b",
        (
            Column('c"d', "unsigned big int", nullable=True),
            Column("e f", "text", "nocase"),
        ),
    ),
    "CREATE TABLE t(a DEFAULT 1, b DEFAULT -2, c DEFAULT 'x''y', d DEFAULT NULL)": Table(
        "t", tuple(Column(name, "", nullable=True) for name in "abcd")
    ),
    "CREATE TABLE t (a COLLATE BINARY)": Table("t", (Column("a", "", nullable=True),)),
    "CREATE /* a ( */ TABLE t -- )\n(a --\n, b /* /* */)": Table(
        "t", (Column("a", "", nullable=True), Column("b", "", nullable=True))
    ),
}


@pytest.mark.parametrize(("sql", "table"), READ.items())
def test_every_spelling_is_read_as_sqlite_reads_it(sql: str, table: Table) -> None:
    """Names, columns and keys are those that SQLite finds in the same statement."""
    assert read_table(sql) == table
    connection = sqlite3.connect(":memory:")
    connection.execute(sql)
    found = connection.execute("SELECT name, type, pk FROM pragma_table_info(?)", (table.name,))
    assert [(name, type_.lower(), pk) for name, type_, pk in found] == [
        (column.name, column.type, int(column.name in table.key)) for column in table.columns
    ]
    connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "CREATE TABLE",
        "CREATE TABLE t",
        "CREATE TABLE t (a",
        "CREATE TABLE t (a,)",
        "CREATE TABLE t (a) x",
        "CREATE TABLE t (a); DROP TABLE t",
        "CREATE TABLE t (a) STRICT",
        "CREATE TABLE t AS SELECT 1",
        "CREATE TEMP TABLE t (a)",
        "CREATE VIRTUAL TABLE t USING fts5(a)",
        "CREATE VIEW t AS SELECT 1",
        "CREATE TABLE t (a CHECK (a > 0))",
        "CREATE TABLE t (a, CHECK (a > 0))",
        "CREATE TABLE t (a UNIQUE)",
        "CREATE TABLE t (a, UNIQUE (a))",
        "CREATE TABLE t (a REFERENCES t)",
        "CREATE TABLE t (a, FOREIGN KEY (a) REFERENCES t)",
        "CREATE TABLE t (a AS (1))",
        "CREATE TABLE t (a GENERATED ALWAYS AS (1) STORED)",
        "CREATE TABLE t (a CONSTRAINT c NOT NULL)",
        "CREATE TABLE t (a NOT NULL ON CONFLICT IGNORE)",
        "CREATE TABLE t (a PRIMARY KEY DESC)",
        "CREATE TABLE t (a PRIMARY KEY ON CONFLICT REPLACE)",
        "CREATE TABLE t (a PRIMARY KEY, b PRIMARY KEY)",
        "CREATE TABLE t (a PRIMARY KEY, PRIMARY KEY (a))",
        "CREATE TABLE t (a, PRIMARY KEY (a DESC))",
        "CREATE TABLE t (a, PRIMARY KEY (a COLLATE NOCASE))",
        "CREATE TABLE t (a DEFAULT (random()))",
        "CREATE TABLE t (a DEFAULT CURRENT_TIMESTAMP)",
        'CREATE TABLE t (a DEFAULT "b")',
        "CREATE TABLE t (a varchar(10))",
        "CREATE TABLE t ('a')",
        "CREATE TABLE t (a) /* without end",
        "CREATE TABLE t (\x00a)",
        "CREATE TABLE t (é)",
    ],
)
def test_other_tables_are_not_read(sql: str) -> None:
    """Nothing that could run or change meanings gets through."""
    with pytest.raises(UnreadableError):
        read_table(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX i ON t (abs(a))",
        "CREATE INDEX i ON t (a DESC)",
        "CREATE INDEX i ON t (a COLLATE NOCASE)",
        "CREATE INDEX i ON t (a) WHERE a > 0",
        "CREATE INDEX i ON t (a) WHERE a != 0 AND random()",
        "CREATE INDEX i ON t (a) WHERE abs(a) != 0",
        "CREATE INDEX i ON t (a + 1)",
        "CREATE INDEX i ON t ()",
        "CREATE TABLE t (a)",
    ],
)
def test_other_indexes_are_not_read(sql: str) -> None:
    """Only plain columns, and the one condition that Anki has."""
    with pytest.raises(UnreadableError):
        read_index(sql)


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("INTEGER", "integer"),
        ("bigint", "integer"),
        ("CHARINT", "integer"),
        ("varchar", "text"),
        ("clob", "text"),
        ("blob", "blob"),
        ("", "blob"),
        ("double", "real"),
        ("boolean", "numeric"),
    ],
)
def test_affinity_is_sqlites(type_: str, expected: str) -> None:
    """The effect of a declared type is read as SQLite documents it, and as it does it."""
    assert affinity(type_) == expected
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE t (a {type_})")
    connection.execute("INSERT INTO t VALUES ('1'), (1), ('1.5')")
    stored = [type_ for (type_,) in connection.execute("SELECT typeof(a) FROM t")]
    connection.close()
    assert (
        stored
        == {
            "integer": ["integer", "integer", "real"],
            "numeric": ["integer", "integer", "real"],
            "real": ["real", "real", "real"],
            "text": ["text", "text", "text"],
            "blob": ["text", "integer", "text"],
        }[expected]
    )
