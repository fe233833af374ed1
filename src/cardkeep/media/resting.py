# SPDX-License-Identifier: AGPL-3.0-or-later
"""The last usn of an index that nobody has open, without opening it for good.

Most requests only ask whether anything is new, and most users do so a few times a day. To open
a write-ahead-logged database for that makes two files, and closing it removes them: too
much for the event loop. But while there is no log, the file itself is the whole index, and
as long as it has not changed neither has the number in it.
"""

import contextlib
import os
import sqlite3
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from cardkeep.disk import Stamp, is_settled
from cardkeep.media import index

#: Users whose last usn is remembered, at about a kilobyte each.
REMEMBERED = 1000

_State = tuple[int, int, int, int, int]


class _Known(NamedTuple):
    """An index, its last usn while it is in `state`, and the folder's stamp at that time.

    Without a state, there was no index under that stamp.
    """

    path: str
    state: _State | None
    usn: int
    stamp: Stamp | None


class RestingIndexes:
    """Last usns of the users under `base`; may be used by any number of threads."""

    def __init__(self, base: Path) -> None:
        self._base = str(base)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def last_usn(self, user: str, stamp: Stamp | None = None) -> int | None:
        """The last usn; None if the index is in use, or not one that can be read so.

        `stamp` is that of the user's folder as of now: no file came or went while it is the same.
        Raises FileNotFoundError if there is no index.
        """
        known = self._known.get(user) or self._unknown(user)
        same_files = stamp is not None and known.stamp == stamp
        if same_files and known.state is None:
            raise FileNotFoundError(known.path)
        # Whoever opens the file makes a log before anything else. It must be looked for first:
        # what was committed before there is none is in the file.
        if not same_files and _has_log(known.path):
            return None
        try:
            before = _state(known.path)
        except FileNotFoundError:
            if stamp is not None:
                self._remember(user, _Known(known.path, None, 0, stamp))
            raise
        if known.state == before:
            if stamp is not None and not same_files:
                self._remember(user, known._replace(stamp=stamp))
            return known.usn
        usn = _read(known.path)
        if usn is None or _has_log(known.path) or _state(known.path) != before:
            return None
        if is_settled(before[3]):
            self._remember(user, _Known(known.path, before, usn, stamp))
        return usn

    def _unknown(self, user: str) -> _Known:
        return _Known(f"{self._base}/{user}/media.db", None, 0, None)

    def _remember(self, user: str, known: _Known) -> None:
        with self._lock:
            self._known.pop(user, None)
            self._known[user] = known
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


def _has_log(path: str) -> bool:
    return os.access(f"{path}-wal", os.F_OK)


def _state(path: str) -> _State:
    status = os.stat(path)  # noqa: PTH116 (on nearly each request, and Path is slow)
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _read(path: str) -> int | None:
    with contextlib.suppress(sqlite3.Error):
        with contextlib.closing(index.connect_resting(Path(path))) as connection:
            return index.last_usn(connection)
    return None
