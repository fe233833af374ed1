# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pages as one ASGI application."""

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ExceptionHandler

from cardkeep.web.front import front
from cardkeep.web.template import STATIC, render


def pages(*, public_url: str | None = None, open_mode: bool = False) -> Starlette:
    """All pages.

    `public_url` (with a final slash) is shown in place of the address that the reader's request
    tells of; `open_mode` says that names need no password here.
    """
    handlers: Mapping[type[Exception], ExceptionHandler] = {HTTPException: _error}
    app = Starlette(
        routes=[
            Route("/", front),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers=handlers,
    )
    app.state.public_url = public_url
    app.state.open_mode = open_mode
    return app


def _error(_request: Request, error: Exception) -> Response:
    status, headers = 500, {}
    if isinstance(error, HTTPException):
        status, headers = error.status_code, dict(error.headers or {})
    response = render("error.html", status, code=status)
    response.headers.update(headers)
    return response
