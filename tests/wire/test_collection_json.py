# SPDX-License-Identifier: AGPL-3.0-or-later
"""The JSON of the collection methods: pairs of message and bytes."""

import json
from typing import Any

import pytest

from cardkeep import messages
from cardkeep.errors import BadRequest
from cardkeep.messages import Chunk, Counts, Graves
from cardkeep.records import deck, deck_config, notetype
from cardkeep.wire import answer as answers
from cardkeep.wire.collection_json import LONG, LONGEST_ROW, MOST_ROWS
from cardkeep.wire.request import METHODS, read_json
from tests.records import vectors

OBJECTS = {
    kind: [case["json"] for case in vectors.load("rows-to-json.json") if case["kind"] == kind]
    for kind in ("notetype", "deck", "deckconf")
}

CARD = (1, 2, 3, 0, 1600000000, -1, 2, -3, 2147483647, 0, 2500, 4294967295, 0, 1001, -5, 0, 7, "{}")
NOTE = (4, 'g{\\"', 5, 1600000000, 6, " a b ", "front\x1fb\u00e4ck \U0001f600")
REVIEW = (1600000000123, 1, 6, 3, -60, 10, 2500, 8000, 1)


def read(method: str, payload: bytes) -> messages.ClientMessage:
    return read_json(METHODS[method], payload)


READ = [
    ("hostKey", b'{"u":"ana","p":"s\\u00e9cret\\u0000"}', messages.HostKey("ana", "sécret\0")),
    ("hostKey", b'{"p":"","u":"","x":1}', messages.HostKey("", "")),
    ("meta", b'{"v":11,"cv":"anki,26.09"}', messages.Meta(11, "anki,26.09")),
    ("meta", b'{"v":9,"v":8,"cv":""}', messages.Meta(8, "")),
    ("start", b'{"minUsn":-1,"lnewer":true}', messages.Start(-1, True)),
    ("start", b'{"minUsn":2,"lnewer":false,"graves":null}', messages.Start(2, False)),
    (
        "start",
        b'{"minUsn":0,"lnewer":false,"graves":{"cards":["1","-2"],"decks":["03"],"notes":[]}}',
        messages.Start(0, False, Graves(cards=[1, -2], notes=[], decks=[3])),
    ),
    (
        "start",
        b'{"minUsn":0,"lnewer":true,"graves":{"cards":[11,12],"notes":[13],"decks":[14]}}',
        messages.Start(0, True, Graves(cards=[11, 12], notes=[13], decks=[14])),
    ),
    ("applyChunk", b'{"chunk":{}}', messages.ApplyChunk(Chunk(False, [], [], []))),
    ("applyChunk", b'{"chunk":{"done":true}}', messages.ApplyChunk(Chunk(True, [], [], []))),
    ("sanityCheck2", b'{"client":"failed"}', messages.SanityCheck(None)),
    (
        "sanityCheck2",
        b'{"client":[[5,1,4294967295],7,6,2,9,8,3,4]}',
        messages.SanityCheck(
            Counts(cards=7, notes=6, revlog=2, notetypes=8, decks=3, deck_configs=4)
        ),
    ),
    *(
        (method, payload, message)
        for method, message in {
            "chunk": messages.NextChunk(),
            "finish": messages.Finish(),
            "abort": messages.Abort(),
            "download": messages.Download(),
        }.items()
        for payload in (b"", b"{}", b'{"_pad":null}', b' {"x":[{"y":1.5e300}]}\n')
    ),
]


@pytest.mark.parametrize(("method", "payload", "message"), READ)
def test_what_clients_send(method: str, payload: bytes, message: messages.ClientMessage) -> None:
    """Every shape that clients of any age give a method."""
    assert read(method, payload) == message


WRITTEN = [
    (messages.HostKeyGranted("k"), {"key": "k"}),
    (
        messages.MetaAnswer(
            mod=1795423254765, scm=1, usn=3, now=1795423255, media_usn=2, empty=False
        ),
        {
            "mod": 1795423254765,
            "scm": 1,
            "usn": 3,
            "ts": 1795423255,
            "msg": "",
            "cont": True,
            "hostNum": 0,
            "empty": False,
            "media_usn": 2,
        },
    ),
    (messages.Nothing(), None),
    (messages.Finished(1795423254765), 1795423254765),
    (messages.SanityAnswer(False), {"status": "bad", "c": None, "s": None}),
    (
        messages.SanityAnswer(True, Counts(1, 2, 3, 4, 5, 6), Counts(1, 2, 3, 4, 5, 6)),
        {
            "status": "ok",
            "c": [[0, 0, 0], 1, 2, 3, 0, 4, 5, 6],
            "s": [[0, 0, 0], 1, 2, 3, 0, 4, 5, 6],
        },
    ),
    (Chunk(True), {"done": True}),
    (Chunk(False, cards=[CARD]), {"done": False, "cards": [list(CARD)]}),
    (Graves(), {"cards": [], "decks": [], "notes": []}),
    (messages.Changes(), {"models": [], "decks": [[], []], "tags": []}),
    (
        messages.Changes(conf={}, crt=0),
        {"models": [], "decks": [[], []], "tags": [], "conf": {}, "crt": 0},
    ),
]


