# SPDX-License-Identifier: AGPL-3.0-or-later
"""Applying the journal of a sync, in the order in which it came.

Every row is stored under the session's own usn, whatever the client wrote on it: a client
takes that number from `meta`, and another device may have finished a sync since
(docs/sync-protocol.md, section 6, "USN to store").
"""

import sqlite3
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from cardkeep.collection import (
    cards,
    config,
    deck_configs,
    decks,
    graves,
    header,
    notes,
    notetypes,
    revlog,
    tags,
)
from cardkeep.collection.former_names import Former
from cardkeep.collection.session_file import Kind, SessionFile, State
from cardkeep.records import deck, deck_config, notetype
from cardkeep.records.names import free_name
from cardkeep.sync import journal
from cardkeep.sync.journal import JournaledChanges
from cardkeep.sync.newer import server_keeps


class Tally(msgspec.Struct):
    """What happened to the objects of one kind."""

    added: int = 0
    changed: int = 0
    deleted: int = 0

    @property
    def gained(self) -> int:
        """How many more there are."""
        return self.added - self.deleted


NOTHING = Tally()

#: The fields of `Applying` that are tallies.
APPLIED = ("notes", "cards", "reviews", "decks", "notetypes", "deck_configs", "tags")


class Applying(msgspec.Struct):
    """A journal on its way into the collection, and what it does there."""

    db: sqlite3.Connection
    min_usn: int
    usn: int
    now: int
    cards: Tally = msgspec.field(default_factory=Tally)
    notes: Tally = msgspec.field(default_factory=Tally)
    reviews: Tally = msgspec.field(default_factory=Tally)
    decks: Tally = msgspec.field(default_factory=Tally)
    notetypes: Tally = msgspec.field(default_factory=Tally)
    deck_configs: Tally = msgspec.field(default_factory=Tally)
    tags: Tally = msgspec.field(default_factory=Tally)
    new_deck_names: bool = False
    homes: set[int] = msgspec.field(default_factory=set)  # the decks of the cards that came
    former_names: list[Former] = msgspec.field(default_factory=list)
    sort_indexes: Mapping[int, int] = msgspec.field(default_factory=dict)


def apply(db: sqlite3.Connection, file: SessionFile, state: State, now: int) -> Applying:
    """Applies everything within the caller's transaction; `now` in s.

    Raises BadRequest for what no merging can help.
    """
    applying = Applying(db, state.min_usn, state.usn, now)
    for kind, body in file.frames():
        if kind in _APPLY:
            _APPLY[kind](applying, body)
    return applying


def _apply_graves(applying: Applying, body: bytes) -> None:
    deleted = journal.graves(body)
    db, usn = applying.db, applying.usn
    applying.notes.deleted += notes.delete(db, deleted.notes)
    applying.cards.deleted += cards.delete(db, deleted.cards)
    applying.decks.deleted += decks.delete(db, deleted.decks)
    graves.bury(db, graves.NOTE, deleted.notes, usn)
    graves.bury(db, graves.CARD, deleted.cards, usn)
    graves.bury(db, graves.DECK, deleted.decks, usn)


def _apply_changes(applying: Applying, body: bytes) -> None:
    changes = journal.changes(body)
    _apply_notetypes(applying, changes)
    _apply_decks(applying, changes)
    _apply_deck_configs(applying, changes)
    applying.tags.added += tags.register(applying.db, changes.tags, usn=applying.usn)
    if changes.conf is not None:
        values = msgspec.json.decode(changes.conf)
        config.replace(applying.db, values, usn=applying.usn, now=applying.now)
    if changes.crt is not None:
        header.set_crt(applying.db, changes.crt)


def _apply_chunk(applying: Applying, body: bytes) -> None:
    chunk = journal.chunk(body)
    db, min_usn, usn = applying.db, applying.min_usn, applying.usn
    if chunk.revlog:
        applying.reviews.added += revlog.add(db, chunk.revlog, usn)
    if chunk.cards:
        new, changed = cards.merge(db, chunk.cards, min_usn=min_usn, usn=usn)
        applying.homes |= cards.decks_of(chunk.cards)
        applying.cards.added += new
        applying.cards.changed += changed
    if chunk.notes:
        indexes = applying.sort_indexes or _sort_indexes(applying)
        new, changed = notes.merge(db, chunk.notes, sort_indexes=indexes, min_usn=min_usn, usn=usn)
        applying.notes.added += new
        applying.notes.changed += changed


