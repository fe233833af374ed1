# SPDX-License-Identifier: AGPL-3.0-or-later
"""When much is about to go."""

import pytest

from cardkeep.backups.shrink import (
    Rules,
    refusal,
    sync_deletes_much,
    told_what_was_kept,
    upload_loses_much,
)
from cardkeep.messages import Counts


def holds(cards: int, reviews: int = 0) -> Counts:
    return Counts(cards=cards, notes=cards, revlog=reviews, notetypes=1, decks=1, deck_configs=1)


@pytest.mark.parametrize(
    ("stored", "uploaded", "much"),
    [
        (holds(1000), holds(499), True),
        (holds(1000), holds(500), False),
        (holds(1000), holds(2000), False),
        (holds(100), holds(0), True),
        (holds(99), holds(0), False),
        (holds(0), holds(0), False),
        (holds(10, 1000), holds(10, 499), True),
        (holds(10, 1000), holds(10, 500), False),
        (holds(1000, 1000), holds(1000, 0), True),
    ],
)
def test_an_upload_loses_much(stored: Counts, uploaded: Counts, much: bool) -> None:
    """Under half of the cards or reviews, and at least a hundred fewer."""
    assert upload_loses_much(stored, uploaded, Rules()) is much


@pytest.mark.parametrize(
    ("stored", "notes", "cards", "much"),
    [
        (holds(1000), 201, 0, True),
        (holds(1000), 200, 200, False),
        (holds(1000), 0, 201, True),
        (holds(300), 101, 0, True),
        (holds(300), 100, 100, False),
        (holds(100), 100, 100, False),
    ],
)
def test_a_sync_deletes_much(stored: Counts, notes: int, cards: int, much: bool) -> None:
    """More than a fifth of the notes or cards, and more than a hundred of them."""
    assert sync_deletes_much(stored, notes=notes, cards=cards, rules=Rules()) is much


def test_the_words_name_both_counts_and_the_way() -> None:
    """And a name is no markup in clients that show rich text."""
    for words in (
        told_what_was_kept("<b>x", holds(12_345, 7), holds(12), "20261125-190501"),
        refusal("<b>x", holds(12_345, 7), holds(12)),
    ):
        assert "12,345 cards and 7 reviews" in words
        assert "12 cards and 0 reviews" in words
        assert "'&lt;b&gt;x'" in words
