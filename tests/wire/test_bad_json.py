# SPDX-License-Identifier: AGPL-3.0-or-later
"""JSON that no client sends: refused before anybody acts on it."""

import json
from typing import Any

import pytest

from cardkeep import messages
from cardkeep.errors import BadRequest, CardkeepError, UnsupportedVersion
from cardkeep.wire.json_values import MAX_DEPTH
from cardkeep.wire.request import METHODS
from tests.wire.test_collection_json import CARD, NOTE, OBJECTS, REVIEW, read

NOTETYPE, DECK, CONFIG = (OBJECTS[kind][0] for kind in ("notetype", "deck", "deckconf"))


def changes(**parts: Any) -> bytes:
    body = {"models": [], "decks": [[], []], "tags": []} | parts
    return json.dumps({"changes": body}).encode()


def without(obj: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in obj.items() if name != key}


def chunk(**rows: Any) -> bytes:
    return json.dumps({"chunk": rows}).encode()


def replaced(row: tuple[Any, ...], index: int, value: Any) -> list[Any]:
    return [*row[:index], value, *row[index + 1 :]]


WIRE_NOTE = (*NOTE, "", "", 0, "")

BAD = [
    *(
        (method, payload)
        for method in METHODS
        if method not in ("upload", "uploadChanges")
        for payload in (
            b"null",
            b"[]",
            b"1",
            b'"x"',
            b"{",
            b"{}x",
            b"{} {}",
            b"\xef\xbb\xbf{}",
            b"\xff",
            b"{'a':1}",
            b'{"a":NaN}',
            b'{"a":Infinity}',
            b'{"a":01}',
            b'{"a":' + b"[" * 100_000,
            b'{"a":' * 100_000,
            b"PK\5\6" + bytes(18),
        )
    ),
    ("hostKey", b""),
    ("hostKey", b'{"u":"x"}'),
    ("hostKey", b'{"u":"x","p":null}'),
    ("hostKey", b'{"u":1,"p":"x"}'),
    ("hostKey", b'{"u":["x"],"p":"x"}'),
    ("hostKey", b'{"u":"\\ud800","p":"x"}'),
    ("hostKey", b'{"u":"\xed\xa0\x80","p":"x"}'),
    ("meta", b'{"v":11}'),
    ("meta", b'{"cv":"x"}'),
    ("meta", b'{"v":"11","cv":"x"}'),
    ("meta", b'{"v":11.0,"cv":"x"}'),
    ("meta", b'{"v":true,"cv":"x"}'),
    ("meta", b'{"v":null,"cv":"x"}'),
    ("start", b'{"lnewer":true}'),
    ("start", b'{"minUsn":0}'),
    ("start", b'{"minUsn":0,"lnewer":0}'),
    ("start", b'{"minUsn":0,"lnewer":null}'),
    ("start", b'{"minUsn":2147483648,"lnewer":true}'),
    ("start", b'{"minUsn":-2147483649,"lnewer":true}'),
    ("start", b'{"minUsn":1e3,"lnewer":true}'),
    ("start", b'{"minUsn":0,"lnewer":true,"graves":[]}'),
    ("start", b'{"minUsn":0,"lnewer":true,"graves":{}}'),
    ("start", b'{"minUsn":0,"lnewer":true,"graves":{"cards":[],"notes":[]}}'),
    *(
        ("start", b'{"minUsn":0,"lnewer":true,"graves":{"cards":[%s],"notes":[],"decks":[]}}' % id_)
        for id_ in (
            b'"x"',
            b'""',
            b'"1.5"',
            b'"\xd9\xa1"',
            b'" 1"',
            b"1.0",
            b"null",
            b"9223372036854775808",
            b'"9223372036854775808"',
            b'"' + b"9" * 5000 + b'"',
            b"9" * 5000,
        )
    ),
    ("applyGraves", b"{}"),
    ("applyGraves", b'{"chunk":null}'),
    ("applyGraves", b'{"chunk":{"cards":[],"decks":[]}}'),
    ("applyGraves", b'{"chunk":{"cards":[1.5],"decks":[],"notes":[]}}'),
    ("applyGraves", b'{"chunk":{"cards":{},"decks":[],"notes":[]}}'),
    ("applyChanges", b"{}"),
    ("applyChanges", b'{"changes":null}'),
    *(("applyChanges", changes(**{key: None})) for key in ("models", "decks", "tags")),
    ("applyChanges", b'{"changes":{"decks":[[],[]],"tags":[]}}'),
    ("applyChanges", b'{"changes":{"models":[],"tags":[]}}'),
    ("applyChanges", b'{"changes":{"models":[],"decks":[[],[]]}}'),
    ("applyChanges", changes(decks=[])),
    ("applyChanges", changes(decks=[[]])),
    ("applyChanges", changes(decks=[[], [], []])),
    ("applyChanges", changes(tags=[1])),
    ("applyChanges", changes(tags=[None])),
    ("applyChanges", changes(conf=[])),
    ("applyChanges", changes(conf={"x": 2**64})),
    ("applyChanges", changes(conf={"x": [{"y": -(2**63) - 1}]})),
    ("applyChanges", changes(crt=1.5)),
    ("applyChanges", changes(crt="1")),
    ("applyChanges", changes(crt=2**63)),
    ("applyChanges", changes(models=[None])),
    ("applyChanges", changes(models=[[]])),
    ("applyChanges", changes(models=["x"])),
    ("applyChanges", changes(models=[{}])),
    ("applyChanges", changes(models=[without(NOTETYPE, "flds")])),
    ("applyChanges", changes(models=[NOTETYPE | {"flds": [None]}])),
    ("applyChanges", changes(models=[NOTETYPE | {"id": 2**64}])),
    ("applyChanges", changes(models=[NOTETYPE | {"name": 5}])),
    ("applyChanges", changes(decks=[[{}], []])),
    ("applyChanges", changes(decks=[[without(DECK, "name")], []])),
    ("applyChanges", changes(decks=[[], [{}]])),
    ("applyChanges", changes(decks=[[], [without(CONFIG, "new")]])),
    ("applyChunk", b"{}"),
    ("applyChunk", b'{"chunk":null}'),
    ("applyChunk", chunk(done=None)),
    ("applyChunk", chunk(done=1)),
    *(("applyChunk", chunk(**{key: None})) for key in ("cards", "notes", "revlog")),
    *(("applyChunk", chunk(**{key: [None]})) for key in ("cards", "notes", "revlog")),
    *(("applyChunk", chunk(**{key: [[]]})) for key in ("cards", "notes", "revlog")),
    ("applyChunk", chunk(cards=[CARD[:-1]])),
    ("applyChunk", chunk(cards=[[*CARD, 1]])),
    ("applyChunk", chunk(cards=[CARD, CARD, replaced(CARD, 0, "1")])),
    *(("applyChunk", chunk(cards=[replaced(CARD, index, None)])) for index in range(18)),
    *(
        ("applyChunk", chunk(cards=[replaced(CARD, index, value)]))
        for index, value in [
            (0, 1.0),
            (0, 2**63),
            (3, 65536),
            (3, -1),
            (5, 2**31),
            (6, 4),
            (6, -1),
            (7, 5),
            (7, -4),
            (10, 65536),
            (11, -1),
            (11, 2**32),
            (13, 1.5),
            (16, 256),
            (17, 1),
            (17, {}),
        ]
    ),
    ("applyChunk", chunk(notes=[NOTE])),
    ("applyChunk", chunk(notes=[[*WIRE_NOTE, 1]])),
    *(("applyChunk", chunk(notes=[replaced(WIRE_NOTE, index, None)])) for index in range(11)),
    *(
        ("applyChunk", chunk(notes=[replaced(WIRE_NOTE, index, value)]))
        for index, value in [
            (0, "4"),
            (1, 7),
            (2, 1.5),
            (3, 2**63),
            (4, 2**31),
            (5, []),
            (6, ["f"]),
            (7, 0),
            (8, 0),
            (9, -1),
            (10, 0),
        ]
    ),
    ("applyChunk", chunk(revlog=[REVIEW[:5]])),
    *(("applyChunk", chunk(revlog=[replaced(REVIEW, index, None)])) for index in range(8)),
    ("applyChunk", chunk(revlog=[replaced(REVIEW, 3, 256)])),
    ("applyChunk", chunk(revlog=[replaced(REVIEW, 3, -1)])),
    ("sanityCheck2", b"{}"),
    ("sanityCheck2", b'{"client":null}'),
    ("sanityCheck2", b'{"client":[]}'),
    ("sanityCheck2", b'{"client":[[0,0,0],1,1,1,1,1,1]}'),
    ("sanityCheck2", b'{"client":[[0,0,0],1,1,1,1,1,1,1,1]}'),
    ("sanityCheck2", b'{"client":[[0,0],1,1,1,1,1,1,1]}'),
    ("sanityCheck2", b'{"client":[[0,0,0],1,1,1,1,1,1,-1]}'),
    ("sanityCheck2", b'{"client":[[0,0,0],1,1,1,1,1,1,1.0]}'),
    ("sanityCheck2", b'{"client":[[0,0,0],1,1,1,1,1,1,4294967296]}'),
    ("begin", b'{"v":""}'),
    ("begin", b'{"v":1}'),
    ("mediaChanges", b"{}"),
    ("mediaChanges", b'{"lastUsn":"0"}'),
    ("mediaChanges", b'{"lastUsn":2147483648}'),
    ("mediaChanges", b'{"lastUsn":null}'),
    ("downloadFiles", b"{}"),
    ("downloadFiles", b'{"files":null}'),
    ("downloadFiles", b'{"files":"x"}'),
    ("downloadFiles", b'{"files":[1]}'),
    ("downloadFiles", b'{"files":["\\udc00"]}'),
    ("downloadFiles", json.dumps({"files": ["x"] * 26}).encode()),
    ("mediaSanity", b"{}"),
    ("mediaSanity", b'{"local":-1}'),
    ("mediaSanity", b'{"local":"1"}'),
]


