# SPDX-License-Identifier: AGPL-3.0-or-later
"""How commands find a user's history, and the rows that they write into it."""

import time
from collections.abc import Iterable

from cardkeep import settings
from cardkeep.accounts.names import check_name
from cardkeep.backups.history import History, Kind, Row
from cardkeep.collection.folder import UserFolder


def history_of(config: str | None, folder: str | None, user: str) -> tuple[History, UserFolder]:
    """The history of a user, and where it is. Raises AccountError for an impossible name."""
    found = settings.load({"config": config, "folder": folder})
    place = UserFolder(found.folder / check_name(user))
    return History(found.history_size, found.history_days), place


def by_operator(kind: Kind, *, device: str = "", client: str = "", note: str = "") -> Row:
    """A row for what a command did just now."""
    return Row(time=now_ms(), kind=kind, device=device, client=client, note=note)


def record(config: str | None, folder: str | None, user: str, rows: Iterable[Row]) -> None:
    """Writes rows down; none for a user who never was there with a device."""
    history, place = history_of(config, folder, user)
    for row in rows:
        history.add(place, row)


def now_ms() -> int:
    """The clock, in ms since 1970."""
    return time.time_ns() // 1_000_000
