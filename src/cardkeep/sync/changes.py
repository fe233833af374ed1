# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notetypes, decks, presets, tags and configuration, both ways (method `applyChanges`)."""

import sqlite3
from collections.abc import Sequence
from functools import partial

import msgspec

from cardkeep.collection import (
    config,
    deck_configs,
    decks,
    former_names,
    header,
    notetypes,
    tags,
)
from cardkeep.collection.session_file import Kind, SessionFile, State
from cardkeep.errors import BadRequest
from cardkeep.messages import ApplyChanges, Caller, Changes
from cardkeep.records.deck import Deck
from cardkeep.records.notetype import Notetype
from cardkeep.records.unicase import fold
from cardkeep.sync import journal, session
from cardkeep.sync.context import Context
from cardkeep.sync.journal import JournaledChanges, Renamed
from cardkeep.sync.newer import server_keeps
from cardkeep.sync.renames import make_way, sending_order

# Objects of both sides together take a tenth of a millisecond or two to look at.
_FEW = 24
# Numbers and texts in a configuration; those of clients have some 60.
_FEW_VALUES = 500
_SHORT_TEXT = 100


async def apply_changes(context: Context, caller: Caller, message: ApplyChanges) -> Changes:
    """Writes the client's changes down and answers with the server's own.

    Raises BadRequest for a notetype whose number of fields or templates changed, or in
    which two have one name.
    """
    return await session.soon(
        context, caller.user, partial(_exchange, context, caller, message.changes)
    )


def _exchange(context: Context, caller: Caller, received: Changes, *, hasty: bool) -> Changes:
    now = context.now_ms() // 1000
    with (
        context.library.lend(caller.user) as db,
        session.live(context, caller, wait=not hasty) as (file, state),
    ):
        if hasty and _are_many(db, received, state):
            raise session.Long
        db.execute("BEGIN")  # one look at the collection, and one lock for it
        layouts = notetypes.layouts(db)
        accepted = _accepted_notetypes(db, received, layouts, state)
        gone = _deleted_decks(db, file)
        renamed_notetypes = make_way(
            accepted,
            lambda name: notetypes.named(db, name),
            lambda ntid: _existing_notetype(db, ntid).name,
            (),
            now,
        )
        renamed_decks = make_way(
            [deck for deck in received.decks if _takes_name(db, deck, state)],
            lambda name: _deck_id(decks.named(db, name)),
            lambda did: _existing_deck(db, did).name,
            gone,
            now,
        )
        answer = Changes(
            notetypes=_outgoing_notetypes(db, file, state, received, renamed_notetypes),
            decks=_outgoing_decks(db, file, state, received, renamed_decks, gone),
            deck_configs=deck_configs.since(db, state.min_usn),
            tags=tags.since(db, state.min_usn),
            conf=None if state.local_newer else config.read(db),
            crt=None if state.local_newer else header.read(db).crt,
        )
        file.append(
            Kind.CHANGES,
            JournaledChanges(
                notetypes=list(received.notetypes),
                decks=list(received.decks),
                deck_configs=list(received.deck_configs),
                tags=list(received.tags),
                conf=None if received.conf is None else msgspec.json.encode(received.conf),
                crt=received.crt,
                renamed_notetypes=renamed_notetypes,
                renamed_decks=renamed_decks,
            ),
        )
        db.execute("COMMIT")
        fields = {ntid: layout.fields for ntid, layout in layouts.items()}
        fields |= {notetype.id: len(notetype.fields) for notetype in accepted}
        file.keep_layout(fields)
        file.write(state)
    return answer


def _are_many(db: sqlite3.Connection, received: Changes, state: State) -> bool:
    """Whether there is more to exchange than can be done in passing."""
    incoming = len(received.notetypes) + len(received.decks) + len(received.tags)
    if incoming > _FEW or _left_of(_FEW_VALUES, received.conf) <= 0:
        return True
    (outgoing,) = db.execute(
        """
        SELECT (SELECT count(*) FROM notetypes WHERE usn >= ?)
            + (SELECT count(*) FROM decks WHERE usn >= ?)
            + (SELECT count(*) FROM deck_config WHERE usn >= ?)
            + (SELECT count(*) FROM tags WHERE usn >= ?)
        """,
        (state.min_usn,) * 4,
    ).fetchone()
    return bool(outgoing > _FEW)


