# SPDX-License-Identifier: AGPL-3.0-or-later
"""CREATE statements read into the values of `tables`.

An upload's schema is text that its sender wrote. Of SQL only the little is read that Anki's
tables need; whatever else stands in a statement (CHECK, REFERENCES, generated columns,
expressions, ...) makes it unreadable here, and the upload refused. So nothing in a schema
that could run, or change what a statement of ours means, gets in.
"""

import re
from collections.abc import Iterator

from cardkeep.collection.schema.tables import Column, Index, Table


class UnreadableError(ValueError):
    """The statement is not of the kind that Anki's tables are made with."""


_TOKEN = re.compile(
    r"""
    (?P<skip> [ \t\r\n\f]+ | --[^\n]*(?:\n|$) | /\*.*?\*/ )
  | (?P<word> [A-Za-z_][A-Za-z0-9_]* | [0-9]+ )
  | (?P<quoted> "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] )
  | (?P<text> '(?:[^']|'')*' )
  | (?P<sign> != | <> | [(),+-] )
    """,
    re.VERBOSE | re.DOTALL,
)

# How the words of a type decide what SQLite does with a value (https://sqlite.org/datatype3.html,
# 3.1), in this order. Clients of many years wrote these types; only the effect must agree.
_AFFINITIES = (
    ("INT", "integer"),
    ("CHAR", "text"),
    ("CLOB", "text"),
    ("TEXT", "text"),
    ("BLOB", "blob"),
    ("REAL", "real"),
    ("FLOA", "real"),
    ("DOUB", "real"),
)

_END = ("", "")


def affinity(type_: str) -> str:
    """What SQLite makes of a declared type: integer, text, blob, real or numeric."""
    if not type_:
        return "blob"
    for part, result in _AFFINITIES:
        if part in type_.upper():
            return result
    return "numeric"


def read_table(sql: str) -> Table:
    """The table that `sql` makes. Raises UnreadableError."""
    reader = _Reader(sql)
    reader.expect("create", "table")
    name = reader.name()
    columns: list[Column] = []
    key: tuple[str, ...] = ()
    reader.expect("(")
    while True:
        if reader.takes("primary", "key"):
            if key:
                raise UnreadableError("two primary keys")
            key = reader.names()
        else:
            column, is_key = _column(reader)
            columns.append(column)
            if is_key:
                if key:
                    raise UnreadableError("two primary keys")
                key = (column.name,)
        if not reader.takes(","):
            break
    reader.expect(")")
    without_rowid = reader.takes("without", "rowid")
    reader.end()
    return Table(name, tuple(columns), key, without_rowid)


def read_index(sql: str) -> Index:
    """The index that `sql` makes; its condition only as `name != 0`. Raises UnreadableError."""
    reader = _Reader(sql)
    reader.expect("create")
    unique = reader.takes("unique")
    reader.expect("index")
    name = reader.name()
    reader.expect("on")
    table = reader.name()
    columns = reader.names()
    where = ""
    if reader.takes("where"):
        column = reader.name()
        if not (reader.takes("!=", "0") or reader.takes("<>", "0")):
            raise UnreadableError("a condition")
        where = f"{column} != 0"
    reader.end()
    return Index(name, table, columns, unique, where)


def _column(reader: "_Reader") -> tuple[Column, bool]:
    """A column, and whether it is the primary key."""
    name = reader.name()
    type_ = []
    while (word := reader.type_word()) is not None:
        type_.append(word)
    is_key = not_null = False
    collation = ""
    while True:
        if reader.takes("not", "null"):
            not_null = True
        elif reader.takes("null"):
            pass
        elif reader.takes("primary", "key"):
            reader.takes("asc")
            reader.takes("autoincrement")
            is_key = True
        elif reader.takes("collate"):
            collation = reader.name().lower()
        elif reader.takes("default"):
            reader.literal()
        else:
            break
    if collation == "binary":
        collation = ""
    return Column(name, " ".join(type_), collation, not not_null), is_key


class _Reader:
    """The tokens of a statement, one after the other: (kind, text) pairs."""

    # Words that end the type of a column.
    _CONSTRAINTS = frozenset(
        [
            "constraint",
            "primary",
            "not",
            "null",
            "unique",
            "check",
            "default",
            "collate",
            "references",
            "generated",
            "as",
            "foreign",
            "on",
            "deferrable",
        ]
    )

    def __init__(self, sql: str) -> None:
        self._tokens = list(_tokens(sql))
        self._at = 0

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else _END

    def takes(self, *words: str) -> bool:
        """Goes past `words` (unquoted, any case) if they come next."""
        for ahead, word in enumerate(words):
            kind, text = self._peek(ahead)
            if kind not in ("word", "sign") or text.lower() != word:
                return False
        self._at += len(words)
        return True

    def expect(self, *words: str) -> None:
        if not self.takes(*words):
            raise UnreadableError(f"{self._peek()[1]!r} instead of {' '.join(words)!r}")

    def name(self) -> str:
        kind, text = self._peek()
        if kind == "word":
            self._at += 1
            return text
        if kind == "quoted":
            self._at += 1
            return text[1:-1].replace(text[-1] * 2, text[-1])
        raise UnreadableError(f"{text!r} instead of a name")

    def names(self) -> tuple[str, ...]:
        """Names in parentheses, each perhaps with ASC."""
        self.expect("(")
        names = []
        while True:
            names.append(self.name())
            self.takes("asc")
            if not self.takes(","):
                break
        self.expect(")")
        return tuple(names)

    def type_word(self) -> str | None:
        kind, text = self._peek()
        if kind not in ("word", "quoted") or (kind == "word" and text.lower() in self._CONSTRAINTS):
            return None
        return self.name()

    def literal(self) -> None:
        _ = self.takes("-") or self.takes("+")
        kind, text = self._peek()
        if kind != "text" and not text.isdecimal() and text.lower() != "null":
            raise UnreadableError(f"{text!r} as a default")
        self._at += 1

    def end(self) -> None:
        if self._peek() is not _END:
            raise UnreadableError(f"{self._peek()[1]!r} at the end")


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        if match is None:
            raise UnreadableError(f"{sql[at : at + 10]!r}")
        at = match.end()
        kind = match.lastgroup or ""
        if kind != "skip":
            yield kind, match.group()
