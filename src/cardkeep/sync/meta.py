# SPDX-License-Identifier: AGPL-3.0-or-later
"""How things stand (method `meta`). Never disturbs, nor waits for, a running sync."""

import logging
import sqlite3

from cardkeep.backups import damage, notice
from cardkeep.collection import config
from cardkeep.disk import Stamp
from cardkeep.errors import DamagedCollection, Unavailable, UnsupportedVersion
from cardkeep.messages import Caller, Meta, MetaAnswer
from cardkeep.sync.context import Context

log = logging.getLogger("cardkeep.sync")

OLDEST, NEWEST = 8, 11
_FORMS = 10


async def meta(context: Context, caller: Caller, message: Meta) -> MetaAnswer:
    """The five numbers from the last committed state.

    A look through an open connection is certainly short; opening one is not.
    """
    if not OLDEST <= message.version <= NEWEST:
        raise UnsupportedVersion(f"protocol version {message.version}")
    if caller.protocol <= _FORMS and message.client not in ("", caller.client):
        # Forms do not say which client sends them; this is where versions 8-10 tell.
        context.accounts.authenticate(
            caller.host_key,
            address=caller.address,
            client=message.client,
            now=context.now_ms() // 1000,
        )
    if context.library.is_warm(caller.user):
        return _look(context, caller, message)
    return await context.run(_look, context, caller, message)


def _look(context: Context, caller: Caller, message: Meta) -> MetaAnswer:
    folder = context.library.folder(caller.user)
    stamp = folder.stamp()
    try:
        mod, scm, usn, empty = context.library.summary(caller.user, stamp)
        hindrance = ""
        if message.version < _FORMS:
            with context.library.lend(caller.user, stamp=stamp) as db:
                hindrance = _hindrance(db, message.version)
    except DamagedCollection as error:
        return _damaged(context, caller, error)
    now_ms = context.now_ms()
    words = hindrance or notice.tell(folder, caller.device, caller.session_key, now_ms, stamp)
    return MetaAnswer(
        mod=mod,
        scm=scm,
        usn=usn,
        now=now_ms // 1000,
        media_usn=_media_usn(context, caller, stamp),
        empty=empty,
        message=words,
        proceed=not hindrance,
    )


def _media_usn(context: Context, caller: Caller, stamp: Stamp | None) -> int:
    """The number of the last media change; 0 if the index cannot say.

    The collection can be synced all the same; the media sync that follows gets the error.
    """
    try:
        return context.media.last_usn(caller.user, stamp)
    except Unavailable as error:
        log.warning("meta user=%s address=%s: %s", caller.user, caller.address, error)
        return 0


def _damaged(context: Context, caller: Caller, error: DamagedCollection) -> MetaAnswer:
    """Words instead of an error, after which a client would only try again."""
    log.error("meta user=%s address=%s: %s", caller.user, caller.address, error)
    now_ms = context.now_ms()
    return MetaAnswer(
        mod=now_ms,
        scm=now_ms,
        usn=0,
        now=now_ms // 1000,
        media_usn=_media_usn(context, caller, None),
        empty=False,
        message=damage.told(caller.user, context.keeper.snapshots(caller.user).all()),
        proceed=False,
    )


def _hindrance(db: sqlite3.Connection, version: int) -> str:
    """What keeps a client of version 8 or 9 from syncing this collection, in words."""
    if version == 8 and config.get(db, "schedVer") == 2:
        return (
            "This collection uses the v2 scheduler, which your Anki does not know. Please update."
        )
    if config.get(db, "creationOffset") is not None:
        return "This collection uses the new timezone handling. Please update Anki to sync it."
    return ""
