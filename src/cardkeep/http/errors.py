# SPDX-License-Identifier: AGPL-3.0-or-later
"""From what went wrong to what the client and the log are told.

docs/sync-protocol.md, 2: clients act on the status alone. 403 makes them forget the
login, so it stands for wrong credentials and nothing else.
"""

import errno
import logging
import sqlite3

from cardkeep import errors
from cardkeep.http.asgi import Headers

logger = logging.getLogger("cardkeep.http")

#: Error class to status; a subclass has the status of its nearest class here.
STATUS: dict[type[Exception], int] = {
    errors.BadRequest: 400,
    # Where the method has no place for the words of a refusal.
    errors.NotAccepted: 400,
    errors.WrongCredentials: 403,
    errors.UnknownMethod: 404,
    errors.Conflict: 409,
    errors.Throttled: 429,
    errors.UnsupportedVersion: 501,
    errors.Unavailable: 503,
}

#: The body of an error: for people who look at it with other programs; clients don't.
_TEXTS = {
    400: b"bad request\n",
    403: b"wrong user name, password or key\n",
    404: b"no such address\n",
    405: b"wrong verb\n",
    409: b"no such sync is open\n",
    429: b"too many wrong logins, try again later\n",
    500: b"internal error\n",
    501: b"this protocol version is not supported\n",
    503: b"try again later\n",
}


class WrongVerb(errors.UnknownMethod):
    """The address is right, the HTTP verb is not; `allowed` are the right ones."""

    def __init__(self, verb: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"verb {verb}")
        self.allowed = allowed


class Gone(Exception):
    """The client closed the connection; there is nobody to answer."""


#: What SQLite and the system say when nothing more can be written.
_FULL = {errno.ENOSPC, errno.EDQUOT}


def is_full_disk(error: BaseException | None) -> bool:
    """Whether the disk is full, whoever noticed it and put it in other words since."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__
    return False


def status_of(error: Exception) -> int:
    """The status for an error; 500 for whatever was not raised on purpose."""
    if isinstance(error, WrongVerb):
        return 405
    for kind in type(error).__mro__:
        if status := STATUS.get(kind):
            return status
    return 503 if is_full_disk(error) else 500


def headers_of(error: Exception) -> Headers:
    """The headers that belong to this error."""
    if isinstance(error, errors.Throttled):
        return [(b"retry-after", b"%d" % error.retry_after)]
    if isinstance(error, WrongVerb):
        return [(b"allow", ", ".join(error.allowed).encode())]
    return []


def text_of(status: int) -> bytes:
    """The body of an error answer; it tells nothing that the status does not."""
    return _TEXTS[status]


def log_refusal(method: str, user: str, address: str, status: int, error: Exception) -> None:
    """One line for a refused request; with traceback if it is our own fault."""
    logger.log(
        logging.ERROR if status == 500 else logging.WARNING,
        "refused %s user=%s address=%s status=%d: %s",
        printable(method),
        printable(user) or "-",
        printable(address) or "-",
        status,
        printable(str(error)) or type(error).__name__,
        exc_info=error if status == 500 else None,
    )


def printable(text: str, most: int = 500) -> str:
    """The text in one line: shortened, and with anything that is not printable escaped."""
    if len(text) > most:
        text = text[:most] + "…"
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
