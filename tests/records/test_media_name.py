# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names of media files."""

import os
import tempfile
from pathlib import Path
from unicodedata import is_normalized

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.errors import BadRequest
from cardkeep.records.media_name import (
    _NEWER,
    check_media_name,
    check_new_media_name,
    is_clients_own,
    leaves_folder,
)
from tests.clients.device import ClientError, borrow, give_back

TAKEN = [
    "a.png",
    "Ä.mp3",
    "猫 の 声.ogg",
    ".hidden",
    "...",
    "a..b",
    "ends with a dot.",
    "con",
    "ab:c",
    "12:30.mp3",
    "x[1]<2>*?|^",
    "a\u0085b",
    "a\u00a0b",
    "_meta",
    "e" * 255,
    "é" * 127,
    "\U0001f600",
    "\u05f8",
]

REFUSED = [
    ("", "empty"),
    (".", "this folder"),
    ("..", "the folder above"),
    ("../a", "a path"),
    ("a/b", "a path"),
    ("/etc/passwd", "a path"),
    ("a\0b", "NUL"),
    ("\0", "NUL"),
    ("e" * 256, "256 bytes"),
    ("é" * 128, "256 bytes"),
    ("e\u0301.png", "decomposed"),
    ("\u212b.png", "the Ångström sign, which is Å in NFC"),
    ("\ud800", "a lone surrogate"),
]

ODD = ["a\\b", "\\", "..\\a", "C:\\x", "c:x", "z:", "a\nb", "\t", "\x7f", "\x1b[0m", "a\r\n"]


@pytest.mark.parametrize("name", TAKEN)
def test_names_that_the_official_server_takes_are_taken(name: str) -> None:
    check_new_media_name(name)


@pytest.mark.parametrize(("name", "why"), REFUSED)
def test_a_name_that_is_no_files_name_is_refused_in_any_role(name: str, why: str) -> None:
    for check in (check_media_name, check_new_media_name):
        with pytest.raises(BadRequest):
            check(name)


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_harms_other_systems_is_refused_for_a_file_but_may_be_deleted(
    name: str,
) -> None:
    """A client that received such a file from the official server must get rid of it."""
    check_media_name(name)
    with pytest.raises(BadRequest):
        check_new_media_name(name)


@given(st.text(max_size=20))
def test_no_name_that_passes_leads_out_of_its_folder(name: str) -> None:
    try:
        check_media_name(name)
    except BadRequest:
        return
    assert not leaves_folder(name)
    assert Path(os.path.normpath(f"/folder/{name}")).parent == Path("/folder")


# --- the clients' own rule --------------------------------------------------------------

# Lower case, since clients give new files names in lower case.
CANDIDATES = [
    *("a.jpg", "猫 の 声.ogg", ".hidden", "a..b", "_a", " a", "a%20b", "a\u200bb", "a\u0085b"),
    *("a.", "a ", "a\t", "...", "..", ".", "", "a/b", "a\\b", "a:b", "a[1].jpg", "a]", "a<b"),
    *("a>b", 'a"b', "a?b", "a*b", "a^b", "a|b", "a\0b", "a\x1fb", "a\x7fb", "a\u00a0b", "e\u0301"),
    *("é", "con", "con.jpg", "conx", "xcon", "prn.a.b", "aux", "nul.", "com0", "com1", "com10"),
    *("lpt9.x", "x" * 120, "x" * 121, "é" * 60, "é" * 60 + "x"),
]


def kept_by_a_client(names: list[str]) -> dict[str, bool]:
    """Whether a client adds a file under just this name."""
    client = borrow("2.1.54")
    kept = {}
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        client.do("open", f"{folder}/collection.anki2")
        for name in names:
            try:
                kept[name] = client.do("add_media", name, "c2FtZQ==") == name
            except ClientError:
                kept[name] = False
        client.do("close")
    give_back(client)
    return kept


def test_a_client_keeps_the_names_that_we_think_it_keeps() -> None:
    """The candidates, and each code point at which a range of the table begins or ends."""
    edges = {
        point + beyond
        for run in _NEWER.split()
        for point in (int(end, 16) for end in run.split("-"))
        for beyond in (-1, 0, 1)
    }
    characters = [f"a{chr(point)}b" for point in sorted(edges)]
    names = CANDIDATES + [name for name in characters if is_normalized("NFC", name)]
    assert {name: is_clients_own(name) for name in names} == kept_by_a_client(names)
