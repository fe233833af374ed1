# SPDX-License-Identifier: AGPL-3.0-or-later
"""The one live sync of a user, on disk, so that any process can serve any request of it.

Two files in the user's `.cardkeep`, both made once and never replaced:

* `session`: the state, one small JSON object, rewritten in place with one write, which a
  killed process either did or did not do. A lock on it (flock) is the user's lock.
* `journal`: frames of (kind, length, body), as many bytes of it as the state says. A frame is
  what the client sent, or what the server worked out for later requests.

None of it is flushed to disk: what a crash of the machine loses is a sync that no client
believes in. Nor are files truncated or renamed on the way: file systems such as ext4 take
both for a replacement that is to be written to disk at once. What `sync` does with a state is
not known here, but for whether its client may still be there.
"""

import array
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from types import TracebackType
from typing import Self

import msgspec

from cardkeep.collection.folder import UserFolder
from cardkeep.errors import Unavailable

_FRAME = struct.Struct("<BQ")
_STATE_SIZE = 4096
# A journal beyond this is not left behind on the disk; a frame beyond it is not copied.
_LARGE = 1024 * 1024


class Kind(IntEnum):
    """What a frame of the journal holds."""

    GRAVES = 1
    CHANGES = 2
    CHUNK = 3
    # How many fields the notes of each notetype must have.
    LAYOUT = 4
    # Ids still to be sent, 64-bit numbers.
    OUTGOING = 5


class Ended(msgspec.Struct, frozen=True):
    """A sync that was committed and whose client may still ask for the result (`mod` in ms)."""

    key: str
    device: str
    mod: int


class Outgoing(msgspec.Struct, frozen=True):
    """How many ids of each kind there are to send, and how many of them were.

    `at` is where in the journal they are kept, if they are.
    """

    notes: int
    cards: int
    revlog: int
    sent: int = 0
    at: int = 0

    @property
    def all(self) -> int:
        """Of all kinds together."""
        return self.notes + self.cards + self.revlog


class State(msgspec.Struct, frozen=True):
    """What spans the requests of a sync.

    `min_usn` is M, `usn` is N; `mod` and `scm` are the collection's when the sync began;
    times are ms. `committed` is the `mod` that the client is told in the end; `journal` is
    the length of the journal in bytes. `received` and `sent` are the bytes that travelled.
    `shares_key`: other devices may be this `device` too.
    """

    key: str
    device: str
    client: str
    protocol: int
    min_usn: int
    usn: int
    mod: int
    scm: int
    local_newer: bool
    opened: int
    active: int
    claimed_usn: int | None = None
    outgoing: Outgoing | None = None
    withheld: int = 0
    committed: int | None = None
    closed: bool = False
    ended: tuple[Ended, ...] = ()
    journal: int = 0
    received: int = 0
    sent: int = 0
    shares_key: bool = False


# A client that says nothing for this long has gone: version 11 gives up after 30 s (60 s
# on the desktop), older ones after 60 s a request, and pause up to minutes between two.
_GONE_AFTER_MS = {11: 60_000}
_OLD_GONE_AFTER_MS = 300_000
# In s, for commands that wait for a sync to end.
_LOOK_EVERY = 0.03

_state = msgspec.json.Decoder(State)


def is_live(state: State | None) -> bool:
    """Whether a client may be in the middle of this sync."""
    return state is not None and not state.closed and state.committed is None


def gone_after(state: State) -> int:
    """The ms of silence after which the client of a live sync has surely gone."""
    return _GONE_AFTER_MS.get(state.protocol, _OLD_GONE_AFTER_MS)


class Locked(Exception):
    """Another request of the user holds the lock."""