@pytest.mark.parametrize(("answer", "written"), WRITTEN)
def test_what_clients_get(answer: messages.Answer, written: Any) -> None:
    """All keys that some client needs, and none that some client cannot bear."""
    text = answers.write(answer)
    assert json.loads(text) == written
    assert b" " not in text


def test_the_text_of_an_accepted_upload_is_not_json() -> None:
    """Clients compare it with OK, letter by letter."""
    assert answers.write(messages.UploadAccepted()) == b"OK"


BOTH_WAYS = [
    ("applyGraves", "chunk", Graves(cards=[1, -(2**63)], notes=[2**63 - 1], decks=[])),
    ("applyChunk", "chunk", Chunk(False, [REVIEW], [CARD, CARD], [NOTE])),
    ("applyChunk", "chunk", Chunk(True, [], [], [NOTE] * 3)),
    (
        "applyChanges",
        "changes",
        messages.Changes(
            notetypes=[notetype.from_json(obj) for obj in OBJECTS["notetype"]],
            decks=[deck.from_json(obj) for obj in OBJECTS["deck"]],
            deck_configs=[deck_config.from_json(obj) for obj in OBJECTS["deckconf"]],
            tags=["a", "b::c", "日本"],
            conf={"a": [1, 2.5, None, {"b": "\0\u2028"}], "": True, "big": 2**64 - 1},
            crt=1600000000,
        ),
    ),
    (
        "applyChanges",
        "changes",
        messages.Changes(notetypes=[], decks=[], deck_configs=[], tags=[]),
    ),
]


@pytest.mark.parametrize(("method", "key", "both"), BOTH_WAYS)
def test_what_travels_both_ways(method: str, key: str, both: Any) -> None:
    """What the server writes is what it would read from a client."""
    text = answers.write(both)
    message = read(method, b'{"%s":%s}' % (key.encode(), text))
    assert getattr(message, key if method != "applyGraves" else "graves") == both
    assert answers.write(both) == text


def rows_of(message: messages.ClientMessage) -> dict[str, list[Any]]:
    """All rows of a chunk, whatever its parts."""
    assert isinstance(message, messages.ApplyChunk)
    parts = [message.chunk, *message.rest]
    return {
        kind: [row for part in parts for row in getattr(part, kind)]
        for kind in ("revlog", "cards", "notes")
    }


def chunk_of(count: int, *, length: int, **others: Any) -> bytes:
    """An `applyChunk` with notes of that length, and one card and review each."""
    sent = [[at, "g", 5, 1, 1, " a ", "x" * length, "", "", 0, ""] for at in range(count)]
    cards = [[at, *CARD[1:]] for at in range(count)]
    reviews = [[at, *REVIEW[1:]] for at in range(count)]
    chunk = {"done": True, "revlog": reviews, "cards": cards, "notes": sent, **others}
    return json.dumps({"chunk": chunk}).encode()


def test_a_long_chunk_comes_in_parts() -> None:
    """The same rows as those of a short one; a part has a MiB or two, and can be made again."""
    short, long = read("applyChunk", chunk_of(50, length=9)), chunk_of(50, length=200_000)
    message = read("applyChunk", long)
    assert isinstance(message, messages.ApplyChunk)
    assert message.chunk.done
    sizes = [sum(len(row[6]) for row in part.notes) for part in message.rest]
    assert len(sizes) > 5
    assert max(sizes) < 1_500_000
    assert rows_of(message) == rows_of(message)
    for kind in ("revlog", "cards"):
        assert rows_of(message)[kind] == rows_of(short)[kind]
    assert [row[:6] for row in rows_of(message)["notes"]] == [
        row[:6] for row in rows_of(short)["notes"]
    ]
    assert {len(row[6]) for row in rows_of(message)["notes"]} == {200_000}


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"cards": [list(CARD), [1]]}, "at least length"),
        ({"revlog": [[1.5, *REVIEW[1:]]]}, "Expected `int`"),
        ({"notes": [[1, "g", 5, 1, 1, "", "x" * LONGEST_ROW, "", "", 0, ""]]}, "one row of notes"),
        ({"extra": [[]] * MOST_ROWS}, "rows"),
    ],
    ids=["a card of one value", "a review with a fractional id", "a huge note", "too many rows"],
)
def test_a_long_chunk_is_refused_as_a_whole(others: Any, reason: str) -> None:
    """Before anybody acts on its first part."""
    payload = chunk_of(10, length=LONG // 5, **others)
    with pytest.raises(BadRequest, match=reason):
        read("applyChunk", payload)


def test_answers_that_can_be_long_are_written_in_a_thread() -> None:
    """Short ones stay in the event loop."""
    long_note = (*NOTE[:6], "x" * 200_000)
    assert answers.is_small(messages.Nothing())
    assert answers.is_small(Chunk(False, [REVIEW] * 300, [CARD] * 300, [NOTE] * 84))
    assert not answers.is_small(Chunk(False, [REVIEW] * 1001))
    assert not answers.is_small(Chunk(True, notes=[long_note]))
    assert answers.is_small(messages.Changes(tags=["a"]))
    assert not answers.is_small(messages.Changes(decks=[deck.from_json(OBJECTS["deck"][0])] * 50))
    assert not answers.is_small(messages.Changes(tags=["a"] * 5000))
    assert answers.is_small(Graves(cards=[1] * 250))
    assert not answers.is_small(Graves(cards=[1] * 1500, notes=[1] * 1500))
