# SPDX-License-Identifier: AGPL-3.0-or-later
"""Logins: what they cost, what slows them down, what the log says of them."""

import hashlib
import http.client
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from cardkeep.accounts import hashing, login
from cardkeep.accounts.hashing import Hashing
from cardkeep.errors import Throttled, Unavailable, WrongCredentials
from tests.accounts.conftest import NOW, Accounts, known, log_in, who
from tests.accounts.test_passwords import PBKDF2_SHA256
from tests.servers import Server


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the slow hash functions, as they are called."""
    called: list[str] = []

    def spy(name: str) -> Any:
        real = getattr(hashlib, name)

        def call(*arguments: Any, **options: Any) -> bytes:
            called.append(name)
            return real(*arguments, **options)

        return call

    for name in ("scrypt", "pbkdf2_hmac"):
        monkeypatch.setattr(hashlib, name, spy(name))
    return called


def wrong(accounts_store: Any, name: str, password: str = "wrong", now: float = NOW) -> None:
    with pytest.raises(WrongCredentials):
        log_in(accounts_store, name, password, now)


def test_wrong_logins_cost_the_same(accounts: Accounts, hashes: list[str]) -> None:
    """One scrypt hash, whether the name is unknown, disabled, own or of the environment."""
    store = accounts.open({"eva": "x"})
    store.add_user("ana", "secret")
    store.add_user("ben", "secret")
    store.disable("ben")
    for name in ("ana", "ben", "eva", "nobody", "../x", "\ud800"):
        hashes.clear()
        wrong(store, name)
        assert hashes == ["scrypt"], name


def test_wrong_logins_cost_the_same_with_hashed_users(
    accounts: Accounts, hashes: list[str]
) -> None:
    """One hash of each kind in use."""
    store = accounts.open({"eva": PBKDF2_SHA256}, hashed=True)
    store.add_user("ana", "secret")
    for name in ("ana", "eva", "nobody"):
        hashes.clear()
        wrong(store, name)
        assert sorted(hashes) == ["pbkdf2_hmac", "scrypt"], name


def test_a_right_plain_password_costs_no_hash(accounts: Accounts, hashes: list[str]) -> None:
    """The environment's plain passwords are in memory anyway."""
    store = accounts.open({"eva": "x"})
    log_in(store, "eva", "x")
    assert hashes == []


def test_the_throttle_comes_before_hashing(accounts: Accounts, hashes: list[str]) -> None:
    """After ten wrong passwords not even the right one is looked at, for at most a minute."""
    store = accounts.open({"eva": "x"})
    store.add_user("ana", "secret")
    key = log_in(store, "ana", "secret")
    for name, password in (("ana", "secret"), ("eva", "x")):
        for _ in range(10):
            wrong(store, name)
        hashes.clear()
        with pytest.raises(Throttled) as caught:
            log_in(store, name, password, NOW + 1)
        assert caught.value.retry_after == 59
        assert hashes == []
        assert who(store, log_in(store, name, password, NOW + 60)) == name
    assert who(store, key) == "ana"


def test_all_processes_share_the_throttle(accounts: Accounts) -> None:
    """Failures at one worker count at the next."""
    workers = [accounts.open({"eva": "x"}), accounts.open({"eva": "x"})]
    for number in range(10):
        wrong(workers[number % 2], "eva")
    for worker in workers:
        with pytest.raises(Throttled):
            log_in(worker, "eva", "x")


def test_right_logins_are_never_counted(accounts: Accounts) -> None:
    """A class of forty logs in at once behind one address, and a right one clears the slate."""
    store = accounts.open({"class": "x"})
    for _ in range(40):
        log_in(store, "class", "x")
    for _ in range(3):
        for _ in range(9):
            wrong(store, "class")
        log_in(store, "class", "x")


def test_parallel_guesses_meet_the_throttle(accounts: Accounts) -> None:
    """Guesses that arrive together do not slip by together."""
    store = accounts.open()
    store.add_user("ana", "secret")
    outcomes: list[type[Exception]] = []

    def guess() -> None:
        try:
            log_in(store, "ana", "wrong")
        except (WrongCredentials, Throttled) as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=guess) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 30
    assert outcomes.count(WrongCredentials) < 10 + hashing.AT_ONCE


# --- the log ----------------------------------------------------------------------------


