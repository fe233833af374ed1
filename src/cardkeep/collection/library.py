# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lends a user's collection to one holder at a time.

A few connections stay open between loans, since opening one costs as much as a whole
small request; none is needed. Everything that may take long and that nobody waits for
(closing, and writing the WAL back into the collection) is done by one thread of its own.
"""

import logging
import os
import queue
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType

from cardkeep.collection import database, header
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.schema.create import create
from cardkeep.collection.session_file import SessionFile
from cardkeep.disk import Remembered, Stamp, flush
from cardkeep.errors import DamagedCollection, Unavailable

log = logging.getLogger(__name__)

# A push of 200 reviews touches some 600 pages, scattered over the indexes, and many of them again
# with the next push: what piles up is written back once. Closing an idle collection does the rest.
# Longer than what a log is cut to, so that the length of the file tells how long the log is.
_WAL_LIMIT = database.JOURNAL_SIZE_LIMIT + 1024 * 1024
# The users who committed last, whose pages stay in memory: at most database.CACHE_KIB each. A
# device that pushed is often followed by another one that fetches, or by its own next sync.
_KEEP_PAGES = 2
_CLOSE_IDLE_AFTER = 60.0


@dataclass(slots=True)
class Open:
    """A connection and the file that it was opened on."""

    db: sqlite3.Connection
    path: str
    file: tuple[int, int]
    stamp: Stamp | None = None  # of the folder, when the file was last looked at
    keeps_pages: bool = False


class Loan:
    """A collection for as long as the block runs.

    A class, since a generator costs a small request several times as much.
    """

    __slots__ = ("_heavy", "_held", "_library", "_stamp", "_user")

    def __init__(
        self, library: "Library", user: str, *, heavy: bool, stamp: Stamp | None = None
    ) -> None:
        self._library = library
        self._user = user
        self._heavy = heavy
        self._stamp = stamp

    def __enter__(self) -> sqlite3.Connection:
        self._held = self._library.take(self._user, self._stamp)
        return self._held.db

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library.give_back(self._user, self._held, heavy=self._heavy)
        if isinstance(error, sqlite3.DatabaseError):
            raise _explained(error, self._held.path) from error


class Library:
    """The collections below a base folder, one folder a user."""

    def __init__(self, base: Path, *, now_ms: Callable[[], int], keep_open: int = 12) -> None:
        self._base = base
        self._now_ms = now_ms
        self._keep_open = keep_open
        self._folders = lru_cache(maxsize=1000)(lambda user: UserFolder(base / user))
        self._idle: OrderedDict[str, Open] = OrderedDict()
        self._keeping: OrderedDict[str, None] = OrderedDict()  # whose pages stay in memory
        self._summaries = Remembered[header.Summary]()
        self._guard = threading.Lock()
        self._chores: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._housekeeper = threading.Thread(target=self._keep_house, name="library", daemon=True)
        self._housekeeper.start()

    def folder(self, user: str) -> UserFolder:
        """Where the user's things are."""
        return self._folders(user)

    def is_warm(self, user: str) -> bool:
        """Whether a loan would find an open connection, and so be certainly short."""
        return user in self._idle

    def lend(self, user: str, *, heavy: bool = False, stamp: Stamp | None = None) -> "Loan":
        """An open collection, made if the user has none yet; use it as a context.

        `stamp` is the folder's as of now, if the caller has it: it saves a look at the file.
        After a `heavy` loan the pages that it read are given back to the system. A
        transaction that is still open at the end is rolled back.
        """
        return Loan(self, user, heavy=heavy, stamp=stamp)

    def summary(self, user: str, stamp: Stamp | None) -> header.Summary:
        """What `meta` tells of the collection; `stamp` as for `lend`."""
        path = self.folder(user).collection_text
        return self._summaries.read(path, stamp, partial(self._read_summary, user, stamp))

    def _read_summary(self, user: str, stamp: Stamp | None) -> header.Summary:
        with self.lend(user, stamp=stamp) as db:
            return header.summary(db)

    @contextmanager
    def working(self, user: str) -> Iterator[sqlite3.Connection]:
        """An open collection for a commit, to be used as that of `lend`.

        What it read stays in memory until two other users have committed. Afterwards the WAL is
        written back into the collection, off the request's path, if it has grown long.
        """
        self._keep_pages(user)
        try:
            with self.lend(user) as db:
                yield db
        finally:
            self.settle(user)

    def settle(self, user: str) -> None:
        """Has the WAL written back into the collection, later, if it has grown long."""
        wal = f"{self.folder(user).collection}-wal"
        with suppress(FileNotFoundError):
            if os.stat(wal).st_size > _WAL_LIMIT:  # noqa: PTH116 (once a sync; Path is slow)
                self._chores.put(lambda: self._checkpoint(user))

    def close(self) -> None:
        """Closes everything; the collections are then complete files without a WAL."""
        self._chores.put(None)
        self._housekeeper.join()
        with self._guard:
            idle = list(self._idle.values())
            self._idle.clear()
        for held in idle:
            database.close(held.db)

    # --- loans --------------------------------------------------------------------------

    def take(self, user: str, stamp: Stamp | None = None) -> Open:
        """An open collection; to be given back. `stamp` as for `lend`."""
        return self._take(user, stamp) or self._open(user)

    def give_back(self, user: str, held: Open, *, heavy: bool) -> None:
        """Takes a collection back from its holder."""
        if held.db.in_transaction:
            held.db.execute("ROLLBACK")
        keeps_pages = user in self._keeping
        if heavy or (held.keeps_pages and not keeps_pages):
            database.shrink(held.db)
        held.keeps_pages = keeps_pages
        with self._guard:
            if user not in self._idle and len(self._idle) < self._keep_open:
                self._idle[user] = held
                return
        self._make_room(user, held)

    def _take(self, user: str, stamp: Stamp | None) -> Open | None:
        with self._guard:
            held = self._idle.pop(user, None)
        if held is None or (stamp is not None and held.stamp == stamp):
            return held
        if held.file == _identity(held.path):
            held.stamp = stamp
            return held
        self._chores.put(lambda: database.close(held.db))
        return None

    def _open(self, user: str) -> Open:
        path = str(self.folder(user).collection)
        identity = _identity(path)
        if identity is None:
            self._make(user)
            identity = _identity(path)
        if identity is None:
            raise Unavailable(f"{path} vanished while it was opened")
        try:
            return Open(database.connect(Path(path)), path, identity)
        except sqlite3.DatabaseError as error:
            raise _explained(error, path) from error

    def _make(self, user: str) -> None:
        """Makes a fresh collection, unless another request just did."""
        folder = self.folder(user)
        folder.make()
        with SessionFile(folder, wait=True):
            if folder.collection.exists():
                return
            folder.fresh.unlink(missing_ok=True)
            create(folder.fresh, self._now_ms())
            flush(folder.fresh)
            folder.fresh.rename(folder.collection)
            flush(folder.root)

    def _make_room(self, user: str, held: Open) -> None:
        surplus: list[Open] = []
        with self._guard:
            if user in self._idle:
                surplus.append(held)
            else:
                self._idle[user] = held
            while len(self._idle) > self._keep_open:
                surplus.append(self._idle.popitem(last=False)[1])
        for one in surplus:
            self._chores.put(partial(database.close, one.db))

    # --- chores -------------------------------------------------------------------------

    def _keep_house(self) -> None:
        while True:
            try:
                chore = self._chores.get(timeout=_CLOSE_IDLE_AFTER)
            except queue.Empty:
                chore = self._close_idle
            if chore is None:
                return
            try:
                chore()
            except (sqlite3.Error, OSError):
                log.exception("could not tidy up a collection; it is tried again later")

    def _close_idle(self) -> None:
        with self._guard:
            idle = list(self._idle.values())
            self._idle.clear()
        for held in idle:
            database.close(held.db)

    def _keep_pages(self, user: str) -> None:
        """From now on the user's pages stay in memory, and those of an earlier one do not."""
        with self._guard:
            self._keeping[user] = None
            self._keeping.move_to_end(user)
            if len(self._keeping) <= _KEEP_PAGES:
                return
            surplus, _ = self._keeping.popitem(last=False)
        self._chores.put(partial(self._shrink, surplus))

    def _shrink(self, user: str) -> None:
        with self._guard:
            held = self._idle.pop(user, None)
        if held is not None:  # one that is at work gives its pages back when it returns
            self.give_back(user, held, heavy=False)

    def _checkpoint(self, user: str) -> None:
        with self.lend(user) as db:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (on each loan, and Path costs several times as much)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _explained(error: sqlite3.DatabaseError, path: str) -> Exception:
    """Another program (the official server) has the collection open, or it is damaged."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"the collection is in use by another program: {error}")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or _is_without_tables(error):
        return DamagedCollection(
            f"{path} is damaged: {error}; `cardkeep snapshot list` shows what was kept"
        )
    return error


def _is_without_tables(error: sqlite3.DatabaseError) -> bool:
    """A file that was emptied is whole for SQLite. It has no error code for that."""
    return str(error).startswith("no such table: ")
