# SPDX-License-Identifier: AGPL-3.0-or-later
"""A bad network: a proxy that can hold, cut and lose what passes through it.

It knows enough HTTP/1.1 for the sync protocol: requests with `Content-Length` or chunked
bodies, answers likewise, kept-alive connections. Requests are named by their method, the last
part of the path, and counted from 1.
"""

import contextlib
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


class Cut(Exception):
    """The connection is to end here."""


@dataclass
class Exchange:
    """One request and its answer, as they passed."""

    method: str
    number: int
    status: int = 0


@dataclass
class Rule:
    """What is to happen at the n-th request of a method.

    `before` runs when the request has been read and not yet been passed on, `after` when the
    answer has been read and not yet been passed back. Either may raise `Cut`. `share` is how
    much of the request's body goes on before the connection is cut.
    """

    method: str
    number: int
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    share: float | None = None
    happened: threading.Event = field(default_factory=threading.Event)


class Held:
    """A request or answer that is being held back."""

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._released = threading.Event()

    def hold(self) -> None:
        self._arrived.set()
        self._released.wait(120)

    def wait(self, timeout: float = 60) -> None:
        """Returns when it has arrived."""
        if not self._arrived.wait(timeout):
            raise TimeoutError("the request to be held never came")

    def release(self) -> None:
        self._released.set()


class Proxy:
    """Listens on a port of its own and passes everything on to `target_port`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._rules: list[Rule] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._holding: list[Held] = []
        self.exchanges: list[Exchange] = []

    @property
    def url(self) -> str:
        """What clients are given."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def methods(self) -> list[str]:
        """The methods that were asked for, in order."""
        return [exchange.method for exchange in self.exchanges]

    # --- what goes wrong ---------------------------------------------------------------

    def when(
        self,
        method: str,
        number: int = 1,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
        share: float | None = None,
    ) -> Rule:
        """Does something at the n-th request of `method` from now on."""
        with self._lock:
            rule = Rule(method, self._counts[method] + number, before, after, share)
            self._rules.append(rule)
        return rule

    def hold_request(self, method: str, number: int = 1) -> Held:
        """The server does not see the request until released."""
        held = self._new_hold()
        self.when(method, number, before=held.hold)
        return held

    def hold_answer(self, method: str, number: int = 1) -> Held:
        """The server has answered, the client waits until released."""
        held = self._new_hold()
        self.when(method, number, after=held.hold)
        return held

    def lose_request(self, method: str, number: int = 1) -> Rule:
        """The connection is cut before the server sees the request."""
        return self.when(method, number, before=_cut)

    def lose_answer(self, method: str, number: int = 1) -> Rule:
        """The server does it, the client never hears of it."""
        return self.when(method, number, after=_cut)

    def cut_request(self, method: str, number: int = 1, share: float = 0.5) -> Rule:
        """The connection is cut in the middle of the request's body."""
        return self.when(method, number, share=share)

    def well_again(self) -> None:
        """Forgets all rules."""
        with self._lock:
            self._rules.clear()

    def _new_hold(self) -> Held:
        held = Held()
        self._holding.append(held)
        return held

    # --- passing on --------------------------------------------------------------------

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for held in self._holding:
            held.release()
        self._listener.close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Cuts every open connection."""
        with self._lock:
            open_now = list(self._open)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, Cut), self._tracked(client):
            server = socket.create_connection(("127.0.0.1", self._target_port), timeout=120)
            with self._tracked(server):
                from_client, from_server = client.makefile("rb"), server.makefile("rb")
                with from_client, from_server:
                    while self._pass_one(client, server, from_client, from_server):
                        pass

    @contextlib.contextmanager
    def _tracked(self, connection: socket.socket) -> Iterator[None]:
        with self._lock:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)
            # Not a bare close: the other side must see the end even if we are half read.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _pass_one(self, client, server, from_client, from_server) -> bool:  # type: ignore[no-untyped-def]
        # A server that ends must end the client's connection too, as it would without us.
        ready, _, _ = select.select([client, server], [], [])
        if server in ready:
            return False
        head = _read_head(from_client)
        if not head:
            return False
        body = _read_body(head, from_client)
        exchange, rule = self._register(head)
        if rule and rule.before:
            rule.happened.set()
            rule.before()
        if rule and rule.share is not None:
            rule.happened.set()
            server.sendall(head + body[: int(len(body) * rule.share)])
            raise Cut
        server.sendall(head + body)
        answer_head = _read_head(from_server)
        if not answer_head:
            return False
        answer_body = b"" if head.startswith(b"HEAD") else _read_body(answer_head, from_server)
        exchange.status = int(answer_head.split(b" ", 2)[1])
        if rule and rule.after:
            rule.happened.set()
            rule.after()
        client.sendall(answer_head + answer_body)
        return b"connection: close" not in answer_head.lower()

    def _register(self, head: bytes) -> tuple[Exchange, Rule | None]:
        path = head.split(b" ", 2)[1].decode().partition("?")[0]
        method = path.rstrip("/").rpartition("/")[2]
        # `begin` and the like of media have names of their own.
        with self._lock:
            self._counts[method] += 1
            exchange = Exchange(method, self._counts[method])
            self.exchanges.append(exchange)
            for rule in self._rules:
                if (rule.method, rule.number) == (method, exchange.number):
                    return exchange, rule
        return exchange, None


def _cut() -> None:
    raise Cut


def _read_head(stream) -> bytes:  # type: ignore[no-untyped-def]
    lines = []
    while True:
        line = stream.readline()
        if not line:
            return b""
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)


def _read_body(head: bytes, stream) -> bytes:  # type: ignore[no-untyped-def]
    """The body with its transfer coding, as it is to be passed on."""
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        pieces = []
        while True:
            size_line = stream.readline()
            size = int(size_line.partition(b";")[0], 16)
            piece = stream.read(size + 2)
            pieces += [size_line, piece]
            if size == 0:
                return b"".join(pieces)
    length = int(fields.get(b"content-length", b"0"))
    body: bytes = stream.read(length)
    if len(body) < length:
        raise Cut
    return body
