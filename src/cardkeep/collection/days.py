# SPDX-License-Identifier: AGPL-3.0-or-later
"""Anki's day numbers: days since the collection's creation, turning at the rollover hour."""

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

_DAY = 86400
DEFAULT_ROLLOVER = 4
#: The values of the configuration that `today` looks at.
KEYS = ("schedVer", "rollover", "creationOffset", "localOffset")


def today(crt: int, now: int, conf: Mapping[str, Any]) -> int:
    """Number of the current day (docs/sync-protocol.md, 6.9); `crt` and `now` in s.

    `conf` gives schedVer, rollover, creationOffset and localOffset (minutes west of UTC);
    a value of the wrong kind counts as missing.
    """
    if conf.get("schedVer") == 1:
        return (now - crt) // _DAY
    rollover = min(max(_whole(conf.get("rollover"), DEFAULT_ROLLOVER), 0), 23)
    here = _west(_whole(conf.get("localOffset"), 0))
    created_west = conf.get("creationOffset")
    local_now = datetime.fromtimestamp(now, here)
    if isinstance(created_west, int) and not isinstance(created_west, bool):
        created = datetime.fromtimestamp(crt, _west(created_west)).date()
        days = (local_now.date() - created).days - (local_now.hour < rollover)
        return max(days, 0)
    created_at = datetime.fromtimestamp(crt, here).replace(hour=rollover, minute=0, second=0)
    return (now - int(created_at.timestamp())) // _DAY


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _west(minutes: int) -> timezone:
    # Beyond a day there is no such zone; no client writes it.
    return timezone(-timedelta(minutes=max(min(minutes, 1439), -1439)))
