# SPDX-License-Identifier: AGPL-3.0-or-later
"""The last usn of an index that nobody has open, without opening it for good.

Most requests only ask whether anything is new, and most users do so a few times a day. To open
a write-ahead-logged database for that makes two files, and closing it removes them: too
much for the event loop. But while there is no log, the file itself is the whole index, and
as long as it has not changed neither has the number in it.
"""

import contextlib
import sqlite3
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from cardkeep.media import index

#: Users whose last usn is remembered, at about a kilobyte each.
REMEMBERED = 1000

# A file that was changed just now could be changed again without a trace in its times, which
# may be as coarse as this (2 s on FAT).
_SETTLED_NS = 2_500_000_000

_State = tuple[int, int, int, int, int]


class _Known(NamedTuple):
    path: Path
    log: Path
    state: _State | None
    usn: int


class RestingIndexes:
    """Last usns of the users under `base`; may be used by any number of threads."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def last_usn(self, user: str) -> int | None:
        """The last usn; None if the index is in use, or not one that can be read so.

        Raises FileNotFoundError if there is none.
        """
        known = self._known.get(user) or self._unknown(user)
        # Whoever opens the file makes a log before anything else. It must be looked for first:
        # what was committed before there is none is in the file.
        if known.log.exists():
            return None
        before = _state(known.path)
        if known.state == before:
            return known.usn
        usn = _read(known.path)
        if usn is None or known.log.exists() or _state(known.path) != before:
            return None
        if time.time_ns() - before[3] > _SETTLED_NS:
            self._remember(user, known._replace(state=before, usn=usn))
        return usn

    def _unknown(self, user: str) -> _Known:
        path = self._base / user / "media.db"
        return _Known(path, path.with_name("media.db-wal"), None, 0)

    def _remember(self, user: str, known: _Known) -> None:
        with self._lock:
            self._known.pop(user, None)
            self._known[user] = known
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


def _state(path: Path) -> _State:
    status = path.stat()
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _read(path: Path) -> int | None:
    with contextlib.suppress(sqlite3.Error):
        with contextlib.closing(index.connect_resting(path)) as connection:
            return index.last_usn(connection)
    return None
