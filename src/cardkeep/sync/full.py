# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole collections (methods `upload` and `download`)."""

from cardkeep.collection import counts, header, whole
from cardkeep.collection.header import Header
from cardkeep.collection.schema.downgrade import downgrade
from cardkeep.collection.schema.inspect import inspect
from cardkeep.collection.session_file import SessionFile
from cardkeep.messages import (
    ByteSource,
    Caller,
    CollectionFile,
    Download,
    Upload,
    UploadAccepted,
)
from cardkeep.sync import record, session
from cardkeep.sync.context import Context

# The last version that takes schema 11 and a rollback journal.
_OLD = 10


async def upload(context: Context, caller: Caller, message: Upload) -> UploadAccepted:
    """Replaces the collection by the uploaded one, as it is.

    The file is inspected without any lock. Raises NotAccepted, with words for the user,
    and then nothing has changed.
    """
    begun = context.now_ms()
    await context.run_long(inspect, message.file)

    def attempt(take_over: bool) -> None:
        _replace(context, caller, message, begun, take_over=take_over)

    await session.when_free(context, attempt, long=True)
    context.library.settle(caller.user)
    return UploadAccepted()


def _replace(
    context: Context, caller: Caller, message: Upload, begun: int, *, take_over: bool
) -> None:
    folder = context.library.folder(caller.user)
    with (
        context.library.lend(caller.user, heavy=True) as db,
        SessionFile(folder, wait=False) as file,
    ):
        session.give_way(file.read(), caller, context.now_ms(), force=take_over)
        found = header.read(db)
        stored = counts.kept(folder, found) or counts.count(db)
        session.close(file, found.usn)
        whole.replace(db, message.file)
        uploaded = counts.count(db)
        counts.keep(folder, header.read(db), uploaded)
        record.uploaded(context, caller, begun, stored, uploaded, copy="")


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
