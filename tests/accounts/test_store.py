# SPDX-License-Identifier: AGPL-3.0-or-later
"""Users, devices and host keys, over real files and as many stores as there are processes."""

import hashlib
import re
import sqlite3
import stat
import threading
import time
from pathlib import Path

import pytest

from cardkeep.accounts import database
from cardkeep.accounts import store as store_module
from cardkeep.accounts.passwords import hash_password
from cardkeep.accounts.store import NOTE_AFTER, TRUSTED, AccountStore
from cardkeep.errors import AccountError, Unavailable, UserExists, WrongCredentials
from tests.accounts.conftest import ADDRESS, CLIENT, NOW, Accounts, known, log_in, who
from tests.accounts.test_passwords import PBKDF2_SHA256


def official_key(name: str, password: str) -> str:
    return hashlib.sha1(f"{name}:{password}".encode()).hexdigest()


def everything_stored(base: Path) -> bytes:
    return b"".join(path.read_bytes() for path in base.glob("accounts.db*"))


# --- own users --------------------------------------------------------------------------


def test_a_login_gives_a_key_of_its_own(accounts: Accounts) -> None:
    """Each login is a device with another key, and all keys work."""
    store = accounts.open()
    store.add_user("ana", "secret")
    first, second = log_in(store, "ana", "secret"), log_in(store, "ana", "secret")
    assert first != second
    assert re.fullmatch(r"[0-9A-Za-z_-]{32,}", first)
    assert who(store, first) == who(store, second) == "ana"
    assert known(store, first) != known(store, second)
    assert who(store, "") is who(store, first[:-1]) is who(store, "\ud800") is None


@pytest.mark.parametrize(
    ("name", "password"),
    [("ana", "Secret"), ("ana", ""), ("Ana", "secret"), ("", ""), ("../ana", "x"), ("\ud800", "x")],
)
def test_a_wrong_login_gives_nothing(name: str, password: str, accounts: Accounts) -> None:
    """Whatever is wrong, the answer is the same."""
    store = accounts.open()
    store.add_user("ana", "secret")
    with pytest.raises(WrongCredentials, match=r"^wrong user name or password$"):
        log_in(store, name, password)
    assert store.devices("ana") == []


def test_a_name_may_arrive_in_another_normal_form(accounts: Accounts) -> None:
    """Apple's systems send é as two characters."""
    store = accounts.open()
    store.add_user("zoe\u0301", "secret")
    assert who(store, log_in(store, "zoé", "secret")) == "zoé"
    assert who(store, log_in(store, "zoe\u0301", "secret")) == "zoé"


def test_keys_and_passwords_are_not_stored(accounts: Accounts) -> None:
    """The file holds neither, and nothing from which an environment password could be guessed."""
    store = accounts.open({"eva": "envsecret"})
    store.add_user("ana", "ownsecret")
    keys = [log_in(store, "ana", "ownsecret"), log_in(store, "eva", "envsecret")]
    keys.append(official_key("eva", "envsecret"))
    assert [who(store, key) for key in keys] == ["ana", "eva", "eva"]
    store.write_uses()
    content = everything_stored(accounts.base)
    official = keys[-1].encode()
    guessable = [hashlib.sha256(official).digest(), hashlib.sha256(b"envsecret").digest()]
    for secret in [b"ownsecret", b"envsecret", *(key.encode() for key in keys), *guessable]:
        assert secret not in content
        assert secret.hex().encode() not in content


@pytest.mark.parametrize("change", ["set_password", "disable", "remove_user"])
def test_a_change_by_command_ends_all_keys_at_once(change: str, accounts: Accounts) -> None:
    """Another process changes the user; the running server's very next request knows."""
    server = accounts.open()
    command = accounts.command()
    command.add_user("ana", "secret")
    command.add_user("ben", "secret")
    keys = [log_in(server, "ana", "secret"), log_in(server, "ana", "secret")]
    ben = log_in(server, "ben", "secret")
    assert [who(server, key) for key in keys] == ["ana", "ana"]
    getattr(command, change)("ana", *(["other"] if change == "set_password" else []))
    assert [who(server, key) for key in keys] == [None, None]
    assert who(server, ben) == "ben"
    with pytest.raises(WrongCredentials):
        log_in(server, "ana", "secret")
    if change == "set_password":
        assert who(server, log_in(server, "ana", "other")) == "ana"


