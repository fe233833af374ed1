# SPDX-License-Identifier: AGPL-3.0-or-later
"""Users that another server had: its password hashes and host keys."""

import hashlib
import sqlite3
import threading

import pytest

from cardkeep.accounts import passwords
from cardkeep.accounts import store as store_module
from cardkeep.accounts.store import AccountStore
from cardkeep.errors import AccountError, UserExists, WrongCredentials
from tests.accounts.conftest import NOW, Accounts, known, log_in, who
from tests.accounts.test_login import hashes, wrong
from tests.accounts.test_passwords import PBKDF2_SHA256, PBKDF2_SHA512

__all__ = ["hashes"]


def of_ankisyncd(name: str, password: str, salt: str = "0123456789abcdef") -> str:
    """What its `auth.db` holds (`ankisyncd/users.py`, and `user.rs` of the one in Rust)."""
    return hashlib.sha256((name + password + salt).encode()).hexdigest() + salt


# Of "anasécret0123456789abcdef", computed with `sha256sum`.
WRITTEN_OUT = "9d7aa01ef8e9af5e793b706af257c85a37c25801f0e2aca1033610c46d17357f"

FOREIGN = {
    "ankisyncd": lambda: passwords.from_ankisyncd(of_ankisyncd("ana", "secret")),
    "pbkdf2": lambda: PBKDF2_SHA256,
}


def stored(store: AccountStore, name: str) -> str:
    with sqlite3.connect(store.base / "accounts.db") as connection:
        row = connection.execute("SELECT password FROM users WHERE name = ?", (name,)).fetchone()
    return str(row[0])


def test_a_hash_of_ankisyncd_is_wrapped_in_one_of_ours() -> None:
    """Nothing of it is stored as it was but its salt."""
    given = of_ankisyncd("ana", "sécret")
    assert given == WRITTEN_OUT + "0123456789abcdef"
    text = passwords.from_ankisyncd(given)
    assert text.startswith("$ankisyncd$ln=14,r=8,p=1$")
    assert given[:64] not in text
    assert passwords.verify(text, "sécret", "ana")
    for password, name in (("secret", "ana"), ("sécret", "Ana"), ("sécret", ""), ("", "ana")):
        assert not passwords.verify(text, password, name)
    assert passwords.cost(text) == passwords.cost(passwords.own_decoy())
    assert not passwords.is_own(text)


@pytest.mark.parametrize(
    "text",
    ["", "secret", "0" * 79, "0" * 81, "G" * 64 + "0" * 16, "0" * 64 + "G" * 16, "0" * 80 + "\n"],
)
def test_what_is_no_hash_of_ankisyncd(text: str) -> None:
    """It is refused."""
    with pytest.raises(AccountError, match="not one of ankisyncd"):
        passwords.from_ankisyncd(text)


@pytest.mark.parametrize("kind", ["ankisyncd", "pbkdf2"])
def test_the_first_login_puts_a_hash_of_ours_in_its_place(accounts: Accounts, kind: str) -> None:
    """Nobody is logged out by that, and the same password goes on to be right."""
    store = accounts.open()
    store.take_over("ana", FOREIGN[kind](), now=NOW)
    wrong(store, "ana", "Secret")
    assert stored(store, "ana") == stored(accounts.open(), "ana")
    assert not passwords.is_own(stored(store, "ana"))
    first = log_in(store, "ana", "secret")
    ours = stored(store, "ana")
    assert passwords.is_own(ours)
    second = log_in(accounts.open(), "ana", "secret")
    assert stored(store, "ana") == ours
    assert who(store, first) == who(store, second) == "ana"
    wrong(store, "ana", "Secret")


