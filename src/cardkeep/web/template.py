# SPDX-License-Identifier: AGPL-3.0-or-later
"""Templates to responses, with the headers that every page has."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

_HERE = Path(__file__).parent

STATIC = _HERE / "static"

_environment = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

#: Nothing from elsewhere, no scripts, no frames around it; and no copy of a page that shows
#: the address of whoever asked first.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def render(name: str, status: int = 200, **values: object) -> HTMLResponse:
    """The template filled in. Values are escaped."""
    text = _environment.get_template(name).render(**values)
    return HTMLResponse(text, status, HEADERS)