def _left_of(budget: int, value: object) -> int:
    """A budget less the numbers and texts in a value; none, or less, if it is not enough."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            if budget <= 0:
                break
            budget = _left_of(budget, inner)
    elif isinstance(value, str):
        budget -= len(value) // _SHORT_TEXT
    return budget - 1


# --- what comes in ----------------------------------------------------------------------


def _accepted_notetypes(
    db: sqlite3.Connection,
    received: Changes,
    layouts: dict[int, notetypes.Layout],
    state: State,
) -> list[Notetype]:
    """The notetypes that will be stored; those older than the server's own are left out."""
    accepted = []
    for notetype in received.notetypes:
        stored = notetypes.stamp(db, notetype.id)
        if stored and server_keeps(*stored, notetype.mtime_secs, state.min_usn):
            continue
        layout = notetypes.Layout(len(notetype.fields), len(notetype.templates))
        if layouts.get(notetype.id, layout) != layout:
            raise BadRequest(f"the layout of notetype {notetype.id} changed: one-way sync needed")
        for parts in (notetype.fields, notetype.templates):
            if len({fold(part.name) for part in parts}) != len(parts):
                raise BadRequest(f"notetype {notetype.id} has two fields or templates of one name")
        accepted.append(notetype)
    return accepted


def _takes_name(db: sqlite3.Connection, deck: Deck, state: State) -> bool:
    """Whether the deck will be stored, under a name that it did not have before."""
    stored = decks.get(db, deck.id)
    return stored is None or not (
        stored.name == deck.name
        or server_keeps(stored.mtime_secs, stored.usn, deck.mtime_secs, state.min_usn)
    )


def _deleted_decks(db: sqlite3.Connection, file: SessionFile) -> set[int]:
    """Decks that this sync deletes; only those that exist, whatever the client lists."""
    deleted: set[int] = set()
    existing: set[int] | None = None
    for kind, body in file.frames():
        if kind is Kind.GRAVES and (decks_gone := journal.graves(body).decks):
            existing = decks.all_ids(db) if existing is None else existing
            deleted.update(existing.intersection(decks_gone))
    return deleted


# --- what goes out ----------------------------------------------------------------------


def _outgoing_notetypes(
    db: sqlite3.Connection,
    file: SessionFile,
    state: State,
    received: Changes,
    renamed: list[Renamed],
) -> list[Notetype]:
    found = {one.id: one for one in notetypes.since(db, state.min_usn)}
    former = _former_names(file, state, "notetypes", received.notetypes, len(found) + len(renamed))
    for change in renamed:
        own = _existing_notetype(db, change.id)
        former.setdefault(own.id, own.name)
        found[own.id] = msgspec.structs.replace(own, name=change.name, mtime_secs=change.mtime)
    return sending_order(found.values(), former)


def _outgoing_decks(
    db: sqlite3.Connection,
    file: SessionFile,
    state: State,
    received: Changes,
    renamed: list[Renamed],
    gone: set[int],
) -> list[Deck]:
    found = {one.id: one for one in decks.since(db, state.min_usn) if one.id not in gone}
    former = _former_names(file, state, "decks", received.decks, len(found) + len(renamed))
    for change in renamed:
        own = _existing_deck(db, change.id)
        former.setdefault(own.id, own.name)
        found[own.id] = msgspec.structs.replace(own, name=change.name, mtime_secs=change.mtime)
    return sending_order(found.values(), former)


def _former_names(
    file: SessionFile,
    state: State,
    kind: str,
    received: Sequence[Deck] | Sequence[Notetype],
    outgoing: int,
) -> dict[int, str]:
    """Names under which the client knows objects that have other ones here."""
    if outgoing < 2:
        return {}  # no other one to be in the way of
    former = former_names.since(file.folder, state.scm, state.min_usn, kind)
    return former | {one.id: one.name for one in received}


def _existing_notetype(db: sqlite3.Connection, ntid: int) -> Notetype:
    found = notetypes.get(db, ntid)
    assert found is not None  # noqa: S101 (it was just found by its name)
    return found


def _existing_deck(db: sqlite3.Connection, did: int) -> Deck:
    found = decks.get(db, did)
    assert found is not None  # noqa: S101 (it was just found by its name)
    return found


def _deck_id(deck: Deck | None) -> int | None:
    return None if deck is None else deck.id