def test_an_enabled_user_logs_in_again(accounts: Accounts) -> None:
    """The keys of before stay ended."""
    store = accounts.open()
    store.add_user("ana", "secret")
    key = log_in(store, "ana", "secret")
    store.disable("ana")
    store.enable("ana")
    assert who(store, key) is None
    assert who(store, log_in(store, "ana", "secret")) == "ana"


def test_a_user_made_again_is_another(accounts: Accounts) -> None:
    """Keys of the removed user do not come back, and no device has the number of an old one."""
    store = accounts.open()
    store.add_user("ana", "secret")
    key = log_in(store, "ana", "secret")
    old = known(store, key)
    store.remove_user("ana")
    store.add_user("ana", "secret")
    assert who(store, key) is None
    new = known(store, log_in(store, "ana", "secret"))
    assert old is not None
    assert new is not None
    assert new.id != old.id


def test_a_password_changed_during_a_login(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is made only if the password that was judged still is the user's."""
    store = accounts.open()
    store.add_user("ana", "secret")
    judge = store._judge.check

    def check_and_change(*arguments: object) -> None:
        judge(*arguments)  # type: ignore[arg-type]
        accounts.command().set_password("ana", "other")

    monkeypatch.setattr(store._judge, "check", check_and_change)
    with pytest.raises(WrongCredentials):
        log_in(store, "ana", "secret")
    assert store.devices("ana") == []


def test_names_that_cannot_be_made(accounts: Accounts) -> None:
    """Taken ones, case twins of taken ones, and those that are no folder."""
    store = accounts.open({"Eva": "x"})
    store.add_user("ana", "secret")
    with pytest.raises(UserExists, match=r"there is a user ana already$"):
        store.add_user("ana", "secret")
    with pytest.raises(UserExists, match=r"there is a user Eva already \(given by SYNC_USERn\)"):
        store.add_user("Eva", "secret")
    for twin in ("ANA", "eva"):
        with pytest.raises(AccountError, match="differs only in case"):
            store.add_user(twin, "secret")
    with pytest.raises(AccountError, match="dot"):
        store.add_user("..", "secret")
    with pytest.raises(AccountError, match="must not be empty"):
        store.add_user("ben", "")
    assert [user.name for user in store.users()] == ["ana", "Eva"]


def test_what_is_not_there_cannot_be_changed(accounts: Accounts) -> None:
    """Each change says so, and `users` stays as it was."""
    store = accounts.open()
    for change in (store.disable, store.enable, store.remove_user, store.devices, store.revoke):
        with pytest.raises(AccountError, match="there is no user ana"):
            change("ana")
    with pytest.raises(AccountError, match="there is no user ana"):
        store.set_password("ana", "x")
    assert store.users() == []


# --- devices ----------------------------------------------------------------------------


def test_devices_are_listed_with_what_is_known(accounts: Accounts) -> None:
    """Client, address and times; the last used comes first."""
    store = accounts.open()
    store.add_user("ana", "secret", now=NOW)
    old = store.login("ana", "secret", address="2001:db8::1", client="old", now=NOW).key
    log_in(store, "ana", "secret", NOW + 10)
    store.authenticate(old, address="2001:db8::2", client="old", now=NOW + 20)
    store.write_uses()
    first, second = store.devices("ana")
    assert (first.client, first.address) == ("old", "2001:db8::2")
    assert (first.created, first.last_used) == (NOW, NOW + 20)
    assert (second.client, second.address, second.last_used) == (CLIENT, ADDRESS, None)
    assert [(user.devices, user.last_used) for user in store.users()] == [(2, NOW + 20)]


def test_one_device_is_revoked(accounts: Accounts) -> None:
    """Its key ends at the next request of any process; others go on."""
    server = accounts.open()
    server.add_user("ana", "secret")
    server.add_user("ben", "secret")
    lost, kept = log_in(server, "ana", "secret"), log_in(server, "ana", "secret")
    device = known(server, lost)
    assert device is not None
    command = accounts.command()
    for wrong in ("0", "x", "-1", "9" * 30, "٣", ""):
        with pytest.raises(AccountError, match="has no device"):
            command.revoke("ana", wrong)
    with pytest.raises(AccountError, match="ben has no device"):
        command.revoke("ben", device.id)
    assert command.revoke("ana", device.id) == 1
    assert [who(server, lost), who(server, kept)] == [None, "ana"]
    assert command.revoke("ana") == 1
    assert who(server, kept) is None


def test_a_users_devices_are_bounded(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that logs in for ever takes the place of its own oldest logins."""
    monkeypatch.setattr(store_module, "MOST_DEVICES", 5)
    store = accounts.open({"eva": "x", "ben": "x"})
    ben = log_in(store, "ben", "x")
    used = log_in(store, "eva", "x")
    known(store, used, NOW + 100)
    store.write_uses()
    keys = [log_in(store, "eva", "x", NOW + second) for second in range(10)]
    assert len(store.devices("eva")) == 5
    assert [who(store, key) for key in keys[-4:]] == ["eva"] * 4
    assert who(store, keys[0]) is None
    assert who(store, used) == "eva"
    assert who(store, ben) == "ben"


def test_a_use_is_noted_now_and_then(accounts: Accounts) -> None:
    """Most requests write nothing: only every few minutes, or from another client or address."""
    store = accounts.open({"eva": "x"})
    key = log_in(store, "eva", "x")
    changes = watch(accounts)

    def request(now: float, client: str = CLIENT, address: str = ADDRESS) -> bool:
        """Whether the request left something to write."""
        store.authenticate(key, address=address, client=client, now=now)
        store.write_uses()
        return changes()

    assert request(NOW)
    assert not request(NOW)
    assert not request(NOW + NOTE_AFTER - 1)
    assert not request(NOW + 1, client="")
    assert request(NOW + NOTE_AFTER)
    assert request(NOW + NOTE_AFTER, client="other")
    assert request(NOW + NOTE_AFTER, client="other", address="192.0.2.1")
    assert not request(NOW + NOTE_AFTER, client="other", address="192.0.2.1")


def watch(accounts: Accounts):  # type: ignore[no-untyped-def]
    """A function that tells whether the file was written to since it was called last."""
    connection = sqlite3.connect(accounts.base / database.FILE)
    accounts._stack.callback(connection.close)
    last = connection.execute("PRAGMA data_version").fetchone()

    def changed() -> bool:
        nonlocal last
        before, last = last, connection.execute("PRAGMA data_version").fetchone()
        return before != last

    return changed


def test_uses_are_written_without_being_asked(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little later, and at the latest when the store is closed."""
    monkeypatch.setattr(store_module, "FLUSH_AFTER", 0.01)
    store = accounts.open({"eva": "x"})
    key = log_in(store, "eva", "x")
    known(store, key, NOW + 5)
    for _ in range(500):
        if store.devices("eva")[0].last_used == NOW + 5:
            break
        threading.Event().wait(0.01)
    assert store.devices("eva")[0].last_used == NOW + 5
    monkeypatch.setattr(store_module, "FLUSH_AFTER", 1000)
    known(store, key, NOW + 5000)
    store.close()
    assert accounts.command().devices("eva")[0].last_used == NOW + 5000


def test_requests_do_not_wait_for_a_writer(accounts: Accounts) -> None:
    """A command that holds the file in a long transaction delays no request."""
    store = accounts.open({"eva": "x"})
    key = log_in(store, "eva", "x")
    writer = sqlite3.connect(accounts.base / database.FILE, isolation_level=None)
    accounts._stack.callback(writer.close)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM devices")
    assert who(store, key) == "eva"
    writer.execute("COMMIT")
    time.sleep(TRUSTED)
    assert who(store, key) is None


def test_a_key_ends_with_the_command(accounts: Accounts) -> None:
    """However shortly before it was looked at: the command waits until nobody trusts that look."""
    store, command = accounts.open({"eva": "x"}), accounts.command()
    for _ in range(20):
        key = log_in(store, "eva", "x")
        assert who(store, key) == "eva"
        command.revoke("eva", known(store, key, NOW).id)
        assert who(store, key) is None


# --- users of the environment -----------------------------------------------------------


def test_environment_users_log_in(accounts: Accounts) -> None:
    """Their keys are made as anybody's; wrong passwords are refused."""
    store = accounts.open({"eva": "päss", "ben": "x"})
    assert who(store, log_in(store, "eva", "päss")) == "eva"
    for wrong in ("x", "pass", ""):
        with pytest.raises(WrongCredentials):
            log_in(store, "eva", wrong)


def test_hashed_environment_users_log_in(accounts: Accounts) -> None:
    """With the password; the hash itself is none."""
    store = accounts.open({"eva": PBKDF2_SHA256}, hashed=True)
    assert who(store, log_in(store, "eva", "secret")) == "eva"
    for wrong in ("Secret", PBKDF2_SHA256):
        with pytest.raises(WrongCredentials):
            log_in(store, "eva", wrong)


def test_keys_of_environment_users_outlive_a_restart(accounts: Accounts) -> None:
    """As long as the password stays."""
    before = accounts.open({"eva": "x", "ben": "y"})
    eva, ben = log_in(before, "eva", "x"), log_in(before, "ben", "y")
    before.close()
    after = accounts.open({"eva": "x", "ben": "z"})
    assert who(after, eva) == "eva"
    assert who(after, ben) is None
    hashed = accounts.open({"eva": PBKDF2_SHA256}, hashed=True)
    assert who(hashed, eva) is None


def test_a_start_with_the_same_users_writes_nothing(accounts: Accounts) -> None:
    """So that a thousand users, or many workers, start at once."""
    users = {f"user{number}": "x" for number in range(1000)}
    accounts.open(users).close()
    changed = watch(accounts)
    accounts.open(users)
    assert not changed()
    assert len(accounts.command().users()) == 1000


def test_a_start_hashes_nothing(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one slow hash, however many users there are and whether hashed or not."""
    hashes: list[object] = []
    for name in ("scrypt", "pbkdf2_hmac"):
        monkeypatch.setattr(hashlib, name, lambda *a, **k: hashes.append(a))
    accounts.open({"eva": "x"}).close()
    accounts.open({"eva": PBKDF2_SHA256}, hashed=True)
    assert hashes == []


def test_commands_list_environment_users_and_leave_them_alone(accounts: Accounts) -> None:
    """They can only be changed where they are given."""
    server = accounts.open({"eva": "x"})
    key = log_in(server, "eva", "x")
    command = accounts.command()
    assert [(user.name, user.source) for user in command.users()] == [("eva", "environment")]
    for change in (command.disable, command.enable, command.remove_user):
        with pytest.raises(AccountError, match="eva is given by SYNC_USERn"):
            change("eva")
    with pytest.raises(AccountError, match="eva is given by SYNC_USERn"):
        command.set_password("eva", "other")
    assert who(server, key) == "eva"
    assert command.revoke("eva") == 2  # the login's, and the official key
    assert who(server, key) is None
    assert who(server, log_in(server, "eva", "x")) == "eva"


def test_who_left_the_environment_is_out(accounts: Accounts) -> None:
    """Neither key nor password works any more; coming back takes a new login."""
    before = accounts.open({"eva": "x", "ben": "x"})
    key = log_in(before, "eva", "x")
    before.close()
    without = accounts.open({"ben": "x"})
    assert who(without, key) is who(without, official_key("eva", "x")) is None
    with pytest.raises(WrongCredentials):
        log_in(without, "eva", "x")
    assert [(user.name, user.source) for user in without.users()] == [
        ("ben", "environment"),
        ("eva", "former"),
    ]
    with pytest.raises(AccountError, match="earlier start"):
        accounts.command().set_password("eva", "x")
    without.close()
    again = accounts.open({"eva": "x", "ben": "x"})
    assert who(again, key) is None
    assert who(again, official_key("eva", "x")) == "eva"


def test_who_left_the_environment_can_be_made_by_command(accounts: Accounts) -> None:
    """The move from SYNC_USERn to commands keeps the folder, and needs a new login."""
    before = accounts.open({"eva": "x"})
    key = log_in(before, "eva", "x")
    before.close()
    server = accounts.open()
    accounts.command().add_user("eva", "new")
    assert who(server, key) is who(server, official_key("eva", "x")) is None
    assert who(server, log_in(server, "eva", "new")) == "eva"
    with pytest.raises(WrongCredentials):
        log_in(server, "eva", "x")


def test_the_environment_comes_before_the_command(accounts: Accounts) -> None:
    """A user of both has the environment's password while it is given, and then the own again."""
    accounts.command().add_user("eva", "own")
    first = accounts.open()
    own_key = log_in(first, "eva", "own")
    first.close()
    second = accounts.open({"eva": "env"})
    assert who(second, own_key) is None
    with pytest.raises(WrongCredentials):
        log_in(second, "eva", "own")
    env_key = log_in(second, "eva", "env")
    assert who(second, env_key) == "eva"
    second.close()
    third = accounts.open()
    assert who(third, env_key) is None
    assert who(third, log_in(third, "eva", "own")) == "eva"


def test_a_command_changes_nothing_of_the_environment(accounts: Accounts) -> None:
    """Opening the accounts by command does not declare the server's users gone."""
    server = accounts.open({"eva": "x"})
    key = log_in(server, "eva", "x")
    accounts.command().close()
    assert who(server, key) == "eva"


# --- the official server's keys ---------------------------------------------------------


def test_the_official_servers_key_goes_on(accounts: Accounts) -> None:
    """A device that was logged in there syncs without a new login, and is listed from then on."""
    store = accounts.open({"eva": "päss:word"})
    assert store.devices("eva") == []
    key = official_key("eva", "päss:word")
    device = known(store, key)
    assert device is not None
    assert (device.user, device.kind) == ("eva", "official")
    assert who(store, key.upper()) is None
    store.write_uses()
    assert [(d.id, d.kind, d.client) for d in store.devices("eva")] == [
        (device.id, "official", CLIENT)
    ]


def test_the_official_key_can_be_revoked_for_good(accounts: Accounts) -> None:
    """Also before its first use, and over restarts; logins go on."""
    users = {"eva": "x", "ben": "x"}
    before = accounts.open(users)
    device = known(before, official_key("eva", "x"))
    assert device is not None
    command = accounts.command()
    assert command.revoke("eva", device.id) == 1
    assert command.revoke("ben") == 1
    with pytest.raises(AccountError, match="has no device"):
        command.revoke("eva", device.id)
    assert who(before, official_key("eva", "x")) is None
    before.close()
    for _ in range(2):
        after = accounts.open(users)
        assert [who(after, official_key(name, "x")) for name in users] == [None, None]
        assert who(after, log_in(after, "eva", "x")) == "eva"
        after.close()
    accounts.open({}).close()
    assert who(accounts.open(users), official_key("eva", "x")) is None


def test_the_official_key_is_never_taken_where_a_hash_would_do(accounts: Accounts) -> None:
    """For hashed users the key is made of the hash: whoever reads that could sync."""
    store = accounts.open({"eva": PBKDF2_SHA256}, hashed=True)
    assert who(store, official_key("eva", PBKDF2_SHA256)) is None
    assert who(store, official_key("eva", "secret")) is None


def test_own_users_have_no_official_key(accounts: Accounts) -> None:
    """It would be a password in other words."""
    store = accounts.open({"eva": "x"})
    store.add_user("ana", "secret")
    assert who(store, official_key("ana", "secret")) is None


# --- open mode --------------------------------------------------------------------------


def test_open_takes_any_name_and_password(accounts: Accounts) -> None:
    """Each name is a user of its own."""
    store = accounts.open(open_mode=True)
    ana, again = log_in(store, "ana", "one"), log_in(store, "ana", "two")
    ben = log_in(store, "ben", "")
    assert [who(store, key) for key in (ana, again, ben)] == ["ana", "ana", "ben"]
    assert [(user.name, user.source) for user in store.users()] == [
        ("ana", "open"),
        ("ben", "open"),
    ]


@pytest.mark.parametrize("name", ["", "..", "a/b", "ANA", "\ud800", "accounts.db"])
def test_open_refuses_names_that_are_no_folders(name: str, accounts: Accounts) -> None:
    """And case twins of names that are there."""
    store = accounts.open(open_mode=True)
    log_in(store, "ana", "x")
    with pytest.raises(WrongCredentials):
        log_in(store, name, "x")
    assert [user.name for user in store.users()] == ["ana"]


def test_open_leaves_accounts_their_passwords(accounts: Accounts) -> None:
    """Who was given a password, also a disabled one, is not overrun."""
    accounts.command().add_user("ana", "secret")
    accounts.command().add_user("ben", "secret")
    accounts.command().disable("ben")
    store = accounts.open({"eva": "secret"}, open_mode=True)
    for name in ("ana", "ben", "eva"):
        with pytest.raises(WrongCredentials):
            log_in(store, name, "other")
    assert who(store, log_in(store, "ana", "secret")) == "ana"
    assert who(store, log_in(store, "eva", "secret")) == "eva"


def test_keys_given_openly_end_with_it(accounts: Accounts) -> None:
    """A server without --open knows none of them, one with it knows them again."""
    first = accounts.open(open_mode=True)
    key = log_in(first, "ana", "x")
    first.close()
    closed = accounts.open()
    assert who(closed, key) is None
    with pytest.raises(WrongCredentials):
        log_in(closed, "ana", "x")
    with pytest.raises(AccountError, match="--open"):
        closed.set_password("ana", "y")
    closed.close()
    assert who(accounts.open(open_mode=True), key) == "ana"


def test_a_name_used_openly_becomes_an_account(accounts: Accounts) -> None:
    """`user add` gives it a password; the keys given openly end, for open servers too."""
    store = accounts.open(open_mode=True)
    key = log_in(store, "ana", "x")
    accounts.command().add_user("ana", "secret")
    assert who(store, key) is None
    with pytest.raises(WrongCredentials):
        log_in(store, "ana", "x")
    assert who(store, log_in(store, "ana", "secret")) == "ana"


# --- the file ---------------------------------------------------------------------------


def test_the_file_is_private(accounts: Accounts) -> None:
    """Nobody else on the machine reads it."""
    accounts.open({"eva": "x"})
    files = list(accounts.base.glob("accounts.db*"))
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_newer_file_is_left_alone(accounts: Accounts) -> None:
    """It says so instead of guessing."""
    accounts.open().close()
    with sqlite3.connect(accounts.base / database.FILE) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(Unavailable, match="written by a newer cardkeep"):
        accounts.open()


def test_a_broken_file_lets_nobody_in(accounts: Accounts) -> None:
    """It is an error, never an empty list of users."""
    accounts.base.mkdir()
    (accounts.base / database.FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable, match=r"accounts\.db cannot be"):
        accounts.open()


def test_many_processes_make_the_file_at_once(accounts: Accounts) -> None:
    """Workers that start together find one set of tables."""
    errors: list[BaseException] = []

    def start() -> None:
        try:
            AccountStore(accounts.base, environment_users={"eva": "x"}).close()
        except BaseException as error:  # noqa: BLE001 - for the assertion below
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [user.name for user in accounts.command().users()] == ["eva"]


def test_whether_there_are_users(accounts: Accounts) -> None:
    """Users of earlier starts and of --open are none that could log in."""
    store = accounts.open(open_mode=True)
    log_in(store, "ben", "x")
    assert not store.has_users()
    store.add_user("ana", "secret")
    assert store.has_users()
    store.remove_user("ana")
    assert not store.has_users()
    assert accounts.open({"eva": hash_password("x")}).has_users()
