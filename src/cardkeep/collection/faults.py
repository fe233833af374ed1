# SPDX-License-Identifier: AGPL-3.0-or-later
"""What can be wrong in a collection whose pages and tables are sound: one line each.

A fault is found by one statement, which gives a label for each row concerned; SQLite does the
joins, so memory does not grow with the collection. What the clients' own check of the
database finds is found here too, by the same conditions.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from cardkeep.collection import decks, graves, mending
from cardkeep.collection.mending import Mending
from cardkeep.collection.schema import values
from cardkeep.collection.schema.inspect import OBJECTS, TEXTS
from cardkeep.errors import BadRequest
from cardkeep.messages import Finding
from cardkeep.records.deck import is_filtered, options_of
from cardkeep.records.names import deck_human, deck_native
from cardkeep.records.notetype import is_cloze

#: How many of the rows concerned are named.
NAMED = 5
# More than this many, and more than this part of all, is no accident of syncing: rows were lost.
_MANY, _PART = 100, 0.2

CHECK_DATABASE = "Anki mends it: Tools > Check Database, then sync."
_RESTORE = (
    "So many are no accident of syncing: the rest was lost, and a kept copy or a device has it."
)

Mend = Callable[[Mending], object]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A finding, and what mends it; `where` tells several of one kind apart."""

    finding: Finding
    mend: Mend | None = None
    where: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """By which the same trouble is known again."""
        return self.finding.kind, self.where


@dataclass(frozen=True, slots=True)
class Fault:
    """`words` with `{n}` and `{s}` (the plural's ending); `find` gives a label for each."""

    kind: str
    words: str
    find: str | Callable[[sqlite3.Connection], Iterable[Sequence[Any]]]
    tables: str
    mend: Mend | None = None
    advice: str = ""
    harmless: bool = False
    mends_few_of: str = ""


Look = Callable[[sqlite3.Connection], Iterator[Trouble]]


def prepare(db: sqlite3.Connection) -> None:
    """Gives a connection the functions that the statements here use."""
    for name, function in (
        ("is_filtered", is_filtered),
        ("options_of", options_of),
        ("is_cloze", is_cloze),
    ):
        db.create_function(name, 1, partial(_of_blob, function), deterministic=True)


def looks() -> Iterator[tuple[str, Look]]:
    """Everything to look at, with the names of the tables that it goes through.

    In this order things are mended.
    """
    for table in values.RULES:
        yield table, partial(_values, table=table)
    for table, columns in TEXTS.items():
        if table != "notes":  # they are read as a whole elsewhere
            yield table, partial(texts, table=table, columns=columns)
    for table, columns, check in OBJECTS:
        yield table, partial(_objects, table=table, columns=columns, check=check)
    for fault in FAULTS:
        yield fault.tables, partial(_look_for, fault)


def told(words: str, labels: Iterable[object], count: int, advice: str = "") -> str:
    """A sentence: `3 cards without a note: 12, 13, 14.`"""
    text = words.format(n=count, s="" if count == 1 else "s")
    named = ", ".join(f"{label}"[:100] for label in islice(labels, NAMED))
    if named:
        text += f": {named}{', …' if count > NAMED else ''}"
    return f"{text}. {advice}".rstrip()


# --- the faults -------------------------------------------------------------------------

_NO_NOTE = "nid NOT IN (SELECT id FROM notes)"
_NO_DECK = """
    did NOT IN (SELECT id FROM decks) OR (odid != 0 AND odid NOT IN (SELECT id FROM decks))
"""
# The one that was studied most stays, then the oldest, as with crossing changes.
_TWINS = """
    SELECT id
    FROM (SELECT id, row_number() OVER (PARTITION BY nid, ord ORDER BY reps DESC, id) AS place
        FROM cards)
    WHERE place > 1
"""
_IN_FILTERED = "did IN (SELECT id FROM decks WHERE is_filtered(kind) = {})"
_LOST_HOME = f"odid != 0 AND {_IN_FILTERED.format(0)}"
_NO_TEMPLATE = """
    WITH kinds AS MATERIALIZED (
        SELECT id, (SELECT count(*) FROM templates WHERE ntid = notetypes.id) AS templates
        FROM notetypes
        WHERE is_cloze(config) = 0
    )
    SELECT cards.id
    FROM cards
    CROSS JOIN notes ON notes.id = cards.nid
    CROSS JOIN kinds ON kinds.id = notes.mid
    WHERE cards.ord >= kinds.templates
"""
_WRONG_USN = "usn > (SELECT usn FROM col) OR usn < 0 OR typeof(usn) != 'integer'"
_LATER_GRAVE = (
    "EXISTS (SELECT 1 FROM graves WHERE oid = {0}.id AND type = {1} AND graves.usn > {0}.usn)"
)
_NO_GRAVE = f"type NOT IN ({graves.CARD}, {graves.NOTE}, {graves.DECK}) OR typeof(oid) != 'integer'"

