# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which configurations are exchanged in passing, and which in a thread."""

from typing import Any

import pytest

from cardkeep.sync.changes import _FEW_VALUES, _left_of


@pytest.mark.parametrize(
    "conf",
    [None, {}, {f"key{n}": n for n in range(60)}, {"a": {"b": [1, "x" * 99, None]}}],
    ids=["none", "empty", "a client's", "nested"],
)
def test_a_usual_configuration_is_short(conf: Any) -> None:
    assert _left_of(_FEW_VALUES, conf) > 0


@pytest.mark.parametrize(
    "conf",
    [
        {f"key{n}": n for n in range(1000)},
        {"a": [0] * 1_000_000},
        {"a": [[0] * 100] * 100},
        {"a": "x" * 100_000},
    ],
    ids=["many keys", "a long list", "lists of lists", "a long text"],
)
def test_a_long_one_is_not(conf: Any) -> None:
    assert _left_of(_FEW_VALUES, conf) <= 0
