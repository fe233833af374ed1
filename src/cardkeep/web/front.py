# SPDX-License-Identifier: AGPL-3.0-or-later
"""`GET /`: what this is, and what to enter in which client."""

from starlette.requests import Request
from starlette.responses import Response

from cardkeep.web.address import base_url
from cardkeep.web.template import render


def front(request: Request) -> Response:
    """The page, with the addresses as this reader needs them."""
    url = request.app.state.public_url or base_url(request)
    return render(
        "front.html",
        url=url,
        insecure=url.startswith("http:"),
        open_mode=request.app.state.open_mode,
    )
