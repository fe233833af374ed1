# SPDX-License-Identifier: AGPL-3.0-or-later
"""Answers on their way out: short ones whole, files in pieces of a mebibyte."""

import asyncio
from collections.abc import Callable

from cardkeep.errors import Unavailable
from cardkeep.http.asgi import Headers, Message, Receive, Scope, Send, whole
from cardkeep.http.errors import Gone
from cardkeep.http.workers import Workers
from cardkeep.messages import ByteSource
from cardkeep.packing.compression import PIECE, Packer, PlainPacker, ZstdPacker
from cardkeep.wire import direct


async def send_whole(scope: Scope, send: Send, status: int, headers: Headers, body: bytes) -> None:
    """An answer in one go; `headers` lacks the content length."""
    headers.append((b"content-length", b"%d" % len(body)))
    at_once = whole(scope)
    if at_once is not None and at_once.answer(status, headers, body):
        return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Outgoing:
    """Streams a source as it is packed, and closes it whatever happens.

    `open_source` is called in the thread that reads the first piece. `is_media`: there is not
    much to be packed.
    """

    def __init__(
        self,
        open_source: Callable[[], ByteSource],
        workers: Workers,
        *,
        packed: bool,
        is_media: bool,
    ) -> None:
        self._open_source = open_source
        self._source: ByteSource | None = None
        self._workers = workers
        self._packed = packed
        self._is_media = is_media
        self._packer: Packer = PlainPacker()
        self._headers: Headers = []
        self._left = 0
        self.started = False
        self.sent = 0  # bytes of the body

    async def stream(self, receive: Receive, send: Send, idle_seconds: float) -> None:
        """Sends status 200, headers and all bytes.

        Raises Gone when the client closed the connection or takes nothing for
        `idle_seconds`. The body of the request must have been read.
        """
        gone: asyncio.Future[Message] | None = None
        more = True
        try:
            while more:
                piece, more = await self._workers.run(self._next)
                if more and gone is None:
                    # Servers swallow what is sent after a disconnect: without a look at it the
                    # rest of a collection would be packed for nobody.
                    gone = asyncio.ensure_future(receive())
                async with asyncio.timeout(idle_seconds):
                    await self._send(send, piece, more)
                if more and gone is not None and gone.done():
                    raise Gone
        except TimeoutError:
            raise Gone from None
        finally:
            if gone is not None:
                gone.cancel()
            if self._source is not None:
                await asyncio.shield(self._workers.run(self._close))

    async def _send(self, send: Send, piece: bytes, more: bool) -> None:
        if not self.started:
            self.started = True
            if self._packed and not more:  # all there is: in chunks it would be copied once more
                self._headers.append((b"content-length", b"%d" % len(piece)))
            start = {"type": "http.response.start", "status": 200, "headers": self._headers}
            await send(start)
        if piece or not more:
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            self.sent += len(piece)

    def _next(self) -> tuple[bytes, bool]:
        """The next packed bytes, possibly none, and whether there are more."""
        source = self._source or self._open()
        data = source.read(min(PIECE, self._left))
        self._left -= len(data)
        if not data and self._left:
            raise OSError("a source ended before its size")
        packed = self._packer.feed(data)
        if not self._left:
            self._close()
            return packed + self._packer.finish(), False
        return packed, True

    def _open(self) -> ByteSource:
        self._source = source = self._open_source()
        self._left = source.size
        if not self._packed:
            self._headers = [
                (b"content-type", b"application/octet-stream"),
                (b"content-length", b"%d" % source.size),
            ]
        elif source.size > direct.MAX_ORIGINAL_SIZE:
            raise Unavailable("the payload is longer than clients can take (4 GiB)")
        else:
            self._headers = [(direct.SIZE_HEADER, b"%d" % source.size)]
            self._packer = ZstdPacker(source.size, is_packed=self._is_media)
        return source

    def _close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()
