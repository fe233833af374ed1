# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keeps a few indexes open, lends each to one holder at a time, and makes nobody wait.

Whoever asks for an index that is lent out gets a connection of its own; of those given back
one a user is kept, and of all users the ones used last. So a process has at most `KEPT`
indexes open besides those at work, however many users it has seen.
"""

import contextlib
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cardkeep.errors import CardkeepError, Unavailable
from cardkeep.media import index

#: Idle connections of a process: three open files and about 100 kB each.
KEPT = 16


@dataclass(frozen=True, slots=True)
class _Open:
    path: str
    identity: tuple[int, int]
    connection: sqlite3.Connection


class NoIndexError(Exception):
    """The user has no media.db, and so no media."""


class Connections:
    """The indexes of the users under `base`; may be used by any number of threads."""

    def __init__(self, base: Path, kept: int = KEPT) -> None:
        self._base = base
        self._kept = kept
        self._idle: OrderedDict[str, _Open] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def lend(
        self, user: str, *, create: bool = False, hasty: bool = False
    ) -> Iterator[sqlite3.Connection]:
        """The user's index, for as long as the block runs.

        A `hasty` borrower never makes room by closing another's connection: to close the
        last one of a file is to fold its log into it, which takes a flush's time.

        Raises NoIndexError if there is none and `create` is false; what SQLite
        cannot do (a file that another program has locked, a full disk) becomes Unavailable.
        """
        with self._lock:
            held = self._idle.pop(user, None)
        try:
            if held is not None and not _is_current(held):
                held.connection.close()
                held = None
            if held is None:
                held = self._open(user, create=create)
            yield held.connection
        except CardkeepError:
            self._take_back(user, held, hasty=hasty)
            raise
        except sqlite3.DatabaseError as error:
            _discard(held)
            raise Unavailable(f"the media index of {user}: {error}") from error
        except BaseException:
            _discard(held)
            raise
        else:
            self._take_back(user, held, hasty=hasty)

    def has_idle(self, user: str) -> bool:
        """Whether the user's index is open and nobody is using it."""
        return user in self._idle

    def close(self) -> None:
        """Closes what is idle now, and everything else as it is given back."""
        with self._lock:
            self._closed = True
            idle = list(self._idle.values())
            self._idle.clear()
        for held in idle:
            held.connection.close()

    def _open(self, user: str, *, create: bool) -> _Open:
        path = self._base / user / "media.db"
        try:
            connection = index.connect(path, create=create)
        except FileNotFoundError:
            raise NoIndexError(user) from None
        try:
            status = path.stat()
        except FileNotFoundError:
            connection.close()
            raise NoIndexError(user) from None
        return _Open(str(path), (status.st_dev, status.st_ino), connection)

    def _take_back(self, user: str, held: _Open | None, *, hasty: bool) -> None:
        if held is None:
            return
        surplus: _Open | None = held
        if not held.connection.in_transaction:
            with self._lock:
                no_room = hasty and len(self._idle) >= self._kept
                if not self._closed and not no_room:
                    surplus = self._idle.pop(user, None)
                    self._idle[user] = held
                    if surplus is None and len(self._idle) > self._kept:
                        _, surplus = self._idle.popitem(last=False)
        _discard(surplus)


def _is_current(held: _Open) -> bool:
    """Whether the file at the path is still the one that was opened."""
    try:
        status = os.stat(held.path)  # noqa: PTH116 (on each loan, and Path costs twice as much)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == held.identity


def _discard(held: _Open | None) -> None:
    if held is not None:
        held.connection.close()
