# SPDX-License-Identifier: AGPL-3.0-or-later
"""Recorded requests of real clients are understood; recorded answers are written the same way.

tests/vectors/README.md tells where the recordings come from. `errors-and-legacy` holds
requests in the form of old clients, and bad ones with the official server's verdict.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import zstandard

from cardkeep import messages
from cardkeep.errors import BadRequest, UnsupportedVersion
from cardkeep.messages import Chunk, Counts, MediaChange
from cardkeep.records import deck, deck_config, notetype
from cardkeep.wire import answer as answers
from cardkeep.wire import media_json
from cardkeep.wire.request import METHODS, Head, Payload, read_json
from tests.records import vectors
from tests.wire.requests import pieces, read_direct, read_form

TRAFFIC = vectors.FOLDER / "traffic"


def exchanges() -> Iterator[Any]:
    for folder in ("v11", "v10", "errors-and-legacy"):
        index = json.loads((TRAFFIC / folder / "index.json").read_text(encoding="utf-8"))
        for exchange in index["exchanges"]:
            yield pytest.param(
                {**exchange, "folder": folder}, id=f"{folder}-{exchange['n']}-{exchange['step']}"
            )


EXCHANGES = list(exchanges())

#: No method of that name, or no body: for `http` to say no to.
REQUESTS = [
    each
    for each in EXCHANGES
    if each.values[0]["step"] not in ("unknown method", "wrong http method")
]
JSON_ANSWERS = [
    each
    for each in EXCHANGES
    if each.values[0]["status"] == 200 and "response_json" in each.values[0]
]


def body(exchange: dict[str, Any], side: str) -> bytes:
    name = exchange[f"{side}_body"]
    return (TRAFFIC / exchange["folder"] / name).read_bytes() if name else b""


def method_name(exchange: dict[str, Any]) -> str:
    return urlsplit(exchange["request_line"].split()[1]).path.rpartition("/")[2]


def understood(exchange: dict[str, Any], size: int) -> tuple[Head, bytes | None]:
    """Head and payload of a recorded request, read in pieces of `size` bytes."""
    headers = {name.lower(): value for name, value in exchange["request_headers"]}
    parts = pieces(body(exchange, "request"), size)
    if "anki-sync" in headers:
        return read_direct(headers["anki-sync"], parts)
    if exchange["request_line"].startswith("GET"):
        query = parse_qs(urlsplit(exchange["request_line"].split()[1]).query)
        return Head(10, query["k"][0], "", query["v"][0]), None
    form, payload = read_form(parts, headers.get("content-type", ""))
    return form.head, payload


@pytest.mark.parametrize("exchange", REQUESTS)
@pytest.mark.parametrize("size", [13, 10**9])
def test_requests(exchange: dict[str, Any], size: int) -> None:
    """Each gives the head and the payload that the recording says, and a message if it is good."""
    if exchange["step"] == "header version 12":
        with pytest.raises(UnsupportedVersion):
            understood(exchange, size)
        return
    if exchange["status"] == 400 and exchange["step"].startswith(
        ("no anki-sync header", "bad anki-sync header", "body not zstd")
    ):
        with pytest.raises(BadRequest):
            understood(exchange, size)
        return
    head, payload = understood(exchange, size)
    if sync := exchange.get("anki_sync"):
        assert head == Head(sync["v"], sync["k"], sync["s"], sync["c"])
    elif form := exchange.get("form"):
        key = form.get("k") or form.get("sk", "")
        assert head == Head(10, key, form.get("s", ""), form.get("v", ""))
    if payload is None or head.client.startswith("ankidroid,2.15"):
        assert media_json.begin(head.client).client == head.client
        return
    method = METHODS[method_name(exchange)]
    if method.payload is not Payload.JSON:
        recorded = exchange.get("request_payload")
        assert recorded is None or len(payload) == recorded["bytes"]
        return
    assert exchange.get("request_json") == (json.loads(payload) if payload else None)
    if exchange["status"] == 501:
        with pytest.raises(UnsupportedVersion):
            read_json(method, payload)
    elif exchange["status"] == 400 and method.needs_session is False:
        with pytest.raises(BadRequest):
            read_json(method, payload)
    else:
        assert type(read_json(method, payload)) is method.message


def counts(array: list[Any] | None) -> Counts | None:
    if array is None:
        return None
    _due, cards, notes, revlog, _graves, notetypes, decks, deck_configs = array
    return Counts(cards, notes, revlog, notetypes, decks, deck_configs)


def answer(method: str, said: Any) -> messages.Answer:
    """The answer that a recorded JSON was written from."""
    match method:
        case "hostKey":
            return messages.HostKeyGranted(said["key"])
        case "meta":
            assert said["hostNum"] == 0
            return messages.MetaAnswer(
                mod=said["mod"],
                scm=said["scm"],
                usn=said["usn"],
                now=said["ts"],
                media_usn=said["media_usn"],
                empty=said["empty"],
                message=said["msg"],
                proceed=said["cont"],
            )
        case "start":
            return messages.Graves(said["cards"], said["notes"], said["decks"])
        case "applyChanges":
            decks, configs = said["decks"]
            return messages.Changes(
                notetypes=[notetype.from_json(obj) for obj in said["models"]],
                decks=[deck.from_json(obj) for obj in decks],
                deck_configs=[deck_config.from_json(obj) for obj in configs],
                tags=said["tags"],
                conf=said.get("conf"),
                crt=said.get("crt"),
            )
        case "chunk":
            notes = [row[:7] for row in said.get("notes", [])]
            return Chunk(said["done"], said.get("revlog", []), said.get("cards", []), notes)
        case "sanityCheck2":
            return messages.SanityAnswer(
                said["status"] == "ok", counts(said["c"]), counts(said["s"])
            )
        case "finish":
            return messages.Finished(said)
        case "begin":
            return messages.MediaBegun(said["data"]["usn"], said["data"]["sk"])
        case "mediaChanges":
            return messages.MediaChangeList([MediaChange(*entry) for entry in said["data"]])
        case "uploadChanges":
            return messages.MediaUploaded(*said["data"])
        case "mediaSanity":
            return messages.MediaSanityAnswer(said["data"] == "OK")
        case _:
            assert said is None
            return messages.Nothing()


@pytest.mark.parametrize("exchange", JSON_ANSWERS)
def test_answers(exchange: dict[str, Any]) -> None:
    """Our JSON for the same answer is equal; chunks and changes included."""
    text = body(exchange, "response")
    if text.startswith(b"\x28\xb5\x2f\xfd"):
        text = zstandard.ZstdDecompressor().decompressobj().decompress(text)
    said = json.loads(text)
    assert said == exchange["response_json"]
    assert json.loads(answers.write(answer(method_name(exchange), said))) == said


def test_the_recordings_are_all_there() -> None:
    """Or the tests above would prove nothing."""
    assert len(EXCHANGES) == 224
    assert len(REQUESTS) == 222
    assert len(JSON_ANSWERS) > 150
