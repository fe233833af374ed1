# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests of both framings, over a socket: what the steps hear and what the client gets."""

import json
import logging
from typing import Any

import msgspec
import pytest

from cardkeep import messages
from cardkeep.http.bodies import IN_MEMORY
from cardkeep.wire.request import METHODS, Payload
from tests.http.serving import KEY, Bytes, Client, MemorySteps, http_chunk, read_raw, until
from tests.records.vectors import FOLDER
from tests.wire.requests import FORM_TYPE, form, sync_header, zipped, zstd_frame
from tests.wire.zips import upload_zip

META = b'{"v":11,"cv":"anki"}'


def speakers(steps: MemorySteps) -> list[messages.Caller]:
    """Who spoke, without what there is to tell of earlier requests."""
    return [msgspec.structs.replace(caller, received=0, sent=0) for caller in steps.callers]


def test_a_request_of_protocol_11(client: Client, steps: MemorySteps) -> None:
    """Key, session and client from the header, the message from the frame, a framed answer."""
    answer = client.direct("/sync/meta", META, s="abc", c="26.09.3,x,linux")
    assert answer.status == 200
    assert answer.json["usn"] == 3
    assert steps.heard == [messages.Meta(11, "anki")]
    assert speakers(steps) == [
        messages.Caller("ana", "device", 11, "abc", "26.09.3,x,linux", "127.0.0.1", KEY)
    ]


def test_an_older_version_in_the_header(client: Client, steps: MemorySteps) -> None:
    """The request is packed, the answer is not, and what it downloads is of its own schema."""
    answer = client.direct("/sync/meta", META, v=9)
    assert "anki-original-size" not in answer.headers
    assert json.loads(answer.body)["usn"] == 3
    assert steps.callers[0].protocol == 9


@pytest.mark.parametrize("order", [("data", "c", "k", "s"), ("c", "k", "s", "data")])
def test_a_request_of_protocol_10(
    client: Client, steps: MemorySteps, order: tuple[str, ...]
) -> None:
    """The same from a form, with a plain answer that tells its length."""
    fields = {"data": zipped(META), "c": b"1", "k": KEY.encode(), "s": b"abc"}
    answer = client.form("/sync/meta", {name: fields[name] for name in order})
    assert (answer.status, answer.json["usn"]) == (200, 3)
    assert "anki-original-size" not in answer.headers
    assert answer.headers["content-length"] == str(len(answer.body))
    assert steps.heard == [messages.Meta(11, "anki")]
    assert speakers(steps) == [messages.Caller("ana", "device", 10, "abc", "", "127.0.0.1", KEY)]


def test_login(client: Client, steps: MemorySteps) -> None:
    """Needs no key, in either framing."""
    login = b'{"u":"ana","p":"secret"}'
    assert client.direct("/sync/hostKey", login, k="", c="26").json == {"key": "new key"}
    assert client.form("/sync/hostKey", {"data": zipped(login), "c": b"1"}).json == {
        "key": "new key"
    }
    assert steps.heard == [messages.HostKey("ana", "secret")] * 2
    assert steps.keys == []


LEGACY = [
    ("download", {"c": b"1", "k": b"key", "v": b"ankidroid,2.15"}, messages.Download()),
    (
        "begin",
        {"c": b"1", "k": b"key", "v": b"ankidroid,2.15", "data": zipped(b"{}")},
        messages.MediaBegin("ankidroid,2.15"),
    ),
    ("begin", {"k": b"key", "v": b"ankidroid,2.15"}, messages.MediaBegin("ankidroid,2.15")),
    (
        "mediaChanges",
        {"sk": b"key", "c": b"1", "data": zipped(b'{"lastUsn":4}')},
        messages.MediaChanges(4),
    ),
    ("mediaSanity", {"data": b'{"local":4}', "sk": b"key"}, messages.MediaSanity(4)),
    ("abort", {"k": b"key", "c": b"1"}, messages.Abort()),
    (
        "start",
        {
            "k": b"key",
            "s": b"s",
            "data": b'{"minUsn":1,"lnewer":true,"graves":{"cards":["9"],"notes":[],"decks":[]}}',
        },
        messages.Start(1, True, messages.Graves(cards=[9], notes=[], decks=[])),
    ),
    (
        "sanityCheck2",
        {"k": b"key", "s": b"s", "data": b'{"client":"notes without cards"}'},
        messages.SanityCheck(None),
    ),
]


