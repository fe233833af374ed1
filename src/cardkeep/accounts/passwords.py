# SPDX-License-Identifier: AGPL-3.0-or-later
"""Password hashes, written as PHC strings: `$scheme$parameters$salt$hash`.

Our own are scrypt. PBKDF2 is what PASSWORDS_HASHED of the official server takes, for example
`$pbkdf2-sha256$i=600000,l=32$c2FsdHNhbHRzYWx0$…`; salt and hash are base64 without padding.

ankisyncd stored one SHA-256 of name, password and salt, which a graphics card guesses by the
billion a second. It is not kept: `$ankisyncd$…` is our scrypt of it, so that it costs as
much to guess, and to judge, as a hash of our own. The first 16 bytes of the salt are
ankisyncd's. Like all that are not of our own making, it goes with the first right login.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from cardkeep.errors import AccountError

# 16 MiB and about 50 ms on a small server: the least that is recommended for interactive use.
_LOG_N, _R, _P = 14, 8, 1
_SALT_BYTES, _HASH_BYTES = 16, 32
_PBKDF2 = {"pbkdf2-sha256": "sha256", "pbkdf2-sha512": "sha512"}
# What the library that the official server uses takes when a string leaves it out.
_PBKDF2_ROUNDS = 600_000
_SCRYPT_DEFAULTS = {"ln": _LOG_N, "r": _R, "p": _P}
_ANKISYNCD = "ankisyncd"
# The digest in hexadecimal, then the salt, which is 8 bytes in hexadecimal and used as text.
_ANKISYNCD_HASH = re.compile("([0-9a-f]{64})([0-9a-f]{16})")


@dataclass(frozen=True, slots=True)
class Phc:
    """A PHC string taken apart."""

    scheme: str
    parameters: dict[str, int]
    salt: bytes
    hash: bytes


def hash_password(password: str) -> str:
    """A new scrypt PHC string with a salt of its own. Takes about 50 ms."""
    salt = secrets.token_bytes(_SALT_BYTES)
    phc = Phc("scrypt", dict(_SCRYPT_DEFAULTS), salt, bytes(_HASH_BYTES))
    return _written(phc, _slow(phc, _secret(phc, password, "")))


def is_of_ankisyncd(text: str) -> bool:
    """Whether it is a hash as ankisyncd stored them."""
    return _ANKISYNCD_HASH.fullmatch(text) is not None


def from_ankisyncd(text: str) -> str:
    """The PHC string for a hash from ankisyncd's `auth.db`. Takes about 50 ms.

    Raises AccountError if it is none.
    """
    match = _ANKISYNCD_HASH.fullmatch(text)
    if not match:
        raise AccountError("the password hash is not one of ankisyncd")
    salt = match[2].encode() + secrets.token_bytes(_SALT_BYTES)
    phc = Phc(_ANKISYNCD, dict(_SCRYPT_DEFAULTS), salt, bytes(_HASH_BYTES))
    return _written(phc, _slow(phc, match[1].encode()))


def verify(text: str, password: str, name: str = "") -> bool:
    """Whether the password belongs to the PHC string. Takes as long as its parameters say.

    `name` is the user's, which ankisyncd hashed too.
    """
    phc = check_phc(text)
    return hmac.compare_digest(_slow(phc, _secret(phc, password, name)), phc.hash)


def decoy(text: str) -> str:
    """A PHC string that costs as much as `text` and that no password belongs to."""
    phc = check_phc(text)
    return _written(phc, secrets.token_bytes(len(phc.hash)))


@functools.cache
def own_decoy() -> str:
    """A decoy with the cost of our own hashes, made without hashing."""
    phc = Phc("scrypt", dict(_SCRYPT_DEFAULTS), secrets.token_bytes(_SALT_BYTES), b"")
    return _written(phc, secrets.token_bytes(_HASH_BYTES))


def cost(text: str) -> tuple[object, ...]:
    """What judging by a PHC string costs: the slow function, and its parameters."""
    phc = check_phc(text)
    scheme = "scrypt" if phc.scheme == _ANKISYNCD else phc.scheme
    return (scheme, *sorted(phc.parameters.items()))


def is_own(text: str) -> bool:
    """Whether a PHC string is as `hash_password` makes them now."""
    return text.startswith("$scrypt$") and cost(text) == cost(own_decoy())


def check_phc(text: str) -> Phc:
    """The parts of a PHC string of a kind that we take. Raises AccountError."""
    parts = text.split("$")
    try:
        if len(parts) != 5 or parts[0]:
            raise ValueError
        phc = Phc(parts[1], _parameters(parts[2]), _from_base64(parts[3]), _from_base64(parts[4]))
        _check_parameters(phc)
    except ValueError:
        raise AccountError(
            "the password hash is not understood; expected "
            "$pbkdf2-sha256$i=600000,l=32$SALT$HASH with unpadded base64"
        ) from None
    return phc


def _parameters(text: str) -> dict[str, int]:
    parameters = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        parameters[name] = int(value)
    return parameters


def _check_parameters(phc: Phc) -> None:
    given = phc.parameters
    if phc.scheme in _PBKDF2:
        given.setdefault("i", _PBKDF2_ROUNDS)
        given.setdefault("l", len(phc.hash))
        fine = (
            given.keys() == {"i", "l"}
            and 0 < given["i"] <= 100_000_000
            and given["l"] == len(phc.hash)
        )
    elif phc.scheme in {"scrypt", _ANKISYNCD}:
        fine = (
            given.keys() == _SCRYPT_DEFAULTS.keys()
            and 0 < given["ln"] <= 20
            and 0 < given["r"] <= 32
            and 0 < given["p"] <= 32
        )
    else:
        fine = False
    if not fine or not phc.salt or len(phc.hash) < 10:
        raise ValueError


def _secret(phc: Phc, password: str, name: str) -> bytes:
    """What goes into the slow function."""
    secret = password.encode("utf-8", "surrogatepass")
    if phc.scheme == _ANKISYNCD:
        salted = name.encode("utf-8", "surrogatepass") + secret + phc.salt[:16]
        return hashlib.sha256(salted).hexdigest().encode()
    return secret


def _slow(phc: Phc, secret: bytes) -> bytes:
    given = phc.parameters
    if phc.scheme in _PBKDF2:
        return hashlib.pbkdf2_hmac(_PBKDF2[phc.scheme], secret, phc.salt, given["i"], len(phc.hash))
    n = 1 << given["ln"]
    return hashlib.scrypt(
        secret,
        salt=phc.salt,
        n=n,
        r=given["r"],
        p=given["p"],
        maxmem=128 * given["r"] * (n + given["p"] + 2) + 1024 * 1024,
        dklen=len(phc.hash),
    )


def _written(phc: Phc, hashed: bytes) -> str:
    parameters = ",".join(f"{name}={value}" for name, value in phc.parameters.items())
    return f"${phc.scheme}${parameters}${_to_base64(phc.salt)}${_to_base64(hashed)}"


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError from None
