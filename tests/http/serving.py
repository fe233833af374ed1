# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real server on a real socket, with steps that only remember and say what they are told to."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
import zstandard

from cardkeep import messages
from cardkeep.errors import WrongCredentials
from cardkeep.http.application import Application
from cardkeep.http.asgi import Receive, Scope, Send
from cardkeep.http.limits import Limits
from cardkeep.http.peer import Peer
from cardkeep.http.protocol import CorkedProtocol
from cardkeep.http.sync_routes import SyncRoutes
from tests.wire.requests import FORM_TYPE, form, sync_header, zstd_frame

KEY = "key"

ANSWERS: dict[type, Any] = {
    messages.HostKey: messages.HostKeyGranted("new key"),
    messages.Meta: messages.MetaAnswer(mod=1, scm=2, usn=3, now=4, media_usn=5, empty=True),
    messages.Start: messages.Graves(),
    messages.ApplyChanges: messages.Changes(),
    messages.NextChunk: messages.Chunk(True),
    messages.SanityCheck: messages.SanityAnswer(True),
    messages.Finish: messages.Finished(9),
    messages.Upload: messages.UploadAccepted(),
    messages.MediaBegin: messages.MediaBegun(5, KEY),
    messages.MediaChanges: messages.MediaChangeList(),
    messages.UploadChanges: messages.MediaUploaded(1, 6),
    messages.MediaSanity: messages.MediaSanityAnswer(True),
}


@dataclass
class MemorySteps:
    """`answers` maps a message's class to an answer, an error, or a function of both."""

    spool: Path
    answers: dict[type, Any] = field(default_factory=lambda: dict(ANSWERS))
    heard: list[messages.ClientMessage] = field(default_factory=list)
    callers: list[messages.Caller] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    told: list[tuple[type, int, int, bool]] = field(default_factory=list)
    takes_note: bool = True
    asked: threading.Event = field(default_factory=threading.Event)

    def forget(self) -> None:
        """Back to the start."""
        until(self.is_clean)
        self.answers = dict(ANSWERS)
        self.heard, self.callers, self.keys, self.told = [], [], [], []
        self.takes_note = True
        self.asked.clear()

    def authenticate(
        self,
        host_key: str,
        *,
        protocol: int,
        session_key: str,
        client: str,
        address: str,
        received: int = 0,
        sent: int = 0,
    ) -> messages.Caller:
        self.keys.append(host_key)
        self.asked.set()
        if host_key != KEY:
            raise WrongCredentials("unknown host key")
        return messages.Caller(
            "ana", "device", protocol, session_key, client, address, host_key, received, sent
        )

    async def login(
        self, message: messages.HostKey, *, client: str, address: str
    ) -> messages.HostKeyGranted:
        self.heard.append(message)
        answer = self.answers[messages.HostKey]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, messages.HostKeyGranted)
        return answer

    async def perform(
        self, caller: messages.Caller, message: messages.ClientMessage
    ) -> messages.Answer:
        self.callers.append(caller)
        if isinstance(message, messages.UploadChanges):
            entries = await asyncio.to_thread(message.read)
            message = messages.UploadChanges(lambda: entries)
        self.heard.append(message)
        answer: Any = self.answers.get(type(message), messages.Nothing())
        if callable(answer):
            answer = answer(caller, message)
            if hasattr(answer, "__await__"):
                answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def answered(
        self,
        caller: messages.Caller,
        answer: messages.Answer,
        *,
        received: int,
        sent: int,
        complete: bool,
    ) -> bool:
        self.told.append((type(answer), received, sent, complete))
        return self.takes_note

    def spooled(self) -> list[Path]:
        return sorted(self.spool.iterdir())

    def is_clean(self) -> bool:
        """Files are removed just after the answer."""
        return self.spooled() == []


@dataclass
class Answered:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def payload(self) -> bytes:
        """The payload of a framed answer, whose size must be told truly."""
        payload = zstandard.ZstdDecompressor().decompressobj().decompress(self.body)
        assert self.headers["anki-original-size"] == str(len(payload))
        return payload

    @property
    def json(self) -> Any:
        return json.loads(self.payload if "anki-original-size" in self.headers else self.body)


class Client:
    """One connection, kept alive as clients do."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def request(
        self,
        verb: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answered:
        """A body that is not bytes is sent in chunks."""
        chunked = body is not None and not isinstance(body, bytes)
        self.connection.request(
            verb,
            path,
            body,
            {**(headers or {}), **({"transfer-encoding": "chunked"} if chunked else {})},
            encode_chunked=chunked,
        )
        return self.answer()

    def answer(self) -> Answered:
        response = self.connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answered(response.status, headers, response.read())

    def direct(
        self, path: str, payload: bytes | None = b"{}", *, body: Any = None, **head: Any
    ) -> Answered:
        """Protocol 11: chunked, as its clients do."""
        if body is None:
            body = iter([zstd_frame(payload)]) if payload else b""
        header = sync_header(**({"k": KEY} | head))
        return self.request("POST", path, body, {"anki-sync": header})

    def form(self, path: str, fields: Mapping[str, bytes], *, chunked: bool = False) -> Answered:
        """Protocols 8 to 10."""
        body = form(fields)
        parts = (body[at : at + 10_000] for at in range(0, len(body), 10_000))
        return self.request("POST", path, parts if chunked else body, {"content-type": FORM_TYPE})

    def start(self, path: str, headers: Mapping[str, str]) -> socket.socket:
        """Sends the head of a chunked request; the body is the caller's to send."""
        self.connection.connect()
        lines = [f"POST {path} HTTP/1.1", "host: x", "transfer-encoding: chunked"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        sock: socket.socket = self.connection.sock
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        return sock

    def close(self) -> None:
        self.connection.close()


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def read_raw(sock: socket.socket) -> Answered:
    """The answer on a socket that was written to by hand."""
    response = http.client.HTTPResponse(sock)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answered(response.status, headers, response.read())


def until(condition: Callable[[], object]) -> None:
    """Waits for what another thread does."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


async def no_pages(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


@contextlib.contextmanager
def serving(
    steps: MemorySteps,
    limits: Limits | None = None,
    peer: Peer | None = None,
    *,
    protocol: type[asyncio.Protocol] = CorkedProtocol,
    keep_alive: int = 120,
) -> Iterator[int]:
    """A running server; gives its port.

    `keep_alive`: the seconds until it closes a connection on which nothing happens.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    routes = SyncRoutes(steps, limits, peer)
    server = uvicorn.Server(
        uvicorn.Config(
            Application(routes, no_pages),
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            http=protocol,
            loop="uvloop",
            timeout_keep_alive=keep_alive,
            timeout_graceful_shutdown=5,
        )
    )
    ready = threading.Event()
    startup = server.startup

    async def told_startup(*arguments: Any, **options: Any) -> None:
        await startup(*arguments, **options)
        ready.set()

    server.startup = told_startup  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert ready.wait(20)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        routes.close()
        listener.close()


@dataclass
class Bytes:
    """A source in memory that knows whether it was closed."""

    data: bytes
    closed: threading.Event = field(default_factory=threading.Event)
    fail_at: int | None = None
    position: int = 0
    on_read: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, size: int) -> bytes:
        assert not self.closed.is_set()
        self.on_read()
        if self.fail_at is not None and self.position >= self.fail_at:
            raise OSError("the disk is gone")
        piece = self.data[self.position : self.position + size]
        self.position += len(piece)
        return piece

    def close(self) -> None:
        self.closed.set()
