# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the sync routes need of the room that acts on messages."""

from pathlib import Path
from typing import Protocol

from cardkeep.messages import Answer, Caller, ClientMessage, HostKey, HostKeyGranted


class Steps(Protocol):
    """Acts on messages. Refusals are raised as the classes of `cardkeep.errors`."""

    @property
    def spool(self) -> Path:
        """An existing folder for temporary bodies, on the file system of the collections."""

    def authenticate(
        self, host_key: str, *, protocol: int, session_key: str, client: str, address: str
    ) -> Caller:
        """Who speaks; raises WrongCredentials. Short: it is called in the event loop."""

    async def login(self, message: HostKey, *, client: str, address: str) -> HostKeyGranted:
        """A new host key; raises WrongCredentials or Throttled."""

    async def perform(self, caller: Caller, message: ClientMessage) -> Answer:
        """Does what the message says."""

    def answered(self, caller: Caller, answer: Answer, *, sent: int, complete: bool) -> None:
        """Hears how many bytes of body an answer came to, and whether all of it was sent.

        Short: it is called in the event loop, once for each answer that was begun.
        """
