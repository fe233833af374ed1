# SPDX-License-Identifier: AGPL-3.0-or-later
"""Decks, deck configs and notetypes between legacy JSON and rows, against recorded ones."""

import json
from typing import Any

import pytest

from cardkeep.errors import BadRequest
from cardkeep.records import deck, deck_config, notetype
from tests.records import vectors
from tests.records.vectors import MODULES, Row, comparable

RECORDED_ROWS = vectors.load("rows-to-json.json")
RECORDED_OBJECTS = vectors.load("json-to-rows.json")
ACCEPTED = [case for case in RECORDED_OBJECTS if case["status"] == 200]
REFUSED = [case for case in RECORDED_OBJECTS if case["status"] == 400]

MESSAGES = {
    ("deck", "common"): deck._Common,
    ("deckconf", "config"): deck_config._Config,
    ("notetype", "config"): notetype._NotetypeConfig,
    ("notetype", "fields"): notetype._FieldConfig,
    ("notetype", "templates"): notetype._TemplateConfig,
}


def name_of(case: dict[str, Any]) -> str:
    label = case["label"] if "label" in case else case["row"]["name"]
    return f"{case['kind']}-{label!a:.50}"


def assert_same_row(kind: str, ours: Row, recorded: Row) -> None:
    for column in ours.__struct_fields__:
        mine, theirs = getattr(ours, column), getattr(recorded, column)
        message = MESSAGES.get((kind, column))
        if message is None:
            assert mine == theirs, column
        elif isinstance(mine, bytes):
            assert comparable(mine, message) == comparable(theirs, message), column
        else:
            assert [(part.name, comparable(part.config, message)) for part in mine] == [
                (part.name, comparable(part.config, message)) for part in theirs
            ], column


def exact(value: Any) -> str:
    """JSON text that tells 1 from 1.0 and true, but not the order of keys."""
    return json.dumps(value, sort_keys=True)


def test_all_recorded_cases_are_there() -> None:
    """586 objects and 23 rows were recorded; none may go missing."""
    assert (len(RECORDED_ROWS), len(ACCEPTED), len(REFUSED)) == (23, 463, 123)


@pytest.mark.parametrize("case", RECORDED_ROWS, ids=name_of)
def test_recorded_row_gives_the_recorded_json_and_back(case: dict[str, Any]) -> None:
    """A row of the engine has the JSON that the engine makes of it, and is made of that again."""
    kind = case["kind"]
    row = vectors.row(kind, case["row"], case["row"]["id"])
    assert exact(MODULES[kind].to_json(row)) == exact(case["json"])
    assert_same_row(kind, MODULES[kind].from_json(case["json"]), row)


@pytest.mark.parametrize("case", ACCEPTED, ids=name_of)
def test_object_is_stored_as_the_official_server_stored_it(case: dict[str, Any]) -> None:
    """Row byte for byte, but for a rename, which is not this room's."""
    kind, recorded = case["kind"], case["row"]
    ours = MODULES[kind].from_json(case["input"])
    if recorded["name"].rstrip("+") != recorded["name"]:
        recorded = recorded | {
            "name": recorded["name"].rstrip("+"),
            "mtime_secs": case["input"]["mod"],
            "usn": case["input"]["usn"],
        }
    assert_same_row(kind, ours, vectors.row(kind, recorded, int(case["input"]["id"])))


@pytest.mark.parametrize(
    "case", [case for case in ACCEPTED if case["output"] is not None], ids=name_of
)
def test_stored_object_goes_back_as_from_the_official_server(case: dict[str, Any]) -> None:
    """The JSON of the row as stored is what the official server answered."""
    row = vectors.row(case["kind"], case["row"], int(case["input"]["id"]))
    assert exact(MODULES[case["kind"]].to_json(row)) == exact(case["output"])


@pytest.mark.parametrize("case", REFUSED, ids=name_of)
def test_object_that_the_official_server_refused_is_refused(case: dict[str, Any]) -> None:
    """What it answered with 400 is a BadRequest that names the kind of object."""
    with pytest.raises(BadRequest) as refused:
        MODULES[case["kind"]].from_json(case["input"])
    kind = {"deckconf": "deck config"}.get(case["kind"], case["kind"])
    assert refused.value.reason.startswith(kind)
