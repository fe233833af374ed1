# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cards: array of the wire and row of the table."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.errors import BadRequest
from cardkeep.records.card import CARD_COLUMNS, CardEntry, CardQueue, CardType, card_row

DECODER = msgspec.json.Decoder(CardEntry)
GOOD = [1, 2, 3, 0, 5, 6, 2, -1, 9, 10, 2500, 11, 12, 1001, 0, 0, 0, '{"cd":"{}"}']


def changed(**columns: Any) -> list[Any]:
    return [columns.get(name, value) for name, value in zip(CARD_COLUMNS, GOOD, strict=True)]


def row(**columns: Any) -> dict[str, Any]:
    read = card_row(DECODER.decode(json.dumps(changed(**columns))))
    return dict(zip(CARD_COLUMNS, read, strict=True))


def test_array_is_the_row() -> None:
    """Eighteen values in the table's order, `data` as it came."""
    assert card_row(DECODER.decode(json.dumps(GOOD))) == tuple(GOOD)
    assert row(data='{"future": [1] }')["data"] == '{"future": [1] }'


@pytest.mark.parametrize(
    ("column", "sent", "stored"),
    [
        ("mod", 5.9, 5),
        ("mod", -5.9, -5),
        ("mod", 1e300, 2**63 - 1),
        ("due", 7.9, 7),
        ("due", -7.9, -7),
        ("due", 2**31, -(2**31)),
        ("due", -(2**31) - 1, 2**31 - 1),
        ("due", 2**32 + 5, 5),
        ("due", 1e300, -1),
        ("odue", 2.5, 2),
        ("odue", 3000000000, 3000000000 - 2**32),
        ("ivl", 3.7, 3),
        ("ivl", -1, 0),
        ("ivl", -0.5, 0),
        ("ivl", 2**32 - 1, 2**32 - 1),
        ("ivl", 2**32 + 1, 1),
    ],
)
def test_numbers_become_integers_of_the_columns_width(
    column: str, sent: int | float, stored: int
) -> None:
    """Old clients send floats and more than 32 bits; the rest of the row stays."""
    assert row(**{column: sent}) == row() | {column: stored}


BOUNDS = {
    **dict.fromkeys(("id", "nid", "did", "odid"), (-(2**63), 2**63 - 1)),
    "ord": (0, 65535),
    "usn": (-(2**31), 2**31 - 1),
    "type": (0, 3),
    "queue": (-3, 4),
    "factor": (0, 65535),
    **dict.fromkeys(("reps", "lapses", "left"), (0, 2**32 - 1)),
    "flags": (0, 255),
}


@pytest.mark.parametrize("column", BOUNDS)
def test_integers_have_the_bounds_that_clients_can_read(column: str) -> None:
    """The bounds are taken, one beyond is refused, and so are floats, text, null and truth."""
    low, high = BOUNDS[column]
    assert row(**{column: low})[column] == low
    assert row(**{column: high})[column] == high
    for wrong in (low - 1, high + 1, 1.0, "1", None, True, [1]):
        with pytest.raises(msgspec.ValidationError):
            row(**{column: wrong})


@pytest.mark.parametrize("column", ["mod", "due", "ivl", "odue"])
@pytest.mark.parametrize("wrong", ["1", None, True, [1], 2**63, -(2**63) - 1])
def test_numbers_are_numbers_of_64_bits(column: str, wrong: Any) -> None:
    """Nothing else is taken for one."""
    with pytest.raises(msgspec.ValidationError):
        row(**{column: wrong})


@pytest.mark.parametrize("array", [GOOD[:-1], [*GOOD, 0], [], changed(data=None), changed(data=1)])
def test_other_shapes_are_refused(array: list[Any]) -> None:
    """A card has eighteen elements, the last of them text."""
    with pytest.raises(msgspec.ValidationError):
        DECODER.decode(json.dumps(array))


def test_half_a_surrogate_pair_is_no_text() -> None:
    """It could not be stored, so it is refused."""
    with pytest.raises(BadRequest, match="surrogate"):
        card_row(CardEntry(*changed(data="\udc00")))


@given(st.data())
def test_rows_come_back(data: st.DataObject) -> None:
    """A stored row, sent out and received again, is the same row."""
    columns = {name: data.draw(st.integers(*bounds), name) for name, bounds in BOUNDS.items()}
    columns |= {
        "mod": data.draw(st.integers(-(2**63), 2**63 - 1)),
        "due": data.draw(st.integers(-(2**31), 2**31 - 1)),
        "odue": data.draw(st.integers(-(2**31), 2**31 - 1)),
        "ivl": data.draw(st.integers(0, 2**32 - 1)),
    }
    assert row(**columns) == dict(zip(CARD_COLUMNS, changed(**columns), strict=True))


def test_types_and_queues_are_the_bounds() -> None:
    """The names and the bounds of the array speak of the same values."""
    assert (min(CardType), max(CardType)) == BOUNDS["type"]
    assert (min(CardQueue), max(CardQueue)) == BOUNDS["queue"]
