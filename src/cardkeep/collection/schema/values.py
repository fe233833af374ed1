# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which values the columns of an upload may hold (docs/collection-format.md, 8).

SQLite stores anything in any column; a client fails when it meets a value that it cannot
read. Three kinds are told apart: values that clients read as they are; values that they read
as something else (a due day of 12.5), which are stored as that; and values that they fail on,
which nothing here can mend.

Each table is looked at in one statement, since it may have millions of rows.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from cardkeep.records.fields import LARGEST_OBJECT
from cardkeep.records.numbers import CREATION_MAX, CREATION_MIN


@dataclass(frozen=True, slots=True)
class Rule:
    """A column, the condition that a good value meets, and what makes a good one of another."""

    column: str
    good: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The first column of a table with values that clients fail on, and how many."""

    table: str
    column: str
    count: int


def _integer(column: str, mend: str = "") -> Rule:
    return Rule(column, f"typeof({column}) = 'integer'", mend)


def _id(column: str = "id") -> Rule:
    return Rule(column, f"typeof({column}) = 'integer' AND {column} <> 0")


def _within(column: str, low: int, high: int, mend: str = "") -> Rule:
    return Rule(column, f"typeof({column}) = 'integer' AND {column} BETWEEN {low} AND {high}", mend)


def _number(column: str, low: int, high: int) -> Rule:
    """Clients drop the fraction of a number here, but fail on one out of range."""
    whole = f"CAST({column} AS integer)"
    return _within(
        column, low, high, f"CASE typeof({column}) WHEN 'real' THEN {whole} ELSE {column} END"
    )


def _number_or_zero(column: str, low: int, high: int) -> Rule:
    """Whatever is no number within range counts as 0; its fraction is dropped."""
    return _within(
        column,
        low,
        high,
        f"""
        CASE WHEN typeof({column}) IN ('integer', 'real') AND {column} BETWEEN {low} AND {high}
        THEN CAST({column} AS integer) ELSE 0 END
        """,
    )


def _text(column: str, mend: str = "") -> Rule:
    return Rule(column, f"typeof({column}) = 'text'", mend)


def _blob(column: str) -> Rule:
    return Rule(column, f"typeof({column}) = 'blob' AND length({column}) <= {LARGEST_OBJECT}")


def _usn() -> Rule:
    """-1 ("to be sent") and what was never given out becomes the number that `mend` is given.

    A row beyond the collection's usn would be sent with each sync, until that comes to it.
    """
    good = "typeof(usn) = 'integer' AND usn BETWEEN 0 AND (SELECT usn FROM col)"
    return Rule("usn", good, ":usn")


_INT32 = (-(2**31), 2**31 - 1)
_UINT32 = (0, 2**32 - 1)
_UINT16 = (0, 2**16 - 1)
_INT64 = (-(2**63), 2**63 - 1)
# Milliseconds until the year 9999.
_TIME = (0, 253_402_300_799_999)


RULES: dict[str, tuple[Rule, ...]] = {
    "col": (
        _within("crt", CREATION_MIN, CREATION_MAX),
        _within("mod", *_TIME),
        _within("scm", *_TIME),
        # The last syncs before the end of 32 bits are not for here.
        _within("usn", 0, 2**31 - 2**20),
        _within("ls", *_TIME, mend="0"),
        _within("dty", *_UINT32, mend="0"),
    ),
    "notes": (
        _integer("id"),
        _text("guid"),
        _id("mid"),
        _number("mod", *_INT64),
        _usn(),
        _text("tags"),
        _text("flds"),
        Rule("sfld", "typeof(sfld) NOT IN ('blob', 'null')", "''"),
        _integer("csum", "0"),
        _integer("flags", "0"),
        _text("data", "''"),
    ),
    "cards": (
        _integer("id"),
        _integer("nid"),
        _integer("did"),
        _within("ord", *_UINT16),
        _number("mod", *_INT64),
        _usn(),
        _within("type", 0, 3),
        _within("queue", -3, 4),
        _number_or_zero("due", *_INT32),
        _number("ivl", *_UINT32),
        _within("factor", *_UINT16),
        _within("reps", *_UINT32),
        _within("lapses", *_UINT32),
        _within("left", *_UINT32),
        _number_or_zero("odue", *_INT32),
        _integer("odid"),
        _within("flags", 0, 255),
        _text("data", "''"),
    ),
    "revlog": (
        _integer("id"),
        _integer("cid"),
        _usn(),
        _within("ease", 0, 255),
        _number("ivl", *_INT32),
        _number("lastIvl", *_INT32),
        _within("factor", *_UINT32),
        _number_or_zero("time", *_UINT32),
        _number_or_zero("type", 0, 5),
    ),
    "config": (
        _text("KEY"),
        # Clients leave -1 here, and nobody reads it: it is given back as it came.
        _within("usn", -1, 2**31 - 1, "0"),
        _integer("mtime_secs", "0"),
        _blob("val"),
    ),
    "deck_config": (
        _id(),
        _text("name"),
        _number("mtime_secs", *_INT64),
        _usn(),
        _blob("config"),
    ),
    "decks": (
        _id(),
        _text("name"),
        _number("mtime_secs", *_INT64),
        _usn(),
        _blob("common"),
        _blob("kind"),
    ),
    "notetypes": (
        _id(),
        _text("name"),
        _number("mtime_secs", *_INT64),
        _usn(),
        _blob("config"),
    ),
    "fields": (
        _id("ntid"),
        _within("ord", *_UINT16),
        _text("name"),
        _blob("config"),
    ),
    "templates": (
        _id("ntid"),
        _within("ord", *_UINT16),
        _text("name"),
        _integer("mtime_secs", "0"),
        _usn(),
        _blob("config"),
    ),
    "tags": (
        _text("tag"),
        _usn(),
        _within("collapsed", 0, 1, "1"),
    ),
}


def mend(connection: sqlite3.Connection, tables: Iterable[str], usn: int) -> Unreadable | None:
    """Stores what clients read where they read something else than is stored.

    Rows without a usn get `usn`. Returns the first column that holds what clients cannot read
    at all, else None.
    """
    for table in tables:
        broken = wrong(connection, table, RULES[table])
        put_right(connection, table, broken, usn)
        if broken and (left := wrong(connection, table, broken)):
            rule, count = next(iter(left.items()))
            return Unreadable(table, rule.column, count)
    return None


def wrong(connection: sqlite3.Connection, table: str, rules: Iterable[Rule]) -> dict[Rule, int]:
    """The rules that rows break, and how many rows do."""
    rules = list(rules)
    counts = ", ".join(f"count(*) FILTER (WHERE ({rule.good}) IS NOT TRUE)" for rule in rules)
    # Indexes are not asked: what is wrong with an upload may be that they disagree.
    found = connection.execute(f"SELECT {counts} FROM {table} NOT INDEXED").fetchone()
    return {rule: count for rule, count in zip(rules, found, strict=True) if count}


def put_right(
    connection: sqlite3.Connection, table: str, rules: Iterable[Rule], usn: int = 0
) -> None:
    """Makes good values of those that break `rules`, where a rule says how."""
    for rule in rules:
        if rule.mend:
            bad = f"({rule.good}) IS NOT TRUE"
            connection.execute(
                f"UPDATE {table} SET {rule.column} = {rule.mend} WHERE {bad}", {"usn": usn}
            )
