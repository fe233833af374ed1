# SPDX-License-Identifier: AGPL-3.0-or-later
"""Opening a sync (method `start`)."""

import sqlite3
from contextlib import suppress

from cardkeep.backups import lost_usns, notice
from cardkeep.collection import cards, config, days, graves, header
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.header import Header
from cardkeep.collection.session_file import Kind, Locked, SessionFile, State
from cardkeep.errors import BadRequest, Conflict
from cardkeep.messages import Caller, Graves, Start
from cardkeep.sync import session
from cardkeep.sync.context import Context
from cardkeep.sync.graves import check_deletions

_WORDS = (
    "Your server was brought back from a backup, and this account was synced after the backup was "
    "made. When Anki asks for the direction, choose Upload on the device with your latest work, "
    "and then Download on all others."
)
_LAST_UNBURIED = "lastUnburied"
_ROLLOVER = "rollover"
_DAY_KEYS = (*days.KEYS, _LAST_UNBURIED)


async def start(context: Context, caller: Caller, message: Start) -> Graves:
    """Opens a session and tells what was deleted since the client's usn.

    Raises BadRequest for a client without a session key, or that deleted the default deck.
    """
    if not caller.session_key:
        raise BadRequest("start without a session key")
    if message.graves is not None:
        check_deletions(message.graves)

    if context.library.is_warm(caller.user):
        with suppress(session.Long, session.Busy, Locked):
            return _open(context, caller, message, take_over=False, hasty=True)

    def attempt(take_over: bool) -> Graves:
        return _open(context, caller, message, take_over=take_over, hasty=False)

    return await session.when_free(context, attempt)


def _open(
    context: Context, caller: Caller, message: Start, *, take_over: bool, hasty: bool
) -> Graves:
    folder = context.library.folder(caller.user)
    with context.library.lend(caller.user) as db, SessionFile(folder, wait=False) as file:
        now = context.now_ms()
        if hasty and graves.are_many(db, message.min_usn):
            raise session.Long
        before = file.read()
        session.give_way(before, caller, now, force=take_over)
        found = header.read(db)
        if lost_usns.is_lost(folder, message.min_usn, found):
            if hasty:
                raise session.Long
            raise _ask_all_devices(db, folder, file, found, message.min_usn, now)
        _unbury(db, found, now // 1000, hasty=hasty)
        # Collected before the client's own deletions, which only legacy clients send here.
        deleted = graves.since(db, message.min_usn)
        state = State(
            key=caller.session_key,
            device=caller.device,
            client=caller.client,
            protocol=caller.protocol,
            min_usn=message.min_usn,
            usn=found.usn,
            mod=found.mod,
            scm=found.scm,
            local_newer=message.local_newer,
            opened=now,
            active=now,
            ended=session.ended(before, found.usn),
            received=caller.received,
            sent=caller.sent,
            shares_key=caller.shares_key,
        )
        file.begin(state)
        if message.graves is not None:
            file.append(Kind.GRAVES, message.graves)
            file.write(state)
        notice.followed(folder, caller.device, caller.session_key)
        return deleted


def _ask_all_devices(
    db: sqlite3.Connection,
    folder: UserFolder,
    file: SessionFile,
    found: Header,
    min_usn: int,
    now: int,
) -> Conflict:
    """A device knows a state that is lost to the server: from now on each asks for the direction.

    This one is told with its next sync.
    """
    session.close(file, found.usn)
    db.execute("BEGIN IMMEDIATE")
    header.set_replaced(db, now=max(now, found.mod + 1), usn=found.usn + 1)
    db.execute("COMMIT")
    notice.put(folder, _WORDS, now, stays=True)
    return Conflict(f"the device has usn {min_usn}, the server went back to {found.usn}")


def _unbury(db: sqlite3.Connection, found: Header, now: int, *, hasty: bool) -> None:
    """Brings buried cards back on a new day, as every client does before it syncs.

    Neither `mod` nor any usn changes by it, so it is no part of the sync that it precedes.
    """
    conf = config.get_some(db, _DAY_KEYS)
    today = days.today(found.crt, now, conf)
    last = conf.get(_LAST_UNBURIED)
    if not isinstance(last, int):
        last = 0
    # A day far ahead comes from a clock that was wrong; it must not stop unburying for good.
    is_new_day = not today <= last <= today + 7
    lacks_hour = _ROLLOVER not in conf and conf.get("schedVer") != 1
    if not (is_new_day or lacks_hour):
        return
    if hasty:
        raise session.Long
    db.execute("BEGIN IMMEDIATE")
    if is_new_day:
        cards.unbury(db)
        config.put(db, _LAST_UNBURIED, today, usn=found.usn, now=now)
    if lacks_hour:
        # Every client writes the hour that it assumes, without calling that a change.
        config.put(db, _ROLLOVER, days.DEFAULT_ROLLOVER, usn=found.usn, now=now)
    db.execute("COMMIT")
