# SPDX-License-Identifier: AGPL-3.0-or-later
"""A deck: row of schema 18 and legacy JSON (docs/collection-format.md, 7.1)."""

from collections.abc import Mapping
from typing import Any

import msgspec

from cardkeep.errors import BadRequest
from cardkeep.records.fields import (
    BOOL,
    INT32,
    INT64,
    INT64_OR_TEXT,
    LOOSE_BOOL,
    NUMBERS,
    OMIT,
    OTHER_LINE,
    TEXT,
    UINT8,
    UINT32,
    Key,
    Table,
    Unfit,
    anything,
    array,
    lenient,
    mapping,
    named,
    number_or_text,
    numbers_back,
    object_id,
    or_null,
    other_keys,
    pack_other,
    tuple_of,
    unpack_other,
)
from cardkeep.records.names import deck_human, deck_native
from cardkeep.records.numbers import INT32_MAX, INT32_MIN, UINT32_MAX, single, wrapped_int32
from cardkeep.records.protobuf import decode, message_class, with_unknown

#: A normal deck as clients make them: collapsed, with the default preset
#: (docs/collection-format.md, 7.4).
NEW_COMMON = bytes.fromhex("08011001")
NEW_KIND = bytes.fromhex("0a020801")


class Deck(msgspec.Struct, frozen=True, gc=False):
    """A row of `decks`. `name` is the native form (levels joined by U+001F)."""

    id: int
    name: str
    mtime_secs: int
    usn: int
    common: bytes
    kind: bytes


# --- readings of this object ------------------------------------------------------------


def _is_filtered(value: Any) -> bool:
    return value if type(value) is bool else UINT8(value) == 1


_INT64_OR_0 = lenient(INT64, 0)


def _day_and_amount(value: Any) -> tuple[int, int]:
    """The last two elements; 0 for what is no integer of 64 bits or is not there."""
    if type(value) is not list:
        raise Unfit("expected a list")
    if len(value) == 2 and type(value[0]) is type(value[1]) is int:
        day, amount = value  # as all clients write it
        if INT32_MIN <= day <= INT32_MAX and INT32_MIN <= amount <= INT32_MAX:
            return day, amount
    day, amount = map(_INT64_OR_0, value[-2:] if len(value) > 1 else [0, 0, *value][-2:])
    return wrapped_int32(day), wrapped_int32(amount)


def _not_negative(value: Any) -> Any:
    return max(INT32(value), 0)


def _day_limit(value: Any) -> dict[str, int]:
    if type(value) is list:
        limit, today = tuple_of(UINT32, UINT32)(value)
    else:
        keys = mapping(value)
        limit, today = UINT32(keys.get("limit")), UINT32(keys.get("today"))
    return {"limit": limit, "today": today}


def _day_limit_back(value: Any) -> dict[str, int] | None:
    return None if value is None else {"limit": value.limit, "today": value.today}


def _term(value: Any) -> dict[str, Any]:
    if type(value) is dict:
        value = [value.get("search"), value.get("limit"), value.get("order")]
    search, limit, order = tuple_of(TEXT, number_or_text(INT32_MIN, INT32_MAX), INT32)(value)
    return {"search": search, "limit": max(limit, 0), "order": order}


def _terms_back(terms: Any) -> list[list[Any]]:
    return [[term.search, wrapped_int32(term.limit), term.order] for term in terms]


def _percent(value: Any) -> float:
    return single(single(UINT32(value)) / 100)


def _percent_back(value: float | None) -> int | None:
    """Without its fraction, as the clients do it: 53 becomes 0.53, and that 52."""
    if value is None or not 0 <= value <= UINT32_MAX / 100:
        return None
    return int(single(value * 100))


# --- tables -----------------------------------------------------------------------------