_APPLY: Mapping[Kind, Callable[[Applying, bytes], None]] = {
    Kind.GRAVES: _apply_graves,
    Kind.CHANGES: _apply_changes,
    Kind.CHUNK: _apply_chunk,
}


def _sort_indexes(applying: Applying) -> Mapping[int, int]:
    """Each notetype's sort field, looked up once, after the notetypes were applied."""
    applying.sort_indexes = {
        ntid: notetype.sort_index(blob) for ntid, blob in notetypes.configs(applying.db).items()
    }
    return applying.sort_indexes


# --- objects with names -----------------------------------------------------------------


def _apply_notetypes(applying: Applying, changes: JournaledChanges) -> None:
    db, usn = applying.db, applying.usn
    for own in changes.renamed_notetypes:
        _note_former_name(applying, "notetypes", own.id, own.name)
        notetypes.rename(db, own.id, own.name, mtime=own.mtime, usn=usn)
        applying.notetypes.changed += 1
    won = []
    for received in changes.notetypes:
        stored = notetypes.stamp(db, received.id)
        if stored and server_keeps(*stored, received.mtime_secs, applying.min_usn):
            continue
        if stored:
            _note_former_name(applying, "notetypes", received.id, received.name)
            # Out of the way of another one that takes its old name in this very sync.
            notetypes.rename(db, received.id, _aside(received.id), mtime=stored[0], usn=usn)
        won.append((received, stored))
    for received, stored in won:
        kept = received
        _count(applying.notetypes, new=stored is None)
        if stored and (own_notetype := notetypes.get(db, received.id)):
            kept = notetype.keep_unknown(own_notetype, received)
        name = free_name(kept.name, partial(_notetype_has, db, kept.id))
        notetypes.put(db, msgspec.structs.replace(kept, name=name, usn=usn))


def _apply_decks(applying: Applying, changes: JournaledChanges) -> None:
    db, usn = applying.db, applying.usn
    for own in changes.renamed_decks:
        _note_former_name(applying, "decks", own.id, own.name)
        decks.rename(db, own.id, own.name, mtime=own.mtime, usn=usn)
        applying.decks.changed += 1
    named = []
    for received in changes.decks:
        stored = decks.get(db, received.id)
        if stored is None:
            applying.decks.added += 1
            named.append(received)
            continue
        if server_keeps(stored.mtime_secs, stored.usn, received.mtime_secs, applying.min_usn):
            continue
        applying.decks.changed += 1
        kept = msgspec.structs.replace(deck.keep_unknown(stored, received), usn=usn)
        if kept.name == stored.name:
            decks.replace(db, kept)
            continue
        _note_former_name(applying, "decks", kept.id, kept.name)
        # Out of the way of another one that takes its old name in this very sync.
        decks.rename(db, stored.id, _aside(stored.id), mtime=stored.mtime_secs, usn=usn)
        named.append(kept)
    for kept in named:
        name = free_name(kept.name, partial(_deck_has, db, kept.id))
        decks.put(db, msgspec.structs.replace(kept, name=name, usn=usn))
    if named or changes.renamed_decks:
        applying.new_deck_names = True


def _apply_deck_configs(applying: Applying, changes: JournaledChanges) -> None:
    db, usn = applying.db, applying.usn
    for received in changes.deck_configs:
        stored = deck_configs.get(db, received.id)
        if stored and server_keeps(
            stored.mtime_secs, stored.usn, received.mtime_secs, applying.min_usn
        ):
            continue
        _count(applying.deck_configs, new=stored is None)
        kept = received if stored is None else deck_config.keep_unknown(stored, received)
        deck_configs.put(db, msgspec.structs.replace(kept, usn=usn))


def _count(tally: Tally, *, new: bool) -> None:
    tally.added += new
    tally.changed += not new


def _note_former_name(applying: Applying, kind: str, object_id: int, name: str) -> None:
    """To be called before the object is given `name`."""
    row = applying.db.execute(f"SELECT name FROM {kind} WHERE id = ?", (object_id,)).fetchone()
    if row is not None and row[0] != name:
        applying.former_names.append(Former(kind, object_id, row[0]))


def _aside(object_id: int) -> str:
    """A name that no client can send: it is control characters and the id."""
    return f"\x01{object_id}\x01"


def _notetype_has(db: sqlite3.Connection, own_id: int, name: str) -> bool:
    """Whether another notetype has the name."""
    return notetypes.named(db, name) not in (None, own_id)


def _deck_has(db: sqlite3.Connection, own_id: int, name: str) -> bool:
    """Whether another deck has the name."""
    found = decks.named(db, name)
    return found is not None and found.id != own_id
