# SPDX-License-Identifier: AGPL-3.0-or-later
"""`GET|HEAD /health`: 200 and nothing else, for load balancers and containers; not logged."""

from cardkeep.http.asgi import Scope, Send

PATH = "/health"

_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
_BODY = {"type": "http.response.body", "body": b""}


async def health(_scope: Scope, send: Send) -> None:
    """The process serves requests."""
    await send(_START)
    await send(_BODY)