_DECK = Table(
    Key("id", object_id, column="id"),
    Key("mod", INT64_OR_TEXT, column="mtime_secs", absent=0),
    Key("name", TEXT, column="name"),
    Key("usn", INT32, column="usn"),
    Key("lrnToday", _day_and_amount, column="learning", write=list),
    Key("revToday", _day_and_amount, column="review", write=list),
    Key("newToday", _day_and_amount, column="new", write=list),
    Key("timeToday", _day_and_amount, column="milliseconds", write=list),
    Key("collapsed", BOOL, "bool study_collapsed = 1"),
    Key("browserCollapsed", BOOL, "bool browser_collapsed = 2", absent=False),
    Key("dyn", _is_filtered, column="filtered", write=int),
    Key("return", anything, absent=None, write=lambda _: OMIT),
)

_NORMAL = Table(
    Key("desc", TEXT, "string description = 4", absent=""),
    Key(
        "md",
        BOOL,
        "bool markdown_description = 5",
        absent=False,
        write=lambda on: True if on else OMIT,
    ),
    Key("conf", INT64_OR_TEXT, "int64 config_id = 1"),
    Key(
        "extendNew",
        lenient(_not_negative, 0),
        "uint32 extend_new = 2",
        absent=0,
        write=wrapped_int32,
    ),
    Key(
        "extendRev",
        lenient(_not_negative, 0),
        "uint32 extend_review = 3",
        absent=0,
        write=wrapped_int32,
    ),
    Key("reviewLimit", lenient(UINT32, None), "optional uint32 review_limit = 6", absent=None),
    Key("newLimit", lenient(UINT32, None), "optional uint32 new_limit = 7", absent=None),
    Key(
        "reviewLimitToday",
        lenient(_day_limit, None),
        "DayLimit review_limit_today = 8",
        absent=None,
        write=_day_limit_back,
    ),
    Key(
        "newLimitToday",
        lenient(_day_limit, None),
        "DayLimit new_limit_today = 9",
        absent=None,
        write=_day_limit_back,
    ),
    Key(
        "desiredRetention",
        lenient(_percent, None),
        "optional float desired_retention = 10",
        absent=None,
        write=_percent_back,
    ),
)

_FILTERED = Table(
    Key("desc", TEXT, absent="", write=lambda _: ""),
    Key("md", BOOL, absent=False, write=lambda _: OMIT),
    Key("resched", LOOSE_BOOL, "bool reschedule = 1"),
    Key("terms", array(_term), "repeated SearchTerm search_terms = 2", write=_terms_back),
    Key("separate", BOOL, absent=None, write=lambda _: True),
    Key(
        "delays",
        lenient(or_null(NUMBERS), None),
        "repeated float delays = 3",
        absent=None,
        write=lambda delays: numbers_back(delays) or None,
    ),
    Key("previewDelay", UINT32, "uint32 preview_delay = 4", absent=0),
    Key("previewAgainSecs", UINT32, "uint32 preview_again_secs = 7", absent=0),
    Key("previewHardSecs", UINT32, "uint32 preview_hard_secs = 5", absent=0),
    Key("previewGoodSecs", UINT32, "uint32 preview_good_secs = 6", absent=0),
)

_KNOWN = {table: _DECK.names | table.names for table in (_NORMAL, _FILTERED)}

# Never taken out of `other` again. Those of filtered decks are not among them: a normal
# deck that a client turned out of a filtered one keeps them there.
_RESERVED = _DECK.names - {"return"} | _NORMAL.names - {"md"}

message_class("DayLimit", ["uint32 limit = 1", "uint32 today = 2"])
message_class("SearchTerm", ["string search = 1", "uint32 limit = 2", "int32 order = 3"])
message_class("Normal", _NORMAL.lines())
message_class("Filtered", _FILTERED.lines())
_Kind = message_class("Kind", ["Normal normal = 1", "Filtered filtered = 2"], oneof="kind")
_Common = message_class(
    "Common",
    [
        *_DECK.lines(),
        "uint32 last_day_studied = 3",
        "int32 new_studied = 4",
        "int32 review_studied = 5",
        "int32 learning_studied = 6",
        "int32 milliseconds_studied = 7",
        OTHER_LINE,
    ],
)


