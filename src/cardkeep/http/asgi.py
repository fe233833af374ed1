# SPDX-License-Identifier: AGPL-3.0-or-later
"""The types of an ASGI application."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# An extension of our own server, for requests whose body is here as a whole.
WHOLE = "cardkeep.whole"
_NO_EXTENSIONS: Mapping[str, Any] = {}


class Whole(Protocol):
    """Takes the body, or answers, without having to wait; `receive` and `send` do so, too."""

    def body(self) -> bytes:
        """All of it; `receive` does not give it any more."""

    def answer(self, status: int, headers: Headers, body: bytes) -> bool:
        """Sends a whole answer; False if it must be sent with `send`, and nothing was sent."""


def whole(scope: Scope) -> Whole | None:
    """The extension, if the request has it."""
    found: Whole | None = scope.get("extensions", _NO_EXTENSIONS).get(WHOLE)
    return found