def test_devices_that_log_in_at_once_all_get_in(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One renews the hash while the other's password is being held against the old one."""
    store = accounts.open()
    store.take_over("ana", FOREIGN["ankisyncd"](), now=NOW)
    both_judged = threading.Barrier(2)
    real = store_module.Judge.renewed

    def wait(judge: store_module.Judge, *arguments: object) -> object:
        if not both_judged.broken and stored(store, "ana").startswith("$ankisyncd"):
            both_judged.wait(20)
        return real(judge, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module.Judge, "renewed", wait)
    keys: list[str] = []
    threads = [
        threading.Thread(target=lambda: keys.append(log_in(store, "ana", "secret")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [who(store, key) for key in keys] == ["ana", "ana"]
    assert passwords.is_own(stored(store, "ana"))


def test_a_changed_password_ends_a_login_under_way(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was right when it was judged is judged again."""
    store = accounts.open()
    store.take_over("ana", FOREIGN["ankisyncd"](), now=NOW)

    def change(*_: object) -> None:
        monkeypatch.undo()
        store.set_password("ana", "another")

    monkeypatch.setattr(store_module.Judge, "renewed", change)
    wrong(store, "ana", "secret")
    assert who(store, log_in(store, "ana", "another")) == "ana"


def test_wrong_logins_cost_the_same(accounts: Accounts, hashes: list[str]) -> None:
    """A user of ankisyncd as much as one of ours; and all of them more while others are here."""
    store = accounts.open({"eva": "x"})
    store.add_user("own", "secret")
    store.take_over("ana", FOREIGN["ankisyncd"]())
    for name in ("ana", "own", "eva", "nobody"):
        hashes.clear()
        wrong(store, name)
        assert hashes == ["scrypt"], name
    store.take_over("ben", PBKDF2_SHA256)
    store.take_over("cem", PBKDF2_SHA256.replace(",l=32", ""))
    store.take_over("dan", PBKDF2_SHA512)
    for name in ("ana", "ben", "cem", "dan", "own", "eva", "nobody"):
        hashes.clear()
        wrong(store, name)
        assert sorted(hashes) == ["pbkdf2_hmac", "pbkdf2_hmac", "scrypt"], name
    for name in ("ben", "cem", "dan"):
        log_in(store, name, "secret")
    hashes.clear()
    wrong(store, "nobody")
    assert hashes == ["scrypt"]


def test_devices_stay_logged_in(accounts: Accounts) -> None:
    """With the key that they had; of it only the SHA-256 is stored, and each can be revoked."""
    store = accounts.open()
    keys = [hashlib.md5(f"ana:{n}:aB3dE6gH".encode()).hexdigest() for n in range(3)]
    store.take_over("ana", FOREIGN["ankisyncd"](), [*keys, keys[0]], client="ankisyncd", now=NOW)
    everything = b"".join(path.read_bytes() for path in store.base.glob("accounts.db*"))
    assert not any(key.encode() in everything for key in keys)
    listed = store.devices("ana")
    assert [(device.kind, device.client, device.last_used) for device in listed] == [
        ("key", "ankisyncd", None)
    ] * 3
    device = known(store, keys[0])
    assert device is not None
    assert device.user == "ana"
    store.revoke("ana", device.id)
    assert who(store, keys[0]) is None
    assert who(store, keys[1]) == "ana"
    key = log_in(store, "ana", "secret")
    assert who(store, keys[1]) == who(store, key) == "ana"
    store.set_password("ana", "another")
    assert who(store, keys[1]) is who(store, key) is None


def test_nobody_is_overwritten(accounts: Accounts) -> None:
    """A user who is here, or whose name differs in case only, stays; a bad hash makes none."""
    store = accounts.open({"eva": "x"})
    store.add_user("ana", "secret")
    for name in ("ana", "eva"):
        with pytest.raises(UserExists):
            store.take_over(name, PBKDF2_SHA256, ["key"])
    for name, text in (("Ana", PBKDF2_SHA256), ("../x", PBKDF2_SHA256), ("ben", "secret")):
        with pytest.raises(AccountError):
            store.take_over(name, text)
    assert [user.name for user in store.users()] == ["ana", "eva"]
    assert store.devices("ana") == []
    assert who(store, log_in(store, "ana", "secret")) == "ana"
    with pytest.raises(WrongCredentials):
        log_in(store, "ben", "secret")
