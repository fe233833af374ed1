# SPDX-License-Identifier: AGPL-3.0-or-later
"""The client's deletions (method `applyGraves`)."""

from cardkeep.collection.session_file import Kind, Locked
from cardkeep.messages import ApplyGraves, Caller, Nothing
from cardkeep.sync import session
from cardkeep.sync.context import Context


async def apply_graves(context: Context, caller: Caller, message: ApplyGraves) -> Nothing:
    """Writes them down."""
    try:
        return _write(context, caller, message, wait=False)
    except Locked:
        return await context.run(_write, context, caller, message, wait=True)


def _write(context: Context, caller: Caller, message: ApplyGraves, *, wait: bool) -> Nothing:
    with session.live(context, caller, wait=wait) as (file, state):
        file.append(Kind.GRAVES, message.graves)
        file.write(state)
    return Nothing()
