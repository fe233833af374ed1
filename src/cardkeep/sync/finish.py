# SPDX-License-Identifier: AGPL-3.0-or-later
"""The end of a sync (methods `finish` and `abort`)."""

import msgspec

from cardkeep.collection import header
from cardkeep.collection.session_file import Locked, SessionFile, is_live
from cardkeep.errors import Conflict
from cardkeep.messages import Abort, Caller, Finish, Finished, Nothing
from cardkeep.sync import session
from cardkeep.sync.context import Context
from cardkeep.sync.sanity import apply_and_commit


async def finish(context: Context, caller: Caller, message: Finish) -> Finished:
    """The time that was committed. Raises Conflict if nothing was."""
    try:
        if context.library.is_warm(caller.user) and (told := _tell(context, caller, wait=False)):
            return told
    except Locked:
        pass
    return await context.run(_finish, context, caller)


def _tell(context: Context, caller: Caller, *, wait: bool) -> Finished | None:
    """What the caller's sync came to; None if it is still to be committed."""
    folder = context.library.folder(caller.user)
    with context.library.lend(caller.user) as db, SessionFile(folder, wait=wait) as file:
        state = file.read()
        if state is None:
            raise Conflict("no sync is open")
        usn_now = header.read(db).usn
        if state.key == caller.session_key and not state.closed:
            if state.committed is None or usn_now <= state.usn:
                return None
            file.write(msgspec.structs.replace(state, closed=True))
            return Finished(state.committed)
        # Another device may have begun its own sync right after this one's commit.
        for past in session.ended(state, usn_now):
            if past.key == caller.session_key and past.device == caller.device:
                return Finished(past.mod)
        raise Conflict("no sync is open under this session key")


def _finish(context: Context, caller: Caller) -> Finished:
    told = _tell(context, caller, wait=True)
    if told is not None:
        return told
    # No client leaves out the sanity check, but the protocol does not demand one.
    with (
        context.library.working(caller.user) as db,
        session.live(context, caller) as (file, state),
    ):
        apply_and_commit(context, caller, db, file, state, expected=None)
    told = _tell(context, caller, wait=True)
    if told is None:
        raise Conflict("the sync could not be committed")
    return told


async def abort(context: Context, caller: Caller, message: Abort) -> Nothing:
    """Ends the caller's own sync, and no other; always succeeds."""
    return await context.run(_abort, context, caller)


def _abort(context: Context, caller: Caller) -> Nothing:
    folder = context.library.folder(caller.user)
    with SessionFile(folder, wait=True) as file:
        state = file.read()
        if state is not None and state.key == caller.session_key and is_live(state):
            file.write(msgspec.structs.replace(state, closed=True))
    return Nothing()
