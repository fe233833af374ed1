# SPDX-License-Identifier: AGPL-3.0-or-later
"""The reviews that a device has already, for clients that cannot take one twice.

Engines of protocol version 10 store a review that they receive and already have a second
time, under another id, and then fail the sanity check for good (observed with 2.1.39). It would
happen in two cases. When the answer to `finish` was lost, they sync again from the usn before
it, and would get their own reviews back. And when other devices synced between their `meta`
and `start`, they believe in a usn that is too low, and would get everything from there on
again: their own reviews and those of the others. Newer clients ignore what they have.
"""

import sqlite3
from contextlib import suppress

import msgspec

from cardkeep.collection import revlog
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.session_file import State

_NEWEST_CONCERNED = 10


class Brought(msgspec.Struct, frozen=True):
    """A committed sync: M, N, and the reviews that its device sent since M.

    `claimed_usn` is the usn that its client believed in; None if nothing that it sent told.
    """

    min_usn: int
    usn: int
    claimed_usn: int | None
    reviews: list[int]

    def is_believed_over(self, min_usn: int, *, by_another: bool) -> bool:
        """Whether a client that goes on from there took the sync for an earlier one.

        `by_another`: it may be another device as well.
        """
        if self.claimed_usn is None:
            return self.min_usn < min_usn <= self.usn and not by_another
        return self.claimed_usn < self.usn and min_usn == self.claimed_usn + 1


def remember(folder: UserFolder, db: sqlite3.Connection, state: State) -> None:
    """Keeps what the sync in `state`, applied but not yet committed, brought."""
    if state.protocol > _NEWEST_CONCERNED:
        return
    if not revlog.ids_since(db, state.min_usn, most=1):
        return
    reviews = revlog.ids_since(db, state.usn)
    before = _last(folder, state)
    if before is not None and before.min_usn == state.min_usn:
        # Not even the answer to the sync before this one came through.
        reviews += before.reviews
    kept = Brought(state.min_usn, state.usn, state.claimed_usn, reviews)
    forget(folder, state)  # made anew, since a file system flushes one that is truncated
    folder.brought(state.device).write_bytes(msgspec.msgpack.encode(kept))


def had_already(folder: UserFolder, db: sqlite3.Connection, state: State) -> set[int]:
    """The reviews not to send to the client in `state`, since it has them."""
    if state.protocol > _NEWEST_CONCERNED:
        return set()
    last = _last(folder, state)
    if last is None:
        return set()
    if last.min_usn == state.min_usn:
        return set(last.reviews).intersection(revlog.ids_since(db, state.min_usn))
    if last.is_believed_over(state.min_usn, by_another=state.shares_key):
        return set(revlog.ids_between(db, state.min_usn, last.usn))
    return set()


def _last(folder: UserFolder, state: State) -> Brought | None:
    try:
        body = folder.brought(state.device).read_bytes()
        return msgspec.msgpack.decode(body, type=Brought)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def forget(folder: UserFolder, state: State) -> None:
    """Sends everything the next time: the client lacks the very reviews that were kept back.

    The key of the official server is shared by all devices of a user, so "the same device"
    can have been another one.
    """
    with suppress(FileNotFoundError):
        folder.brought(state.device).unlink()
