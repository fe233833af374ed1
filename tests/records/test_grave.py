# SPDX-License-Identifier: AGPL-3.0-or-later
"""Graves: lists of ids on the wire."""

import json
from typing import Any

import msgspec
import pytest

from cardkeep.errors import BadRequest
from cardkeep.records.grave import GravesEntry, grave_ids

DECODER = msgspec.json.Decoder(GravesEntry)


def test_ids_are_numbers_or_text_that_holds_them() -> None:
    """Old AnkiMobile writes them as text."""
    entry = DECODER.decode('{"cards":[1,-2],"notes":["3","-4"],"decks":[],"more":1}')
    assert grave_ids(entry.cards) == [1, -2]
    assert grave_ids(entry.notes) == [3, -4]
    assert grave_ids(entry.decks) == []


@pytest.mark.parametrize("text", ["", "x", "1.0", " 1", "1_000", str(2**63), "9" * 5000, "\u0661"])
def test_other_text_is_refused(text: str) -> None:
    """Only ASCII digits with a sign, and no more than 64 bits."""
    with pytest.raises(BadRequest):
        grave_ids([text])


@pytest.mark.parametrize(
    "wrong",
    [
        {"cards": [], "notes": []},
        {"cards": [], "notes": [], "decks": None},
        {"cards": [1.0], "notes": [], "decks": []},
        {"cards": [None], "notes": [], "decks": []},
        {"cards": [2**63], "notes": [], "decks": []},
        [[], [], []],
    ],
)
def test_other_shapes_are_refused(wrong: Any) -> None:
    """All three lists must be there, and hold ids."""
    with pytest.raises(msgspec.ValidationError):
        DECODER.decode(json.dumps(wrong))