# Label, by table, of the rows that syncs number. (Those of the configuration nobody looks at.)
_NUMBERED = {
    "notes": "id",
    "cards": "id",
    "revlog": "id",
    "notetypes": "id",
    "decks": "id",
    "deck_config": "id",
    "tags": "tag",
    "graves": "oid",
}
_WITH_GRAVES = {"cards": graves.CARD, "notes": graves.NOTE, "decks": graves.DECK}


def _orphaned_parents(db: sqlite3.Connection) -> Iterator[Sequence[Any]]:
    for name in decks.missing_parents(decks.names(db)):
        yield (f"“{deck_human(name)}”",)


def _wrong_names(db: sqlite3.Connection) -> Iterator[Sequence[Any]]:
    for (name,) in db.execute("SELECT name FROM decks"):
        if deck_native(deck_human(name)) != name:
            yield (repr(deck_human(name)),)


def _usn(table: str, label: str) -> Fault:
    return Fault(
        "usn",
        f"{{n}} row{{s}} of “{table}” with a usn that no sync gives, sent never or each time",
        f"SELECT {label} FROM {table} WHERE {_WRONG_USN}",
        table,
        lambda mending: mending.send(table, _WRONG_USN),
    )


def _grave(table: str, kind: int) -> Fault:
    later = _LATER_GRAVE.format(table, kind)
    return Fault(
        "grave",
        f"{{n}} row{{s}} of “{table}” that devices are told to delete, but are still here",
        f"SELECT id FROM {table} WHERE {later}",
        "graves",
        lambda mending: mending.send(table, later),
    )


FAULTS = (
    Fault(
        "default-deck",
        "The default deck is missing",
        "SELECT '' WHERE NOT EXISTS (SELECT 1 FROM decks WHERE id = 1)",
        "decks",
        mending.add_default_deck,
    ),
    Fault(
        "default-options",
        "The default deck options are missing",
        "SELECT '' WHERE NOT EXISTS (SELECT 1 FROM deck_config WHERE id = 1)",
        "deck_config",
        mending.add_default_options,
    ),
    Fault(
        "no-notetype",
        "There is no notetype",
        "SELECT '' WHERE NOT EXISTS (SELECT 1 FROM notetypes)",
        "notetypes",
        advice=CHECK_DATABASE,
    ),
    Fault(
        "notetype-incomplete",
        "{n} notetype{s} without a field or without a template",
        """
        SELECT id FROM notetypes
        WHERE id NOT IN (SELECT ntid FROM fields) OR id NOT IN (SELECT ntid FROM templates)
        """,
        "notetypes",
        advice="A kept copy or a device may have them whole.",
    ),
    *(
        Fault(
            f"{part}-without-notetype",
            f"{{n}} {part}{{s}} of notetypes that do not exist",
            f"SELECT ntid FROM {part}s WHERE ntid NOT IN (SELECT id FROM notetypes)",
            f"{part}s",
            harmless=True,
        )
        for part in ("field", "template")
    ),
    Fault(
        "grave-kind",
        "{n} deletion{s} of nothing that Anki knows",
        f"SELECT oid FROM graves WHERE {_NO_GRAVE}",
        "graves",
        lambda mending: mending.db.execute(f"DELETE FROM graves WHERE {_NO_GRAVE}"),
    ),
    *(_usn(table, label) for table, label in _NUMBERED.items()),
    *(_grave(table, kind) for table, kind in _WITH_GRAVES.items()),
    Fault(
        "note-without-notetype",
        "{n} note{s} of notetypes that do not exist",
        "SELECT id FROM notes NOT INDEXED WHERE mid NOT IN (SELECT id FROM notetypes)",
        "notes",
        advice="A kept copy or a device may have the notetypes; Check Database makes empty ones.",
    ),
    Fault(
        "note-without-card",
        "{n} note{s} without a card",
        "SELECT id FROM notes WHERE id NOT IN (SELECT nid FROM cards)",
        "notes",
        advice=CHECK_DATABASE,
    ),
    Fault(
        "card-without-note",
        "{n} card{s} of notes that do not exist",
        f"SELECT id FROM cards NOT INDEXED WHERE {_NO_NOTE}",
        "cards",
        lambda mending: mending.delete_cards(_NO_NOTE),
        mends_few_of="cards",
    ),
    Fault(
        "card-twin",
        "{n} card{s} beside another one of the same note and template",
        _TWINS,
        "cards",
        lambda mending: mending.delete_cards(f"id IN ({_TWINS})"),
        mends_few_of="cards",
    ),
    Fault(
        "card-without-template",
        "{n} card{s} of templates that do not exist",
        _NO_TEMPLATE,
        "cards notes",
        advice=f"{CHECK_DATABASE} (By deleting them.)",
    ),
    Fault(
        "card-without-deck",
        "{n} card{s} in decks that do not exist",
        f"SELECT id FROM cards NOT INDEXED WHERE {_NO_DECK}",
        "cards",
        lambda mending: mending.give_decks(_NO_DECK),
        mends_few_of="cards",
    ),
    Fault(
        "card-home",
        "{n} card{s} with a deck to go home to, though in no filtered deck",
        f"SELECT id FROM cards WHERE {_LOST_HOME}",
        "decks",
        lambda mending: mending.update("cards", "odid = 0, odue = 0", _LOST_HOME),
    ),
    Fault(
        "card-in-filtered",
        "{n} card{s} in a filtered deck without a deck to go home to",
        f"SELECT id FROM cards WHERE odid = 0 AND {_IN_FILTERED.format(1)}",
        "decks",
        advice="In Anki, move them to another deck.",
    ),
    Fault(
        "card-due",
        "{n} card{s} due at no possible time",
        f"""
        SELECT id FROM cards NOT INDEXED
        WHERE ({mending.NEW_TOO_HIGH}) OR ({mending.REVIEW_TOO_HIGH})
            OR ({mending.HOME_DUE_WITHOUT_HOME})
        """,
        "cards",
        mending.make_due,
    ),
    Fault(
        "deck-name",
        "{n} deck{s} under a name that clients write otherwise",
        _wrong_names,
        "decks",
        mending.rename_decks,
    ),
    Fault(
        "deck-without-parent",
        "{n} missing deck{s} that others are below of",
        _orphaned_parents,
        "decks",
        mending.add_parents,
    ),
    Fault(
        "deck-without-options",
        "{n} deck{s} with deck options that do not exist",
        "SELECT id FROM decks WHERE options_of(kind) NOT IN (SELECT id FROM deck_config)",
        "decks",
        advice="Anki takes the default ones.",
        harmless=True,
    ),
)


