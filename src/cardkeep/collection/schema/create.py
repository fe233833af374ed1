# SPDX-License-Identifier: AGPL-3.0-or-later
"""A new collection: what an account that never uploaded holds (docs/collection-format.md, 10)."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec

from cardkeep.collection import database, deck_configs, decks, notetypes
from cardkeep.collection.schema.tables import SCHEMA_18
from cardkeep.records import deck, deck_config, notetype
from cardkeep.records.deck import Deck
from cardkeep.records.deck_config import DeckConfig

# The hour at which a day of study begins, unless the user chose another one.
_ROLLOVER = 4

# What clients find in a new collection of the official server. `creationOffset` stays null:
# a server has no time zone of its own.
_CONFIG: dict[str, Any] = {
    "activeDecks": [1],
    "curDeck": 1,
    "newSpread": 0,
    "collapseTime": 1200,
    "timeLim": 0,
    "estTimes": True,
    "dueCounts": True,
    "curModel": None,
    "nextPos": 1,
    "sortType": "noteFld",
    "sortBackwards": False,
    "addToCur": True,
    "dayLearnFirst": False,
    "schedVer": 2,
    "creationOffset": None,
    "sched2021": True,
}

_DECK = {
    "id": 1,
    "mod": 0,
    "name": "Default",
    "usn": 0,
    "lrnToday": [0, 0],
    "revToday": [0, 0],
    "newToday": [0, 0],
    "timeToday": [0, 0],
    "collapsed": True,
    "browserCollapsed": True,
    "desc": "",
    "dyn": 0,
    "conf": 1,
    "extendNew": 0,
    "extendRev": 0,
}

_DECK_CONFIG = {
    "id": 1,
    "mod": 0,
    "name": "Default",
    "usn": 0,
    "maxTaken": 60,
    "autoplay": True,
    "timer": 0,
    "replayq": True,
    "new": {
        "delays": [1.0, 10.0],
        "initialFactor": 2500,
        "ints": [1, 4, 0],
        "order": 1,
        "perDay": 20,
        "bury": False,
    },
    "rev": {
        "ease4": 1.3,
        "hardFactor": 1.2,
        "ivlFct": 1.0,
        "maxIvl": 36500,
        "perDay": 200,
        "bury": False,
    },
    "lapse": {"delays": [10.0], "mult": 0.0, "minInt": 1, "leechAction": 1, "leechFails": 8},
    "desiredRetention": 0.9,
    "sm2Retention": 0.9,
    "easyDaysPercentages": [1.0] * 7,
    "waitForAudio": True,
}

_CSS = """\
.card {
  max-width: 40em;
  margin: 1em auto;
  font: 1.4em/1.5 sans-serif;
  text-align: center;
}
"""

_CLOZE_CSS = (
    _CSS
    + """\