def test_failures_have_a_line_of_their_own(
    accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    """Its form does not change: fail2ban reads it."""
    store = accounts.open({"ana": "x"})
    for _ in range(10):
        wrong(store, "ana")
    with pytest.raises(Throttled):
        log_in(store, "ana", "x")
    assert [record.getMessage() for record in caplog.records] == [
        *["login failed user='ana' address=203.0.113.7"] * 10,
        "login throttled user='ana' address=203.0.113.7 wait=60",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_logins_have_a_line(accounts: Accounts, caplog: pytest.LogCaptureFixture) -> None:
    """With the device, and never the password or key."""
    caplog.set_level(logging.INFO)
    store = accounts.open({"ana": "hunter2"})
    key = log_in(store, "ana", "hunter2")
    device = known(store, key)
    assert device is not None
    line = (
        f"login user='ana' address=203.0.113.7 client='26.09.3,29bb700b,linux' device={device.id}"
    )
    assert [record.getMessage() for record in caplog.records] == [line]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ana", "'ana'"),
        ("Ana María", "'Ana María'"),
        ("a' address=1.2.3.4 '", r"'a\' address=1.2.3.4 \''"),
        ("a\n2026-01-01 login failed", r"'a\n2026-01-01 login failed'"),
        ("a\\nb", r"'a\\nb'"),
        ("\x1b[31m\u2028\u202e\x00", r"'\x1b[31m\u2028\u202e\x00'"),
        ("\ud800", r"'\ud800'"),
        ("x" * 200, "'" + "x" * 100 + "'…"),
    ],
)
def test_names_in_the_log_stay_names(name: str, shown: str) -> None:
    """Whatever is sent as a name, it cannot look like another line or field."""
    assert login.quoted(name) == shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("1.2.3.4 user='x'\n", "1.2.3.4?user??x??"),
        ("", ""),
    ],
)
def test_addresses_in_the_log_stay_addresses(address: str, shown: str) -> None:
    """They may come from a header that anybody can send."""
    assert login.plain(address) == shown


# --- hashing threads --------------------------------------------------------------------


def test_hashing_is_bounded() -> None:
    """A few at a time; who would wait too long is told to come again, and others get through."""
    pool = Hashing()
    release, running = threading.Event(), threading.Semaphore(0)

    def job() -> None:
        running.release()
        release.wait(30)

    started = [threading.Thread(target=pool.run, args=(job,)) for _ in range(hashing.MOST_WAITING)]
    for thread in started:
        thread.start()
    for _ in range(hashing.AT_ONCE):
        assert running.acquire(timeout=10)
    while pool._places.acquire(blocking=False):  # until all of them are in
        pool._places.release()
    with pytest.raises(Unavailable):
        pool.run(job)
    release.set()
    for thread in started:
        thread.join()
    assert pool.run(lambda: 5) == 5
    pool.close()


def test_a_login_that_waits_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up before the client does, and its hash is not computed in vain."""
    monkeypatch.setattr(hashing, "LONGEST_WAIT", 0.01)
    pool = Hashing()
    release, done = threading.Event(), []
    blockers = [
        threading.Thread(target=lambda: pool._pool.submit(release.wait, 30).result())
        for _ in range(hashing.AT_ONCE)
    ]
    for thread in blockers:
        thread.start()
    while pool._pool._work_queue.qsize() or len(pool._pool._threads) < hashing.AT_ONCE:
        release.wait(0.001)
    with pytest.raises(Unavailable, match="too many logins"):
        pool.run(lambda: done.append(1))
    release.set()
    for thread in blockers:
        thread.join()
    pool.close()
    assert done == []


# --- the official server as judge -------------------------------------------------------


@pytest.fixture
def official(tmp_path: Path) -> Iterator[Server]:
    server = Server("official", tmp_path / "official", [])
    yield server
    server.stop()


def official_login(server: Server, password: str) -> tuple[int, str]:
    header = {"anki-sync": json.dumps({"v": 11, "k": "", "c": "test,test,test", "s": "abcdef"})}
    body = zstandard.compress(json.dumps({"u": "ana", "p": password}).encode())
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/sync/hostKey", body, header)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        return answer.status, ""
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return 200, json.loads(plain)["key"]


def test_the_key_that_the_official_server_gave(official: Server, accounts: Accounts) -> None:
    """It is known here, for the same SYNC_USERn."""
    official.environment["SYNC_USER1"] = "ana:päss:word"
    official.start()
    status, key = official_login(official, "päss:word")
    assert status == 200
    assert who(accounts.open({"ana": "päss:word"}), key) == "ana"


@pytest.mark.parametrize("text", [PBKDF2_SHA256, PBKDF2_SHA256.replace(",l=32", "")])
def test_a_hash_means_the_same_to_the_official_server(
    text: str, official: Server, accounts: Accounts
) -> None:
    """PASSWORDS_HASHED takes the same strings and the same passwords for them."""
    official.environment |= {"SYNC_USER1": f"ana:{text}", "PASSWORDS_HASHED": "1"}
    official.start()
    store = accounts.open({"ana": text}, hashed=True)
    assert official_login(official, "secret")[0] == 200
    assert who(store, log_in(store, "ana", "secret")) == "ana"
    assert official_login(official, "Secret")[0] == 403
    wrong(store, "ana", "Secret")
    key = hashlib.sha1(f"ana:{text}".encode()).hexdigest()
    assert official_login(official, "secret")[1] == key  # which is why it is not taken here
    assert who(store, key) is None