@pytest.mark.parametrize(("method", "fields", "message"), LEGACY)
def test_forms_of_legacy_clients(
    client: Client,
    steps: MemorySteps,
    method: str,
    fields: dict[str, bytes],
    message: messages.ClientMessage,
) -> None:
    """Without data, with other names for the key, with the version outside of the payload."""
    steps.answers[messages.Download] = lambda *_: messages.CollectionFile(Bytes(b"SQLite"))
    assert client.form(f"/sync/{method}", fields).status == 200
    assert steps.heard == [message]


def recorded() -> list[Any]:
    """Recorded requests that went well, once each method and framing."""
    found = {}
    for folder in ("v11", "v10"):
        index = json.loads((FOLDER / "traffic" / folder / "index.json").read_text())
        for exchange in index["exchanges"]:
            name = exchange["request_line"].split()[1].partition("?")[0]
            if exchange["status"] == 200:
                found[folder, name] = pytest.param(folder, exchange, id=f"{folder}{name}")
    return list(found.values())


@pytest.mark.parametrize(("folder", "exchange"), recorded())
def test_recorded_requests(
    client: Client, steps: MemorySteps, folder: str, exchange: dict[str, Any]
) -> None:
    """Raw bodies and headers of real clients are answered with 200 and heard as their method."""
    steps.answers[messages.Download] = lambda *_: messages.CollectionFile(Bytes(b"SQLite"))
    steps.answers[messages.DownloadFiles] = lambda *_: messages.MediaFiles(list)
    verb, path, _ = exchange["request_line"].split()
    headers = {
        name: value.replace("26aef033203fc3655de5620300a76ee0e2081444", KEY)
        for name, value in exchange["request_headers"]
        if name not in ("transfer-encoding", "content-length", "host")
    }
    path = path.replace("26aef033203fc3655de5620300a76ee0e2081444", KEY)
    body = b""
    if name := exchange["request_body"]:
        body = (FOLDER / "traffic" / folder / name).read_bytes()
        body = body.replace(b"26aef033203fc3655de5620300a76ee0e2081444", KEY.encode())
    chunked = exchange["request_framing"] == "chunked"
    answer = client.request(verb, path, iter([body]) if chunked else body, headers)
    assert answer.status == 200
    method = METHODS[path.partition("?")[0].rpartition("/")[2]]
    assert [type(message) for message in steps.heard] == [method.message]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "hostKey"])
def test_a_wrong_key_is_403_and_nothing_is_done(
    client: Client, steps: MemorySteps, name: str
) -> None:
    """In both framings; the connection stays usable."""
    body = iter([b"this is not even zstd"] * 3)
    assert client.direct(f"/sync/{name}", body=body, k="old").status == 403
    assert client.form(f"/sync/{name}", {"data": b"x" * 50_000, "k": b"old"}).status == 403
    assert client.form(f"/sync/{name}", {"data": b"x"}).status == 403
    assert steps.heard == []
    assert client.direct("/sync/meta", META).status == 200


def test_the_key_of_protocol_11_is_checked_before_the_body(
    client: Client, steps: MemorySteps
) -> None:
    """Nobody unknown fills a disk; yet the rest of the body is heard out before the answer."""
    sock = client.start("/sync/upload", {"anki-sync": sync_header(k="old")})
    assert steps.asked.wait(20)
    assert steps.spooled() == []
    for _ in range(100):
        sock.sendall(http_chunk(b"x" * 50_000))
    sock.sendall(http_chunk(b""))
    assert read_raw(sock).status == 403


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs_session])
def test_no_session_key_where_one_is_needed_is_400(
    client: Client, steps: MemorySteps, name: str
) -> None:
    """In both framings; the other methods do without (below)."""
    assert client.direct(f"/sync/{name}", s="").status == 400
    assert client.form(f"/sync/{name}", {"data": b"{}", "k": b"key"}).status == 400
    assert steps.heard == []


