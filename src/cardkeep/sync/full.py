# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole collections (methods `upload` and `download`)."""

import sqlite3
from contextlib import closing
from pathlib import Path

from cardkeep.backups import allowance, notice, shrink
from cardkeep.backups.shrink import Guard
from cardkeep.backups.snapshot import Reason, State
from cardkeep.collection import counts, database, header, whole
from cardkeep.collection.header import Header
from cardkeep.collection.schema.downgrade import downgrade
from cardkeep.collection.schema.inspect import inspect
from cardkeep.collection.session_file import SessionFile
from cardkeep.errors import NotAccepted
from cardkeep.messages import (
    ByteSource,
    Caller,
    CollectionFile,
    Counts,
    Download,
    Upload,
    UploadAccepted,
)
from cardkeep.sync import record, session
from cardkeep.sync.causes import cause
from cardkeep.sync.context import Context

# The last version that takes schema 11 and a rollback journal.
_OLD = 10


async def upload(context: Context, caller: Caller, message: Upload) -> UploadAccepted:
    """Replaces the collection by the uploaded one, as it is; a copy of the old one is kept.

    The file is inspected without any lock. Raises NotAccepted, with words for the user,
    and then nothing has changed.
    """
    begun = context.now_ms()
    uploaded = await context.run_long(_inspect, message.file)

    def pin(take_over: bool) -> State | None:
        return _pin(context, caller, uploaded, take_over=take_over)

    def replace(take_over: bool) -> None:
        _replace(context, caller, message, uploaded, begun, take_over=take_over)

    # The user's other devices go on while the copy is packed. If one of them changes something
    # meanwhile, another copy is taken under the lock.
    state = await session.when_free(context, pin, long=True)
    if state:
        why = cause(caller, Reason.UPLOAD)
        await context.run_long(context.keeper.keep, caller.user, state, why)
    await session.when_free(context, replace, long=True)
    context.library.settle(caller.user)
    return UploadAccepted()


def _inspect(file: Path) -> Counts:
    inspect(file)
    with closing(database.connect_private(file)) as db:
        return counts.count(db)


def _pin(context: Context, caller: Caller, uploaded: Counts, *, take_over: bool) -> State | None:
    folder = context.library.folder(caller.user)
    with (
        context.library.lend(caller.user, heavy=True) as db,
        SessionFile(folder, wait=False) as file,
    ):
        session.give_way(file.read(), caller, context.now_ms(), force=take_over)
        _judge(context, caller, db, uploaded)
        return context.keeper.pinned(caller.user, db)


def _judge(
    context: Context, caller: Caller, db: sqlite3.Connection, uploaded: Counts
) -> tuple[Counts, Guard]:
    """What is stored now, and what the guard does. Raises NotAccepted if that is to refuse."""
    folder = context.library.folder(caller.user)
    stored = counts.kept(folder, header.read(db)) or counts.count(db)
    loses_much = shrink.upload_loses_much(stored, uploaded, context.losses)
    guard = context.losses.guard if loses_much else Guard.OFF
    if guard is Guard.REFUSE and not allowance.is_given(folder, context.now_ms()):
        raise NotAccepted(
            shrink.refusal(caller.user, stored, uploaded), f"an upload of {uploaded} for {stored}"
        )
    return stored, guard


def _replace(
    context: Context,
    caller: Caller,
    message: Upload,
    uploaded: Counts,
    begun: int,
    *,
    take_over: bool,
) -> None:
    folder = context.library.folder(caller.user)
    with (
        context.library.lend(caller.user, heavy=True) as db,
        SessionFile(folder, wait=False) as file,
    ):
        session.give_way(file.read(), caller, context.now_ms(), force=take_over)
        stored, guard = _judge(context, caller, db, uploaded)
        session.close(file, header.read(db).usn)
        kept = context.keeper.before(caller.user, db, cause(caller, Reason.UPLOAD))
        if kept and guard is not Guard.OFF:
            context.keeper.snapshots(caller.user).pin(kept)
        whole.replace(db, message.file)
        counts.keep(folder, header.read(db), uploaded)
        notice.drop(folder)
        if kept and guard is not Guard.OFF:
            words = shrink.told_what_was_kept(caller.user, stored, uploaded, kept.id)
            notice.put(folder, words, context.now_ms())
            allowance.use_up(folder)
        record.uploaded(context, caller, begun, stored, uploaded, copy=kept.id if kept else "")


async def download(context: Context, caller: Caller, message: Download) -> CollectionFile:
    """The collection in the schema that the caller's protocol takes.

    Like the official server it raises the usn and sets the time, so that the other devices
    see a newer collection and sync normally.
    """

    begun = context.now_ms()

    def attempt(take_over: bool) -> ByteSource:
        return _take(context, caller, take_over=take_over)

    return CollectionFile(await session.when_free(context, attempt, long=True), begun)


def _take(context: Context, caller: Caller, *, take_over: bool) -> ByteSource:
    folder = context.library.folder(caller.user)
    with (
        context.library.lend(caller.user, heavy=True) as db,
        SessionFile(folder, wait=False) as file,
    ):
        now = context.now_ms()
        session.give_way(file.read(), caller, now, force=take_over)
        found = header.read(db)
        session.close(file, found.usn)
        known = counts.kept(folder, found)
        after = Header(found.crt, max(now, found.mod + 1), found.scm, found.usn + 1, found.ls)
        header.set_synced(db, mod=after.mod, ls=after.ls, usn=after.usn)
        if known:
            counts.keep(folder, after, known)
        notice.downloaded(folder, caller.device)
        pinned = whole.pin(db, folder.collection) if caller.protocol > _OLD else None
        copy = None if pinned else whole.copy(db, context.spool)
    if pinned:
        return pinned
    assert copy is not None  # noqa: S101 (one of the two was made)
    try:
        if caller.protocol <= _OLD:
            downgrade(copy)
        return whole.TemporaryFile(copy)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
