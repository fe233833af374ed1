# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reviews: array of the wire and row of the table."""

import json
from typing import Any

import msgspec
import pytest

from cardkeep.records.revlog import REVLOG_COLUMNS, RevlogEntry, revlog_row

DECODER = msgspec.json.Decoder(RevlogEntry)
GOOD = [1700000000000, 2, 3, 4, 10, -600, 2500, 6000, 1]


def row(**columns: Any) -> dict[str, Any]:
    array = [columns.get(name, value) for name, value in zip(REVLOG_COLUMNS, GOOD, strict=True)]
    read = revlog_row(DECODER.decode(json.dumps(array)))
    return dict(zip(REVLOG_COLUMNS, read, strict=True))


def test_array_is_the_row() -> None:
    """Nine values in the table's order."""
    assert revlog_row(DECODER.decode(json.dumps(GOOD))) == tuple(GOOD)


def test_type_may_be_missing() -> None:
    """Eight elements are a review of type 0."""
    assert revlog_row(DECODER.decode(json.dumps(GOOD[:-1]))) == (*GOOD[:-1], 0)


@pytest.mark.parametrize(
    ("column", "sent", "stored"),
    [
        ("ivl", 10.9, 10),
        ("ivl", -10.9, -10),
        ("ivl", 2**31, -(2**31)),
        ("lastIvl", -0.5, 0),
        ("lastIvl", -(2**31) - 1, 2**31 - 1),
        ("factor", 2500.5, 2500),
        ("factor", -1, 0),
        ("factor", 2**32, 0),
        ("time", 1234.9, 1234),
        ("time", -5.5, 0),
        ("time", 2**32 + 7, 7),
        *[("type", wrong, 0) for wrong in (6, -1, 1.0, "1", None, True, [1], {})],
        ("type", 5, 5),
    ],
)
def test_values_are_fitted_to_their_column(column: str, sent: Any, stored: int) -> None:
    """As on the official server; the rest of the row stays."""
    assert row(**{column: sent}) == row() | {column: stored}


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        *[("id", wrong) for wrong in (1.0, "1", None, True, 2**63)],
        *[("cid", wrong) for wrong in (1.0, "1", None, True, -(2**63) - 1)],
        *[("usn", wrong) for wrong in (1.0, "1", None, True, 2**31)],
        *[("ease", wrong) for wrong in (1.0, "1", None, True, -1, 256)],
        *[("ivl", wrong) for wrong in ("1", None, True, 2**63)],
        *[("lastIvl", wrong) for wrong in ("1", None, True, 2**63)],
        *[("factor", wrong) for wrong in ("1", None, True, 2**63)],
        *[("time", wrong) for wrong in ("1", None, True, 2**63)],
    ],
)
def test_other_types_and_ranges_are_refused(column: str, wrong: Any) -> None:
    """Nothing is converted that the official server refuses."""
    with pytest.raises(msgspec.ValidationError):
        row(**{column: wrong})


@pytest.mark.parametrize("array", [GOOD[:7], [*GOOD, 0], []])
def test_other_lengths_are_refused(array: list[Any]) -> None:
    """A review has eight or nine elements."""
    with pytest.raises(msgspec.ValidationError):
        DECODER.decode(json.dumps(array))