def test_abort_is_always_answered(client: Client) -> None:
    """Also without session key."""
    assert client.direct("/sync/abort", s="").json is None
    assert client.form("/sync/abort", {"data": b"{}", "k": b"key"}).body == b"null"


HEADER = {"anki-sync": sync_header(k=KEY)}
FORM = {"content-type": FORM_TYPE}
BAD = [
    pytest.param({}, b"{}", 400, id="no framing"),
    pytest.param({"content-type": "application/json"}, b"{}", 400, id="JSON body"),
    pytest.param({"content-type": "multipart/form-data"}, b"{}", 400, id="form without boundary"),
    pytest.param(FORM, b"{}", 400, id="no form in the body"),
    pytest.param(FORM, form({"data": b"{}", "k": b"key"})[:-3], 400, id="form cut off"),
    pytest.param(
        FORM, form({"data": zipped(META), "k": b"key"}), 400, id="gzip that was not announced"
    ),
    pytest.param(
        FORM, form({"data": META, "c": b"1", "k": b"key"}), 400, id="announced gzip that is none"
    ),
    pytest.param(
        FORM, form({"data": zipped(META)[:-9], "c": b"1", "k": b"key"}), 400, id="gzip cut off"
    ),
    pytest.param({"anki-sync": "{"}, zstd_frame(META), 400, id="unparsable header"),
    pytest.param({"anki-sync": '{"v":11}'}, zstd_frame(META), 400, id="keys missing"),
    pytest.param({"anki-sync": sync_header(v=12)}, zstd_frame(META), 501, id="version 12"),
    pytest.param({"anki-sync": sync_header(v=7)}, zstd_frame(META), 501, id="version 7"),
    pytest.param(HEADER, META, 400, id="body not zstd"),
    pytest.param(HEADER, zstd_frame(META)[:-2], 400, id="zstd cut off"),
    pytest.param(HEADER, b"\x28\xb5\x2f\xfd", 400, id="only the magic"),
    pytest.param(HEADER, b"", 400, id="no body where keys are needed"),
    pytest.param(HEADER, zstd_frame(b'{"v":11}'), 400, id="key missing in JSON"),
    pytest.param(HEADER, zstd_frame(b'{"v":12,"cv":"x"}'), 501, id="version 12 in meta"),
    pytest.param(HEADER, zstd_frame(b"[" * 10_000_000), 400, id="deep JSON"),
    pytest.param(HEADER, zstd_frame(b'{"v":' + b"9" * 10_000_000 + b"}"), 400, id="huge number"),
    pytest.param(
        {"anki-sync": '{"v":11,"k":"\\u0000","c":"","s":""}'}, zstd_frame(META), 403, id="NUL key"
    ),
]


