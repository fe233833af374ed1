# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables and indexes of schema 18 and schema 11 (docs/collection-format.md, 2 and 3).

Between the two, clients of 2020 and 2021 kept schemas 15 to 17 while a collection was open, and
servers of their time left such files behind; they differ from 18 in `tags` and `graves`.

They stand here as values: `Table.sql` and `Index.sql` make them, `inspect` compares an upload
with them (through `statement`, which reads CREATE statements into the same values).
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `type` in the words of the statement, `collation` empty for plain binary."""

    name: str
    type: str
    collation: str = ""
    nullable: bool = False

    @property
    def sql(self) -> str:
        words = [self.name, self.type]
        if not self.nullable:
            words.append("NOT NULL")
        if self.collation:
            words.append(f"COLLATE {self.collation}")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `key` are the columns of its primary key, `without_rowid` how it is stored."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    without_rowid: bool = False

    @property
    def sql(self) -> str:
        """The statement that makes it."""
        lines = [column.sql for column in self.columns]
        if self.key:
            lines.append(f"PRIMARY KEY ({', '.join(self.key)})")
        tail = " WITHOUT ROWID" if self.without_rowid else ""
        body = ",\n  ".join(lines)
        return f"CREATE TABLE {self.name} (\n  {body}\n){tail}"


@dataclass(frozen=True, slots=True)
class Index:
    """An index; `where` is the condition of a partial one."""

    name: str
    table: str
    columns: tuple[str, ...]
    unique: bool = False
    where: str = ""

    @property
    def sql(self) -> str:
        """The statement that makes it."""
        unique = " UNIQUE" if self.unique else ""
        where = f" WHERE {self.where}" if self.where else ""
        return (
            f"CREATE{unique} INDEX {self.name} ON {self.table} ({', '.join(self.columns)}){where}"
        )


@dataclass(frozen=True, slots=True)
class Schema:
    """One form of a collection: `version` is what `col.ver` holds."""

    version: int
    tables: dict[str, Table]
    indexes: dict[str, Index]


def _columns(**types: str) -> tuple[Column, ...]:
    """Columns of `name="type"`, where the type may end in a collation."""
    columns = []
    for name, text in types.items():
        type_, _, collation = text.partition(" ")
        columns.append(Column(name, type_, collation))
    return tuple(columns)


_COL = Table(
    "col",
    _columns(
        id="integer",
        crt="integer",
        mod="integer",
        scm="integer",
        ver="integer",
        dty="integer",
        usn="integer",
        ls="integer",
        conf="text",
        models="text",
        decks="text",
        dconf="text",
        tags="text",
    ),
    key=("id",),
)

_NOTES = Table(
    "notes",
    _columns(
        id="integer",
        guid="text",
        mid="integer",
        mod="integer",
        usn="integer",
        tags="text",
        flds="text",
        # Integer on purpose: the sort field is bound as text, and SQLite stores what looks like
        # a number as a number, so that notes sort numerically by it.
        sfld="integer",
        csum="integer",
        flags="integer",
        data="text",
    ),
    key=("id",),
)

_CARDS = Table(
    "cards",
    _columns(
        id="integer",
        nid="integer",
        did="integer",
        ord="integer",
        mod="integer",
        usn="integer",
        type="integer",
        queue="integer",
        due="integer",
        ivl="integer",
        factor="integer",
        reps="integer",
        lapses="integer",
        left="integer",
        odue="integer",
        odid="integer",
        flags="integer",
        data="text",
    ),
    key=("id",),
)

_REVLOG = Table(
    "revlog",
    _columns(
        id="integer",
        cid="integer",
        usn="integer",
        ease="integer",
        ivl="integer",
        lastIvl="integer",
        factor="integer",
        time="integer",
        type="integer",
    ),
    key=("id",),
)

_GRAVES_18 = Table(
    "graves",
    _columns(oid="integer", type="integer", usn="integer"),
    key=("oid", "type"),
    without_rowid=True,
)

_GRAVES_11 = Table("graves", _columns(usn="integer", oid="integer", type="integer"))

_CONFIG = Table(
    "config",
    _columns(KEY="text", usn="integer", mtime_secs="integer", val="blob"),
    key=("KEY",),
    without_rowid=True,
)

_DECK_CONFIG = Table(
    "deck_config",
    _columns(id="integer", name="text unicase", mtime_secs="integer", usn="integer", config="blob"),
    key=("id",),
)

_DECKS = Table(
    "decks",
    _columns(
        id="integer",
        name="text unicase",
        mtime_secs="integer",
        usn="integer",
        common="blob",
        kind="blob",
    ),
    key=("id",),
)

_NOTETYPES = Table(
    "notetypes",
    _columns(id="integer", name="text unicase", mtime_secs="integer", usn="integer", config="blob"),
    key=("id",),
)

_FIELDS = Table(
    "fields",
    _columns(ntid="integer", ord="integer", name="text unicase", config="blob"),
    key=("ntid", "ord"),
    without_rowid=True,
)

_TEMPLATES = Table(
    "templates",
    _columns(
        ntid="integer",
        ord="integer",
        name="text unicase",
        mtime_secs="integer",
        usn="integer",
        config="blob",
    ),
    key=("ntid", "ord"),
    without_rowid=True,
)

_TAGS = Table(
    "tags",
    (
        Column("tag", "text", "unicase"),
        Column("usn", "integer"),
        Column("collapsed", "boolean"),
        Column("config", "blob", nullable=True),
    ),
    key=("tag",),
    without_rowid=True,
)

_TAGS_15 = Table(
    "tags",
    (Column("tag", "text", "unicase"), Column("usn", "integer")),
    key=("tag",),
    without_rowid=True,
)

_INDEXES_11 = (
    Index("ix_notes_usn", "notes", ("usn",)),
    Index("ix_cards_usn", "cards", ("usn",)),
    Index("ix_revlog_usn", "revlog", ("usn",)),
    Index("ix_cards_nid", "cards", ("nid",)),
    Index("ix_cards_sched", "cards", ("did", "queue", "due")),
    Index("ix_revlog_cid", "revlog", ("cid",)),
    Index("ix_notes_csum", "notes", ("csum",)),
)

_INDEXES_15 = (
    *_INDEXES_11,
    Index("idx_fields_name_ntid", "fields", ("name", "ntid"), unique=True),
    Index("idx_templates_name_ntid", "templates", ("name", "ntid"), unique=True),
    Index("idx_templates_usn", "templates", ("usn",)),
    Index("idx_notetypes_name", "notetypes", ("name",), unique=True),
    Index("idx_notetypes_usn", "notetypes", ("usn",)),
    Index("idx_decks_name", "decks", ("name",), unique=True),
    Index("idx_notes_mid", "notes", ("mid",)),
    Index("idx_cards_odid", "cards", ("odid",), where="odid != 0"),
)

_INDEXES_18 = (*_INDEXES_15, Index("idx_graves_pending", "graves", ("usn",)))


def _schema(version: int, tables: tuple[Table, ...], indexes: tuple[Index, ...]) -> Schema:
    return Schema(version, {t.name: t for t in tables}, {i.name: i for i in indexes})


SCHEMA_11: Final = _schema(11, (_COL, _NOTES, _CARDS, _REVLOG, _GRAVES_11), _INDEXES_11)

_FROM_15 = (
    _COL,
    _NOTES,
    _CARDS,
    _REVLOG,
    _CONFIG,
    _DECK_CONFIG,
    _DECKS,
    _NOTETYPES,
    _FIELDS,
    _TEMPLATES,
)

SCHEMA_15: Final = _schema(15, (*_FROM_15, _TAGS_15, _GRAVES_11), _INDEXES_15)

# The initial ease in the deck options is another number; no table changed.
SCHEMA_16: Final = _schema(16, (*_FROM_15, _TAGS_15, _GRAVES_11), _INDEXES_15)

SCHEMA_17: Final = _schema(17, (*_FROM_15, _TAGS, _GRAVES_11), _INDEXES_15)

SCHEMA_18: Final = _schema(18, (*_FROM_15, _TAGS, _GRAVES_18), _INDEXES_18)

SCHEMAS: Final = {
    each.version: each for each in (SCHEMA_11, SCHEMA_15, SCHEMA_16, SCHEMA_17, SCHEMA_18)
}