# --- both directions --------------------------------------------------------------------


def from_json(obj: object) -> Deck:
    """The row of a deck in legacy JSON. BadRequest if it is none."""
    if type(obj) is not dict:
        raise BadRequest("deck: expected an object")
    where = named("deck", obj)
    deck = _DECK.read(obj, where)
    filtered = deck.columns["filtered"]
    table = _FILTERED if filtered else _NORMAL
    special = table.read(obj, where)
    other = other_keys(obj, _KNOWN[table], where)
    common = _Common(**deck.fields, **_studied(deck.columns), other=pack_other(other, where))
    kind = _Kind(**{"filtered" if filtered else "normal": special.fields})
    return Deck(
        id=deck.columns["id"],
        name=deck_native(deck.columns["name"]),
        mtime_secs=deck.columns["mtime_secs"],
        usn=deck.columns["usn"],
        common=common.SerializeToString(),
        kind=kind.SerializeToString(),
    )


def to_json(deck: Deck) -> dict[str, Any]:
    """The legacy JSON of a row. BadRequest if a blob does not decode or there is no kind."""
    common: Any = decode(_Common, deck.common, f"deck {deck.id}")
    kind: Any = decode(_Kind, deck.kind, f"deck {deck.id}")
    which = kind.WhichOneof("kind")
    if which is None:
        raise BadRequest(f"deck {deck.id}: neither normal nor filtered")
    columns = {
        "id": deck.id,
        "mtime_secs": deck.mtime_secs,
        "name": deck_human(deck.name),
        "usn": deck.usn,
        "filtered": which == "filtered",
        **_days_and_amounts(common),
    }
    table = _FILTERED if which == "filtered" else _NORMAL
    return {
        **unpack_other(common.other, _RESERVED),
        **_DECK.write(columns, common),
        **table.write(columns, getattr(kind, which)),
    }


def is_filtered(kind: bytes) -> bool | None:
    """What the blob `kind` says; None if it does not decode or is of neither kind."""
    which = _which(kind)
    return None if which is None else which[0] == "filtered"


def options_of(kind: bytes) -> int | None:
    """The id of a normal deck's preset; None for other decks, and what does not decode."""
    which = _which(kind)
    return which[1].normal.config_id if which and which[0] == "normal" else None


def _which(blob: bytes) -> tuple[str, Any] | None:
    try:
        kind: Any = decode(_Kind, blob, "deck")
    except BadRequest:
        return None
    which = kind.WhichOneof("kind")
    return None if which is None else (which, kind)


def keep_unknown(stored: Deck, received: Deck) -> Deck:
    """`received` with the protobuf fields of `stored` that this program does not know."""
    where = f"deck {received.id}"
    return msgspec.structs.replace(
        received,
        common=with_unknown(_Common, stored.common, received.common, where),
        kind=with_unknown(_Kind, stored.kind, received.kind, where),
    )


def _studied(columns: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """One day for all four amounts; those of an earlier day start anew.

    Learning does not move the day, and the time is kept whatever its day.
    """
    new_day, new = columns["new"]
    review_day, review = columns["review"]
    learning_day, learning = columns["learning"]
    its_day, milliseconds = columns["milliseconds"]
    day = max(new_day, review_day, its_day)
    return {
        "last_day_studied": day % 2**32,
        "new_studied": new if new_day == day else 0,
        "review_studied": review if review_day == day else 0,
        "learning_studied": learning if learning_day == day else 0,
        "milliseconds_studied": milliseconds,
    }


def _days_and_amounts(common: Any) -> dict[str, tuple[int, int]]:
    day = wrapped_int32(common.last_day_studied)
    return {
        "learning": (day, common.learning_studied),
        "review": (day, common.review_studied),
        "new": (day, common.new_studied),
        "milliseconds": (day, common.milliseconds_studied),
    }
