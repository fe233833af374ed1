# SPDX-License-Identifier: AGPL-3.0-or-later
"""Our own protocol class, as far as the bytes on a connection show it."""

import asyncio
import gc
import socket
import time
from collections.abc import Iterator

import pytest

from cardkeep import messages
from cardkeep.http.protocol import LARGE
from tests.http.serving import KEY, Answered, MemorySteps, read_raw, serving
from tests.wire.requests import FORM_TYPE, form, sync_header, zstd_frame

IDLE = 1  # seconds; uvicorn takes no fraction
BODY = zstd_frame(b"{}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MemorySteps, int]]:
    steps = MemorySteps(tmp_path_factory.mktemp("spool"))
    with serving(steps, keep_alive=IDLE) as port:
        yield steps, port


@pytest.fixture
def sock(steps: MemorySteps, served: tuple[MemorySteps, int]) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served[1]), timeout=10) as connected:
        yield connected


def request(
    method: str = "finish",
    *more: str,
    verb: str = "POST",
    version: str = "1.1",
    key: str = KEY,
    body: bytes = BODY,
) -> bytes:
    head = [
        f"{verb} /sync/{method} HTTP/{version}",
        "host: x",
        f"anki-sync: {sync_header(k=key)}",
        f"content-length: {len(body)}",
        *more,
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


def read(sock: socket.socket) -> Answered:
    """One answer, and none of the bytes after it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    body = b""
    while left := int(headers["content-length"]) - len(body):
        body += sock.recv(left)
    return Answered(int(status.split(" ")[1]), headers, body)


def is_closed(sock: socket.socket) -> bool:
    return sock.recv(1) == b""


def is_quiet(sock: socket.socket, seconds: float) -> bool:
    """Whether neither bytes nor the end come in that time."""
    sock.settimeout(seconds)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(10)
    return False


def numbered(steps: MemorySteps, pause: float = 0.0) -> None:
    """Each `finish` is answered with another number."""
    numbers = iter(range(1, 100))

    async def answer(*_: object) -> messages.Finished:
        number = next(numbers)
        if pause:
            await asyncio.sleep(pause)
        return messages.Finished(number)

    steps.answers[messages.Finish] = answer


@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["at once", "after a wait"])
def test_requests_that_come_together_are_answered_in_turn(
    sock: socket.socket, steps: MemorySteps, pause: float
) -> None:
    numbered(steps, pause)
    sock.sendall(request() * 3)
    assert [read(sock).json for _ in range(3)] == [1, 2, 3]
    sock.sendall(request())
    assert read(sock).json == 4


@pytest.mark.parametrize("key", [KEY, "wrong"], ids=["answer", "refusal"])
@pytest.mark.parametrize(
    "asked", [("1.1", "connection: close"), ("1.0", "x: y")], ids=["close", "1.0"]
)
def test_who_wants_it_closed_has_it_closed(
    sock: socket.socket, asked: tuple[str, str], key: str
) -> None:
    version, header = asked
    sock.sendall(request("finish", header, version=version, key=key))
    answer = read_raw(sock)
    assert answer.status == (200 if key is KEY else 403)
    assert answer.headers["connection"] == "close"
    assert is_closed(sock)


def test_head_has_no_body(sock: socket.socket) -> None:
    sock.sendall(request("begin", verb="HEAD", body=zstd_frame(b'{"v":"x"}')))
    sock.sendall(request("finish", "connection: close"))
    first, _, second = sock.makefile("rb").read().partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("waits", [True, False])
def test_who_waits_to_be_told_to_go_on(sock: socket.socket, waits: bool) -> None:
    """A body that is here already needs no word."""
    whole = request("finish", "expect: 100-continue")
    head = whole[: -len(BODY)] if waits else whole
    sock.sendall(head)
    if waits:
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(BODY)
    assert read(sock).status == 200


@pytest.mark.parametrize("size", [100, LARGE - 50, 3 * LARGE])
def test_an_answer_of_any_size(sock: socket.socket, steps: MemorySteps, size: int) -> None:
    """In version 10, which is not packed."""
    steps.answers[messages.Meta] = messages.MetaAnswer(
        mod=1, scm=2, usn=3, now=4, media_usn=5, empty=False, message="x" * size, proceed=True
    )
    body = form({"k": KEY.encode(), "data": b'{"v":10,"cv":"x"}'})
    head = f"POST /sync/meta HTTP/1.1\r\ncontent-type: {FORM_TYPE}\r\ncontent-length: {len(body)}"
    for _ in range(2):
        sock.sendall(f"{head}\r\n\r\n".encode() + body)
        assert read(sock).json["msg"] == "x" * size


def test_an_idle_connection_is_closed(sock: socket.socket) -> None:
    """Not one that is used, whose timer is not set anew each time."""
    for _ in range(4):
        sock.sendall(request())
        assert read(sock).status == 200
        assert is_quiet(sock, IDLE * 0.45)
    begun = time.monotonic()
    assert is_closed(sock)
    assert time.monotonic() - begun > IDLE * 0.3


@pytest.mark.parametrize("cut", [30, -5], ids=["in the head", "in the body"])
def test_who_is_slow_to_ask_again_is_not_idle(sock: socket.socket, cut: int) -> None:
    sock.sendall(request())
    assert read(sock).status == 200
    sock.sendall(request()[:cut])
    assert is_quiet(sock, IDLE * 1.4)
    sock.sendall(request()[cut:])
    assert read(sock).status == 200


def test_a_slow_answer_keeps_the_connection(sock: socket.socket, steps: MemorySteps) -> None:
    sock.sendall(request())
    assert read(sock).status == 200
    numbered(steps, IDLE * 1.2)
    sock.sendall(request())
    assert read(sock).json == 1
    sock.sendall(request())
    assert read(sock).json == 2
    assert is_closed(sock)


def test_requests_leave_nothing_for_the_garbage_collector(sock: socket.socket) -> None:
    count = 200
    asked = request()
    gc.collect()
    gc.disable()
    try:
        for _ in range(count):
            sock.sendall(asked)
            sock.recv(10_000)
        assert gc.collect() < count
    finally:
        gc.enable()
