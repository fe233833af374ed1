# SPDX-License-Identifier: AGPL-3.0-or-later
"""Password hashes."""

import pytest

from cardkeep.accounts import passwords
from cardkeep.errors import AccountError

# Computed with another implementation (OpenSSL's `kdf` command): password "secret", salt
# "somesalt"; 1000 rounds, or n 1024, r 8, p 2.
PBKDF2_SHA256 = "$pbkdf2-sha256$i=1000,l=32$c29tZXNhbHQ$vqJqygf2tor+2oXl6lWino6yb6bhsvOKyvQv/Gi94uE"
PBKDF2_SHA512 = "$pbkdf2-sha512$i=1000,l=32$c29tZXNhbHQ$V9x3u38jtrOvOxGwDp/5VE6f8lcU1xTSkY+Hz6lqaDs"
SCRYPT = "$scrypt$ln=10,r=8,p=2$c29tZXNhbHQ$JCvIYImhC0/YQR+9xB1wvUf9ME0V3OHJ52lhYzR/gN8"


def test_our_own_hash() -> None:
    """It is scrypt with a salt of its own, and takes the right password only."""
    text = passwords.hash_password("sécret")
    assert text.startswith("$scrypt$ln=14,r=8,p=1$")
    assert text != passwords.hash_password("sécret")
    assert passwords.verify(text, "sécret")
    assert not passwords.verify(text, "secret")
    assert not passwords.verify(text, "")


@pytest.mark.parametrize("text", [PBKDF2_SHA256, PBKDF2_SHA512, SCRYPT])
def test_hashes_of_others(text: str) -> None:
    """What other programs computed is understood."""
    assert passwords.verify(text, "secret")
    assert not passwords.verify(text, "Secret")


def test_parameters_may_be_left_out_or_turned_round() -> None:
    """As in the library that the official server uses."""
    assert passwords.verify(PBKDF2_SHA256.replace("i=1000,l=32", "l=32,i=1000"), "secret")
    assert passwords.verify(PBKDF2_SHA256.replace(",l=32", ""), "secret")


def test_a_decoy_costs_the_same_and_takes_nothing() -> None:
    """Parameters and salt are those of the original."""
    decoy = passwords.decoy(PBKDF2_SHA256)
    assert decoy.split("$")[:4] == PBKDF2_SHA256.split("$")[:4]
    assert not passwords.verify(decoy, "secret")
    own = passwords.own_decoy()
    assert own.split("$")[:3] == passwords.hash_password("x").split("$")[:3]
    assert not passwords.verify(own, "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "$",
        "$$$$",
        "$pbkdf2-sha256$i=1000,l=32$c29tZXNhbHQ",
        "$pbkdf2-sha256$i=1000,l=32$c29tZXNhbHQ$",
        "$pbkdf2-sha256$i=1000,l=32$$" + "A" * 43,
        "$pbkdf2-sha256$i=0,l=32$c29tZXNhbHQ$" + "A" * 43,
        "$pbkdf2-sha256$i=-1,l=32$c29tZXNhbHQ$" + "A" * 43,
        "$pbkdf2-sha256$i=x,l=32$c29tZXNhbHQ$" + "A" * 43,
        "$pbkdf2-sha256$i=9999999999,l=32$c29tZXNhbHQ$" + "A" * 43,
        "$pbkdf2-sha256$i=1000,l=31$c29tZXNhbHQ$" + "A" * 43,
        "$pbkdf2-sha256$i=1000,z=1$c29tZXNhbHQ$" + "A" * 43,
        "$pbkdf2-sha256$i=1000,l=32$c29tZXNhbHQ$" + "!" * 43,
        "$pbkdf2-sha256$i=1000,l=32$c29tZXNhbHQ$" + "é" * 43,
        "$pbkdf2-md5$i=1000,l=16$c29tZXNhbHQ$" + "A" * 22,
        "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$" + "A" * 43,
        "$scrypt$ln=30,r=8,p=1$c29tZXNhbHQ$" + "A" * 43,
        "$scrypt$r=8,p=1$c29tZXNhbHQ$" + "A" * 43,
        "secret$pbkdf2-sha256$i=1000,l=32$c29tZXNhbHQ$" + "A" * 43,
    ],
)
def test_what_is_no_hash_is_refused(text: str) -> None:
    """Without showing it: it may be a plain password."""
    with pytest.raises(AccountError) as caught:
        passwords.check_phc(text)
    assert "secret" not in str(caught.value)


def test_any_text_can_be_a_password() -> None:
    """Half a surrogate pair, which JSON can carry, is no error."""
    assert not passwords.verify(PBKDF2_SHA256, "\ud800")
