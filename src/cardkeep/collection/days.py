# SPDX-License-Identifier: AGPL-3.0-or-later
"""Anki's day numbers: days since the collection's creation, turning at the rollover hour."""

from collections.abc import Mapping
from typing import Any

_HOUR = 3600
_DAY = 24 * _HOUR
DEFAULT_ROLLOVER = 4
#: The values of the configuration that `today` looks at.
KEYS = ("schedVer", "rollover", "creationOffset", "localOffset")


def today(crt: int, now: int, conf: Mapping[str, Any]) -> int:
    """Number of the current day (docs/sync-protocol.md, 6.9); `crt` and `now` in s.

    `conf` gives schedVer, rollover, creationOffset and localOffset (minutes west of UTC);
    a value of the wrong kind counts as missing. Plain numbers, since a stored `crt` may lie
    in a year that no calendar of Python's has.
    """
    if conf.get("schedVer") == 1:
        return (now - crt) // _DAY
    rollover = min(max(_whole(conf.get("rollover"), DEFAULT_ROLLOVER), 0), 23)
    here = _west(_whole(conf.get("localOffset"), 0))
    created_west = conf.get("creationOffset")
    if isinstance(created_west, int) and not isinstance(created_west, bool):
        local_day, second = divmod(now - here, _DAY)
        created_day = (crt - _west(created_west)) // _DAY
        return max(local_day - created_day - (second < rollover * _HOUR), 0)
    created_at = (crt - here) // _DAY * _DAY + rollover * _HOUR + here
    return (now - created_at) // _DAY


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _west(minutes: int) -> int:
    """Seconds that local time is behind UTC; beyond a day there is no such zone."""
    return 60 * max(min(minutes, 1439), -1439)