.cloze {
  font-weight: bold;
  color: #1a66d0;
}
.nightMode .cloze {
  color: #8ab8ff;
}
"""
)

_LATEX_BEFORE = r"""\documentclass[12pt]{article}
\usepackage[utf8]{inputenc}
\usepackage{amsmath, amssymb}
\setlength{\parindent}{0pt}
\pagestyle{empty}
\begin{document}
"""
_LATEX_AFTER = r"\end{document}"

_ANSWER = '{{FrontSide}}\n<hr id="answer">\n'

_FORWARDS = {"name": "Card 1", "qfmt": "{{Front}}", "afmt": _ANSWER + "{{Back}}"}
_BACKWARDS = {"name": "Card 2", "qfmt": "{{Back}}", "afmt": _ANSWER + "{{Front}}"}

# Name, number by which clients know it as a stock notetype (they can reset it to their own
# form of it by that), fields, templates, and which fields each card needs.
_NOTETYPES: tuple[tuple[str, int, list[str], list[dict[str, str]], list[Any]], ...] = (
    ("Basic", 1, ["Front", "Back"], [_FORWARDS], [[0, "any", [0]]]),
    (
        "Basic (and reversed card)",
        2,
        ["Front", "Back"],
        [_FORWARDS, _BACKWARDS],
        [[0, "any", [0]], [1, "any", [1]]],
    ),
    (
        "Basic (optional reversed card)",
        3,
        ["Front", "Back", "Add Reverse"],
        [_FORWARDS, _BACKWARDS | {"qfmt": "{{#Add Reverse}}{{Back}}{{/Add Reverse}}"}],
        [[0, "any", [0]], [1, "all", [1, 2]]],
    ),
    (
        "Basic (type in the answer)",
        4,
        ["Front", "Back"],
        [
            {
                "name": "Card 1",
                "qfmt": "{{Front}}\n\n{{type:Back}}",
                "afmt": '{{Front}}\n<hr id="answer">\n{{type:Back}}',
            }
        ],
        [[0, "any", [0, 1]]],
    ),
    (
        "Cloze",
        5,
        ["Text", "Back Extra"],
        [
            {
                "name": "Cloze",
                "qfmt": "{{cloze:Text}}",
                "afmt": "{{cloze:Text}}\n<br>\n{{Back Extra}}",
            }
        ],
        [[0, "any", [0]]],
    ),
)

_STOCK_CLOZE = 5


def create(path: Path, now_ms: int) -> None:
    """Makes a new collection at `path`, where no file is, and closes it.

    Its time of modification is 0, by which clients know that it was never used. The file is
    whole by itself; the caller flushes it and renames it into place.

    Raises FileExistsError.
    """
    path.touch(mode=0o600, exist_ok=False)
    connection = database.connect_private(path)
    try:
        _fill(connection, now_ms)
    finally:
        database.close(connection)


def _fill(connection: sqlite3.Connection, now_ms: int) -> None:
    # Said although they are the defaults: they depend on how SQLite was built.
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA encoding = 'UTF-8'")
    connection.execute("PRAGMA auto_vacuum = NONE")
    connection.execute("BEGIN")
    for table in SCHEMA_18.tables.values():
        connection.execute(table.sql)
    for index in SCHEMA_18.indexes.values():
        connection.execute(index.sql)
    connection.execute(
        "INSERT INTO col VALUES (1, ?, 0, ?, 18, 0, 0, 0, '', '', '', '', '')",
        (_day_start(now_ms // 1000), now_ms),
    )
    connection.executemany(
        "INSERT INTO config VALUES (?, 0, 0, ?)",
        [(key, msgspec.json.encode(value)) for key, value in _CONFIG.items()],
    )
    decks.put(connection, default_deck())
    deck_configs.put(connection, default_options())
    for each in _notetypes(now_ms):
        notetypes.put(connection, notetype.from_json(each))
    connection.execute("COMMIT")


def default_deck() -> Deck:
    """The deck that every collection has, as it is when new."""
    return deck.from_json(_DECK)


def default_options() -> DeckConfig:
    """The preset that every collection has, as it is when new."""
    return deck_config.from_json(_DECK_CONFIG)


def _day_start(now_s: int) -> int:
    """The last 04:00 of local time."""
    then = time.localtime(now_s)
    day = then.tm_mday - (then.tm_hour < _ROLLOVER)
    return int(time.mktime((then.tm_year, then.tm_mon, day, _ROLLOVER, 0, 0, 0, 0, -1)))


def _notetypes(now_ms: int) -> list[dict[str, Any]]:
    """The stock notetypes in legacy JSON; ids are times, as everywhere in Anki."""
    return [
        {
            "id": now_ms + at,
            "name": name,
            "type": int(kind == _STOCK_CLOZE),
            "mod": now_ms // 1000,
            "usn": 0,
            "sortf": 0,
            "did": None,
            "css": _CLOZE_CSS if kind == _STOCK_CLOZE else _CSS,
            "latexPre": _LATEX_BEFORE,
            "latexPost": _LATEX_AFTER,
            "flds": [
                _field(name, tag if kind == _STOCK_CLOZE else None)
                for tag, name in enumerate(fields)
            ],
            "tmpls": templates,
            "req": required,
            "originalStockKind": kind,
        }
        for at, (name, kind, fields, templates, required) in enumerate(_NOTETYPES)
    ]


def _field(name: str, tag: int | None) -> dict[str, Any]:
    """`tag` is the number by which clients know a field of a cloze notetype, whatever its name."""
    return {
        "name": name,
        "sticky": False,
        "rtl": False,
        "font": "Arial",
        "size": 20,
        "tag": tag,
        "preventDeletion": tag == 0,
    }