@pytest.mark.parametrize(("headers", "body", "status"), BAD)
def test_bad_requests(
    client: Client,
    steps: MemorySteps,
    headers: dict[str, str],
    body: bytes,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Refused with a line in the log; nothing is done, nothing is left, the server serves on."""
    answer = client.request("POST", "/sync/meta", body, headers)
    assert answer.status == status
    assert answer.headers["content-type"].startswith("text/plain")
    assert steps.heard == []
    until(steps.is_clean)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("refused meta user=")
    assert f"address=127.0.0.1 status={status}: " in record.getMessage()
    assert client.direct("/sync/meta", META).status == 200


def test_a_body_in_small_chunks(client: Client, steps: MemorySteps) -> None:
    """One byte at a time is as good as all at once."""
    body = (bytes([byte]) for byte in zstd_frame(META))
    assert client.direct("/sync/meta", body=body).json["usn"] == 3
    fields = form({"data": zipped(META), "c": b"1", "k": b"key"})
    answer = client.request("POST", "/sync/meta", (bytes([byte]) for byte in fields), FORM)
    assert answer.json["usn"] == 3


def rows(number: int, length: int) -> bytes:
    note = [1, "guid", 2, 3, 4, "", "x" * length, "", "", 0, ""]
    return json.dumps({"chunk": {"done": True, "notes": [note] * number}}).encode()


@pytest.mark.parametrize(("number", "length"), [(200, 100), (100, 10_000), (100, 120_000)])
def test_long_json(client: Client, steps: MemorySteps, number: int, length: int) -> None:
    """Of any length, packed well or badly, in both framings; nothing stays in the spool."""
    payload = rows(number, length)
    plain = {"k": b"key", "s": b"s", "data": payload}
    assert client.direct("/sync/applyChunk", payload).status == 200
    assert client.form("/sync/applyChunk", plain, chunked=True).status == 200
    assert (
        client.form("/sync/applyChunk", plain | {"data": zipped(payload), "c": b"1"}).status == 200
    )
    assert len(steps.heard) == 3
    for message in steps.heard:
        assert isinstance(message, messages.ApplyChunk)
        notes = [*message.chunk.notes, *(row for part in message.rest for row in part.notes)]
        assert len(notes) == number
        assert {len(row[6]) for row in notes} == {length}
    until(steps.is_clean)


def test_long_bodies_wait_on_disk(client: Client, steps: MemorySteps) -> None:
    """While a body is on its way, memory holds only its first part."""
    payload = rows(10, IN_MEMORY // 5)
    packed = form({"k": b"key", "s": b"s", "data": payload})
    sock = client.start("/sync/applyChunk", FORM)
    sock.sendall(http_chunk(packed[:-10]))
    until(steps.spooled)
    (spooled,) = steps.spooled()
    assert spooled.stat().st_mode & 0o077 == 0
    sock.sendall(http_chunk(packed[-10:]) + http_chunk(b""))
    assert read_raw(sock).status == 200
    until(steps.is_clean)


LONG_ANSWERS = [
    (
        "chunk",
        messages.Chunk(False, notes=[(1, "g", 2, 3, 4, "", "x" * 100_000)] * 30),
        lambda said: len(said["notes"]) == 30,
    ),
    ("chunk", messages.Chunk(False, cards=[(1,) * 17 + ("",)] * 5000), lambda said: True),
    ("applyChanges", messages.Changes(tags=["tag"] * 20_000), lambda said: len(said["tags"]) > 1),
]


@pytest.mark.parametrize(("name", "answer", "check"), LONG_ANSWERS)
def test_long_answers(
    client: Client, steps: MemorySteps, name: str, answer: messages.Answer, check: Any
) -> None:
    """In both framings."""
    steps.answers[METHODS[name].message] = answer
    payload = b'{"changes":{"models":[],"decks":[[],[]],"tags":[]}}'
    packed = client.direct(f"/sync/{name}", payload)
    plain = client.form(f"/sync/{name}", {"k": b"key", "s": b"s", "data": payload})
    assert packed.status == plain.status == 200
    assert packed.json == plain.json
    assert check(plain.json)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "hostKey"])
def test_each_method_reaches_its_step(client: Client, steps: MemorySteps, name: str) -> None:
    """All but login, with the least that each needs."""
    method = METHODS[name]
    steps.answers[messages.Download] = lambda *_: messages.CollectionFile(Bytes(b"SQLite"))
    steps.answers[messages.DownloadFiles] = lambda *_: messages.MediaFiles(list)
    payloads = {
        "meta": META,
        "start": b'{"minUsn":0,"lnewer":true}',
        "applyGraves": b'{"chunk":{"cards":[],"notes":[],"decks":[]}}',
        "applyChanges": b'{"changes":{"models":[],"decks":[[],[]],"tags":[]}}',
        "applyChunk": b'{"chunk":{"done":true}}',
        "sanityCheck2": b'{"client":[[0,0,0],0,0,0,0,0,0,0]}',
        "upload": b"any bytes",
        "begin": b'{"v":"x"}',
        "mediaChanges": b'{"lastUsn":0}',
        "uploadChanges": upload_zip([]),
        "downloadFiles": b'{"files":[]}',
        "mediaSanity": b'{"local":0}',
    }
    answer = client.direct(f"/{method.area}/{name}", payloads.get(name, b"{}"))
    assert answer.status == 200
    assert len(answer.payload) > 0
    assert [type(message) for message in steps.heard] == [method.message]
    assert (method.payload is Payload.JSON) == (name not in ("upload", "uploadChanges"))
