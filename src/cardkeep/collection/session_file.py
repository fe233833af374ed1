# SPDX-License-Identifier: AGPL-3.0-or-later
"""The one live sync of a user, on disk, so that any process can serve any request of it.

Four files in the user's `.cardkeep`:

* `session`: the state, one small JSON object. The file is made once and never replaced:
  a lock on it (flock) is the user's lock. It is rewritten in place with one write, which a
  killed process either did or did not do.
* `journal`: what the client sent, frames of (kind, length, message), only ever appended.
* `outgoing`: ids still to be sent, three runs of 64-bit numbers.
* `layout`: how many fields the notes of each notetype must have.

None of it is flushed to disk: what a crash of the machine loses is a sync that no client
believes in. What `sync` does with a state is not known here.
"""

import array
import fcntl
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from types import TracebackType
from typing import Self

import msgspec

from cardkeep.collection.folder import UserFolder

_FRAME = struct.Struct("<BQ")
_STATE_SIZE = 4096


class Kind(IntEnum):
    """What a frame of the journal holds."""

    GRAVES = 1
    CHANGES = 2
    CHUNK = 3


class Ended(msgspec.Struct, frozen=True):
    """A sync that was committed and whose client may still ask for the result (`mod` in ms)."""

    key: str
    device: str
    mod: int


class Outgoing(msgspec.Struct, frozen=True):
    """How many ids of each kind wait in `outgoing`, and how many of them were sent."""

    notes: int
    cards: int
    revlog: int
    sent: int = 0


class State(msgspec.Struct, frozen=True):
    """What spans the requests of a sync.

    `min_usn` is M, `usn` is N; `mod` and `scm` are the collection's when the sync began;
    times are ms. `committed` is the `mod` that the client is told in the end.
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

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(self.folder.session, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            self.folder.make()
            self._fd = os.open(self.folder.session, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
        os.close(self._fd)

    def read(self) -> State | None:
        """The state, or None if there never was a sync or the file was cut short by a crash."""
        try:
            return msgspec.json.decode(
                os.pread(self._fd, _STATE_SIZE, 0).rstrip(b"\0 "), type=State
            )
        except msgspec.DecodeError:
            return None

    def write(self, state: State) -> None:
        """Replaces the state."""
        os.pwrite(self._fd, msgspec.json.encode(state).ljust(_STATE_SIZE), 0)

    # --- journal ------------------------------------------------------------------------

    def begin(self, state: State) -> None:
        """Starts anew: an empty journal, nothing outgoing."""
        self.folder.journal.write_bytes(b"")
        for path in (self.folder.outgoing, self.folder.layout):
            with suppress(FileNotFoundError):
                path.unlink()
        self.write(state)

    def append(self, kind: Kind, message: object) -> None:
        """Adds a message to the journal."""
        body = msgspec.msgpack.encode(message)
        fd = os.open(self.folder.journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.writev(fd, (_FRAME.pack(kind, len(body)), body))
        finally:
            os.close(fd)

    def frames(self) -> Iterator[tuple[Kind, bytes]]:
        """The messages in the order in which they came, one in memory at a time."""
        with self.folder.journal.open("rb") as journal:
            while header := journal.read(_FRAME.size):
                kind, length = _FRAME.unpack(header)
                yield Kind(kind), journal.read(length)

    # --- outgoing -----------------------------------------------------------------------

    def keep_outgoing(self, ids: Sequence[int]) -> None:
        """Keeps the ids that are to be sent, in their order."""
        self.folder.outgoing.write_bytes(array.array("q", ids).tobytes())

    def outgoing(self, first: int, count: int) -> list[int]:
        """Ids `first` to `first + count`."""
        ids = array.array("q")
        with self.folder.outgoing.open("rb") as file:
            file.seek(first * ids.itemsize)
            ids.frombytes(file.read(count * ids.itemsize))
        return ids.tolist()

    # --- layout -------------------------------------------------------------------------

    def keep_layout(self, fields: Mapping[int, int]) -> None:
        """Keeps the number of fields by notetype id."""
        self.folder.layout.write_bytes(msgspec.msgpack.encode(fields))

    def layout(self) -> dict[int, int] | None:
        """The number of fields by notetype id; None before the changes were exchanged."""
        try:
            return msgspec.msgpack.decode(self.folder.layout.read_bytes(), type=dict[int, int])
        except FileNotFoundError:
            return None
