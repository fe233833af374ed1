# SPDX-License-Identifier: AGPL-3.0-or-later
"""Objects that no client could read back are refused, and say why."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.errors import BadRequest
from cardkeep.records import deck, deck_config, notetype
from tests.records import objects, vectors
from tests.records.vectors import MODULES

GOOD = {
    case["kind"]: case["input"]
    for case in reversed(vectors.load("json-to-rows.json"))
    if case["label"] in ("default", "basic") and case["status"] == 200
}
KINDS = sorted(GOOD)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, 1, "x", [], [GOOD["deck"]], True, {}])
def test_only_objects_with_their_keys_are_taken(kind: str, value: Any) -> None:
    """Anything else is refused."""
    with pytest.raises(BadRequest):
        MODULES[kind].from_json(value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2**64, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ({"a": [10**5000]}, "64 bits"),
        (math.nan, "number"),
        ([math.inf], "number"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        (nested(121), "deeper"),
        (nested(900), "deeper"),
    ],
)
def test_unknown_keys_hold_what_clients_can_read(kind: str, value: Any, reason: str) -> None:
    """They come back in every later sync, and one that is unreadable would end them all."""
    with pytest.raises(BadRequest, match=reason):
        MODULES[kind].from_json(GOOD[kind] | {"addon": value})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x" * 10**5, "a\nlogged by nobody", "\x1b[2J\u2028"])
def test_reason_is_one_short_line_whatever_the_key(kind: str, name: str) -> None:
    """The log is not written by clients."""
    with pytest.raises(BadRequest) as refused:
        MODULES[kind].from_json(GOOD[kind] | {name: 2**64})
    assert refused.value.reason.isprintable()
    assert len(refused.value.reason) < 200


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_keys_may_nest_deep(kind: str) -> None:
    """A hundred levels and the largest integers are taken and come back."""
    value = {"deep": nested(100), "large": [2**64 - 1, -(2**63)]}
    module = MODULES[kind]
    assert module.to_json(module.from_json(GOOD[kind] | {"addon": value}))["addon"] == value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "value",
    [nested(900), "x" * 10**6, 10**5000, "\ud800", {}, math.nan],
    ids=["deep", "long", "huge", "surrogate", "object", "nan"],
)
def test_known_keys_of_any_content_end_in_a_short_reason(kind: str, value: Any) -> None:
    """Every known key with hostile content: taken by a lenient key, or refused in one line."""
    reasons = []
    for key in GOOD[kind]:
        try:
            row = MODULES[kind].from_json(GOOD[kind] | {key: value})
        except BadRequest as refused:
            reasons.append(refused.reason)
        else:
            json.dumps(MODULES[kind].to_json(row), allow_nan=False)
    assert [reason for reason in reasons if len(reason) > 200 or not reason.isprintable()] == []


@pytest.mark.parametrize("number", ["1e39", "-1e39", "1e308"])
def test_numbers_beyond_single_precision_are_refused(number: str) -> None:
    """The clients' files would hold an infinity, which JSON cannot say."""
    obj = json.loads(json.dumps(GOOD["deckconf"]))
    with pytest.raises(BadRequest, match="secondsToShowAnswer"):
        deck_config.from_json(obj | {"secondsToShowAnswer": float(number)})


@pytest.mark.parametrize(
    ("key", "value"),
    [("sticky", "maybe"), ("font", None), ("size", -1), ("name", 5), ("ord", -1)],
)
def test_reason_names_the_part_and_its_key(key: str, value: Any) -> None:
    """A wrong field is found by the log alone."""
    obj = json.loads(json.dumps(GOOD["notetype"]))
    obj["flds"][1][key] = value
    with pytest.raises(BadRequest, match=rf"^notetype \d+: field 1: {key}: expected"):
        notetype.from_json(obj)


def test_broken_blobs_are_refused() -> None:
    """A row that no client could read has no JSON."""
    row = deck.from_json(GOOD["deck"])
    broken = {"common": b"\x80", "kind": b"\x0a\x7f"}
    for column, blob in [*broken.items(), ("kind", b"")]:
        columns = {name: getattr(row, name) for name in row.__struct_fields__} | {column: blob}
        with pytest.raises(BadRequest, match=f"deck {row.id}"):
            deck.to_json(deck.Deck(**columns))


@given(st.binary(max_size=60))
def test_any_blob_has_json_or_is_refused(blob: bytes) -> None:
    """Whatever a stored blob holds, the answer is JSON without NaN, or an error in words."""
    rows = [
        (deck, deck.Deck(1, "a", 0, 0, blob, b"\x0a\x02\x08\x01")),
        (deck, deck.Deck(1, "a", 0, 0, b"", blob)),
        (deck_config, deck_config.DeckConfig(1, "a", 0, 0, blob)),
        (
            notetype,
            notetype.Notetype(
                1, "a", 0, 0, blob, [notetype.Field("f", blob)], [notetype.Template("t", blob)]
            ),
        ),
    ]
    for module, row in rows:
        try:
            obj = module.to_json(row)
        except BadRequest:
            continue
        module.from_json(json.loads(json.dumps(obj, allow_nan=False)))


@given(objects.DECK_CONFIGS, st.sampled_from(["new", "rev", "lapse"]), objects.JSON)
def test_broken_part_of_a_deck_config_becomes_its_default(
    sent: dict[str, Any], part: str, value: Any
) -> None:
    """Never an error, and the other parts stay."""
    default = deck_config.to_json(deck_config.from_json(sent | {part: None}))[part]
    assert deck_config.to_json(deck_config.from_json(sent | {part: {"x": value}})) == sent | {
        part: default
    }


@pytest.mark.parametrize("other", [b"{", b"[1]", b"\xff", b"[" * 10**5])
def test_unreadable_unknown_keys_of_a_stored_row_count_as_none(other: bytes) -> None:
    """As in the clients; the rest of the object is as before."""
    row = deck.from_json(GOOD["deck"])
    common: Any = deck._Common()
    common.ParseFromString(row.common)
    common.other = other
    stored = deck.Deck(
        row.id, row.name, row.mtime_secs, row.usn, common.SerializeToString(), row.kind
    )
    assert deck.to_json(stored) == deck.to_json(row)


def test_sort_index_is_read_from_the_blob_alone() -> None:
    """Without making JSON of the notetype; a broken blob is refused."""
    row = notetype.from_json(GOOD["notetype"] | {"sortf": 3})
    assert notetype.sort_index(row.config) == 3
    assert notetype.sort_index(b"") == 0
    with pytest.raises(BadRequest):
        notetype.sort_index(b"\x80")
