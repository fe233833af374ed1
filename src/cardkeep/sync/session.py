# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose turn it is: one live sync a user, and who waits for whom.

A second device waits for the first (without holding a thread), for as long as its own
client would surely wait for an answer, and takes over then. `meta`, logins and media
never wait.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import msgspec

from cardkeep.collection.session_file import (
    Ended,
    Locked,
    SessionFile,
    State,
    gone_after,
    is_live,
)
from cardkeep.errors import Conflict, Refused, Unavailable
from cardkeep.messages import Caller
from cardkeep.sync.context import Context

T = TypeVar("T")

# Clients of version 11 give up after 30 s without a byte, so half of that is safe.
TAKE_OVER_AFTER = 15.0
_LOOK_EVERY = 0.03
# A commit of the other device that is under way is waited for a little longer.
_GIVE_UP_AFTER = 25.0
# The same device begins anew: its earlier sync was killed. Not at once, since a login can
# have been copied to a second device.
_SAME_DEVICE_GONE_AFTER_MS = 3_000
_REMEMBERED = 8


class Long(Exception):
    """What was begun in the event loop turns out not to be certainly short."""


class Busy(Exception):
    """Another device's sync is under way."""


async def soon(context: Context, user: str, work: Callable[..., T]) -> T:
    """Runs `work(hasty=True)` here and now if that is short, else as `hasty=False` in a thread.

    A hop to a thread costs as much as most steps of a small sync. Hasty work raises Long,
    before it has changed anything, as soon as it sees that it is not short, and Locked
    instead of waiting for the user's lock.
    """
    if context.library.is_warm(user):
        with suppress(Long, Locked):
            return work(hasty=True)
    return await context.run(partial(work, hasty=False))


async def when_free(context: Context, attempt: Callable[[bool], T], *, long: bool = False) -> T:
    """Runs `attempt` in a worker thread until it does not raise Busy.

    It is told whether the time of waiting is over and a live sync may be taken over. What
    takes as long as a collection is large is `long`, and does not fill the threads of others.
    Raises Unavailable if the user's lock is not to be had even then.
    """
    began = time.monotonic()
    run = context.run_long if long else context.run
    while True:
        waited = time.monotonic() - began
        try:
            return await run(attempt, waited >= TAKE_OVER_AFTER)
        except (Busy, Locked):
            if waited >= _GIVE_UP_AFTER:
                raise Unavailable("another sync of this user does not come to its end") from None
        await asyncio.sleep(_LOOK_EVERY)


def give_way(state: State | None, caller: Caller, now: int, *, force: bool) -> None:
    """Raises Busy if `caller` must wait for the sync in `state`; `now` in ms."""
    if state is None or not is_live(state) or state.key == caller.session_key or force:
        return
    silent = now - state.active
    same_device = state.device == caller.device
    if silent < (_SAME_DEVICE_GONE_AFTER_MS if same_device else gone_after(state)):
        raise Busy


def ended(state: State | None, usn_now: int) -> tuple[Ended, ...]:
    """The syncs whose clients may still ask how they ended, the one in `state` included.

    A state can say "committed" although the process was killed just before the commit:
    the collection's usn tells.
    """
    if state is None:
        return ()
    before = state.ended
    if state.committed is not None and not state.closed and usn_now > state.usn:
        before = (Ended(state.key, state.device, state.committed), *before)
    return before[:_REMEMBERED]


def close(session: SessionFile, usn_now: int) -> None:
    """Ends whatever sync is open, so that its client gets 409 from now on."""
    state = session.read()
    if state is not None:
        remembered = ended(state, usn_now)
        session.write(msgspec.structs.replace(state, closed=True, ended=remembered))


@contextmanager
def live(
    context: Context, caller: Caller, *, wait: bool = True
) -> Iterator[tuple[SessionFile, State]]:
    """The caller's own sync, under the user's lock.

    Raises Conflict if there is none under the caller's session key, and Locked if not to
    wait. A refusal inside ends the sync: what came so far is no use without the rest.
    """
    with SessionFile(context.library.folder(caller.user), wait=wait) as session:
        state = session.read()
        if state is None or state.closed or state.key != caller.session_key:
            raise Conflict("no sync is open under this session key")
        now = msgspec.structs.replace(
            state,
            active=context.now_ms(),
            received=state.received + caller.received,
            sent=state.sent + caller.sent,
        )
        try:
            yield session, now
        except Refused:
            session.write(msgspec.structs.replace(state, closed=True))
            raise
