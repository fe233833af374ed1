# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many bytes a sync came to.

What an answer came to is known only once it was sent. `http` keeps the numbers of small
requests in memory and tells them with the session's next request that comes to the same
process: writing each of them down would cost more than everything else in the user's history.
So with several workers a few of those bytes may be missing there. Large ones are written
down at once, here.
"""

import msgspec

from cardkeep.collection.folder import UserFolder
from cardkeep.collection.session_file import Locked, SessionFile
from cardkeep.messages import Caller


def write_down(folder: UserFolder, caller: Caller, *, received: int, sent: int) -> bool:
    """Adds bytes to the caller's live sync; False if there is none, or not at this moment."""
    try:
        with SessionFile(folder, wait=False) as file:
            state = file.read()
            if state is None or state.key != caller.session_key or state.committed is not None:
                return False
            counted = msgspec.structs.replace(
                state, received=state.received + received, sent=state.sent + sent
            )
            file.write(counted)
    except (Locked, OSError):
        return False
    return True
