# SPDX-License-Identifier: AGPL-3.0-or-later
"""The reviews that a device's last sync brought, for clients that cannot take them back.

Engines of protocol version 10 store a review that they receive and already have a second
time, under another id, and then fail the sanity check for good (observed with 2.1.39). They
get their own reviews back in two cases: when the answer to `finish` was lost, so that they
sync again from the usn before it; and when another device synced between their `meta` and
`start`, so that they believe in a usn one too low. Newer clients ignore what they have.
"""

import sqlite3
from contextlib import suppress

import msgspec

from cardkeep.collection import revlog
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.session_file import State

_NEWEST_CONCERNED = 10


class Brought(msgspec.Struct, frozen=True):
    """A committed sync: M, N, the usn that its client believed in, and its reviews."""

    min_usn: int
    usn: int
    claimed_usn: int
    reviews: list[int]


def remember(folder: UserFolder, db: sqlite3.Connection, state: State) -> None:
    """Keeps what the sync in `state`, applied but not yet committed, brought."""
    if state.protocol > _NEWEST_CONCERNED:
        return
    reviews = revlog.ids_since(db, state.usn)
    if not reviews:
        return
    claimed = state.usn if state.claimed_usn is None else state.claimed_usn
    kept = Brought(state.min_usn, state.usn, claimed, reviews)
    forget(folder, state)  # made anew, since a file system flushes one that is truncated
    folder.brought(state.device).write_bytes(msgspec.msgpack.encode(kept))


def by_lost_sync(folder: UserFolder, db: sqlite3.Connection, state: State) -> set[int]:
    """The reviews not to send to the client in `state`, since it brought them itself."""
    if state.protocol > _NEWEST_CONCERNED:
        return set()
    try:
        body = folder.brought(state.device).read_bytes()
        last = msgspec.msgpack.decode(body, type=Brought)
    except (FileNotFoundError, msgspec.DecodeError):
        return set()
    lost_answer = state.min_usn == last.min_usn
    believed_too_low = last.claimed_usn < last.usn and state.min_usn == last.claimed_usn + 1
    if not (lost_answer or believed_too_low):
        return set()
    return revlog.ids_stamped(db, last.reviews, last.usn)


def forget(folder: UserFolder, state: State) -> None:
    """Sends everything the next time: the client lacks the very reviews that were kept back.

    The key of the official server is shared by all devices of a user, so "the same device"
    can have been another one.
    """
    with suppress(FileNotFoundError):
        folder.brought(state.device).unlink()
