# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every address that some client makes of what its user typed leads to the method."""

import json

import pytest

from cardkeep.errors import UnknownMethod
from cardkeep.http.routing import find_method, is_sync
from cardkeep.wire.request import METHODS
from tests.http.serving import KEY, Client, MemorySteps
from tests.wire.requests import sync_header, zstd_frame

PATHS = [
    ("/sync/hostKey", "hostKey"),
    ("/msync/begin", "begin"),
    ("/sub/sync/hostKey", "hostKey"),
    ("/sub/msync/begin", "begin"),
    ("/sync/sync/hostKey", "hostKey"),
    ("/sync/msync/begin", "begin"),
    ("/msync/sync/meta", "meta"),
    ("//sync/hostKey", "hostKey"),
    ("/msync//begin", "begin"),
    ("///sync///meta//", "meta"),
    ("/sync/meta/", "meta"),
    ("/meta", "meta"),
    ("/anki/meta", "meta"),
    ("/begin", "begin"),
    ("/synchostKey", "hostKey"),
    ("/msyncbegin", "begin"),
    ("/a/b/c/d/sync/applyChunk", "applyChunk"),
]


@pytest.mark.parametrize(("path", "name"), PATHS)
def test_addresses(path: str, name: str) -> None:
    """With and without prefix, area and slashes."""
    assert is_sync(path)
    assert find_method(path).name == name


@pytest.mark.parametrize("area", ["/sync/", "/msync/", "/"])
def test_all_methods(area: str) -> None:
    """Seventeen of them, found in either area: people mix them up."""
    assert len(METHODS) == 17
    for name in METHODS:
        assert find_method(area + name).name == name


@pytest.mark.parametrize("path", ["/sync/foo", "/msync/foo/", "/x/sync//foo", "/sync/META"])
def test_unknown_methods_are_the_protocols_to_refuse(path: str) -> None:
    """Names are case-sensitive."""
    assert is_sync(path)
    with pytest.raises(UnknownMethod):
        find_method(path)


@pytest.mark.parametrize("path", ["", "/", "/sync", "/sync/", "/foo", "/foo/bar", "/meta/x", "//"])
def test_everything_else_is_a_page(path: str) -> None:
    assert not is_sync(path)


def test_pages_get_what_is_not_the_protocols(client: Client) -> None:
    """The dispatcher passes it on untouched."""
    answer = client.request("GET", "/anything/else")
    assert (answer.status, answer.body) == (299, b"page")
    assert client.request("POST", "/health", b"x").status == 299


@pytest.mark.parametrize("path", ["/health", "/sub/health"])
def test_health(client: Client, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """200 with no body, asked either way, and never in the log."""
    for verb in ("GET", "HEAD"):
        answer = client.request(verb, path)
        assert (answer.status, answer.body) == (200, b"")
    assert caplog.records == []


@pytest.mark.parametrize("path", [path for path, name in PATHS if name == "meta"])
def test_a_method_answers_under_each_of_its_addresses(client: Client, path: str) -> None:
    answer = client.direct(path, b'{"v":11,"cv":"x"}')
    assert (answer.status, answer.json["usn"]) == (200, 3)


def test_an_unknown_method_is_404(client: Client) -> None:
    assert client.direct("/sync/foo").status == 404
    assert client.request("GET", "/msync/foo").status == 404


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("GET", "/sync/meta", "POST"),
        ("HEAD", "/sync/meta", "POST"),
        ("PUT", "/sync/upload", "POST"),
        ("OPTIONS", "/sync/hostKey", "POST"),
        ("GET", "/msync/uploadChanges", "POST"),
        ("DELETE", "/msync/begin", "GET, HEAD, POST"),
    ],
)
def test_a_wrong_verb_is_405_and_told_the_right_ones(
    client: Client, steps: MemorySteps, verb: str, path: str, allowed: str
) -> None:
    answer = client.request(verb, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert steps.keys == []


def test_begin_can_be_asked_with_get(client: Client, steps: MemorySteps) -> None:
    """v10 clients do, with key and version in the query."""
    path = f"/msync/begin?k={KEY}&v=anki%2C2.1.54+%28b6a7760c%29%2Clinux"
    answer = client.request("GET", path)
    assert (answer.status, answer.json) == (200, {"data": {"usn": 5, "sk": KEY}, "err": ""})
    assert "anki-original-size" not in answer.headers
    assert [message.client for message in steps.heard] == ["anki,2.1.54 (b6a7760c),linux"]  # type: ignore[union-attr]
    assert steps.callers[0].protocol == 10
    head = client.request("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 403),
        ("?v=x", 403),
        ("?k=wrong&v=x", 403),
        (f"?k={KEY}", 400),
        (f"?k={KEY}&v=", 400),
        ("?" + "&".join(f"a{number}=1" for number in range(500)), 400),
        ("?k=%ff", 403),
    ],
)
def test_begin_without_what_it_needs(client: Client, query: str, status: int) -> None:
    """The key is looked at first."""
    assert client.request("GET", f"/msync/begin{query}").status == status


def test_a_json_answer_is_not_changed_by_the_verb_of_a_header_request(client: Client) -> None:
    """GET with an anki-sync header is read as protocol 11, whoever would send that."""
    answer = client.request(
        "GET", "/msync/begin", zstd_frame(b'{"v":"x"}'), {"anki-sync": sync_header(k=KEY)}
    )
    assert json.loads(answer.payload)["err"] == ""