@pytest.mark.parametrize(("method", "payload"), BAD, ids=range(len(BAD)))
def test_anything_else_is_a_bad_request(method: str, payload: bytes) -> None:
    """Refused with a reason in one line, before anybody acts on it."""
    with pytest.raises(BadRequest) as caught:
        read(method, payload)
    assert 0 < len(caught.value.reason) < 500


@pytest.mark.parametrize("version", [-1, 0, 7, 12, 2**70])
def test_meta_of_another_protocol_is_no_bad_request(version: int) -> None:
    """So that the client says that its version is the trouble."""
    with pytest.raises(UnsupportedVersion):
        read("meta", b'{"v":%d,"cv":"x"}' % version)


def test_what_clients_could_not_read_again_is_not_taken() -> None:
    """The engine's parser stops at 128 levels for a whole answer."""
    deepest: Any = 1
    for _ in range(MAX_DEPTH - 1):
        deepest = [deepest]
    assert isinstance(read("applyChanges", changes(conf={"x": deepest})), messages.ApplyChanges)
    for depth in (MAX_DEPTH + 1, 127, 500):
        value: Any = 1
        for _ in range(depth):
            value = [value]
        for parts in ({"conf": {"x": value}}, {"models": [NOTETYPE | {"x": value}]}):
            with pytest.raises(BadRequest, match=r"nested (too deeply|deeper)"):
                read("applyChanges", changes(**parts))


def test_reading_is_the_same_however_deep_the_caller_is() -> None:
    """A body that is nested deeply ends in an error and not in the caller's recursion limit."""

    def deeper(levels: int) -> None:
        if levels:
            deeper(levels - 1)
        else:
            with pytest.raises(CardkeepError):
                read("finish", b'{"a":' + b"[" * 900 + b"]" * 900 + b"}x")

    for levels in (0, 300, 600):
        deeper(levels)