def _look_for(fault: Fault, db: sqlite3.Connection) -> Iterator[Trouble]:
    rows = db.execute(fault.find) if isinstance(fault.find, str) else fault.find(db)
    labels = [row[0] for row in islice(rows, NAMED)]
    if not labels:
        return
    count = len(labels) + sum(1 for _ in rows)
    mend, advice = fault.mend, fault.advice
    if fault.mends_few_of and _are_many(db, count, fault.mends_few_of):
        mend, advice = None, _RESTORE
    text = told(fault.words, labels, count, advice)
    finding = Finding(fault.kind, text, repairable=mend is not None, harmless=fault.harmless)
    yield Trouble(finding, mend, fault.words)


def _are_many(db: sqlite3.Connection, count: int, table: str) -> bool:
    (total,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    return count > _MANY and count > total * _PART


# --- whole tables -----------------------------------------------------------------------


def _values(db: sqlite3.Connection, table: str) -> Iterator[Trouble]:
    """What stands in the columns of a table (`schema.values`); usn is looked at elsewhere."""
    rules = [rule for rule in values.RULES[table] if rule.column != "usn" or table not in _NUMBERED]
    for rule, count in values.wrong(db, table, rules).items():
        where = f"{table}.{rule.column}"
        if rule.mend:
            text = told(f"{{n}} value{{s}} in {where} that clients read as another", (), count)
            mend = partial(_put_right, table=table, rule=rule)
            yield Trouble(Finding("value", text, repairable=True), mend, where)
        else:
            words = f"{{n}} value{{s}} in {where} that clients cannot read"
            yield Trouble(Finding("value-unreadable", told(words, (), count)), None, where)


def _put_right(mending: Mending, table: str, rule: values.Rule) -> None:
    values.put_right(mending.db, table, [rule])


def texts(db: sqlite3.Connection, table: str, columns: str) -> Iterator[Trouble]:
    """That what clients read as text is UTF-8; in SQLite it is any bytes."""
    as_bytes = ", ".join(f"CAST({column} AS blob)" for column in columns.split(", "))
    count = 0
    for row in db.execute(f"SELECT {as_bytes} FROM {table} NOT INDEXED"):
        count += not all(map(is_utf8, row))
    if count:
        words = f"{{n}} row{{s}} of “{table}” with text that clients cannot read"
        yield Trouble(Finding("text", told(words, (), count, CHECK_DATABASE)), None, table)


def is_utf8(text: bytes | None) -> bool:
    """Whether clients can read it; nothing at all is another matter."""
    try:
        (text or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _objects(
    db: sqlite3.Connection, table: str, columns: str, check: Callable[..., None]
) -> Iterator[Trouble]:
    """That every object decodes."""
    broken: list[str] = []
    count = 0
    for row in db.execute(f"SELECT {columns} FROM {table} NOT INDEXED"):
        try:
            check(*row)
        except (BadRequest, RecursionError, TypeError) as error:
            count += 1
            if len(broken) < NAMED:
                broken.append(f"{error}")
    if count:
        words = f"{{n}} object{{s}} in “{table}” that clients cannot read"
        advice = "A kept copy or a device may have them whole."
        yield Trouble(Finding("object", told(words, broken, count, advice)), None, table)


def _of_blob(function: Callable[[bytes], Any], value: Any) -> Any:
    """NULL for what is no blob; clients cannot read it anyway."""
    return function(value) if isinstance(value, bytes) else None
