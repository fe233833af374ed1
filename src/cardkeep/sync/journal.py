# SPDX-License-Identifier: AGPL-3.0-or-later
"""The messages as the journal of a sync holds them."""

import msgspec

from cardkeep.messages import Chunk, Graves
from cardkeep.records.deck import Deck
from cardkeep.records.deck_config import DeckConfig
from cardkeep.records.notetype import Notetype


class Renamed(msgspec.Struct, frozen=True):
    """An object of the server's own that gave its name to one of the client's."""

    id: int
    name: str
    mtime: int


class JournaledChanges(msgspec.Struct, frozen=True):
    """`messages.Changes` with what the server decided about names when it answered.

    `conf` is the JSON text of the configuration, None if the client is not the newer side.
    """

    notetypes: list[Notetype]
    decks: list[Deck]
    deck_configs: list[DeckConfig]
    tags: list[str]
    conf: bytes | None
    crt: int | None
    renamed_notetypes: list[Renamed]
    renamed_decks: list[Renamed]


_graves = msgspec.msgpack.Decoder(Graves)
_changes = msgspec.msgpack.Decoder(JournaledChanges)
_chunk = msgspec.msgpack.Decoder(Chunk)


def graves(body: bytes) -> Graves:
    """A GRAVES frame."""
    return _graves.decode(body)


def changes(body: bytes) -> JournaledChanges:
    """A CHANGES frame."""
    return _changes.decode(body)


def chunk(body: bytes) -> Chunk:
    """A CHUNK frame; its rows are lists."""
    return _chunk.decode(body)
