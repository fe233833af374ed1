# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hypothesis strategies for decks, deck configs and notetypes as clients send them."""

from typing import Any

from hypothesis import strategies as st

from cardkeep.records import deck, deck_config, notetype
from cardkeep.records.numbers import shortest

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT32 = st.integers(0, 2**32 - 1)
SMALL = st.integers(0, 9999)
# Text without lone surrogates; `Cs` is all of them.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
# Single precision, in the shortest form, which is how they come back.
SINGLE = st.floats(0, 1e4, width=32).map(shortest)
NUMBERS = st.lists(SINGLE, max_size=4)
BOOL = st.booleans()

# The clients' parser may miss the last bit of a float of more digits.
FLOATS = st.integers(-(2**30), 2**30).map(lambda number: number / 64)
JSON = st.recursive(
    st.none() | BOOL | INT64 | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def _object(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(required, optional=optional)


def _with_unknown(objects: st.SearchStrategy[Any], known: frozenset[str]) -> st.SearchStrategy[Any]:
    unknown = st.dictionaries(TEXT.filter(lambda name: name not in known), JSON, max_size=2)
    return st.builds(lambda one, other: {**other, **one}, objects, unknown)


IDS = st.integers(1, 2**53)
HEAD = {"id": IDS, "mod": st.integers(0, 2**40), "name": TEXT, "usn": INT32}

TODAY = st.tuples(st.integers(0, 10**5), INT32).map(list)
DAY_LIMIT = st.none() | st.fixed_dictionaries({"limit": UINT32, "today": UINT32})
DECK_HEAD = HEAD | {
    "lrnToday": TODAY,
    "revToday": TODAY,
    "newToday": TODAY,
    "timeToday": TODAY,
    "collapsed": BOOL,
    "browserCollapsed": BOOL,
    "desc": TEXT,
}
NORMAL_DECKS = _with_unknown(
    _object(
        DECK_HEAD
        | {
            "dyn": st.just(0),
            "conf": INT64,
            "extendNew": st.integers(0, 2**31 - 1),
            "extendRev": st.integers(0, 2**31 - 1),
            "reviewLimit": st.none() | UINT32,
            "newLimit": st.none() | UINT32,
            "reviewLimitToday": DAY_LIMIT,
            "newLimitToday": DAY_LIMIT,
            # The others lose one on the way back, as in the clients.
            "desiredRetention": st.none() | st.integers(0, 100).filter(lambda n: n not in (53, 59)),
        },
        {"md": st.just(True)},
    ),
    deck._DECK.names | deck._NORMAL.names,
)
TERMS = st.lists(st.tuples(TEXT, st.integers(0, 2**31 - 1), INT32).map(list), max_size=2)
FILTERED_DECKS = _with_unknown(
    _object(
        DECK_HEAD
        | {
            "desc": st.just(""),
            "dyn": st.just(1),
            "resched": BOOL,
            "terms": TERMS,
            "separate": st.just(True),
            "delays": st.none() | st.lists(SINGLE, min_size=1, max_size=3),
            "previewDelay": UINT32,
            "previewAgainSecs": UINT32,
            "previewHardSecs": UINT32,
            "previewGoodSecs": UINT32,
        },
        {},
    ),
    deck._DECK.names | deck._NORMAL.names | deck._FILTERED.names,
)
DECKS = NORMAL_DECKS | FILTERED_DECKS


def _between(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers in hundredths, of which single precision keeps the shortest form."""
    return st.integers(round(low * 100), round(high * 100)).map(lambda number: number / 100)


DECK_CONFIGS = _with_unknown(
    _object(
        HEAD
        | {
            "maxTaken": st.integers(1, 9999),
            "autoplay": BOOL,
            "timer": st.integers(0, 1),
            "replayq": BOOL,
            "dyn": st.just(False),
            "newMix": INT32,
            "interdayLearningMix": INT32,
            "newSortOrder": INT32,
            "reviewOrder": INT32,
            "newGatherPriority": INT32,
            "newPerDayMinimum": SMALL,
            "buryInterdayLearning": BOOL,
            "fsrsWeights": NUMBERS,
            "fsrsParams5": NUMBERS,
            "fsrsParams6": NUMBERS,
            "easyDaysPercentages": NUMBERS,
            "desiredRetention": _between(0.7, 0.99),
            "sm2Retention": _between(0.7, 0.97),
            "stopTimerOnAnswer": BOOL,
            "secondsToShowQuestion": _between(0, 99),
            "secondsToShowAnswer": _between(0, 99),
            "questionAction": st.integers(0, 1),
            "answerAction": st.integers(0, 4),
            "waitForAudio": BOOL,
            "weightSearch": TEXT,
            "ignoreRevlogsBeforeDate": TEXT,
            "new": _with_unknown(
                _object(
                    {
                        "delays": NUMBERS,
                        "initialFactor": st.integers(132, 499).map(lambda number: number * 10),
                        "ints": st.tuples(
                            st.integers(1, 36500), st.integers(1, 36500), st.just(0)
                        ).map(list),
                        "order": st.integers(0, 1),
                        "perDay": SMALL,
                        "bury": BOOL,
                    },
                    {},
                ),
                deck_config._NEW.names,
            ),
            "rev": _with_unknown(
                _object(
                    {
                        "ease4": _between(1, 5),
                        "hardFactor": _between(0.5, 1.3),
                        "ivlFct": _between(0.5, 2),
                        "maxIvl": st.integers(1, 36500),
                        "perDay": SMALL,
                        "bury": BOOL,
                    },
                    {},
                ),
                deck_config._REV.names,
            ),
            "lapse": _with_unknown(
                _object(
                    {
                        "delays": NUMBERS,
                        "mult": _between(0, 1),
                        "minInt": st.integers(1, 36500),
                        "leechAction": st.integers(0, 1),
                        "leechFails": st.integers(1, 9999),
                    },
                    {},
                ),
                deck_config._LAPSE.names,
            ),
        },
        {},
    ),
    deck_config._CONFIG.names,
)

ORD = st.integers(0, 65535)
_FIELD = _with_unknown(
    _object(
        {
            "name": TEXT,
            "sticky": BOOL,
            "rtl": BOOL,
            "font": TEXT,
            "size": ORD,
            "description": TEXT,
            "plainText": BOOL,
            "collapsed": BOOL,
            "excludeFromSearch": BOOL,
            "id": st.none() | INT64,
            "tag": st.none() | UINT32,
            "preventDeletion": BOOL,
        },
        {},
    ),
    notetype._FIELD.names,
)
_TEMPLATE = _with_unknown(
    _object(
        {
            "name": TEXT,
            "qfmt": TEXT,
            "afmt": TEXT,
            "bqfmt": TEXT,
            "bafmt": TEXT,
            "did": st.none() | IDS,
            "bfont": TEXT,
            "bsize": st.integers(0, 255),
            "id": st.none() | INT64,
        },
        {},
    ),
    notetype._TEMPLATE.names,
)


def _numbered(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**part, "ord": position} for position, part in enumerate(parts)]


NOTETYPES = _with_unknown(
    _object(
        HEAD
        | {
            "type": st.integers(0, 1),
            "sortf": ORD,
            "css": TEXT,
            "did": st.none() | IDS,
            "latexPre": TEXT,
            "latexPost": TEXT,
            "latexsvg": BOOL,
            "req": st.lists(
                st.tuples(
                    ORD, st.sampled_from(["none", "any", "all"]), st.lists(ORD, max_size=2)
                ).map(list),
                max_size=2,
            ),
            "flds": st.lists(_FIELD, min_size=1, max_size=3).map(_numbered),
            "tmpls": st.lists(_TEMPLATE, min_size=1, max_size=2).map(_numbered),
        },
        {"originalStockKind": st.integers(1, 6), "originalId": INT64},
    ),
    notetype._NOTETYPE.names,
)
