# SPDX-License-Identifier: AGPL-3.0-or-later
"""Answers on their way out: short ones whole, files in pieces of a mebibyte."""

import asyncio

from cardkeep.errors import Unavailable
from cardkeep.http.asgi import Headers, Receive, Send
from cardkeep.http.errors import Gone
from cardkeep.http.workers import Workers
from cardkeep.messages import ByteSource
from cardkeep.wire import direct
from cardkeep.wire.compression import PIECE, Packer, PlainPacker, ZstdPacker


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """An answer in one go; `headers` lacks the content length."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Outgoing:
    """Streams a source as it is packed, and closes it whatever happens."""

    def __init__(self, source: ByteSource, workers: Workers, *, packed: bool) -> None:
        self._source = source
        self._workers = workers
        self._packed = packed
        self._left = source.size
        self.started = False
        self._packer: Packer = ZstdPacker(source.size) if packed else PlainPacker()

    async def stream(self, receive: Receive, send: Send, idle_seconds: float) -> None:
        """Sends status 200, headers and all bytes.

        Raises Gone when the client closed the connection or takes nothing for
        `idle_seconds`. The body of the request must have been read.
        """
        # Servers swallow what is sent after a disconnect: without a look at it the rest
        # of a collection would be packed for nobody.
        gone = asyncio.ensure_future(receive())
        try:
            if self._packed and self._left > direct.MAX_ORIGINAL_SIZE:
                raise Unavailable("the payload is longer than clients can take (4 GiB)")
            headers = self._headers()
            more = True
            while more:
                piece, more = await self._workers.run(self._next)
                async with asyncio.timeout(idle_seconds):
                    if not self.started:
                        self.started = True
                        await send(
                            {"type": "http.response.start", "status": 200, "headers": headers}
                        )
                    if piece or not more:
                        await send({"type": "http.response.body", "body": piece, "more_body": more})
                if more and gone.done():
                    raise Gone
        except TimeoutError:
            raise Gone from None
        finally:
            gone.cancel()
            await asyncio.shield(self._workers.run(self._source.close))

    def _headers(self) -> Headers:
        if self._packed:
            return [(direct.SIZE_HEADER, b"%d" % self._left)]
        return [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % self._left),
        ]

    def _next(self) -> tuple[bytes, bool]:
        """The next packed bytes, possibly none, and whether there are more."""
        data = self._source.read(min(PIECE, self._left))
        self._left -= len(data)
        if not data and self._left:
            raise OSError("a source ended before its size")
        packed = self._packer.feed(data)
        if not self._left:
            return packed + self._packer.finish(), False
        return packed, True
