# SPDX-License-Identifier: AGPL-3.0-or-later
"""User names, which become folders."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.accounts.names import LONGEST, check_name, folded
from cardkeep.errors import AccountError

GOOD = [
    "ana",
    "Ana María",
    "ana@example.org",
    "o'neil",
    "用户",
    "علی\u200cرضا",
    "a.b",
    "con1",
    "x" * 100,
    "a+b",
]
BAD = [
    "",
    ".",
    "..",
    ".hidden",
    ".cardkeep",
    "ana.",
    " ana",
    "ana ",
    "\u00a0ana",
    "a/b",
    "a\\b",
    "c:",
    "a*",
    "a?",
    'a"',
    "a<b",
    "a>b",
    "a|b",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "a\u202eb",
    "a\u200bb",
    "\ud800",
    "\ue000",
    "con",
    "NUL",
    "Com1",
    "lpt9.txt",
    "aux.",
    "accounts.db",
    "Accounts.DB-wal",
    "lost+found",
    "x" * 101,
    "é" * 51,
]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_is_kept(name: str) -> None:
    """Any name that every file system takes as a folder's."""
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused(name: str) -> None:
    """With a reason on one line."""
    with pytest.raises(AccountError) as caught:
        check_name(name)
    assert str(caught.value).isprintable()


def test_names_are_normalised() -> None:
    """Two ways to write é are one name."""
    assert check_name("zoe\u0301") == "zoé"


@pytest.mark.parametrize(
    ("one", "other"), [("Ana", "aNA"), ("STRASSE", "straße"), ("É", "e\u0301")]
)
def test_case_twins_fold_to_one(one: str, other: str) -> None:
    """What a file system without case would give one folder."""
    assert folded(one) == folded(other)


@given(st.text(max_size=60))
def test_an_accepted_name_is_one_folder_below_the_base(name: str) -> None:
    """Whatever is asked for, an accepted name never leaves the base folder."""
    try:
        accepted = check_name(name)
    except AccountError:
        return
    path = Path("/base") / accepted
    assert path.parent == Path("/base")
    assert path.name == accepted == unicodedata.normalize("NFC", accepted)
    assert len(accepted.encode()) <= LONGEST
    assert check_name(accepted) == accepted
