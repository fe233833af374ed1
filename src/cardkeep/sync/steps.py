# SPDX-License-Identifier: AGPL-3.0-or-later
"""The table of steps: which function acts on which message."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from cardkeep import messages
from cardkeep.errors import WrongCredentials
from cardkeep.messages import (
    Answer,
    Caller,
    ClientMessage,
    CollectionFile,
    HostKey,
    HostKeyGranted,
)
from cardkeep.sync import (
    changes,
    chunks,
    finish,
    full,
    graves,
    login,
    media,
    meta,
    record,
    sanity,
    start,
    traffic,
)
from cardkeep.sync.context import Context

Step = Callable[[Context, Caller, Any], Awaitable[Answer]]

STEPS: Mapping[type, Step] = {
    messages.Meta: meta.meta,
    messages.Start: start.start,
    messages.ApplyGraves: graves.apply_graves,
    messages.ApplyChanges: changes.apply_changes,
    messages.NextChunk: chunks.next_chunk,
    messages.ApplyChunk: chunks.apply_chunk,
    messages.SanityCheck: sanity.sanity_check,
    messages.Finish: finish.finish,
    messages.Abort: finish.abort,
    messages.Upload: full.upload,
    messages.Download: full.download,
    messages.MediaBegin: media.begin,
    messages.MediaChanges: media.changes,
    messages.UploadChanges: media.upload,
    messages.DownloadFiles: media.download,
    messages.MediaSanity: media.sanity,
}

_OF_A_SYNC = (messages.Graves, messages.Changes, messages.Chunk, messages.Nothing)

# The session's state is one small block on disk; a client's text about itself is cut to fit.
_CLIENT_LENGTH = 100
_KEY_LENGTH = 64


class Steps:
    """What `http` calls."""

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def spool(self) -> Path:
        """The folder for bodies that do not belong in memory."""
        return self._context.spool

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
        """Who speaks. Raises WrongCredentials for a key that is not, or no longer, valid."""
        device = self._context.accounts.authenticate(
            host_key,
            address=address,
            client=client[:_CLIENT_LENGTH],
            now=self._context.now_ms() // 1000,
        )
        if device is None:
            raise WrongCredentials("unknown host key")
        return Caller(
            user=device.user,
            device=device.id,
            protocol=protocol,
            session_key=session_key[:_KEY_LENGTH],
            client=(client or device.client)[:_CLIENT_LENGTH],
            address=address,
            host_key=host_key,
            received=received,
            sent=sent,
            shares_key=device.kind == "official",
        )

    async def login(self, message: HostKey, *, client: str, address: str) -> HostKeyGranted:
        """A new key. Raises WrongCredentials and Throttled."""
        return await login.login(
            self._context, message, client=client[:_CLIENT_LENGTH], address=address
        )

    def perform(self, caller: Caller, message: ClientMessage) -> Awaitable[Answer]:
        """Does what the message asks for."""
        return STEPS[type(message)](self._context, caller, message)

    def answered(
        self, caller: Caller, answer: Answer, *, received: int, sent: int, complete: bool
    ) -> bool:
        """What a large request and its answer came to; whether that is written down now."""
        if isinstance(answer, CollectionFile):
            record.downloaded(self._context, caller, answer, sent, complete=complete)
            return True
        if isinstance(answer, _OF_A_SYNC):
            folder = self._context.library.folder(caller.user)
            return traffic.write_down(folder, caller, received=received, sent=sent)
        return False
