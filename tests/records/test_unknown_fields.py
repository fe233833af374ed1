# SPDX-License-Identifier: AGPL-3.0-or-later
"""Protobuf fields of newer clients stay when a change in legacy JSON replaces a row."""

import msgspec
from hypothesis import given

from cardkeep.records import deck, deck_config, notetype, protobuf
from cardkeep.records.notetype import Field, Template
from tests.records import objects

# Field 300: a text; field 301: a number.
NEWER = b"\xe2\x12\x03new" + b"\xe8\x12\x05"


def with_newer_kind(row: deck.Deck) -> deck.Deck:
    """The unknown fields within the message that the kind holds."""
    message = protobuf.decode(deck._Kind, row.kind, "deck")
    inner = getattr(message, message.WhichOneof("kind") or "")
    inner.MergeFromString(NEWER)
    return msgspec.structs.replace(row, common=row.common + NEWER, kind=message.SerializeToString())


@given(objects.DECKS)
def test_deck_keeps_unknown_fields(sent: dict[str, object]) -> None:
    """In both blobs, inside the kind too, and nothing else changes."""
    received = deck.from_json(sent)
    stored = with_newer_kind(deck.from_json({**sent, "collapsed": not sent["collapsed"]}))
    assert deck.keep_unknown(stored, received) == with_newer_kind(received)
    assert deck.to_json(deck.keep_unknown(stored, received)) == deck.to_json(received)


@given(objects.NORMAL_DECKS, objects.FILTERED_DECKS)
def test_deck_of_another_kind_takes_no_fields_of_the_old_kind(
    normal: dict[str, object], filtered: dict[str, object]
) -> None:
    """What belonged to the filtered deck does not turn the normal one back."""
    stored = with_newer_kind(deck.from_json(filtered))
    received = deck.from_json(normal)
    assert deck.keep_unknown(stored, received).kind == received.kind


@given(objects.DECK_CONFIGS)
def test_deck_config_keeps_unknown_fields(sent: dict[str, object]) -> None:
    """Behind the known ones, as the library writes them."""
    received = deck_config.from_json(sent)
    stored = deck_config.DeckConfig(1, "old", 0, 0, NEWER)
    kept = deck_config.keep_unknown(stored, received)
    assert kept == msgspec.structs.replace(received, config=received.config + NEWER)


@given(objects.NOTETYPES)
def test_notetype_keeps_unknown_fields(sent: dict[str, object]) -> None:
    """Its own, and those of fields and templates at the same position."""
    received = notetype.from_json(sent)
    stored = notetype.Notetype(
        1, "old", 0, 0, NEWER, [Field("old", NEWER)], [Template("old", NEWER)]
    )
    kept = notetype.keep_unknown(stored, received)
    assert kept.config == received.config + NEWER
    first = msgspec.structs.replace(received.fields[0], config=received.fields[0].config + NEWER)
    assert kept.fields == [first, *received.fields[1:]]
    first_template = received.templates[0]
    assert kept.templates == [
        msgspec.structs.replace(first_template, config=first_template.config + NEWER),
        *received.templates[1:],
    ]


def test_broken_stored_blob_does_not_stop_its_replacement() -> None:
    """What cannot be read has nothing to keep."""
    received = deck_config.DeckConfig(1, "new", 0, 0, b"\x48\x14")
    stored = deck_config.DeckConfig(1, "old", 0, 0, b"\x80")
    assert deck_config.keep_unknown(stored, received) == received


def test_row_without_unknown_fields_stays_as_received() -> None:
    """Byte for byte, even if the library would write it differently."""
    received = deck_config.DeckConfig(1, "new", 0, 0, b"\x50\x01\x48\x14")
    assert deck_config.keep_unknown(received, received) == received
