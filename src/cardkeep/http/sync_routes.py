# SPDX-License-Identifier: AGPL-3.0-or-later
"""One request of the sync protocol, from its head to its answer.

Two framings, told apart by the anki-sync header (docs/sync-protocol.md, 1.3 and 1.4). In
protocol 11 the key is in a header and is checked before the body is read; in 8 to 10 it is
somewhere in the form, so the form is read first.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from cardkeep import messages
from cardkeep.errors import BadRequest, NotAccepted, TooLarge
from cardkeep.http import errors
from cardkeep.http.asgi import Headers, Receive, Scope, Send
from cardkeep.http.bodies import IN_MEMORY, MEDIA_IN_MEMORY, Incoming, KeptBody, Memory
from cardkeep.http.errors import Gone, WrongVerb
from cardkeep.http.limits import Limit, Limits
from cardkeep.http.outgoing import Outgoing, send_whole
from cardkeep.http.peer import Peer
from cardkeep.http.routing import find_method
from cardkeep.http.spool import Unpacked
from cardkeep.http.steps import Steps
from cardkeep.http.workers import Workers
from cardkeep.packing import compression
from cardkeep.packing.compression import Gzip, Plain, Unpacker, Zstd
from cardkeep.wire import answer as answers
from cardkeep.wire import direct, media_json, media_zip
from cardkeep.wire.multipart import FormReader
from cardkeep.wire.query import read_query
from cardkeep.wire.request import Head, Method, Payload, read_json

#: Packed and unpacked, what takes well under a millisecond to unpack and parse.
SMALL_PACKED = 16 * 1024
SMALL = 32 * 1024

#: What a zip of 25 files has beside their bytes: the names thrice, headers, the directory.
ZIP_OVERHEAD = 128 * 1024

#: Bodies of so many bytes are told to the steps at once, those of so many sessions not yet.
LARGE = 64 * 1024
MOST_UNTOLD = 1000

_MEASURED = (messages.Upload, messages.UploadChanges)

NO_ROOM = "The server's disk is full, so nothing was changed. Whoever runs it has to make room."
TOO_LARGE = "Your collection is too large for this server. Whoever runs it can raise the limit"


class SyncRoutes:
    """The ASGI application of the sync protocol; `peer` tells the clients' addresses."""

    def __init__(
        self, steps: Steps, limits: Limits | None = None, peer: Peer | None = None
    ) -> None:
        self.steps = steps
        self.limits = limits or Limits()
        self.peer = peer or Peer()
        self.workers = Workers(self.limits.threads)
        self.memory = Memory()
        self.open_frames = 0
        self.unpacking = asyncio.Semaphore(self.limits.threads)
        self.big_json = asyncio.Semaphore(self.limits.big_json_at_once)
        # By a hash of host key and session key: what the steps have not yet heard of the
        # bytes of a session's bodies, received and sent.
        self.untold: OrderedDict[int, tuple[int, int]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        exchange = _Exchange(self, scope, receive, send)
        try:
            await exchange.run()
        except Gone:
            errors.logger.debug("%s closed the connection", exchange.address)
        except Exception as error:  # noqa: BLE001 (whatever it is, the client gets an answer)
            await exchange.refuse(error)
        finally:
            if exchange.holds_something:
                await exchange.clean_up()

    def close(self) -> None:
        """Ends the threads."""
        self.workers.close()


class _Exchange:
    """One request and its answer."""

    __slots__ = (
        "_begun",
        "_big",
        "_incoming",
        "_kept",
        "_known",
        "_limits",
        "_method",
        "_outgoing",
        "_packed",
        "_receive",
        "_reserved",
        "_routes",
        "_scope",
        "_send",
        "_session",
        "_steps",
        "_unpacked",
        "_user",
        "address",
    )

    def __init__(self, routes: SyncRoutes, scope: Scope, receive: Receive, send: Send) -> None:
        self._routes = routes
        self._steps = routes.steps
        self._limits = routes.limits
        self._scope = scope
        self._receive = receive
        self._send = send
        self._begun = time.monotonic()
        self._incoming = Incoming(scope, receive, routes.limits)
        self._method: Method | None = None
        self._packed = False  # whether the answer is a zstd frame
        self._user = ""
        self._session = 0
        self._known = False  # whether that user's key was valid
        self.address = ""
        self._outgoing: Outgoing | None = None
        # To be given back at the end.
        self._kept: KeptBody | None = None
        self._unpacked: Unpacked | None = None
        self._reserved = 0  # bytes of memory
        self._big = False

    # --- the two framings ---------------------------------------------------------------

    async def run(self) -> None:
        scope = self._scope
        self.address = self._routes.peer.address(scope)
        self._method = method = find_method(scope["path"])
        verb = scope["method"]
        if verb not in method.verbs:
            raise WrongVerb(verb, method.verbs)
        content_type = b""
        for name, value in scope["headers"]:
            if name == direct.HEADER:
                await self._direct(method, direct.read_head(value))
                return
            if name == b"content-type":
                content_type = value
        if verb == "POST":
            await self._form(method, content_type)
        else:
            await self._query(method)

    async def _direct(self, method: Method, head: Head) -> None:
        """Protocol 11."""
        self._packed = direct.answers_packed(head)
        if method.message is messages.HostKey:
            self._incoming.limit_to(self._limits.login)
            caller = None
        else:
            caller = self._authenticate(method, head)
        if method.payload is Payload.JSON:
            message = await self._read_frame(method)
        else:
            message = await self._read_stream(method)
        await self._perform(caller, head, message)

    async def _form(self, method: Method, content_type: bytes) -> None:
        """Protocols 8 to 10."""
        reader = FormReader(content_type)
        if method.message is messages.HostKey:
            self._incoming.limit_to(self._limits.login)
        kept = await self._keep_body(reader)
        form = reader.finish()
        caller = None
        if method.message is not messages.HostKey:
            caller = self._authenticate(method, form.head)
        unpacker: type[Unpacker] = Gzip if form.gzipped else Plain
        message: messages.ClientMessage
        # Legacy clients post to begin and have their version in the form.
        if method.message is messages.MediaBegin and form.head.client:
            message = media_json.begin(form.head.client)
        elif method.payload is Payload.JSON:
            message = await self._read_json(method, kept, unpacker)
        else:
            message = await self._read_kept(method, kept, unpacker)
        await self._perform(caller, form.head, message)

    async def _query(self, method: Method) -> None:
        """`GET begin?k=…&v=…` of v10 clients (9.1)."""
        head = read_query(self._scope["query_string"])
        caller = self._authenticate(method, head)
        await self._perform(caller, head, media_json.begin(head.client))

    def _authenticate(self, method: Method, head: Head) -> messages.Caller:
        self._session = hash((head.host_key, head.session_key))
        received, sent = self._routes.untold.pop(self._session, (0, 0))
        caller = self._steps.authenticate(
            head.host_key,
            protocol=head.version,
            session_key=head.session_key,
            client=head.client,
            address=self.address,
            received=received,
            sent=sent,
        )
        self._user = caller.user
        self._known = True
        if method.needs_session and not head.session_key:
            raise BadRequest("no session key")
        return caller

    # --- bodies to messages -------------------------------------------------------------

    async def _keep_body(
        self, form: FormReader | None = None, *, begun: bytes | None = None
    ) -> KeptBody:
        """Reads the body to its end and keeps it; of a form only `data`."""
        self._kept = kept = KeptBody(self._steps.spool, self._routes.workers, self._routes.memory)
        incoming = self._incoming
        if begun:
            await kept.add(begun)
        while not incoming.complete:
            data = await incoming.piece()
            if form is not None:
                data = form.feed(data)
            if data:
                await kept.add(data)
        return kept

    async def _read_frame(self, method: Method) -> messages.ClientMessage:
        """JSON in a zstd frame, which nearly always is small and here as a whole."""
        packed = self._incoming.whole(SMALL_PACKED)
        if packed is not None:
            payload = compression.unpack_small(packed, SMALL)
            if payload is not None:
                return read_json(method, payload)
        return await self._read_json(method, await self._keep_body(begun=packed), Zstd)

    async def _read_json(
        self, method: Method, kept: KeptBody, unpacker: Callable[[], Unpacker]
    ) -> messages.ClientMessage:
        packed = kept.in_memory()
        if packed is not None and len(packed) <= SMALL_PACKED:
            payload = _unpack_small(packed, unpacker)
            if payload is not None:
                return read_json(method, payload)
        run = self._routes.workers.run
        read = partial(_read_long_json, method, kept, unpacker)
        limit, big = self._json_limit(method), self._limits.big_json
        message = await run(read, min(big, limit.size))
        if message is None and big < limit.size:
            await self._routes.big_json.acquire()
            self._big = True
            message = await run(read, limit.size)
        if message is None:
            raise TooLarge(f"the unpacked JSON has more than {limit.size} bytes", limit.setting)
        return message

    def _json_limit(self, method: Method) -> Limit:
        limits = self._limits
        if method.message is messages.HostKey:
            return limits.login
        if method.in_parts:
            return limits.json
        return min(limits.json, limits.whole_json, key=lambda limit: limit.size)

    async def _read_stream(self, method: Method) -> messages.ClientMessage:
        """A zstd frame, unpacked as it arrives, to a file if it is long.

        An open frame takes as much memory as its window, for as long as its sender takes. So
        only some are open at once; the others wait on disk until they are all here. Media that
        are here soon are unpacked by who stores them: it is another thread's turn once less.
        """
        routes = self._routes
        if routes.open_frames >= self._limits.open_frames:
            return await self._read_kept(method, await self._keep_body(), Zstd)
        body = self._unpack_to(method, Zstd())
        go_on = partial(_go_on, method, body, self._limits)
        routes.open_frames += 1
        more = False
        try:
            packed = await self._incoming.batch()
            if self._incoming.complete and self._reserved:
                return messages.UploadChanges(partial(_unpack_media, body, packed, self._limits))
            message = None
            while message is None:
                if not more:
                    body.put(packed or await self._incoming.batch())
                    packed = []
                more, message = await routes.workers.run(go_on, self._incoming.complete)
        finally:
            routes.open_frames -= 1
        return message

    async def _read_kept(
        self, method: Method, kept: KeptBody, unpacker: Callable[[], Unpacker]
    ) -> messages.ClientMessage:
        """`data` of a form, known to be gzip or not only now; or a frame that had to wait."""
        run = self._routes.workers.run
        async with self._routes.unpacking:
            body = self._unpack_to(method, unpacker())
            pieces = kept.pieces()
            while (piece := await run(next, pieces, None)) is not None:
                body.put([piece])
                while await run(body.advance):
                    pass
        if kept.on_disk:
            await run(kept.remove)
        return await run(_message_of_body, method, body, self._limits)

    def _unpack_to(self, method: Method, unpacker: Unpacker) -> Unpacked:
        limits = self._limits
        limit, keep = limits.collection, 0
        if method.payload is Payload.MEDIA_ZIP:
            files = max(limits.media_zip.size, limits.media_file.size)
            limit = Limit(files + ZIP_OVERHEAD, limits.media_zip.setting)
            self._reserved = self._routes.memory.reserve(MEDIA_IN_MEMORY)
            keep = self._reserved or IN_MEMORY
        self._unpacked = Unpacked(self._steps.spool, unpacker, limit, keep)
        return self._unpacked

    # --- answers ------------------------------------------------------------------------

    async def _perform(
        self, caller: messages.Caller | None, head: Head, message: messages.ClientMessage
    ) -> None:
        answer: messages.Answer
        if isinstance(message, messages.HostKey):
            self._user = message.user
            answer = await self._steps.login(message, client=head.client, address=self.address)
            await self._send_payload(answers.write(answer))
            return
        if caller is None:
            raise TypeError("only a login comes from nobody")
        if isinstance(message, _MEASURED):
            arrival = int((time.monotonic() - self._begun) * 1000)
            caller = msgspec.structs.replace(caller, size=self._incoming.size, arrival=arrival)
        answer = await self._steps.perform(caller, message)
        if isinstance(answer, messages.CollectionFile):
            source = answer.source
            await self._stream(caller, answer, lambda: source)
            return
        if isinstance(answer, messages.MediaFiles):
            pack = partial(_pack_media, answer, self._steps.spool)
            await self._stream(caller, answer, pack)
            return
        if answers.is_small(answer):
            sent = await self._send_payload(answers.write(answer))
        else:
            write = _write_packed if self._packed else _write_plain
            size, body = await self._routes.workers.run(write, answer)
            await send_whole(self._scope, self._send, 200, self._headers(size), body)
            sent = len(body)
        received = self._incoming.size
        if (received < LARGE and sent < LARGE) or not self._steps.answered(
            caller, answer, received=received, sent=sent, complete=True
        ):
            self._remember(received, sent)

    def _remember(self, received: int, sent: int) -> None:
        """Keeps what a request came to until the next one of its session."""
        untold = self._routes.untold
        untold[self._session] = (received, sent)
        if len(untold) > MOST_UNTOLD:
            untold.popitem(last=False)

    async def _stream(
        self,
        caller: messages.Caller,
        answer: messages.Answer,
        open_source: Callable[[], messages.ByteSource],
    ) -> None:
        self._outgoing = outgoing = Outgoing(
            open_source,
            self._routes.workers,
            packed=self._packed,
            is_media=isinstance(answer, messages.MediaFiles),
        )
        complete = False
        try:
            await outgoing.stream(self._receive, self._send, self._limits.idle_seconds)
            complete = True
        finally:
            self._steps.answered(
                caller,
                answer,
                received=self._incoming.size,
                sent=outgoing.sent,
                complete=complete,
            )

    async def _send_payload(self, payload: bytes, more: Headers | None = None) -> int:
        body = compression.pack(payload) if self._packed else payload
        headers = self._headers(len(payload))
        if more:
            headers += more
        await send_whole(self._scope, self._send, 200, headers, body)
        return len(body)

    def _headers(self, size: int) -> Headers:
        if self._packed:
            return [(direct.SIZE_HEADER, b"%d" % size)]
        return [(b"content-type", b"application/octet-stream")]

    async def refuse(self, error: Exception) -> None:
        """Says no; the rest of the body is read first (1.2)."""
        method = self._method
        words = _words(method, error) if method is not None else None
        status = 200 if words is not None else errors.status_of(error)
        name = method.name if method is not None else self._scope["path"]
        errors.log_refusal(name, self._user, self.address, status, error)
        if self._outgoing is not None and self._outgoing.started:
            return  # Too late for a status: leaving the answer unfinished ends the connection.
        try:
            complete = self._incoming.complete or await self._incoming.discard(known=self._known)
        except Gone:
            return
        ending: Headers = [] if complete else [(b"connection", b"close")]
        if words is not None:
            await self._send_payload(words, ending)
            return
        kind = (b"content-type", b"text/plain; charset=utf-8")
        headers = [kind, *errors.headers_of(error), *ending]
        await send_whole(self._scope, self._send, status, headers, errors.text_of(status))

    @property
    def holds_something(self) -> bool:
        """Whether there is anything to clean up."""
        return self._kept is not None or self._unpacked is not None or self._big

    async def clean_up(self) -> None:
        """Takes away the files that are still there, and gives back what was reserved."""
        self._routes.memory.used -= self._reserved
        if self._big:
            self._routes.big_json.release()
        if self._kept is not None:
            self._kept.forget()
            if self._kept.on_disk:
                await self._routes.workers.run(self._kept.remove)
        if self._unpacked is not None and self._unpacked.on_disk:
            await self._routes.workers.run(self._unpacked.remove)


def _unpack_small(packed: bytes, unpacker: Callable[[], Unpacker]) -> bytes | None:
    """The payload if it is small; None if not, or if it needs a closer look."""
    if unpacker is Zstd:
        return compression.unpack_small(packed, SMALL)
    # One piece is all there is, or at least PIECE bytes.
    single = unpacker()
    payload = next(single.feed(packed), b"")
    if len(payload) > SMALL:
        return None
    single.finish()
    return payload


def _read_long_json(
    method: Method, kept: KeptBody, make_unpacker: Callable[[], Unpacker], most: int
) -> messages.ClientMessage | None:
    """None if the payload has more than `most` bytes."""
    unpacker = make_unpacker()
    payload = bytearray()
    for packed in kept.pieces():
        for piece in unpacker.feed(packed):
            payload += piece
            if len(payload) > most:
                return None
    unpacker.finish()
    return read_json(method, payload)


def _go_on(
    method: Method, body: Unpacked, limits: Limits, is_last: bool
) -> tuple[bool, messages.ClientMessage | None]:
    """Whether there is more to unpack of what was put, and the message after the last of it."""
    more = body.advance()
    if more or not is_last:
        return more, None
    return False, _message_of_body(method, body, limits)


def _message_of_body(method: Method, body: Unpacked, limits: Limits) -> messages.ClientMessage:
    if method.payload is Payload.COLLECTION:
        return messages.Upload(body.file())
    return messages.UploadChanges(partial(_read_media, body, limits))


def _unpack_media(
    body: Unpacked, packed: list[bytes], limits: Limits
) -> Sequence[messages.MediaEntry]:
    body.unpack_frame(packed)
    return _read_media(body, limits)


def _read_media(body: Unpacked, limits: Limits) -> Sequence[messages.MediaEntry]:
    return media_zip.read_upload(
        body.file_or_bytes(), max_file=limits.media_file.size, max_total=limits.media_zip.size
    )


def _words(method: Method, error: Exception) -> bytes | None:
    """What the client shall show of a refusal, where its method has a place for it."""
    if isinstance(error, NotAccepted):
        return answers.write_refusal(method, error.words)
    if errors.is_full_disk(error):
        return answers.write_refusal(method, NO_ROOM)
    if isinstance(error, TooLarge) and method.message is messages.Upload:
        # A status would make the client advise a database check (2.2).
        return answers.write_refusal(method, f"{TOO_LARGE} ({error.setting}).")
    return None


def _write_plain(answer: messages.Answer) -> tuple[int, bytes]:
    payload = answers.write(answer)
    return len(payload), payload


def _pack_media(answer: messages.MediaFiles, spool: Path) -> messages.ByteSource:
    return media_zip.pack(answer.open(), spool)


def _write_packed(answer: messages.Answer) -> tuple[int, bytes]:
    payload = answers.write(answer)
    return len(payload), compression.pack(payload)