class SessionFile:
    """The user's lock and the live sync below it; use it as a context.

    With `wait` the lock is waited for (in a worker thread); without, a held lock
    raises `Locked` at once.
    """

    def __init__(self, folder: UserFolder, *, wait: bool) -> None:
        self.folder = folder
        self._wait = wait
        self._fd = -1
        self._journal = -1
        self._length = 0

    def __enter__(self) -> Self:
        self._fd = self.folder.open_own(self.folder.session, os.O_RDWR)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(self._fd)
            raise Locked from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._journal >= 0:
            os.close(self._journal)
        os.close(self._fd)

    def read(self) -> State | None:
        """The state, or None if there never was a sync or the file was cut short by a crash."""
        try:
            state = _state.decode(os.pread(self._fd, _STATE_SIZE, 0).rstrip(b"\0 "))
        except msgspec.DecodeError:
            return None
        self._length = state.journal
        return state

    def write(self, state: State) -> None:
        """Replaces the state, and makes what was appended part of the journal."""
        kept = msgspec.structs.replace(state, journal=self._length)
        os.pwrite(self._fd, msgspec.json.encode(kept).ljust(_STATE_SIZE), 0)

    # --- journal ------------------------------------------------------------------------

    def begin(self, state: State) -> None:
        """Starts anew, with an empty journal."""
        if self._length > _LARGE:
            os.ftruncate(self._open_journal(), 0)
        self._length = 0
        self.write(state)

    def append(self, kind: Kind, message: object) -> None:
        """Adds a message to the journal; it counts once the state is written."""
        self._append(kind, msgspec.msgpack.encode(message))

    def frames(self) -> Iterator[tuple[Kind, bytes]]:
        """The frames in the order in which they came, one in memory at a time."""
        journal, at = self._open_journal(), 0
        while at < self._length:
            kind, length = _FRAME.unpack(os.pread(journal, _FRAME.size, at))
            at += _FRAME.size
            yield Kind(kind), _read(journal, at, length)
            at += length

    def keep_layout(self, fields: Mapping[int, int]) -> None:
        """Keeps the number of fields by notetype id."""
        self.append(Kind.LAYOUT, fields)

    def layout(self) -> dict[int, int] | None:
        """The number of fields by notetype id; None before the changes were exchanged."""
        for kind, body in self.frames():
            if kind is Kind.LAYOUT:
                return msgspec.msgpack.decode(body, type=dict[int, int])
        return None

    def keep_outgoing(self, ids: Sequence[int]) -> int:
        """Keeps the ids that are to be sent, in their order; returns where."""
        return self._append(Kind.OUTGOING, array.array("q", ids).tobytes())

    def outgoing(self, at: int, first: int, count: int) -> list[int]:
        """Ids `first` to `first + count` of those that were kept at `at`."""
        ids = array.array("q")
        offset, size = _FRAME.size + first * ids.itemsize, count * ids.itemsize
        _, length = _FRAME.unpack(os.pread(self._open_journal(), _FRAME.size, at))
        left = max(_FRAME.size + length - offset, 0)
        ids.frombytes(_read(self._open_journal(), at + offset, min(size, left)))
        return ids.tolist()

    def _append(self, kind: Kind, body: bytes) -> int:
        at = self._length
        head = _FRAME.pack(kind, len(body))
        if len(body) < _LARGE:
            self._put(head + body)
        else:
            self._put(head)
            self._put(body)
        return at

    def _put(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            written = os.pwrite(self._open_journal(), left, self._length)
            self._length += written
            left = left[written:]

    def _open_journal(self) -> int:
        if self._journal < 0:
            self._journal = self.folder.open_own(self.folder.journal, os.O_RDWR)
        return self._journal


def _read(descriptor: int, at: int, size: int) -> bytes:
    """`size` bytes from `at`; one call reads at most 2 GiB."""
    pieces = []
    while size > 0 and (piece := os.pread(descriptor, size, at)):
        pieces.append(piece)
        at += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextmanager
def between_syncs(
    folder: UserFolder, now_ms: Callable[[], int], *, patience: float
) -> Iterator[SessionFile]:
    """The user's lock at a moment when no client is in the middle of a sync.

    For commands: a running sync is waited for, not ended. Raises Unavailable if after `patience`
    seconds there still is one.
    """
    end = time.monotonic() + patience
    while True:
        with SessionFile(folder, wait=True) as file:
            state = file.read()
            if state is None or not is_live(state) or _is_gone(state, now_ms()):
                yield file
                return
        if time.monotonic() >= end:
            raise Unavailable(f"a sync of this user goes on for more than {patience:.0f} s")
        time.sleep(_LOOK_EVERY)


def _is_gone(state: State, now: int) -> bool:
    return now - state.active >= gone_after(state)
