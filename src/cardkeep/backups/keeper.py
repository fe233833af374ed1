# SPDX-License-Identifier: AGPL-3.0-or-later
"""When copies are kept: before what replaces or deletes much, and once a day.

Before a destructive step the copy is on disk when `before` returns, and only the one who
takes that step waits for it. The daily copy makes nobody wait: the state is pinned by a read
transaction, the sync goes on, and one thread of low priority packs what was pinned. A server
that is killed meanwhile takes the day's copy with the next sync instead.
"""

import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cardkeep.backups import retention
from cardkeep.backups.snapshot import DESTRUCTIVE, Cause, Copy, MediaFile, Snapshots, State
from cardkeep.collection import counts, header, whole
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.library import Library
from cardkeep.collection.session_file import SessionFile
from cardkeep.disk import give_to_owner
from cardkeep.errors import CopyError, Unavailable
from cardkeep.media.store import MediaStore
from cardkeep.messages import ByteSource, Counts

log = logging.getLogger(__name__)

# Each holds a read transaction, and the log of its collection grows until it has its turn.
_MOST_WAITING = 8
# As much as is left to others who want the processor (setpriority(2), per thread on Linux).
_NICENESS = 10


class Keeper:
    """Takes and removes copies of the users' collections; one a process."""

    def __init__(
        self,
        library: Library,
        media: MediaStore,
        spool: Path,
        rules: retention.Rules,
        *,
        now_ms: Callable[[], int],
        daily: bool = True,
    ) -> None:
        self._library = library
        self._media = media
        self._spool = spool
        self._rules = rules
        self._now_ms = now_ms
        self._daily = daily
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()

    def close(self) -> None:
        """Gives up what waits; a copy that is being made is left for `sweep`."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        self._waiting.put(None)

    def snapshots(self, user: str) -> Snapshots:
        """The user's copies."""
        return Snapshots(self._library.folder(user))

    # --- now ----------------------------------------------------------------------------

    def before(self, user: str, db: sqlite3.Connection, cause: Cause) -> Copy | None:
        """Keeps a copy before a step that replaces or deletes much; on return it is on disk.

        The caller holds the user's lock, so that the state stays what it is. None if there is
        nothing to keep: neither notes, cards nor reviews. Raises Unavailable if no copy can be
        kept, since the step must not be taken then.
        """
        state = self.pinned(user, db)
        return self.keep(user, state, cause) if state else None

    def pinned(self, user: str, db: sqlite3.Connection) -> State | None:
        """The first half of `before`, for which alone the caller must hold the user's lock."""
        known = _counts(self._library.folder(user), db)
        return None if _is_empty(known) else self._state(user, db, known)

    def keep(self, user: str, state: State, cause: Cause) -> Copy:
        """The second half of `before`. Raises Unavailable if no copy can be kept."""
        try:
            return self._take(user, state, cause)
        except CopyError as error:
            raise Unavailable(f"{user}: {error}") from error

    def take(self, user: str, cause: Cause) -> Copy:
        """Keeps a copy of the collection as it is now. Raises CopyError.

        The user's lock is held only until the state is pinned.
        """
        folder = self._library.folder(user)
        if not folder.collection.exists():
            raise CopyError(f"{user} has no collection yet")
        with self._library.lend(user, heavy=True) as db, SessionFile(folder, wait=True):
            state = self._state(user, db, _counts(folder, db))
        return self._take(user, state, cause)

    # --- once a day ---------------------------------------------------------------------

    def daily(self, user: str, db: sqlite3.Connection, cause: Cause) -> str:
        """Has the day's copy made of the state before a sync, unless there is one.

        The caller holds the user's lock and no transaction. Returns the id that the copy will
        have; empty if none is due, or if it is put off until the next sync.
        """
        folder, now = self._library.folder(user), self._now_ms()
        if _was_copied_today(folder, now):
            return ""
        if not self._daily:
            self._later(folder, now, partial(self._sweep_trash, user))
            return ""
        try:
            state = self._day(user, db)
        except (sqlite3.Error, OSError, Unavailable) as error:
            log.warning("copy of %s: put off: %s", user, error)
            return ""
        if state is None:
            return ""
        identity = self.snapshots(user).id_for(state, now)
        if not self._later(folder, now, partial(self._take_later, user, state, cause, now)):
            state.source.close()
            return ""
        return identity

    def _later(self, folder: UserFolder, now: int, job: Callable[[], None]) -> bool:
        """Has the day's work done by the thread for it; false if too much waits for that."""
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            return False
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)
                self._thread.start()
        # Now, lest every sync until then has it done.
        _mark_copied(folder, now)
        return True

    def _day(self, user: str, db: sqlite3.Connection) -> State | None:
        """What the day's copy is made of; None if there is nothing, or it cannot be had now."""
        folder = self._library.folder(user)
        known = _counts(folder, db)
        if _is_empty(known) or self._waiting.full():
            return None
        source = whole.pin(db, folder.collection)
        if source is None:
            return None  # a download holds an earlier state
        return State(source, header.read(db), known, *self._media_of(user))

    def _take_later(self, user: str, state: State, cause: Cause, now: int) -> None:
        folder = self._library.folder(user)
        try:
            self._take(user, state, cause, now)
        except BaseException as error:
            folder.copied.unlink(missing_ok=True)
            log.warning("copy of %s: not made: %s", user, error)
            if not isinstance(error, CopyError | OSError | sqlite3.Error):
                raise

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (job := self._waiting.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("a copy could not be made")

    # --- details ------------------------------------------------------------------------

    def _media_of(self, user: str) -> tuple[int, Iterator[MediaFile]]:
        """The last media usn, and the list, which is read only when it is asked for."""

        def files() -> Iterator[MediaFile]:
            try:
                yield from self._media.listing(user)
            except Unavailable as error:
                # A damaged index is no reason to have no copy of the collection.
                log.warning("copy of %s without all of its media: %s", user, error)

        try:
            return self._media.last_usn(user), files()
        except Unavailable:
            return 0, files()

    def _state(self, user: str, db: sqlite3.Connection, known: Counts) -> State:
        folder = self._library.folder(user)
        source: ByteSource | None = whole.pin(db, folder.collection)
        if source is None:
            source = whole.TemporaryFile(whole.copy(db, self._spool))
        return State(source, header.read(db), known, *self._media_of(user))

    def _take(self, user: str, state: State, cause: Cause, now: int | None = None) -> Copy:
        began = time.monotonic()
        snapshots = self.snapshots(user)
        copy = snapshots.take(state, cause, self._now_ms() if now is None else now)
        _mark_copied(self._library.folder(user), self._now_ms())
        log.info(
            "copy %s of %s kept (%s): %d cards, %d bytes, %.1f s",
            copy.id,
            user,
            copy.reason,
            copy.cards,
            copy.bytes,
            time.monotonic() - began,
        )
        self.thin_out(user)
        self._sweep_trash(user)
        return copy

    def _sweep_trash(self, user: str) -> None:
        try:
            self._media.sweep_trash(user)
        except Unavailable as error:
            log.warning("media trash of %s: left for tomorrow: %s", user, error)

    def thin_out(self, user: str) -> None:
        """Removes the copies that no rule keeps."""
        snapshots = self.snapshots(user)
        copies = {copy.id: copy for copy in snapshots.all()}
        candidates = [
            retention.Candidate(
                copy.id, copy.time, copy.bytes, copy.pinned, copy.reason in DESTRUCTIVE
            )
            for copy in copies.values()
        ]
        for identity in retention.superfluous(candidates, self._rules, self._now_ms()):
            try:
                snapshots.delete(copies[identity])
            except CopyError as error:
                log.warning("copy %s of %s: %s", identity, user, error)


def _counts(folder: UserFolder, db: sqlite3.Connection) -> Counts:
    return counts.kept(folder, header.read(db)) or counts.count(db)


def _is_empty(known: Counts) -> bool:
    return not (known.cards or known.notes or known.revlog)


def _mark_copied(folder: UserFolder, now_ms: int) -> None:
    moment = now_ms / 1000
    with contextlib.suppress(OSError):  # a full disk: the next sync has another one made
        folder.copied.touch(mode=0o600)
        give_to_owner(folder.copied, folder.root)
        os.utime(folder.copied, (moment, moment))


def _was_copied_today(folder: UserFolder, now_ms: int) -> bool:
    """By the calendar of the server's time zone."""
    try:
        last = os.stat(folder.copied).st_mtime  # noqa: PTH116 (in each sync; Path is slow)
    except FileNotFoundError:
        return False
    return time.localtime(last)[:3] == time.localtime(now_ms / 1000)[:3]
