# SPDX-License-Identifier: AGPL-3.0-or-later
"""Comparing counts, and the commit (method `sanityCheck2`)."""

import logging
import sqlite3

import msgspec

from cardkeep.backups import shrink
from cardkeep.backups.snapshot import Reason
from cardkeep.collection import counts, former_names, header
from cardkeep.collection.header import Header
from cardkeep.collection.session_file import SessionFile, State
from cardkeep.errors import BadRequest, Conflict
from cardkeep.messages import Caller, Counts, SanityAnswer, SanityCheck
from cardkeep.sync import brought, commit, mending, record, session
from cardkeep.sync.causes import cause
from cardkeep.sync.context import Context

log = logging.getLogger("cardkeep.sync")


async def sanity_check(context: Context, caller: Caller, message: SanityCheck) -> SanityAnswer:
    """Applies the whole journal; commits if both sides then count the same, else nothing.

    Raises Conflict if the collection is no longer the one that the sync began with, and
    BadRequest for what cannot be merged.
    """
    return await context.run(_check, context, caller, message)


def _check(context: Context, caller: Caller, message: SanityCheck) -> SanityAnswer:
    with (
        context.library.working(caller.user) as db,
        session.live(context, caller) as (file, state),
    ):
        if message.counts is None:
            # A legacy client whose own check failed says so.
            file.write(msgspec.structs.replace(state, closed=True))
            _log_difference(caller, "its own check failed")
            return SanityAnswer(ok=False)
        server = apply_and_commit(context, caller, db, file, state, expected=message.counts)
    ok = server == message.counts
    if not ok:
        _log_difference(caller, f"it has {message.counts}, the server {server}")
    return SanityAnswer(ok=ok, client=message.counts, server=server)


def _log_difference(caller: Caller, what: str) -> None:
    """One line for a sync that came to nothing, as for a refused request."""
    log.warning(
        "sync not kept user=%s device=%s address=%s: the client counts otherwise: %s",
        caller.user,
        caller.device,
        caller.address,
        what,
    )


def apply_and_commit(
    context: Context,
    caller: Caller,
    db: sqlite3.Connection,
    file: SessionFile,
    state: State,
    *,
    expected: Counts | None,
) -> Counts:
    """The one commit of a sync; with other counts than `expected` nothing is kept.

    Returns the server's counts, before any mending. What was committed is on disk when
    this returns (WAL, synchronous=FULL).
    """
    copy = context.keeper.daily(caller.user, db, cause(caller, Reason.DAILY))
    now_ms = context.now_ms()
    found, before, applied = _apply(db, file, state, now_ms)
    if shrink.sync_deletes_much(
        before, notes=applied.notes.deleted, cards=applied.cards.deleted, rules=context.losses
    ):
        # Rare, so nobody else pays for knowing it in advance.
        db.execute("ROLLBACK")
        kept = context.keeper.before(caller.user, db, cause(caller, Reason.DELETION))
        copy = kept.id if kept else copy
        found, before, applied = _apply(db, file, state, now_ms)
    after = counts.small(
        db,
        cards=before.cards + applied.cards.gained,
        notes=before.notes + applied.notes.gained,
        revlog=before.revlog + applied.reviews.gained,
    )
    if expected is not None and after != expected:
        db.execute("ROLLBACK")
        if state.withheld and expected.revlog == after.revlog - state.withheld:
            brought.forget(file.folder, state)
        file.write(msgspec.structs.replace(state, closed=True))
        return after
    mended = _commit(db, file, state, found, after, now_ms, applied)
    record.committed(context, caller, file.folder, state, applied, mended, copy)
    return after


def _apply(
    db: sqlite3.Connection, file: SessionFile, state: State, now_ms: int
) -> tuple[Header, Counts, commit.Applying]:
    """Begins the transaction; returns how things stood before, and what was done."""
    db.execute("BEGIN IMMEDIATE")
    found = header.read(db)
    if (found.usn, found.mod, found.scm) != (state.usn, state.mod, state.scm):
        raise Conflict("the collection changed since this sync began")
    before = counts.kept(file.folder, found) or counts.count(db)
    try:
        return found, before, commit.apply(db, file, state, now_ms // 1000)
    except sqlite3.IntegrityError as error:
        raise BadRequest(f"the changes do not fit together: {error}") from error


def _commit(
    db: sqlite3.Connection,
    file: SessionFile,
    state: State,
    found: Header,
    after: Counts,
    now_ms: int,
    applied: commit.Applying,
) -> mending.Mended | None:
    # Later than before even if the clock went back: equal would read as "no changes".
    told = max(now_ms, found.mod + 1)
    usn, mod = state.usn + 1, told
    mended = mending.mend(
        db,
        state,
        now_ms,
        new_cards=applied.cards.added,
        new_deck_names=applied.new_deck_names,
        homes=applied.homes,
    )
    if mended:
        usn, mod = usn + 1, mod + 1
    header.set_synced(db, mod=mod, ls=told, usn=usn)
    brought.remember(file.folder, db, state)
    former_names.remember(file.folder, state.scm, state.usn, applied.former_names)
    file.write(msgspec.structs.replace(state, committed=told))
    db.execute("COMMIT")
    counts.keep(
        file.folder,
        Header(found.crt, mod, found.scm, usn, told),
        _after(after, mended) if mended else after,
    )
    return mended


def _after(before: Counts, mended: mending.Mended) -> Counts:
    return msgspec.structs.replace(
        before,
        cards=before.cards - mended.cards_deleted,
        decks=before.decks + mended.decks_added,
    )
