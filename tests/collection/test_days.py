# SPDX-License-Identifier: AGPL-3.0-or-later
"""Day numbers (docs/sync-protocol.md, 6.9)."""

from datetime import UTC, datetime
from typing import Any

import pytest

from cardkeep.collection.days import today


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


CRT = at("2024-01-10T04:00")


@pytest.mark.parametrize(
    ("now", "conf", "day"),
    [
        ("2024-01-11T03:59", {"schedVer": 1}, 0),
        ("2024-01-11T04:00", {"schedVer": 1}, 1),
        # Creation zone known, UTC everywhere: the day turns at 4:00.
        ("2024-01-11T03:59", {"creationOffset": 0}, 0),
        ("2024-01-11T04:00", {"creationOffset": 0}, 1),
        ("2024-01-11T04:00", {"creationOffset": 0, "rollover": 5}, 0),
        ("2024-01-11T23:00", {"creationOffset": 0, "rollover": 99}, 1),
        # One hour east: 3:00 UTC is 4:00 there.
        ("2024-01-11T03:00", {"creationOffset": -60, "localOffset": -60}, 1),
        # A clock before the creation gives no negative day.
        ("2024-01-01T12:00", {"creationOffset": 0}, 0),
        # Unknown creation zone: counted from the rollover hour of the local creation date.
        ("2024-01-11T03:59", {}, 0),
        ("2024-01-11T04:00", {}, 1),
        # Values of the wrong kind count as missing.
        ("2024-01-11T04:00", {"rollover": "5", "localOffset": None}, 1),
        ("2024-01-11T04:00", {"rollover": -7, "localOffset": 10**9}, 1),
    ],
)
def test_today(now: str, conf: dict[str, Any], day: int) -> None:
    """The day turns at the rollover hour of the user's zone."""
    assert today(CRT, at(now), conf) == day


@pytest.mark.parametrize("crt", [-(2**62), -(2**40), 0, 2**40, 2**62])
@pytest.mark.parametrize("conf", [{}, {"creationOffset": 1439}, {"localOffset": -1439}])
def test_no_creation_day_is_too_odd(crt: int, conf: dict[str, Any]) -> None:
    """A collection that says it is from the year 36,812 can be synced all the same."""
    now = at("2024-01-11T04:00")
    days = (now - crt) // 86400
    if "creationOffset" in conf:
        days = max(days, 0)
    assert abs(today(crt, now, conf) - days) <= 2
