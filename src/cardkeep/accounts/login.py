# SPDX-License-Identifier: AGPL-3.0-or-later
"""Judges a name and a password.

A wrong login costs the same whatever is wrong with it: every kind of hash in use is computed
once, for unknown names and for users whose password is compared without hashing too. So
the time an answer takes does not tell which names exist.
"""

import hashlib
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass

from cardkeep.accounts import passwords
from cardkeep.accounts.hashing import Hashing
from cardkeep.errors import Throttled, Unavailable, WrongCredentials

log = logging.getLogger("cardkeep.accounts")


@dataclass(frozen=True, slots=True)
class Secret:
    """What a password is held against: a PHC string, or the plain text of the environment.

    `name` is the user's.
    """

    text: str
    hashed: bool
    name: str


@dataclass(frozen=True, slots=True)
class Counter:
    """The throttle, bound to one login: how long to wait, and that it was wrong."""

    seconds_to_wait: Callable[[], int]
    note_failure: Callable[[], None]


class Judge:
    """Tells right passwords from wrong ones.

    `decoys` gives PHC strings that no password belongs to, of each cost in use at least one.
    """

    def __init__(self, decoys: Callable[[], list[str]]) -> None:
        self._hashing = Hashing()
        self._decoys = decoys

    def close(self) -> None:
        """Stops taking work."""
        self._hashing.close()

    def check(self, secret: Secret | None, password: str, counter: Counter) -> None:
        """Returns if the password is right; `secret` is None for a name that cannot log in.

        Blocks while hashing. Raises WrongCredentials, Throttled (before any hashing) and
        Unavailable (too many logins at once).
        """
        _refuse_early(counter)
        if secret is not None and not secret.hashed and _same(secret.text, password):
            return

        def job() -> None:
            # Again, since others may have failed while this one waited for its turn.
            _refuse_early(counter)
            if not self._matches(secret, password):
                counter.note_failure()
                raise WrongCredentials("wrong user name or password")

        self._hashing.run(job)

    def renewed(self, secret: Secret, password: str) -> str | None:
        """A hash of our own for a right password that is held against another's.

        None if there is no need for one, or no time. Blocks while hashing.
        """
        if not secret.hashed or passwords.is_own(secret.text):
            return None
        try:
            return self._hashing.run(lambda: passwords.hash_password(password))
        except Unavailable:
            return None

    def _matches(self, secret: Secret | None, password: str) -> bool:
        done = None
        if secret is not None and secret.hashed:
            if passwords.verify(secret.text, password, secret.name):
                return True
            done = passwords.cost(secret.text)
        for cost, decoy in {passwords.cost(each): each for each in self._decoys()}.items():
            if cost != done:
                passwords.verify(decoy, password)
        return False


def _refuse_early(counter: Counter) -> None:
    wait = counter.seconds_to_wait()
    if wait:
        raise Throttled(f"too many wrong logins; the next may come in {wait} s", wait)


def _same(expected: str, given: str) -> bool:
    return hmac.compare_digest(_digest(expected), _digest(given))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def log_failure(name: str, address: str) -> None:
    """One line per wrong login, of a form that does not change: fail2ban reads it."""
    log.warning("login failed user=%s address=%s", quoted(name), plain(address))


def log_throttled(name: str, address: str, wait: int) -> None:
    """One line per login that was not tried because of the wrong ones before it."""
    log.warning("login throttled user=%s address=%s wait=%d", quoted(name), plain(address), wait)


def log_success(name: str, address: str, client: str, device: str) -> None:
    """One line per login."""
    log.info(
        "login user=%s address=%s client=%s device=%s",
        quoted(name),
        plain(address),
        quoted(client),
        device,
    )


def quoted(text: str) -> str:
    """The text in single quotes, on one line, such that it cannot pose as another field."""
    shown = "".join(map(_escaped, text[:100]))
    return f"'{shown}'" + ("…" if len(text) > 100 else "")


def plain(text: str) -> str:
    """An address as it is; anything else that came in its place is made harmless."""
    return "".join(c if c.isascii() and (c.isalnum() or c in ".:%") else "?" for c in text[:60])


def _escaped(character: str) -> str:
    if character in "'\\":
        return "\\" + character
    return character if character.isprintable() else ascii(character)[1:-1]
