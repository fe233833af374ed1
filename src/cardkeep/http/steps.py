# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the sync routes need of the room that acts on messages."""

from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

from cardkeep.messages import Answer, Caller, ClientMessage, HostKey, HostKeyGranted


class Steps(Protocol):
    """Acts on messages. Refusals are raised as the classes of `cardkeep.errors`."""

    @property
    def spool(self) -> Path:
        """An existing folder for temporary bodies, on the file system of the collections."""

    def authenticate(
        self,
        host_key: str,
        *,
        protocol: int,
        session_key: str,
        client: str,
        address: str,
        received: int = 0,
        sent: int = 0,
    ) -> Caller:
        """Who speaks; raises WrongCredentials. Short: it is called in the event loop.

        `received` and `sent` are what `http` has not told yet of the session's bodies.
        """

    async def login(self, message: HostKey, *, client: str, address: str) -> HostKeyGranted:
        """A new host key; raises WrongCredentials or Throttled."""

    def perform(self, caller: Caller, message: ClientMessage) -> Awaitable[Answer]:
        """Does what the message says."""

    def answered(
        self, caller: Caller, answer: Answer, *, received: int, sent: int, complete: bool
    ) -> bool:
        """Hears of a large request or answer: the bytes of both, and whether all were sent.

        If it returns False they are told with the session's next request, as those of
        small ones are. Short: it is called in the event loop.
        """
