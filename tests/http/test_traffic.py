# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the steps hear of a request's and an answer's size."""

import random
import time
from collections.abc import Callable
from http.client import IncompleteRead

import pytest

from cardkeep import messages
from cardkeep.errors import BadRequest
from cardkeep.wire.request import METHODS
from tests.http.serving import (
    ANSWERS,
    KEY,
    Bytes,
    Client,
    MemorySteps,
    http_chunk,
    read_raw,
    until,
)
from tests.wire.requests import form, sync_header, zstd_frame

META = b'{"v":11,"cv":"anki"}'
LARGE = random.Random(5).randbytes(3_000_000)
NOTE = [1, "guid", 2, 3, 4, "", "x" * 500, "", "", 0, ""]


def test_the_bytes_of_a_body_are_counted_as_they_came(client: Client, steps: MemorySteps) -> None:
    """Packed, whatever the framing; without the heads."""
    client.direct("/sync/meta", META)
    client.form("/sync/meta", {"data": META, "k": KEY.encode()})
    client.form("/sync/meta", {"data": META, "k": KEY.encode()}, chunked=True)
    client.request("GET", f"/msync/begin?k={KEY}&v=26")
    in_form = len(form({"data": META, "k": KEY.encode()}))
    assert [caller.received for caller in steps.callers] == [
        len(zstd_frame(META)),
        in_form,
        in_form,
        0,
    ]


@pytest.mark.parametrize("framing", ["11", "10"])
@pytest.mark.parametrize(
    ("path", "payload", "give"),
    [
        ("/sync/meta", META, lambda: ANSWERS[messages.Meta]),
        ("/sync/chunk", b"{}", lambda: messages.Chunk(True, notes=[NOTE] * 900)),
        ("/sync/download", b"{}", lambda: messages.CollectionFile(Bytes(LARGE))),
        (
            "/msync/downloadFiles",
            b'{"files":["a"]}',
            lambda: messages.MediaFiles([("a", Bytes(LARGE))]),
        ),
    ],
    ids=["short", "long", "collection", "media"],
)
def test_the_bytes_of_an_answer_are_counted_as_they_go(
    client: Client,
    steps: MemorySteps,
    path: str,
    payload: bytes,
    give: Callable[[], messages.Answer],
    framing: str,
) -> None:
    """Told once, after they were sent."""
    answer = give()
    steps.answers[METHODS[path.rpartition("/")[2]].message] = answer
    if framing == "11":
        body = client.direct(path, payload).body
    else:
        body = client.form(path, {"data": payload, "k": KEY.encode(), "s": b"s"}).body
    until(lambda: steps.sent)
    assert steps.sent == [(type(answer), len(body), True)]


def test_an_answer_that_ends_too_early_is_told_as_such(client: Client, steps: MemorySteps) -> None:
    """With what was sent of it."""
    steps.answers[messages.Download] = messages.CollectionFile(Bytes(LARGE, fail_at=2_000_000))
    with pytest.raises(IncompleteRead):
        client.form("/sync/download", {"k": KEY.encode()})
    until(lambda: steps.sent)
    ((_, sent, complete),) = steps.sent
    assert 0 < sent < len(LARGE)
    assert not complete


def test_of_refusals_nothing_is_told(client: Client, steps: MemorySteps) -> None:
    """Neither of a wrong key nor of what a step refuses, nor of a login."""
    steps.answers[messages.Meta] = BadRequest("no")
    assert client.direct("/sync/meta", META).status == 400
    assert client.direct("/sync/meta", META, k="wrong").status == 403
    assert client.direct("/sync/hostKey", b'{"u":"a","p":"b"}', k="").status == 200
    assert steps.sent == []


def test_a_slow_body_takes_its_time(client: Client, steps: MemorySteps) -> None:
    """From the head of the request to the last byte of its body."""
    sock = client.start("/sync/meta", {"anki-sync": sync_header(k=KEY)})
    frame = zstd_frame(META)
    sock.sendall(http_chunk(frame[:5]))
    time.sleep(0.25)
    sock.sendall(http_chunk(frame[5:]) + http_chunk(b""))
    assert read_raw(sock).status == 200
    (caller,) = steps.callers
    assert 240 <= caller.arrival < 5000
