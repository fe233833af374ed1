# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cards, notes and reviews, both ways (methods `chunk` and `applyChunk`)."""

import bisect
import itertools
import sqlite3
from collections.abc import Collection, Sequence
from functools import partial

import msgspec

from cardkeep.collection import cards, database, notes, revlog
from cardkeep.collection.session_file import Kind, Locked, Outgoing, SessionFile, State
from cardkeep.errors import BadRequest
from cardkeep.messages import ApplyChunk, Caller, Chunk, NextChunk, Nothing, Row
from cardkeep.sync import brought, journal, session
from cardkeep.sync.context import Context

# What every client takes; newer ones take any number, and each round trip costs a slow
# phone more than the rows do.
_ROWS = {11: 2000}
_OLD_ROWS = 250
_BYTES = 1024 * 1024
# More rows than this are written down in a worker thread, or leave pages in memory that are
# worth giving back at once.
_FEW = 600
# Rows that are read within some tenths of a millisecond.
_IN_PASSING = 60
_FLDS = 6


async def next_chunk(context: Context, caller: Caller, message: NextChunk) -> Chunk:
    """The next rows that the client has not seen, until one says `done`."""
    return await session.soon(context, caller.user, partial(_next, context, caller))


def _next(context: Context, caller: Caller, *, hasty: bool) -> Chunk:
    with (
        context.library.lend(caller.user) as db,
        session.live(context, caller, wait=not hasty) as (file, state),
    ):
        if hasty and (state.outgoing is not None or _are_many(db, state)):
            raise session.Long
        largest = _ROWS.get(state.protocol, _OLD_ROWS)
        if state.outgoing is None:
            outgoing, withheld, ids = _work_out(context, db, caller, file, state)
            chunk, sent = _read(db, outgoing, ids[:largest])
            if not chunk.done:
                outgoing = msgspec.structs.replace(outgoing, at=file.keep_outgoing(ids))
            state = msgspec.structs.replace(state, withheld=withheld)
        else:
            outgoing = state.outgoing
            chunk, sent = _read(db, outgoing, file.outgoing(outgoing.at, outgoing.sent, largest))
        if sent - outgoing.sent > _FEW:
            database.shrink(db)
        outgoing = msgspec.structs.replace(outgoing, sent=sent)
        file.write(msgspec.structs.replace(state, outgoing=outgoing))
    return chunk


def _are_many(db: sqlite3.Connection, state: State) -> bool:
    """Whether there is more to send than can be read in passing."""
    return (
        sum(
            len(some(db, state.min_usn, most=_IN_PASSING))
            for some in (notes.ids_since, cards.ids_since, revlog.ids_since)
        )
        >= _IN_PASSING
    )


def _work_out(
    context: Context, db: sqlite3.Connection, caller: Caller, file: SessionFile, state: State
) -> tuple[Outgoing, int, list[int]]:
    """Finds everything that the client has not seen and this sync does not delete.

    Also tells how many reviews are withheld (see `brought`).
    """
    note_ids: Collection[int] = notes.ids_since(db, state.min_usn)
    card_ids: Collection[int] = cards.ids_since(db, state.min_usn)
    for kind, body in file.frames():
        if kind is Kind.GRAVES:
            graves = journal.graves(body)
            note_ids = _without(note_ids, graves.notes)
            card_ids = _without(card_ids, graves.cards)
    had = brought.had_already(context.library.folder(caller.user), db, state)
    review_ids = [one for one in revlog.ids_since(db, state.min_usn) if one not in had]
    ids = [*sorted(note_ids), *sorted(card_ids), *sorted(review_ids)]
    outgoing = Outgoing(len(note_ids), len(card_ids), len(review_ids))
    return outgoing, len(had), ids


def _without(ids: Collection[int], gone: Sequence[int]) -> set[int]:
    """A set, and the same one the next time: only a sync with deletions pays for it."""
    left = ids if isinstance(ids, set) else set(ids)
    left.difference_update(gone)
    return left


def _read(db: sqlite3.Connection, outgoing: Outgoing, ids: list[int]) -> tuple[Chunk, int]:
    """Rows for the next `ids`, as many as fit, and how many ids are sent after them.

    A row that was deleted since (by no sync, since none can come between) is left out.
    """
    at = outgoing.sent
    notes_left = max(outgoing.notes - at, 0)
    cards_left = max(outgoing.notes + outgoing.cards - at, 0)
    wanted_notes = ids[:notes_left]
    note_rows, taken = _as_fits(db, wanted_notes)
    if taken < len(wanted_notes):
        return Chunk(done=False, notes=note_rows), at + taken
    card_ids, review_ids = ids[notes_left:cards_left], ids[cards_left:]
    sent = at + len(ids)
    return Chunk(
        done=sent >= outgoing.notes + outgoing.cards + outgoing.revlog,
        notes=note_rows,
        cards=list(cards.read(db, card_ids)),
        revlog=list(revlog.read(db, review_ids)),
    ), sent


def _as_fits(db: sqlite3.Connection, ids: Sequence[int]) -> tuple[list[Row], int]:
    """Notes until about a MiB is full, at least one, and how many of the ids they stand for.

    `ids` ascend, and so do the rows.
    """
    rows: list[Row] = []
    full = 0
    for row in notes.read(db, ids):
        rows.append(row)
        full += len(row[_FLDS])
        if full > _BYTES:
            return rows, bisect.bisect(ids, row[0])
    return rows, len(ids)


# --- from the client --------------------------------------------------------------------


async def apply_chunk(context: Context, caller: Caller, message: ApplyChunk) -> Nothing:
    """Writes the client's rows down. Raises BadRequest for a note that fits no notetype."""
    chunk = message.chunk
    few = len(chunk.notes) + len(chunk.cards) + len(chunk.revlog) <= _FEW
    if few and not message.rest:
        try:
            return _write(context, caller, message, wait=False)
        except Locked:
            pass
    return await context.run(_write, context, caller, message, wait=True)


def _write(context: Context, caller: Caller, message: ApplyChunk, *, wait: bool) -> Nothing:
    with session.live(context, caller, wait=wait) as (file, state):
        for chunk in itertools.chain([message.chunk], message.rest):
            if chunk.notes:
                _check_notes(file, chunk.notes)
            if chunk.notes or chunk.cards or chunk.revlog:
                file.append(Kind.CHUNK, chunk)
            claimed = _claimed(chunk, state.claimed_usn)
            if claimed != state.claimed_usn:
                state = msgspec.structs.replace(state, claimed_usn=claimed)
        file.write(state)
    return Nothing()


def _check_notes(file: SessionFile, rows: Sequence[Row]) -> None:
    fields = file.layout()
    if fields is None:
        raise BadRequest("notes before applyChanges")
    for nid, _, mid, _, _, _, flds in rows:
        if fields.get(mid) != flds.count("\x1f") + 1:
            raise BadRequest(f"note {nid} does not fit notetype {mid}")


def _claimed(chunk: Chunk, before: int | None) -> int | None:
    """The usn that the client believes to be syncing under: it stands in its rows."""
    if before is not None:
        return before
    for rows, at in ((chunk.revlog, 2), (chunk.cards, 5), (chunk.notes, 4)):
        if rows:
            return int(rows[0][at])
    return None
