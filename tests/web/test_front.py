# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page at / tells what this is and what to enter where."""

import asyncio
import itertools
import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from starlette.routing import Mount, Route

from cardkeep.web.pages import pages
from cardkeep.web.template import STATIC
from cardkeep.wire.request import METHODS

BASE = "http://192.0.2.7:8080"


def get(path: str, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
    """What a browser at BASE gets; `options` are those of `pages`."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=pages(**options))
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


class _Page(HTMLParser):
    """Collects what a test asks of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.codes: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self._in_code = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        if tag == "code":
            self._in_code = True
            self.codes.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "code":
            self._in_code = False

    def handle_data(self, data: str) -> None:
        if self._in_code:
            self.codes[-1] += data


def test_each_kind_of_client_finds_its_text() -> None:
    """Old desktops need two variables with final slashes, all others the base address."""
    page = _Page(get("/").text)
    base = f"{BASE}/"
    assert page.codes[:3] == [base] * 3
    assert page.codes[3] == f"SYNC_ENDPOINT={base}sync/\nSYNC_ENDPOINT_MEDIA={base}msync/"
    assert page.codes[4] == f"{base}\n{base}msync"


def test_it_says_what_it_is_not() -> None:
    """Nobody shall ask the makers of Anki about this server."""
    text = get("/").text
    assert "cardkeep" in text
    assert "not the official server" in text


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({}, "http://192.0.2.7:8080/"),
        ({"host": "anki.example.org"}, "http://anki.example.org/"),
        ({"host": "[2001:db8::1]:8080"}, "http://[2001:db8::1]:8080/"),
        ({"x-forwarded-proto": "https"}, "https://192.0.2.7:8080/"),
        ({"x-forwarded-proto": "javascript"}, "http://192.0.2.7:8080/"),
        (
            {"x-forwarded-proto": "https", "x-forwarded-host": "a.example, b.internal"},
            "https://a.example/",
        ),
        ({"x-forwarded-prefix": "/anki"}, "http://192.0.2.7:8080/anki/"),
        ({"x-forwarded-prefix": "/anki/"}, "http://192.0.2.7:8080/anki/"),
        ({"x-forwarded-prefix": "//evil.example/"}, "http://192.0.2.7:8080/"),
        ({"x-forwarded-host": "a.example/<b>"}, "http://192.0.2.7:8080/"),
        ({"host": "a b"}, "http://192.0.2.7:8080/"),
    ],
)
def test_the_address_is_the_readers(headers: dict[str, str], address: str) -> None:
    """It is the one in the browser's bar, also behind proxies; nonsense in headers is ignored."""
    assert _Page(get("/", headers).text).codes[0] == address


def test_a_configured_address_counts_more() -> None:
    """Who set the public address knows better than any header."""
    text = get("/", {"host": "other.example"}, public_url="https://anki.example.org/").text
    assert _Page(text).codes[0] == "https://anki.example.org/"


def test_open_mode_is_said() -> None:
    """In open mode nobody looks for a password that does not exist."""
    assert "any name and password" in get("/", open_mode=True).text
    assert "any name and password" not in get("/").text


def test_plain_http_is_warned_about() -> None:
    """The warning is there without https and gone with it."""
    assert "not encrypted" in get("/").text
    assert "not encrypted" not in get("/", {"x-forwarded-proto": "https"}).text


@pytest.mark.parametrize("path", ["/", "/no-such-page"])
def test_nothing_is_loaded_from_elsewhere(path: str) -> None:
    """One style sheet of our own, no script, and a policy that forbids all others."""
    response = get(path)
    page = _Page(response.text)
    assert [link.removeprefix("/") for link in page.links] == ["static/cardkeep.css"]
    assert "script" not in page.tags
    assert "style" not in page.tags
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self';")
    assert "frame-ancestors 'none'" in policy


def test_the_style_sheet_is_served_and_knows_both_schemes() -> None:
    """Dark and light follow the reader's system."""
    response = get("/static/cardkeep.css")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/css")
    assert "prefers-color-scheme: dark" in response.text
    assert not re.search(r"@import|url\(", (STATIC / "cardkeep.css").read_text())


def test_the_page_has_what_readers_aids_need() -> None:
    """Language, title, one main part, headings in order, and names for the boxes."""
    text = get("/").text
    assert '<html lang="en">' in text
    assert "<title>A sync server for Anki</title>" in text
    levels = [int(level) for level in re.findall(r"<h([1-6])", text)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert text.count("<pre ") == text.count("aria-label=")
    assert text.count("<main>") == 1


def test_an_unknown_page_is_404() -> None:
    """With a page that says so."""
    response = get("/no-such-page")
    assert response.status_code == 404
    assert "no such page" in response.text


def test_no_page_ends_in_a_methods_name() -> None:
    """Such a page could never be reached: the last segment decides what is a sync request."""
    for route in pages().routes:
        assert isinstance(route, Route | Mount)
        assert route.path.rpartition("/")[2] not in METHODS
