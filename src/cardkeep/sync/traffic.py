# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many bytes the answers of a session came to.

That is known only once an answer was sent. Of a small one it is kept in memory until the next
request of its session is served by the same process: writing it down each time would cost more
than everything else in the user's history. So with several workers a few of those bytes may be
missing there. A large answer is written down at once.
"""

from collections import OrderedDict

import msgspec

from cardkeep.collection.folder import UserFolder
from cardkeep.collection.session_file import Locked, SessionFile
from cardkeep.messages import Answer, Caller, Changes, Chunk, Graves

#: An answer of so many bytes is worth writing down at once.
LARGE = 64 * 1024
_OF_A_SYNC = (Graves, Changes, Chunk)
_SESSIONS = 1000


class Traffic:
    """What was sent in each session and is written down nowhere yet; bounded."""

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[str, str], int] = OrderedDict()

    def note(self, caller: Caller, size: int) -> None:
        """Remembers `size` bytes more for the caller's session."""
        key = (caller.device, caller.session_key)
        self._sent[key] = self._sent.pop(key, 0) + size
        if len(self._sent) > _SESSIONS:
            self._sent.popitem(last=False)

    def take(self, caller: Caller) -> int:
        """The bytes that are remembered for the caller's session, and no longer will be."""
        return self._sent.pop((caller.device, caller.session_key), 0)


def write_down(folder: UserFolder, caller: Caller, answer: Answer, size: int) -> bool:
    """Adds an answer to the caller's live sync; False if that cannot be done at once."""
    if not isinstance(answer, _OF_A_SYNC):
        return False
    try:
        with SessionFile(folder, wait=False) as file:
            state = file.read()
            if state is None or state.key != caller.session_key or state.committed is not None:
                return False
            file.write(msgspec.structs.replace(state, sent=state.sent + size))
    except (Locked, OSError):
        return False
    return True
