# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the server runs: the protocol's methods, the health check, and the pages."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from cardkeep.http import asgi
from cardkeep.http.errors import logger
from cardkeep.http.health import PATH as HEALTH
from cardkeep.http.health import health
from cardkeep.http.routing import is_sync

Lifespan = Callable[[], AbstractAsyncContextManager[object]]


class Application:
    """Sends each request where it belongs.

    `lifespan` makes a context that is entered before the first request and left after
    the last one.
    """

    def __init__(
        self,
        sync: asgi.Application,
        pages: asgi.Application,
        lifespan: Lifespan | None = None,
    ) -> None:
        self._sync = sync
        self._pages = pages
        self._lifespan = lifespan

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answers one request, or lives through one life of the server."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if is_sync(path):
                await self._sync(scope, receive, send)
            elif path.endswith(HEALTH) and scope["method"] in ("GET", "HEAD"):
                await health(scope, send)
            else:
                await self._pages(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _live(self, receive: asgi.Receive, send: asgi.Send) -> None:
        await receive()
        try:
            context = self._lifespan() if self._lifespan else None
            if context is not None:
                await context.__aenter__()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            if context is not None:
                await context.__aexit__(None, None, None)
        except Exception:
            logger.exception("the server did not stop cleanly")
            await send({"type": "lifespan.shutdown.failed", "message": ""})
            raise
        await send({"type": "lifespan.shutdown.complete"})
