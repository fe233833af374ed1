# SPDX-License-Identifier: AGPL-3.0-or-later
"""The client's deletions (method `applyGraves`)."""

from cardkeep.collection.session_file import Kind, Locked
from cardkeep.errors import BadRequest
from cardkeep.messages import ApplyGraves, Caller, Graves, Nothing
from cardkeep.sync import session
from cardkeep.sync.context import Context

_DEFAULT_DECK = 1


async def apply_graves(context: Context, caller: Caller, message: ApplyGraves) -> Nothing:
    """Writes them down. Raises BadRequest for the default deck."""
    check_deletions(message.graves)
    try:
        return _write(context, caller, message, wait=False)
    except Locked:
        return await context.run(_write, context, caller, message, wait=True)


def _write(context: Context, caller: Caller, message: ApplyGraves, *, wait: bool) -> Nothing:
    with session.live(context, caller, wait=wait) as (file, state):
        file.append(Kind.GRAVES, message.graves)
        file.write(state)
    return Nothing()


def check_deletions(graves: Graves) -> None:
    """Raises BadRequest if the default deck is among them: no client could open what is left.

    Nor does any client offer to delete it; one whose own is missing is told to check its
    database, which brings it back.
    """
    if _DEFAULT_DECK in graves.decks:
        raise BadRequest("the default deck cannot be deleted")
