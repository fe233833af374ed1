# SPDX-License-Identifier: AGPL-3.0-or-later
"""Slows the guessing of passwords down, gently: wrong logins are counted, nothing is locked.

Counts stand in accounts.db, so that all processes of a server see the same ones. Only wrong
logins count, right ones never wait longer than a minute, and a device that already has
a key is not concerned at all.
"""

import hashlib
import ipaddress
import math
import sqlite3
from dataclasses import dataclass

from cardkeep.accounts.names import folded

WINDOW = 300  # seconds that a wrong login counts


@dataclass(frozen=True, slots=True)
class Rule:
    """From `limit` wrong logins within WINDOW on, the next may come `wait` seconds later."""

    condition: str
    limit: int
    wait: int


# Who guesses one account's password from one place meets the first. The others are for
# guessing many accounts (a school behind one address must not meet it) and for many addresses
# (whose wait is short, since the account's owner waits too).
RULES = (
    Rule("address = :address AND account = :account", 10, 60),
    Rule("address = :address", 30, 60),
    Rule("account = :account", 100, 10),
)


def seconds_to_wait(connection: sqlite3.Connection, address: str, name: str, now: float) -> int:
    """0 if a login may be tried now, else the number of seconds until it may."""
    values = _values(address, name) | {"since": now - WINDOW}
    longest = 0.0
    for rule in RULES:
        count, last = connection.execute(
            f"SELECT count(*), max(at) FROM failures WHERE {rule.condition} AND at > :since",
            values,
        ).fetchone()
        if count >= rule.limit:
            # A clock that was set back must not lengthen the wait.
            longest = max(longest, min(last + rule.wait - now, rule.wait))
    return max(0, math.ceil(longest))


def note_failure(connection: sqlite3.Connection, address: str, name: str, now: float) -> None:
    """Counts a wrong login, and forgets those that no longer count."""
    connection.execute("DELETE FROM failures WHERE at <= ?", (now - WINDOW,))
    connection.execute(
        "INSERT INTO failures (address, account, at) VALUES (:address, :account, :now)",
        _values(address, name) | {"now": int(now)},
    )


def clear(connection: sqlite3.Connection, address: str, name: str) -> None:
    """Forgets the wrong logins of this account from this address: its owner is there."""
    connection.execute(
        "DELETE FROM failures WHERE address = :address AND account = :account",
        _values(address, name),
    )


def _values(address: str, name: str) -> dict[str, str | bytes | float]:
    account = hashlib.sha256(folded(name).encode("utf-8", "surrogatepass")).digest()[:16]
    return {"address": network(address), "account": account}


def network(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that an IPv6 host picks from."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.ip_network((parsed, 64), strict=False))
        parsed = parsed.ipv4_mapped
    return str(parsed)
