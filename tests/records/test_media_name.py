# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names of media files."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.errors import BadRequest
from cardkeep.records.media_name import check_media_name, check_new_media_name, leaves_folder

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
