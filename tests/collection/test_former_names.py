# SPDX-License-Identifier: AGPL-3.0-or-later
"""The names that objects had before."""

from pathlib import Path

import pytest

from cardkeep.collection.folder import UserFolder
from cardkeep.collection.former_names import Former, remember, since


@pytest.fixture
def folder(tmp_path: Path) -> UserFolder:
    made = UserFolder(tmp_path / "ana")
    made.make()
    return made


def test_the_first_name_since_then_counts(folder: UserFolder) -> None:
    """A client that was last here before two renames knows the name before the first."""
    assert since(folder, 1, 0, "decks") == {}
    remember(folder, 1, 5, [Former("decks", 7, "one"), Former("notetypes", 7, "kind")])
    remember(folder, 1, 6, [])
    remember(folder, 1, 8, [Former("decks", 7, "two\n"), Former("decks", 9, "日本")])
    assert since(folder, 1, 5, "decks") == {7: "one", 9: "日本"}
    assert since(folder, 1, 6, "decks") == {7: "two\n", 9: "日本"}
    assert since(folder, 1, 5, "notetypes") == {7: "kind"}
    assert since(folder, 1, 9, "decks") == {}


def test_another_collection_begins_anew(folder: UserFolder) -> None:
    """After a one-way sync nobody asks for what was before it, whatever its numbers are."""
    remember(folder, 1, 5, [Former("decks", 7, "one")])
    assert since(folder, 2, 0, "decks") == {}


def test_a_line_that_was_cut_off_is_passed_over(folder: UserFolder) -> None:
    remember(folder, 1, 5, [Former("decks", 7, "one")])
    remember(folder, 1, 6, [Former("decks", 8, "two")])
    whole = folder.former_names.read_bytes()
    folder.former_names.write_bytes(whole[:-5])
    remember(folder, 1, 7, [Former("decks", 9, "three")])
    assert since(folder, 1, 0, "decks") == {7: "one", 9: "three"}


def test_only_the_latest_are_kept(folder: UserFolder) -> None:
    """The file stays small, and each line in it whole."""
    for usn in range(400):
        remember(folder, 1, usn, [Former("decks", 10 * usn + n, "x" * 100) for n in range(10)])
        assert folder.former_names.stat().st_size <= 64 * 1024
    found = since(folder, 1, 0, "decks")
    assert 200 < len(found) < 600
    assert max(found) == 3999
    assert not list(folder.ours.glob("*.new"))
