# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether the file of a stored collection is sound: pages, tables, indexes.

Only then do statements about what is in it mean anything. Damaged pages have no remedy here;
indexes are made from the tables, so they can always be made again.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from cardkeep.collection import faults
from cardkeep.collection.faults import Trouble
from cardkeep.collection.mending import Mending
from cardkeep.collection.schema import inspect
from cardkeep.collection.schema.indexes import LARGE, disagreeing
from cardkeep.collection.schema.tables import SCHEMA_18
from cardkeep.errors import NotAccepted
from cardkeep.messages import Finding

_LINES = 20
# What SQLite says of an index, last of all its name; and of a value, which is no matter of pages.
_OF_INDEX = re.compile(r".* index (\w+)")
_OF_VALUE = re.compile(r"\S+ value in (\w+\.\w+)")

_RESTORE = "Restore a kept copy; a device with later work can upload its own after that."

# The index by which a table's rows are found that a device has not seen yet.
_BY_USN = {
    index.name: (index.table, "oid, type" if index.table == "graves" else "id")
    for index in SCHEMA_18.indexes.values()
    if index.columns == ("usn",) and index.table != "templates"
}


class Structure(NamedTuple):
    """What was found; whether the content can be looked at, and mended."""

    troubles: list[Trouble]
    is_sound: bool = False
    is_ours: bool = False


def look_at_structure(db: sqlite3.Connection, *, quick: bool) -> Structure:
    """Pages first, so that nothing after can go round in circles."""
    complaints = list(_complaints(db, "quick_check"))
    if damage := [line for line in complaints if not _OF_VALUE.fullmatch(line)]:
        return Structure([_damaged(damage)])
    try:
        objects = inspect.read_objects(db)
        if (version := inspect.schema_version(db, objects)) != SCHEMA_18.version:
            what = f"The collection is in schema {version}, not {SCHEMA_18.version}. {_RESTORE}"
            return Structure([Trouble(Finding("schema", what))])
        inspect.check_tables(objects, SCHEMA_18)
    except NotAccepted as refusal:
        return Structure([Trouble(Finding("schema", f"{_sentence(refusal)} {_RESTORE}"))])
    found: list[Trouble] = []
    stale: list[str] = []
    is_ours = True
    try:
        stale = [n for n in inspect.stale_objects(objects, SCHEMA_18) if n in SCHEMA_18.indexes]
    except NotAccepted as refusal:
        # Mending would set its triggers off.
        is_ours = False
        words = f"Not made by Anki, and nothing is mended beside it: {_sentence(refusal)}"
        found.append(Trouble(Finding("schema-foreign", words)))
    if missing := [n for n in SCHEMA_18.indexes if n in stale or n not in objects]:
        words = "Indexes are missing or of other columns"
        found.append(_indexes("index-missing", words, missing, _make))
    if not quick and _has_readable_names(db):
        complaints = list(_complaints(db, "integrity_check"))
        wrong = sorted({m[1] for m in map(_OF_INDEX.fullmatch, complaints) if m} - set(missing))
        rest = [c for c in complaints if not (_OF_INDEX.fullmatch(c) or _OF_VALUE.fullmatch(c))]
        if rest:
            return Structure([*found, _damaged(rest)])
        if wrong:
            words = "Indexes disagree with their tables, so that the rest was not looked at"
            found.append(_indexes("index", words, wrong, _make_again))
            return Structure(found, is_ours=is_ours)
    return Structure(found, is_sound=True, is_ours=is_ours)


def _complaints(db: sqlite3.Connection, pragma: str) -> Iterator[str]:
    """SQLite's lines, without the heading that some versions begin with."""
    try:
        for (text,) in db.execute(f"PRAGMA {pragma}({_LINES})"):
            yield from (line for line in text.split("\n") if line != "ok" and "***" not in line)
    except (sqlite3.DatabaseError, SystemError, UnicodeDecodeError) as error:
        yield str(error)


def _damaged(lines: list[str]) -> Trouble:
    words = "The file is damaged, so that the rest was not looked at: {lines}. {advice}"
    return Trouble(Finding("damaged", words.format(lines="; ".join(lines[:3]), advice=_RESTORE)))


def _sentence(refusal: NotAccepted) -> str:
    return f"{refusal.reason[:1].upper()}{refusal.reason[1:]}."


def _has_readable_names(db: sqlite3.Connection) -> bool:
    """Python's sqlite3 stumbles over text that is no UTF-8 when it gets to a collation."""
    for table, columns in inspect.TEXTS.items():
        if table not in LARGE and list(faults.texts(db, table, columns)):
            return False
    return True


# --- indexes ----------------------------------------------------------------------------


def _indexes(kind: str, words: str, names: list[str], mend: Callable[..., None]) -> Trouble:
    text = faults.told(words, names, len(names))
    return Trouble(Finding(kind, text, repairable=True), partial(mend, names=names), kind)


def _make(mending: Mending, names: list[str]) -> None:
    for name in names:
        mending.db.execute(f"DROP INDEX IF EXISTS {name}")
        mending.db.execute(SCHEMA_18.indexes[name].sql)


def _make_again(mending: Mending, names: list[str]) -> None:
    """Those named, and those that SQLite did not come to, since it stops after some lines."""
    db = mending.db
    by_table = {
        table: [index for index in SCHEMA_18.indexes.values() if index.table == table]
        for table in SCHEMA_18.tables
    }
    wrong = set(names)
    for table, indexes in by_table.items():
        wrong.update(
            index.name for index in (disagreeing(db, table, indexes) if table in LARGE else indexes)
        )
    for name in sorted(wrong):
        if name in _BY_USN:
            _make_again_by_usn(mending, name, *_BY_USN[name])
        else:
            db.execute(f"REINDEX {name}")


def _make_again_by_usn(mending: Mending, name: str, table: str, key: str) -> None:
    """Rows that this index did not show were not sent to anybody: they are now."""
    mending.db.execute(
        f"""
        CREATE TEMP TABLE hidden AS
        SELECT {key}, usn FROM {table} NOT INDEXED
        EXCEPT SELECT {key}, usn FROM {table} INDEXED BY {name}
        """
    )
    mending.db.execute(f"REINDEX {name}")
    mending.send(table, f"({key}) IN (SELECT {key} FROM temp.hidden)")
    mending.db.execute("DROP TABLE temp.hidden")
