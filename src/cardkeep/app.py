# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ties it together: settings in, application out.

Reading `build` tells what the program is made of. It is called once in each process.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from cardkeep.accounts.store import AccountStore
from cardkeep.settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Application:
    """The ASGI application, and what gives back everything it holds."""

    asgi: Asgi
    close: Callable[[], None]


def open_accounts(settings: Settings) -> AccountStore:
    """The accounts as a server sees them: with the users of its environment."""
    return AccountStore(
        settings.folder,
        environment_users={user.name: user.password for user in settings.users},
        hashed=settings.passwords_hashed,
        open_mode=settings.open,
    )


def build(settings: Settings) -> Application:
    """The whole server, but for sockets and processes."""
    accounts = open_accounts(settings)

    # --- media, collection, sync and http are made and tied together here ---
    asgi = _health_only

    def close() -> None:
        accounts.close()

    return Application(asgi, close)


async def _health_only(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands in until the lines above are there: answers GET /health and nothing else."""
    if scope["type"] != "http":
        return
    status = 200 if scope["path"] == "/health" else 503
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok\n" if status == 200 else b"not yet\n"})
