# SPDX-License-Identifier: AGPL-3.0-or-later
"""The address under which a reader reached the server: the one to enter in clients.

It is taken from what the browser and the proxies before the server say. Anybody can send
such headers, but each only changes the page that they are sent for.
"""

import re

from starlette.requests import Request

# A name or address with an optional port, of the characters that these may have.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(:[0-9]{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")


def base_url(request: Request) -> str:
    """Scheme, host and prefix, with a final slash: clients need it (docs/sync-protocol.md, 1.1)."""
    scheme = _first(request, "x-forwarded-proto").lower()
    if scheme not in ("http", "https"):
        scheme = request.url.scheme
    return f"{scheme}://{_host(request)}{_prefix(request)}"


def _host(request: Request) -> str:
    for name in ("x-forwarded-host", "host"):
        host = _first(request, name)
        if _HOST.fullmatch(host):
            return host
    name, port = request.scope.get("server") or ("localhost", None)
    if ":" in name:
        name = f"[{name}]"
    return f"{name}:{port}" if port else name


def _prefix(request: Request) -> str:
    prefix = _first(request, "x-forwarded-prefix")
    if prefix.startswith("/") and _PREFIX.fullmatch(prefix):
        return prefix.rstrip("/") + "/"
    return "/"


def _first(request: Request, header: str) -> str:
    """Of a chain of proxies, the one nearest to the reader."""
    return request.headers.get(header, "").partition(",")[0].strip()
