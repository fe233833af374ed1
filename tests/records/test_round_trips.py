# SPDX-License-Identifier: AGPL-3.0-or-later
"""What clients send comes back as they sent it."""

from typing import Any

from hypothesis import given

from cardkeep.records import deck, deck_config, notetype
from cardkeep.records.names import deck_human, deck_native
from tests.records import objects
from tests.records.test_conversions import exact

TODAY = ("lrnToday", "revToday", "newToday", "timeToday")


@given(objects.DECKS)
def test_deck_comes_back(sent: dict[str, Any]) -> None:
    """All keys, unknown ones too; the name cleaned, amounts of earlier days gone."""
    row = deck.from_json(sent)
    back = deck.to_json(row)
    assert back.pop("name") == deck_human(deck_native(sent["name"]))
    day = max(sent[key][0] for key in TODAY if key != "lrnToday")
    for key in TODAY:
        amount = sent[key][1] if sent[key][0] == day or key == "timeToday" else 0
        assert back.pop(key) == [day, amount]
    assert exact(back) == exact(
        {key: value for key, value in sent.items() if key not in ("name", *TODAY)}
    )
    assert deck.from_json(deck.to_json(row)) == row


@given(objects.DECK_CONFIGS)
def test_deck_config_comes_back(sent: dict[str, Any]) -> None:
    """All keys, unknown ones too, those inside new, rev and lapse among them."""
    row = deck_config.from_json(sent)
    assert exact(deck_config.to_json(row)) == exact(sent)
    assert deck_config.from_json(deck_config.to_json(row)) == row


@given(objects.NOTETYPES)
def test_notetype_comes_back(sent: dict[str, Any]) -> None:
    """All keys, unknown ones too, of the notetype, its fields and its templates."""
    row = notetype.from_json(sent)
    assert exact(notetype.to_json(row)) == exact(sent)
    assert notetype.from_json(notetype.to_json(row)) == row
