# SPDX-License-Identifier: AGPL-3.0-or-later
"""uvicorn's HTTP protocol, with bounded heads, and less of what a small request pays for.

An ASGI answer comes in at least two messages, and uvicorn writes each as it comes. For the
small answers of a sync the second write costs as much as making the answer.

And uvicorn makes a task as soon as it has read a request's head. The small requests of a
sync are here as a whole by then, and are answered without ever having to wait; so they are
begun at once, and only what has to wait goes on in a task.
"""

import asyncio
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from cardkeep.http.asgi import WHOLE, Headers
from cardkeep.http.begun import begin
from cardkeep.http.errors import logger

# Web servers take 8 to 64 KiB; a client of ours sends some 300 bytes.
MOST_HEAD = 64 * 1024
# More than this is not copied to go out in one piece with its head.
LARGE = 64 * 1024
# Whoever is still sending when a connection is closed is told of a broken connection instead of
# the answer; so what comes is dropped for a moment.
LINGER_SECONDS = 2.0


class CorkedProtocol(HttpToolsProtocol):
    """Writes through a `CorkedTransport`, and reads heads up to MOST_HEAD bytes."""

    _head_size = 0  # what came of it before
    _arriving = 0  # bytes that came just now
    _in_head = False
    _lingers = False
    _reading = False
    _next: tuple[RequestResponseCycle, ASGI3Application] | None = None
    _answered_at = 0.0  # on the event loop's clock
    _idle_timer: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_size = 0
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is complete. What is raised here is answered with 400."""
        self._in_head = False
        # Hardly ever so much at once; only then it may not be the head alone.
        if self._head_size + self._arriving > MOST_HEAD and self._head() > MOST_HEAD:
            self._log_too_large()
            raise ValueError("the head of the request is too large")
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes came. A head that does not end is not gathered without end."""
        if self._lingers:
            return
        self._reading = True
        self._arriving = len(data)
        super().data_received(data)
        self._reading = False
        if self._next is not None:
            self._begin(*self._next)
        if self._in_head and not self._lingers:
            self._head_size += len(data)
            if self._head_size > MOST_HEAD:
                self._log_too_large()
                self.send_400_response("Invalid HTTP request received.")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Has the request begun: when all is read that came with its head, or now."""
        if self._reading:
            self._next = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._next = None
        if cycle.more_body:
            super()._start_asgi_task(cycle, app)
            return
        cycle.scope["extensions"] = {WHOLE: _Whole(self, cycle)}  # type: ignore[dict-item]
        task = begin(cycle.run_asgi(app), self.loop)
        if task is not None:
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def answered(self, cycle: RequestResponseCycle) -> None:
        """A whole answer was written: goes on with the next request, or waits for one.

        No timer is made only to be cancelled by that: one looks now and then at what happened.
        """
        if self.pipeline or self.flow.read_paused:
            cycle.on_response()
            return
        self.server_state.total_requests += 1
        self._answered_at = self.loop.time()
        if self._idle_timer is None:
            self._look_again_in(self.timeout_keep_alive)

    def _look_again_in(self, seconds: float) -> None:
        self._idle_timer = self.loop.call_later(seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if self._in_head:
            self._look_again_in(self.timeout_keep_alive)
        elif self.cycle.response_complete and self.timeout_keep_alive_task is None:
            left = self._answered_at + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._look_again_in(left)
            else:
                self.timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        super().connection_lost(exc)

    def _head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request, and closes the connection once it was read."""
        self._lingers = True
        self.transport.linger()  # type: ignore[attr-defined]
        super().send_400_response(msg)

    def _log_too_large(self) -> None:
        address = self.client[0] if self.client else "-"
        logger.warning(
            "refused - address=%s status=400: the head of the request has more than %d bytes",
            address,
            MOST_HEAD,
        )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(CorkedTransport(transport, self.loop))  # type: ignore[arg-type]


class _Whole:
    """See `asgi.Whole`."""

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: CorkedProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle

    def body(self) -> bytes:
        cycle = self._cycle
        body, cycle.body = cycle.body, bytearray()
        cycle.message_event.clear()
        return bytes(body)

    def answer(self, status: int, headers: Headers, body: bytes) -> bool:
        cycle = self._cycle
        transport = self._protocol.transport
        is_plain = cycle.keep_alive and cycle.scope["method"] != "HEAD"
        if not is_plain or cycle.disconnected or cycle.response_started:
            return False
        if self._protocol.flow.write_paused:
            return False
        head = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            if name == b"connection":
                return False
            head += (name, b": ", value, b"\r\n")
        head.append(b"\r\n")
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        transport.write_whole(b"".join(head), body)  # type: ignore[attr-defined]
        self._protocol.answered(cycle)
        del cycle.scope["extensions"]  # which has this, which has the cycle
        return True


class CorkedTransport:
    """Holds the head of an answer back until the body comes, or the event loop turns."""

    __slots__ = ("_held", "_lingers", "_loop", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes = b""
        self._lingers = False
        self.is_closing = transport.is_closing

    def linger(self) -> None:
        """Has `close` wait until the other side closes, but not for long."""
        self._lingers = True

    def write(self, data: bytes) -> None:
        """Writes, together with what was held back."""
        if self._held:
            held, self._held = self._held, b""
            self.write_whole(held, data)
        elif data.startswith(b"HTTP/1.1 200"):
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def write_whole(self, head: bytes, body: bytes) -> None:
        """Writes both at once."""
        if len(body) < LARGE:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def close(self) -> None:
        """Closes once everything is written."""
        self._flush()
        if self._lingers and self._transport.can_write_eof():
            self._transport.write_eof()
            self._loop.call_later(LINGER_SECONDS, self._transport.close)
        else:
            self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
