# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the steps hear of the size of requests and answers."""

import random
import time
from collections.abc import Callable
from http.client import IncompleteRead

import pytest

from cardkeep import messages
from cardkeep.errors import BadRequest
from cardkeep.http.sync_routes import LARGE, MOST_UNTOLD
from cardkeep.wire.request import METHODS
from tests.http.serving import (
    KEY,
    Bytes,
    Client,
    MemorySteps,
    http_chunk,
    read_raw,
    until,
)
from tests.wire.requests import form, sync_header, zstd_frame
from tests.wire.zips import upload_zip

META = b'{"v":11,"cv":"anki"}'
RANDOM = random.Random(5)
COLLECTION = RANDOM.randbytes(3_000_000)


@pytest.fixture
def session() -> str:
    """A key that no other test uses, on the server that they share."""
    return RANDOM.randbytes(8).hex()


def ask(client: Client, framing: str, path: str, payload: bytes, session: str) -> tuple[int, int]:
    """Makes a request; the bytes of its body and of the answer's."""
    if framing == "11":
        return len(zstd_frame(payload)), len(client.direct(path, payload, s=session).body)
    fields = {"data": payload, "k": KEY.encode(), "s": session.encode()}
    return len(form(fields)), len(client.form(path, fields, chunked=framing == "chunked").body)


@pytest.mark.parametrize("framing", ["11", "10", "chunked"])
def test_the_bytes_of_a_session_are_told_with_its_next_request(
    client: Client, steps: MemorySteps, framing: str, session: str
) -> None:
    """Packed, as they travelled; each once, and those of no other session."""
    steps.answers[messages.NextChunk] = messages.Chunk(True, notes=[_note(500) for _ in range(40)])
    first = ask(client, framing, "/sync/meta", META, session)
    ask(client, framing, "/sync/meta", META, session + "2")
    second = ask(client, framing, "/sync/chunk", b"{}", session)
    ask(client, framing, "/sync/finish", b"{}", session)
    told = [(caller.received, caller.sent) for caller in steps.callers]
    assert told == [(0, 0), (0, 0), first, second]
    assert steps.told == []


def test_a_session_belongs_to_a_key(client: Client, steps: MemorySteps, session: str) -> None:
    """Two logins with the same session key are two."""
    ask(client, "11", "/sync/meta", META, session)
    client.request("GET", f"/msync/begin?k={KEY}&v=26")
    assert client.direct("/sync/meta", META, k="wrong", s=session).status == 403
    ask(client, "11", "/sync/meta", META, session)
    assert [bool(caller.sent) for caller in steps.callers] == [False, False, True]


def test_what_was_refused_is_not_told(client: Client, steps: MemorySteps, session: str) -> None:
    """It is no part of what came to anything."""
    steps.answers[messages.Meta] = BadRequest("no")
    assert client.direct("/sync/meta", META, s=session).status == 400
    client.direct("/sync/finish", b"{}", s=session)
    assert steps.callers[-1].received == 0


def test_few_sessions_are_remembered(client: Client, steps: MemorySteps, session: str) -> None:
    """The one of longest ago is forgotten first."""
    for number in range(MOST_UNTOLD + 1):
        ask(client, "11", "/sync/meta", META, f"{session}{number}")
    steps.callers.clear()
    for number in (0, 1, MOST_UNTOLD):
        ask(client, "11", "/sync/meta", META, f"{session}{number}")
    # Asking for the first made the second the one of longest ago.
    assert [bool(caller.sent) for caller in steps.callers] == [False, False, True]


# --- large ones ---------------------------------------------------------------------------


def _note(length: int) -> list[object]:
    return [1, "guid", 2, 3, 4, "", RANDOM.randbytes(length // 2).hex(), "", "", 0, ""]


@pytest.mark.parametrize("takes_note", [True, False])
@pytest.mark.parametrize("framing", ["11", "10"])
def test_a_large_answer_is_told_at_once(
    client: Client, steps: MemorySteps, framing: str, takes_note: bool, session: str
) -> None:
    """And with the next request only if the steps could not take note."""
    steps.takes_note = takes_note
    steps.answers[messages.NextChunk] = messages.Chunk(
        True, notes=[_note(2000) for _ in range(200)]
    )
    received, sent = ask(client, framing, "/sync/chunk", b"{}", session)
    assert sent > LARGE
    until(lambda: steps.told)
    ask(client, framing, "/sync/finish", b"{}", session)
    assert steps.told == [(messages.Chunk, received, sent, True)]
    caller = steps.callers[-1]
    assert (caller.received, caller.sent) == ((0, 0) if takes_note else (received, sent))


def test_a_large_request_is_told_at_once(client: Client, steps: MemorySteps, session: str) -> None:
    """With its small answer."""
    text = RANDOM.randbytes(150_000).hex().encode()
    payload = b'{"chunk":{"done":true,"notes":[[1,"g",2,3,4,"","%b","","",0,""]]}}' % text
    received, sent = ask(client, "11", "/sync/applyChunk", payload, session)
    assert received > LARGE
    until(lambda: steps.told)
    assert steps.told == [(messages.Nothing, received, sent, True)]


@pytest.mark.parametrize("framing", ["11", "10"])
@pytest.mark.parametrize(
    ("path", "payload", "give"),
    [
        ("/sync/download", b"{}", lambda: messages.CollectionFile(Bytes(COLLECTION))),
        (
            "/msync/downloadFiles",
            b'{"files":["a"]}',
            lambda: messages.MediaFiles(lambda: [("a", Bytes(b"small"))]),
        ),
    ],
    ids=["collection", "media"],
)
def test_what_was_streamed_is_told_at_its_end(
    client: Client,
    steps: MemorySteps,
    path: str,
    payload: bytes,
    give: Callable[[], messages.Answer],
    framing: str,
    session: str,
) -> None:
    """Of any size."""
    answer = give()
    steps.answers[METHODS[path.rpartition("/")[2]].message] = answer
    received, sent = ask(client, framing, path, payload, session)
    until(lambda: steps.told)
    assert steps.told == [(type(answer), received, sent, True)]


def test_an_answer_that_ends_too_early_is_told_as_such(client: Client, steps: MemorySteps) -> None:
    """With what was sent of it."""
    steps.answers[messages.Download] = messages.CollectionFile(Bytes(COLLECTION, fail_at=2_000_000))
    with pytest.raises(IncompleteRead):
        client.form("/sync/download", {"k": KEY.encode()})
    until(lambda: steps.told)
    ((_, _, sent, complete),) = steps.told
    assert 0 < sent < len(COLLECTION)
    assert not complete


@pytest.mark.parametrize(
    ("path", "payload"),
    [("/sync/upload", b"SQLite"), ("/msync/uploadChanges", upload_zip([("a", b"data")]))],
)
def test_an_upload_says_what_it_came_to(
    client: Client, steps: MemorySteps, path: str, payload: bytes
) -> None:
    """Its own bytes, and the time from its head to the last of them."""
    sock = client.start(path, {"anki-sync": sync_header(k=KEY)})
    frame = zstd_frame(payload)
    sock.sendall(http_chunk(frame[:5]))
    time.sleep(0.25)
    sock.sendall(http_chunk(frame[5:]) + http_chunk(b""))
    assert read_raw(sock).status == 200
    (caller,) = steps.callers
    assert caller.size == len(frame)
    assert 240 <= caller.arrival < 5000
