# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names of decks and tags, against those that the official server stored."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.records.names import deck_human, deck_native, normalized_tag, tag_parents
from cardkeep.records.unicase import compare
from tests.records import vectors

RECORDED = vectors.load("names.json")
# No combining characters: cleaning can bring one next to a letter, and it stays apart then.
NAMES = st.text(
    st.sampled_from("ab:: \t\n\x00\x1c\x1f\x7f\x85\xa0\u200b\u2028\u3000\ufeffé日"), max_size=12
)


def test_all_recorded_cases_are_there() -> None:
    """None may go missing."""
    assert (len(RECORDED["decks"]), len(RECORDED["tags"])) == (31, 22)


@pytest.mark.parametrize("case", RECORDED["decks"], ids=lambda case: ascii(case["incoming"]))
def test_deck_is_named_as_on_the_official_server(case: dict[str, Any]) -> None:
    """But for the `+` of a name that was taken, which is not this room's."""
    for incoming, stored, renamed in zip(
        case["incoming"], case["result"], case["renamed"], strict=True
    ):
        if renamed:
            stored = stored.rstrip("+")
        assert deck_human(deck_native(incoming)) == stored


@pytest.mark.parametrize("case", RECORDED["tags"], ids=lambda case: ascii(case["incoming"]))
def test_tags_are_named_as_on_the_official_server(case: dict[str, Any]) -> None:
    """Normalized, unless there; the longest parent that exists lends its spelling."""
    stored: list[str] = list(case["existing"])

    def find(name: str) -> str | None:
        return next((tag for tag in stored if compare(tag, name) == 0), None)

    for name in map(normalized_tag, case["incoming"]):
        if find(name) is None:
            for parent in tag_parents(name):
                if (spelling := find(parent)) is not None:
                    name = spelling + name[len(parent) :]
                    break
            stored.append(name)
    assert sorted(stored) == sorted(case["result"])


def test_parents_come_longest_first() -> None:
    """Each without the last level of the one before; a tag of one level has none."""
    assert list(tag_parents("a::b::c")) == ["a::b", "a"]
    assert list(tag_parents("a:b")) == []


@given(st.lists(NAMES.map(lambda level: level.replace(":", ""))).map("::".join))
def test_cleaned_names_stay_as_they_are(name: str) -> None:
    """Cleaning twice is cleaning once, for decks and for tags.

    Levels without colons: where cleaning takes out what stood between two, they make a new
    separator, on the official server too (see the next test).
    """
    native = deck_native(name)
    assert deck_native(deck_human(native)) == native
    tag = normalized_tag(name)
    assert normalized_tag(tag) == tag


def test_colons_that_cleaning_brings_together_stay_in_their_level() -> None:
    """A name is split before its levels are cleaned, and not again."""
    assert deck_native("a:\n:b") == "a::b"
    assert normalized_tag("a: :\x85") == "a::"


@given(NAMES)
def test_every_level_has_a_name(name: str) -> None:
    """As many levels as `::` separates, none of them empty, spaced or with control characters."""
    levels = deck_native(name).split("\x1f")
    assert len(levels) == len(name.split("::"))
    for level in levels:
        assert level == level.strip() != ""
        assert not re.search("[\x00-\x1f\x7f]", level)


def test_names_are_composed() -> None:
    """A letter and its accent become one character, in decks and tags."""
    assert deck_native("e\u0301::e\u0301") == "é\x1fé"
    assert normalized_tag("e\u0301::e\u0301") == "é::é"
