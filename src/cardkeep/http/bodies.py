# SPDX-License-Identifier: AGPL-3.0-or-later
"""Request bodies as they come in: counted, given up when they stall, kept in bounded memory."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from cardkeep.errors import BadRequest, TooLarge
from cardkeep.http.asgi import Message, Receive, Scope, whole
from cardkeep.http.errors import Gone
from cardkeep.http.limits import Limit, Limits
from cardkeep.http.spool import SpoolFile
from cardkeep.http.workers import Workers
from cardkeep.packing.compression import PIECE

#: A body up to this size stays in memory; a longer one goes to a file, so that a thousand
#: slow clients hold disk space and not memory.
IN_MEMORY = 256 * 1024

#: The files of a media upload stay in memory up to this size, as long as few do. Clients stop
#: after the one that passes 2.5 MiB; a file that is made and removed each time costs more than
#: its bytes, since ext4 looks at each inode removed lately before it takes one for a new file.
MEDIA_IN_MEMORY = 3 * 1024 * 1024

#: What all bodies of a process have in memory together before they go to files sooner.
MEMORY = 16 * 1024 * 1024
_SOONER = 16 * 1024


class Memory:
    """Counts the bytes of bodies in memory."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0

    @property
    def is_scarce(self) -> bool:
        """Whether bodies have as much of it as they may."""
        return self.used > MEMORY

    def reserve(self, size: int) -> int:
        """Takes so many bytes, if much is left; returns what it took, all or nothing."""
        if self.used + size > MEMORY // 2:
            return 0
        self.used += size
        return size


class Incoming:
    """The body of one request, to be read once."""

    __slots__ = ("_begun", "_limit", "_limits", "_receive", "_whole", "complete", "size")

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self._receive = receive
        at_once = whole(scope)
        self._whole = at_once.body() if at_once is not None else None
        self._limits = limits
        self._limit = limits.packed_body
        self._begun = False
        self.size = 0
        self.complete = False

    def limit_to(self, limit: Limit) -> None:
        """From now on more than this is too large."""
        self._limit = limit

    def whole(self, most: int) -> bytes | None:
        """All of it, if it is here and has at most so many bytes; otherwise nothing is read."""
        data = self._whole
        if data is None or len(data) > min(most, self._limit.size):
            return None
        return self._take(data)

    async def piece(self) -> bytes:
        """The next bytes, possibly none; `complete` says whether they were the last.

        Raises TooLarge past the limit, BadRequest when nothing comes, Gone when the client
        closed the connection.
        """
        data = await self._next()
        if self.size > self._limit.size:
            raise TooLarge(f"the body has more than {self._limit.size} bytes", self._limit.setting)
        return data

    async def batch(self) -> list[bytes]:
        """The next PIECE bytes or so as they came, fewer only at the end."""
        pieces: list[bytes] = []
        size = 0
        while size < PIECE and not self.complete:
            data = await self.piece()
            pieces.append(data)
            size += len(data)
        return pieces

    async def discard(self, *, known: bool) -> bool:
        """Reads the rest and throws it away, within limits; False if there is still more.

        `known`: whether the sender showed a valid key, and is heard out longer.

        A client that is still sending when the connection is closed sees a broken
        connection and not the answer (docs/sync-protocol.md, 1.2).
        """
        limits = self._limits
        most = self.size + (limits.discarded_of_user if known else limits.discarded)
        seconds = limits.discard_seconds_of_user if known else limits.discard_seconds
        # Outside of a task the body is here as a whole (`begun`), and nothing waits.
        in_time = asyncio.timeout(seconds) if asyncio.current_task() else contextlib.nullcontext()
        try:
            async with in_time:
                while not self.complete and self.size <= most:
                    await self._next()
        except (BadRequest, TimeoutError):
            return False
        return self.complete

    async def _next(self) -> bytes:
        if self._whole is not None:
            return self._take(self._whole)
        if self._begun:
            message = await self._receive_in_time()
        else:
            # Nearly always here already, so the price of a timer is saved. Who sends
            # nothing after the head holds no more than a connection that sends nothing.
            message = await self._receive()
            self._begun = True
        if message["type"] == "http.disconnect":
            raise Gone
        data: bytes = message.get("body", b"")
        self.size += len(data)
        self.complete = not message.get("more_body", False)
        return data

    def _take(self, whole: bytes) -> bytes:
        self._whole = None
        self.size = len(whole)
        self.complete = True
        return whole

    async def _receive_in_time(self) -> Message:
        seconds = self._limits.idle_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._receive()
        except TimeoutError:
            raise BadRequest(f"no part of the body came for {seconds:g} seconds") from None


class KeptBody:
    """Packed bytes of unknown use or length: in memory while short, then in a file."""

    __slots__ = ("_counted", "_file", "_folder", "_memory", "_pending", "_workers", "size")

    def __init__(self, folder: Path, workers: Workers, memory: Memory) -> None:
        self._folder = folder
        self._workers = workers
        self._memory = memory
        self._counted = 0
        self._pending = bytearray()
        self._file: SpoolFile | None = None
        self.size = 0

    async def add(self, data: bytes) -> None:
        """Appends."""
        self._pending += data
        self.size += len(data)
        self._count(len(data))
        most = IN_MEMORY if self._file is None else PIECE
        if len(self._pending) > (_SOONER if self._memory.is_scarce else most):
            await self._workers.run(self._write_out)
            self._count(-self._counted)

    def in_memory(self) -> bytes | None:
        """All of it, None if it went to a file."""
        return bytes(self._pending) if self._file is None else None

    def pieces(self) -> Iterator[bytes]:
        """All of it, at most PIECE at once; blocks if it went to a file."""
        if self._file is None:
            yield bytes(self._pending)
            return
        if self._pending:
            self._write_out()
        yield from self._file.pieces()

    def forget(self) -> None:
        """Lets go of what is in memory."""
        self._pending = bytearray()
        self._count(-self._counted)

    def remove(self) -> None:
        """Takes the file away; blocks."""
        if self._file is not None:
            self._file.remove()

    @property
    def on_disk(self) -> bool:
        """Whether it went to a file."""
        return self._file is not None

    def _count(self, more: int) -> None:
        self._counted += more
        self._memory.used += more

    def _write_out(self) -> None:
        if self._file is None:
            self._file = SpoolFile(self._folder)
        self._file.write(self._pending)
        self._pending = bytearray()
