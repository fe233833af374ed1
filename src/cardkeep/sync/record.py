# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rows of the user's history that devices cause (see `backups.history`)."""

import msgspec

from cardkeep.backups.history import Kind, Numbers, Row, replaced
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.session_file import State
from cardkeep.messages import Caller, CollectionFile, Counts, MediaUploaded
from cardkeep.sync.commit import APPLIED, NOTHING, Applying
from cardkeep.sync.context import Context
from cardkeep.sync.mending import Mended


def committed(
    context: Context,
    caller: Caller,
    folder: UserFolder,
    state: State,
    applied: Applying,
    mended: Mended | None,
    copy: str,
) -> None:
    """A sync that was just committed. It took from its `start` until now."""
    now = context.now_ms()
    changed = {
        kind: Numbers(*msgspec.structs.astuple(tally))
        for kind in APPLIED
        if (tally := getattr(applied, kind)) != NOTHING
    }
    row = Row(
        time=now,
        kind=Kind.SYNC,
        device=caller.device,
        client=caller.client or state.client,
        address=caller.address,
        received=state.received,
        sent=state.sent,
        took=max(now - state.opened, 0),
        copy=copy,
        note=_repaired(mended) if mended else "",
        **changed,
    )
    context.history.add(folder, row)


def uploaded(
    context: Context, caller: Caller, begun: int, before: Counts, after: Counts, copy: str
) -> None:
    """A collection that took the place of another; asked for at `begun` (ms)."""
    row = msgspec.structs.replace(
        _row(context, caller, Kind.UPLOAD, begun),
        received=caller.size,
        copy=copy,
    )
    context.history.add(context.library.folder(caller.user), replaced(row, before, after))


def downloaded(
    context: Context, caller: Caller, answer: CollectionFile, sent: int, *, complete: bool
) -> None:
    """A collection that was sent, or a part of it."""
    row = msgspec.structs.replace(
        _row(context, caller, Kind.DOWNLOAD, answer.begun),
        sent=sent,
        note="" if complete else "cut off before its end",
    )
    context.history.add(context.library.folder(caller.user), row)


def media(context: Context, caller: Caller, begun: int, done: MediaUploaded) -> None:
    """Media files that were stored or deleted, if anything changed by it."""
    if not (done.added or done.changed or done.deleted):
        return
    row = msgspec.structs.replace(
        _row(context, caller, Kind.MEDIA, begun),
        media=Numbers(done.added, done.changed, done.deleted),
        received=caller.size,
    )
    context.history.add(context.library.folder(caller.user), row)


def logged_in(
    context: Context, user: str, device: str, *, client: str, address: str, begun: int
) -> None:
    """A device that was given a key. The folder that its first request needs is made now."""
    now = context.now_ms()
    row = Row(
        time=now,
        kind=Kind.LOGIN,
        device=device,
        client=client,
        address=address,
        took=max(now - begun, 0),
    )
    context.history.add(context.library.folder(user), row, make=True)


def _row(context: Context, caller: Caller, kind: Kind, begun: int) -> Row:
    """What a device asked for at `begun` (ms), and has now."""
    now = context.now_ms()
    return Row(
        time=now,
        kind=kind,
        device=caller.device,
        client=caller.client,
        address=caller.address,
        took=caller.arrival + max(now - begun, 0),
    )


def _repaired(mended: Mended) -> str:
    deeds = (
        (mended.cards_deleted, "surplus cards deleted"),
        (mended.cards_moved, "cards of missing decks moved"),
        (mended.decks_added, "missing decks added"),
    )
    done = ", ".join(f"{deed}: {number}" for number, deed in deeds if number)
    return f"put right what crossing changes broke ({done})"
