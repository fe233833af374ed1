# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cards, notes and reviews, both ways (methods `chunk` and `applyChunk`)."""

import bisect
import itertools
import sqlite3
from collections.abc import Collection, Iterable, Sequence
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
        outgoing = state.outgoing
        if outgoing is None:
            numbers = _numbers_since(db, state.min_usn, most=_largest(state) + 1)
            if hasty and sum(numbers) > _IN_PASSING:
                raise session.Long
            chunk, state = _first(context, caller, db, file, state, numbers)
        elif outgoing.sent < outgoing.all:
            if hasty:
                raise session.Long
            ids = file.outgoing(outgoing.at, outgoing.sent, _largest(state))
            chunk, outgoing = _read(db, outgoing, ids)
            state = msgspec.structs.replace(state, outgoing=outgoing)
        else:
            chunk = Chunk(done=True)
        if len(chunk.notes) + len(chunk.cards) + len(chunk.revlog) > _FEW:
            database.shrink(db)
        file.write(state)
    return chunk


def _largest(state: State) -> int:
    return _ROWS.get(state.protocol, _OLD_ROWS)


def _numbers_since(db: sqlite3.Connection, min_usn: int, *, most: int) -> tuple[int, int, int]:
    """How many notes, cards and reviews the client has not seen, each up to `most`."""
    notes_left, cards_left, reviews_left = db.execute(
        """
        SELECT (SELECT count(*) FROM (SELECT 1 FROM notes WHERE usn >= ?1 LIMIT ?2)),
            (SELECT count(*) FROM (SELECT 1 FROM cards WHERE usn >= ?1 LIMIT ?2)),
            (SELECT count(*) FROM (SELECT 1 FROM revlog WHERE usn >= ?1 LIMIT ?2))
        """,
        (min_usn, most),
    ).fetchone()
    return notes_left, cards_left, reviews_left


def _first(
    context: Context,
    caller: Caller,
    db: sqlite3.Connection,
    file: SessionFile,
    state: State,
    numbers: tuple[int, int, int],
) -> tuple[Chunk, State]:
    """The first chunk; what does not fit into it is worked out for the next ones.

    Most often everything fits, and then it is read at less than half the price. Otherwise
    what the client has (see `brought`) or this sync deletes is left out.
    """
    had = brought.had_already(context.library.folder(caller.user), db, state)
    if not had and sum(numbers) <= _largest(state) and not _deletes(file):
        note_rows, complete = _as_fits(notes.since(db, state.min_usn))
        if complete:
            chunk = Chunk(
                done=True,
                notes=note_rows,
                cards=cards.since(db, state.min_usn),
                revlog=revlog.since(db, state.min_usn),
            )
            outgoing = Outgoing(*numbers, sent=sum(numbers))
            return chunk, msgspec.structs.replace(state, outgoing=outgoing)
    outgoing, ids = _work_out(db, file, state, had)
    chunk, outgoing = _read(db, outgoing, ids[: _largest(state)])
    if not chunk.done:
        outgoing = msgspec.structs.replace(outgoing, at=file.keep_outgoing(ids))
    return chunk, msgspec.structs.replace(state, outgoing=outgoing, withheld=len(had))


def _deletes(file: SessionFile) -> bool:
    return any(kind is Kind.GRAVES for kind, _ in file.frames())


def _work_out(
    db: sqlite3.Connection, file: SessionFile, state: State, had: Collection[int]
) -> tuple[Outgoing, list[int]]:
    """Finds everything that the client has not seen and this sync does not delete."""
    note_ids: Collection[int] = notes.ids_since(db, state.min_usn)
    card_ids: Collection[int] = cards.ids_since(db, state.min_usn)
    for kind, body in file.frames():
        if kind is Kind.GRAVES:
            graves = journal.graves(body)
            note_ids = _without(note_ids, graves.notes)
            card_ids = _without(card_ids, graves.cards)
    review_ids = [one for one in revlog.ids_since(db, state.min_usn) if one not in had]
    ids = [*sorted(note_ids), *sorted(card_ids), *sorted(review_ids)]
    return Outgoing(len(note_ids), len(card_ids), len(review_ids)), ids


def _without(ids: Collection[int], gone: Sequence[int]) -> set[int]:
    """A set, and the same one the next time: only a sync with deletions pays for it."""
    left = ids if isinstance(ids, set) else set(ids)
    left.difference_update(gone)
    return left


def _read(db: sqlite3.Connection, outgoing: Outgoing, ids: list[int]) -> tuple[Chunk, Outgoing]:
    """Rows for the next `ids`, as many as fit, and what is sent after them.

    A row that was deleted since (by no sync, since none can come between) is left out.
    """
    at = outgoing.sent
    notes_left = max(outgoing.notes - at, 0)
    cards_left = max(outgoing.notes + outgoing.cards - at, 0)
    wanted_notes = ids[:notes_left]
    note_rows, complete = _as_fits(notes.read(db, wanted_notes))
    if not complete:
        sent = at + bisect.bisect(wanted_notes, note_rows[-1][0])  # both ascend
        chunk = Chunk(done=False, notes=note_rows)
    else:
        sent = at + len(ids)
        chunk = Chunk(
            done=sent >= outgoing.all,
            notes=note_rows,
            cards=list(cards.read(db, ids[notes_left:cards_left])),
            revlog=list(revlog.read(db, ids[cards_left:])),
        )
    return chunk, msgspec.structs.replace(outgoing, sent=sent)


def _as_fits(found: Iterable[Row]) -> tuple[list[Row], bool]:
    """Notes until more than about a MiB is full, and whether they are all."""
    rows: list[Row] = []
    full = 0
    for row in found:
        if full > _BYTES:
            return rows, False
        rows.append(row)
        full += len(row[_FLDS])
    return rows, True


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
