# SPDX-License-Identifier: AGPL-3.0-or-later
"""The client's address: the socket's, or the one that a trusted proxy writes in a header.

SYNC_IP_HEADER of the official server names the header to trust, in that server's own
words; a header is never looked at unless it was named, since any client can send it.
Of a list of addresses the rightmost counts: the one that the nearest proxy saw.
"""

import re
from ipaddress import ip_address

from cardkeep.errors import SettingsError
from cardkeep.http.asgi import Scope

#: The official server's words for its sources, in lower case, to header names.
_SOURCES = {
    "cfconnectingip": b"cf-connecting-ip",
    "cloudfrontvieweraddress": b"cloudfront-viewer-address",
    "flyclientip": b"fly-client-ip",
    "rightmostforwarded": b"forwarded",
    "rightmostxforwardedfor": b"x-forwarded-for",
    "trueclientip": b"true-client-ip",
    "xenvoyexternaladdress": b"x-envoy-external-address",
    "xrealip": b"x-real-ip",
}
_SOCKET = "connectinfo"
_HEADER_NAME = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)+|[Ff]orwarded")
_FORWARDED_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*"?([^";]*)', re.IGNORECASE)


class Peer:
    """Tells where requests come from.

    `source` is empty or `ConnectInfo` for the socket, one of the official server's words
    (`XRealIp`, `RightmostXForwardedFor`, …), or a header's name (`X-Real-IP`). Raises
    SettingsError for anything else.
    """

    def __init__(self, source: str = "") -> None:
        word = source.strip().lower()
        self._header: bytes | None
        if word in ("", _SOCKET):
            self._header = None
        elif word in _SOURCES:
            self._header = _SOURCES[word]
        elif _HEADER_NAME.fullmatch(word):
            self._header = word.encode()
        else:
            words = ", ".join(["ConnectInfo", "XRealIp", "RightmostXForwardedFor"])
            raise SettingsError(
                f"{source!r} names no header: expected {words}, … or the header's name"
            )

    def address(self, scope: Scope) -> str:
        """The client's address; empty if it has none (a Unix socket).

        Without a usable header the socket's address is given: that of the proxy.
        """
        if self._header is not None:
            for name, value in reversed(scope["headers"]):
                if name == self._header:
                    if found := self._last_address(value.decode("latin-1")):
                        return found
                    break
        client = scope.get("client")
        return _plain(client[0]) if client else ""

    def _last_address(self, value: str) -> str:
        last = value.rpartition(",")[2].strip()
        if self._header == b"forwarded":
            match = _FORWARDED_FOR.search(last)
            last = match[1].strip() if match else ""
        for candidate in (last, last.rpartition(":")[0]):
            try:
                found = ip_address(candidate.strip("[]"))
            except ValueError:
                continue
            return str(getattr(found, "ipv4_mapped", None) or found)
        return ""


def _plain(address: str) -> str:
    """Sockets that serve both families write 192.0.2.1 as ::ffff:192.0.2.1."""
    return address.removeprefix("::ffff:") if "." in address else address
