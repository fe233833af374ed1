# SPDX-License-Identifier: AGPL-3.0-or-later
"""The JSON of the media methods: pairs of message and bytes."""

import json
from typing import Any

import pytest

from cardkeep import messages
from cardkeep.errors import BadRequest
from cardkeep.wire import answer as answers
from cardkeep.wire import media_json
from cardkeep.wire.request import METHODS, read_json

READ = [
    ("begin", b'{"v":"anki,26.09.3"}', messages.MediaBegin("anki,26.09.3")),
    ("mediaChanges", b'{"lastUsn":0}', messages.MediaChanges(0)),
    ("mediaChanges", b'{"lastUsn":-1}', messages.MediaChanges(-1)),
    ("downloadFiles", b'{"files":[]}', messages.DownloadFiles([])),
    (
        "downloadFiles",
        '{"files":["日本 é.jpg","..",""]}'.encode(),
        messages.DownloadFiles(["日本 é.jpg", "..", ""]),
    ),
    (
        "downloadFiles",
        json.dumps({"files": ["x"] * 25}).encode(),
        messages.DownloadFiles(["x"] * 25),
    ),
    ("mediaSanity", b'{"local":3}', messages.MediaSanity(3)),
]


@pytest.mark.parametrize(("method", "payload", "message"), READ)
def test_what_clients_send(method: str, payload: bytes, message: messages.ClientMessage) -> None:
    """Names travel as they are; whether they are allowed is not decided here."""
    assert read_json(METHODS[method], payload) == message


WRITTEN = [
    (messages.MediaBegun(5, "key"), {"usn": 5, "sk": "key"}),
    (messages.MediaChangeList(), []),
    (
        messages.MediaChangeList(
            [messages.MediaChange("a.jpg", 1, "aa" * 20), messages.MediaChange("ü", 2, "")]
        ),
        [["a.jpg", 1, "aa" * 20], ["ü", 2, ""]],
    ),
    (messages.MediaUploaded(3, 7), [3, 7]),
    (messages.MediaSanityAnswer(True), "OK"),
    (messages.MediaSanityAnswer(False), "mediaSanity"),
]


@pytest.mark.parametrize(("answer", "data"), WRITTEN)
def test_what_clients_get(answer: messages.Answer, data: Any) -> None:
    """`err` is there and empty: old clients look for it."""
    assert json.loads(answers.write(answer)) == {"data": data, "err": ""}


def test_begin_needs_the_clients_version() -> None:
    """Also where it comes outside of JSON, in a form or a query."""
    assert media_json.begin("ankidroid,2.15.6,android").client == "ankidroid,2.15.6,android"
    with pytest.raises(BadRequest):
        media_json.begin("")


def test_words_of_a_refusal_go_where_clients_show_them() -> None:
    """As the text of an upload, as `err` of media; elsewhere there is no place for them."""
    words = "Sorry, „no“."
    refusals = {name: answers.write_refusal(method, words) for name, method in METHODS.items()}
    assert refusals.pop("upload") == words.encode()
    for name, method in METHODS.items():
        if method.area == "msync":
            text = refusals.pop(name)
            assert text is not None
            assert json.loads(text) == {"data": None, "err": words}
    assert set(refusals.values()) == {None}
    assert len(refusals) == 11
