# SPDX-License-Identifier: AGPL-3.0-or-later
"""A deck config (preset): row of schema 18 and legacy JSON (docs/collection-format.md, 7.2)."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cardkeep.errors import BadRequest
from cardkeep.records.fields import (
    BOOL,
    INT32,
    INT64_OR_TEXT,
    NUMBER,
    NUMBERS,
    OTHER_LINE,
    TEXT,
    UINT8,
    UINT16,
    UINT32,
    Key,
    Table,
    Unfit,
    anything,
    array,
    integer,
    lenient,
    mapping,
    named,
    number_back,
    numbers_back,
    object_id,
    other_keys,
    pack_other,
    unpack_other,
    zero_or_one,
)
from cardkeep.records.numbers import single
from cardkeep.records.protobuf import decode, message_class, with_unknown


class DeckConfig(msgspec.Struct, frozen=True, gc=False):
    """A row of `deck_config`."""

    id: int
    name: str
    mtime_secs: int
    usn: int
    config: bytes


# --- readings of this object ------------------------------------------------------------


def _not(value: Any) -> bool:
    return not BOOL(value)


def _not_negative(value: Any) -> Any:
    return max(INT32(value), 0)


def _thousandths(value: Any) -> float:
    return single(UINT16(value) / 1000)


def _thousandths_back(value: float) -> int:
    """Without its fraction, as the clients do it: 2001 comes back as 2000."""
    return int(single(value * 1000))


def _graduating(value: Any) -> Any:
    """The first two elements: days after Good and after Easy."""
    days = array(UINT16)(value)
    if len(days) < 2:
        raise Unfit("expected two intervals")
    return days[:2]


def _graduating_back(days: tuple[int, int]) -> list[int]:
    good, easy = days
    return [_count_within(1, 1, 36500)(good), _count_within(4, 1, 36500)(easy), 0]


def _insert_order(value: Any) -> Any:
    """JSON has 0 for random and 1 for due, the field 1 for random and 0 for due."""
    return 1 - integer(0, 1)(value)


def _insert_order_back(value: int) -> int:
    return 0 if value == 1 else 1


def _known_until(last: int) -> Callable[[int], int]:
    return lambda value: value if 0 <= value <= last else 0


# Whenever the clients read a deck config they replace values that are out of bounds by a
# default, while the stored one stays as it is. The bounds belong to the range.


def _count_within(default: int, low: int, high: int) -> Callable[[int], int]:
    return lambda value: value if low <= value <= high else default


def _number_within(
    default: float, low: float, high: float, back: Callable[[float], Any] = number_back
) -> Callable[[float], Any]:
    """Bounds of single precision, like what they are compared with; NaN is within none."""
    lowest, highest, instead = single(low), single(high), single(default)
    return lambda value: back(value if lowest <= value <= highest else instead)


# --- tables -----------------------------------------------------------------------------

_CONFIG = Table(
    Key("id", object_id, column="id"),
    Key("mod", INT64_OR_TEXT, column="mtime_secs"),
    Key("name", TEXT, column="name"),
    Key("usn", INT32, column="usn"),
    Key(
        "maxTaken",
        _not_negative,
        "uint32 cap_answer_time_to_secs = 24",
        write=_count_within(60, 1, 9999),
    ),
    Key("autoplay", _not, "bool disable_autoplay = 23", write=operator.not_),
    Key("timer", lenient(UINT8, 0), "bool show_timer = 25", write=int),
    Key(
        "replayq",
        _not,
        "bool skip_question_when_replaying_answer = 26",
        absent=True,
        write=operator.not_,
    ),
    Key("new", anything, column="new"),
    Key("rev", anything, column="rev"),
    Key("lapse", anything, column="lapse"),
    Key("dyn", anything, absent=None, write=lambda _: False),
    Key("newMix", INT32, "int32 new_mix = 30", absent=0),
    Key(
        "newPerDayMinimum",
        UINT32,
        "uint32 new_per_day_minimum = 35",
        absent=0,
        write=_count_within(0, 0, 9999),
    ),
    Key("interdayLearningMix", INT32, "int32 interday_learning_mix = 31", absent=0),
    Key("reviewOrder", INT32, "int32 review_order = 33", absent=0),
    Key("newSortOrder", INT32, "int32 new_card_sort_order = 32", absent=0),
    Key("newGatherPriority", INT32, "int32 new_card_gather_priority = 34", absent=0),
    Key("buryInterdayLearning", BOOL, "bool bury_interday_learning = 29", absent=False),
    Key("fsrsWeights", NUMBERS, "repeated float fsrs_params_4 = 3", absent=[], write=numbers_back),
    Key("fsrsParams5", NUMBERS, "repeated float fsrs_params_5 = 5", absent=[], write=numbers_back),
    Key("fsrsParams6", NUMBERS, "repeated float fsrs_params_6 = 6", absent=[], write=numbers_back),
    Key(
        "desiredRetention",
        NUMBER,
        "float desired_retention = 37",
        absent=0.0,
        write=_number_within(0.9, 0.7, 0.99),
    ),
    Key("ignoreRevlogsBeforeDate", TEXT, "string ignore_revlogs_before_date = 46", absent=""),
    Key(
        "easyDaysPercentages",
        NUMBERS,
        "repeated float easy_days_percentages = 4",
        absent=[],
        write=numbers_back,
    ),
    Key("stopTimerOnAnswer", BOOL, "bool stop_timer_on_answer = 38", absent=False),
    Key(
        "secondsToShowQuestion",
        NUMBER,
        "float seconds_to_show_question = 41",
        absent=0.0,
        write=number_back,
    ),
    Key(
        "secondsToShowAnswer",
        NUMBER,
        "float seconds_to_show_answer = 42",
        absent=0.0,
        write=number_back,
    ),
    Key(
        "questionAction",
        integer(0, 1),
        "int32 question_action = 36",
        absent=0,
        write=_known_until(1),
    ),
    Key("answerAction", integer(0, 4), "int32 answer_action = 43", absent=0, write=_known_until(4)),
    Key("waitForAudio", BOOL, "bool wait_for_audio = 44", absent=True),
    Key(
        "sm2Retention",
        NUMBER,
        "float historical_retention = 40",
        absent=0.0,
        write=_number_within(0.9, 0.7, 0.97),
    ),
    Key("weightSearch", TEXT, "string param_search = 45", absent=""),
)

_NEW = Table(
    Key("delays", lenient(NUMBERS, []), "repeated float learn_steps = 1", write=numbers_back),
    Key(
        "initialFactor",
        _thousandths,
        "float initial_ease = 11",
        write=_number_within(2.5, 1.31, 5, _thousandths_back),
    ),
    Key(
        "ints",
        lenient(_graduating, [1, 4]),
        "uint32 graduating_interval_good = 18",
        "uint32 graduating_interval_easy = 19",
        write=_graduating_back,
    ),
    Key(
        "order",
        lenient(_insert_order, 0),
        "int32 new_card_insert_order = 20",
        write=_insert_order_back,
    ),
    Key("perDay", lenient(UINT32, 0), "uint32 new_per_day = 9", write=_count_within(20, 0, 9999)),
    Key("bury", BOOL, "bool bury_new = 27", absent=False),
)

_REV = Table(
    Key("ease4", NUMBER, "float easy_multiplier = 12", write=_number_within(1.3, 1, 5)),
    Key(
        "hardFactor",
        NUMBER,
        "float hard_multiplier = 13",
        absent=single(1.2),
        write=_number_within(1.2, 0.5, 1.3),
    ),
    Key("ivlFct", NUMBER, "float interval_multiplier = 15", write=_number_within(1, 0.5, 2)),
    Key(
        "maxIvl",
        UINT32,
        "uint32 maximum_review_interval = 16",
        write=_count_within(36500, 1, 36500),
    ),
    Key(
        "perDay",
        lenient(UINT32, 0),
        "uint32 reviews_per_day = 10",
        write=_count_within(200, 0, 9999),
    ),
    Key("bury", BOOL, "bool bury_reviews = 28", absent=False),
)

_LAPSE = Table(
    Key("delays", lenient(NUMBERS, []), "repeated float relearn_steps = 2", write=numbers_back),
    Key("mult", NUMBER, "float lapse_multiplier = 14", write=_number_within(0, 0, 1)),
    Key("minInt", UINT32, "uint32 minimum_lapse_interval = 17", write=_count_within(1, 1, 36500)),
    Key("leechAction", lenient(integer(0, 1), 1), "int32 leech_action = 21", write=zero_or_one),
    Key("leechFails", UINT32, "uint32 leech_threshold = 22", write=_count_within(8, 1, 9999)),
)

# The objects within the object, and what a broken one is replaced by.
_PARTS: Mapping[str, tuple[Table, Mapping[str, Any]]] = {
    "new": (
        _NEW,
        {"delays": [1, 10], "initialFactor": 2500, "ints": [1, 4, 0], "order": 1, "perDay": 20},
    ),
    "rev": (_REV, {"ease4": 1.3, "hardFactor": 1.2, "ivlFct": 1, "maxIvl": 36500, "perDay": 200}),
    "lapse": (_LAPSE, {"delays": [10], "mult": 0, "minInt": 1, "leechAction": 1, "leechFails": 8}),
}

_Config = message_class(
    "Config",
    [
        *_CONFIG.lines(),
        *(line for table, _ in _PARTS.values() for line in table.lines()),
        OTHER_LINE,
    ],
)


# --- both directions --------------------------------------------------------------------


def from_json(obj: object) -> DeckConfig:
    """The row of a deck config in legacy JSON. BadRequest if it is none."""
    if type(obj) is not dict:
        raise BadRequest("deck config: expected an object")
    where = named("deck config", obj)
    kept = _CONFIG.read(obj, where)
    columns, fields = kept.columns, kept.fields
    other = other_keys(obj, _CONFIG.names, where)
    for name in _PARTS:
        part_fields, part_other = _read_part(name, columns[name], f"{where}: {name}")
        fields |= part_fields
        if part_other:
            other[name] = part_other
    config = _Config(**fields, other=pack_other(other, where))
    return DeckConfig(
        id=columns["id"],
        name=columns["name"],
        mtime_secs=columns["mtime_secs"],
        usn=columns["usn"],
        config=config.SerializeToString(),
    )


def to_json(config: DeckConfig) -> dict[str, Any]:
    """The legacy JSON of a row, within bounds. BadRequest if the blob does not decode."""
    message: Any = decode(_Config, config.config, f"deck config {config.id}")
    other = unpack_other(message.other, _CONFIG.names - _PARTS.keys())
    columns: dict[str, Any] = {
        "id": config.id,
        "mtime_secs": config.mtime_secs,
        "name": config.name,
        "usn": config.usn,
    }
    for name, (table, _) in _PARTS.items():
        unknown = other.pop(name, None)
        if type(unknown) is not dict:
            unknown = {}
        columns[name] = {
            **{key: value for key, value in unknown.items() if key not in table.names},
            **table.write({}, message),
        }
    return {**other, **_CONFIG.write(columns, message)}


def keep_unknown(stored: DeckConfig, received: DeckConfig) -> DeckConfig:
    """`received` with the protobuf fields of `stored` that this program does not know."""
    config = with_unknown(_Config, stored.config, received.config, f"deck config {received.id}")
    return msgspec.structs.replace(received, config=config)


def _read_part(name: str, value: Any, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its fields and unknown keys; if anything is wrong with it, those of the default."""
    table, default = _PARTS[name]
    try:
        part = mapping(value)
        fields = table.read(part, where).fields
    except (Unfit, BadRequest):
        return table.read(default, where).fields, {}
    return fields, other_keys(part, table.names, where)


def with_initial_ease(config: DeckConfig, change: Callable[[float], float]) -> DeckConfig:
    """The deck config with another initial ease. BadRequest if the blob does not decode."""
    message: Any = decode(_Config, config.config, f"deck config {config.id}")
    message.initial_ease = change(message.initial_ease)
    return msgspec.structs.replace(config, config=message.SerializeToString())
