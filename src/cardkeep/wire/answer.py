# SPDX-License-Identifier: AGPL-3.0-or-later
"""Answers as plain payloads; whether they are packed is for the framing to say."""

from collections.abc import Callable
from typing import Any

from cardkeep import messages
from cardkeep.wire import collection_json, media_json
from cardkeep.wire.request import Method

#: An answer of about this many bytes still takes less than a millisecond to write and pack.
SMALL_BYTES = 128 * 1024

#: Rows: some 400 ns each.
SMALL_ROWS = 1000

#: Records that go through protobuf: 10 µs a deck, about 50 µs the others.
SMALL_RECORDS = 8
SMALL_DECKS = 40

#: Ids of graves, names of tags.
SMALL_LIST = 2000

_WRITERS: dict[type, Callable[[Any], bytes]] = collection_json.WRITERS | media_json.WRITERS


def write(answer: messages.Answer) -> bytes:
    """The payload of any answer but `CollectionFile` and `MediaFiles`, which are streamed."""
    return _WRITERS[type(answer)](answer)


def write_refusal(method: Method, words: str) -> bytes | None:
    """The payload of a 200 that says no in words, None if the method has no place for words.

    `upload` shows any text but OK, media methods show `err` (docs/sync-protocol.md, 2.2).
    """
    if method.message is messages.Upload:
        return words.encode()
    if method.area == "msync":
        return media_json.write_error(words)
    return None


def is_small(answer: messages.Answer) -> bool:
    """Whether writing and packing the answer certainly takes less than a millisecond."""
    check = _IS_SMALL.get(type(answer))
    return check is None or check(answer)


def _small_chunk(chunk: messages.Chunk) -> bool:
    if len(chunk.revlog) + len(chunk.cards) + len(chunk.notes) > SMALL_ROWS:
        return False
    # Field 6 of a note row holds all its fields; everything else in a row is short.
    return sum(len(row[6]) for row in chunk.notes) < SMALL_BYTES


def _small_changes(changes: messages.Changes) -> bool:
    return (
        len(changes.decks) <= SMALL_DECKS
        and len(changes.notetypes) + len(changes.deck_configs) <= SMALL_RECORDS
        and len(changes.tags) <= SMALL_LIST
    )


def _small_graves(graves: messages.Graves) -> bool:
    return len(graves.cards) + len(graves.notes) + len(graves.decks) <= SMALL_LIST


_IS_SMALL: dict[type, Callable[[Any], bool]] = {
    messages.Chunk: _small_chunk,
    messages.Changes: _small_changes,
    messages.Graves: _small_graves,
}
