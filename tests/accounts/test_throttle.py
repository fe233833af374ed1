# SPDX-License-Identifier: AGPL-3.0-or-later
"""How wrong logins slow further ones down; over a real accounts.db, with chosen times."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cardkeep.accounts import database, throttle

NOW = 1_800_000_000


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(database.connect(database.prepare(tmp_path))) as opened:
        yield opened


def fail(connection: sqlite3.Connection, times: int, address: str, name: str, now: float) -> None:
    for _ in range(times):
        throttle.note_failure(connection, address, name, now)


def test_nobody_waits_for_a_few_slips(connection: sqlite3.Connection) -> None:
    """Nine wrong passwords of one account from one address are nothing."""
    fail(connection, 9, "192.0.2.1", "ana", NOW)
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ana", NOW) == 0


def test_ten_wrong_passwords_from_one_address(connection: sqlite3.Connection) -> None:
    """That account waits a minute at that address; others there, and it elsewhere, do not."""
    fail(connection, 10, "192.0.2.1", "ana", NOW)
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ana", NOW) == 60
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ana", NOW + 59.5) == 1
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ana", NOW + 60) == 0
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ben", NOW) == 0
    assert throttle.seconds_to_wait(connection, "192.0.2.2", "ana", NOW) == 0


def test_after_the_wait_one_more_may_be_tried(connection: sqlite3.Connection) -> None:
    """And if that is wrong too, the next waits again, until the first ones are forgotten."""
    fail(connection, 10, "192.0.2.1", "ana", NOW)
    fail(connection, 1, "192.0.2.1", "ana", NOW + 60)
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ana", NOW + 61) == 59
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ana", NOW + 300) == 0
    fail(connection, 8, "192.0.2.1", "ana", NOW + 300)
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ana", NOW + 300) == 0


def test_many_accounts_from_one_address(connection: sqlite3.Connection) -> None:
    """Thirty wrong logins, whatever the names, make the address wait."""
    for number in range(30):
        assert throttle.seconds_to_wait(connection, "192.0.2.1", "eva", NOW) == 0
        fail(connection, 1, "192.0.2.1", f"user{number}", NOW)
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "eva", NOW) == 60
    assert throttle.seconds_to_wait(connection, "192.0.2.2", "eva", NOW) == 0


def test_one_account_from_many_addresses(connection: sqlite3.Connection) -> None:
    """A hundred make the account wait, but so short that its owner gets through."""
    for number in range(100):
        assert throttle.seconds_to_wait(connection, "198.51.100.1", "ana", NOW) == 0
        fail(connection, 1, f"192.0.2.{number}", "ana", NOW)
    assert throttle.seconds_to_wait(connection, "198.51.100.1", "ana", NOW) == 10
    assert throttle.seconds_to_wait(connection, "198.51.100.1", "Ana", NOW) == 10
    assert throttle.seconds_to_wait(connection, "198.51.100.1", "ben", NOW) == 0


def test_a_right_login_clears_its_own_account_only(connection: sqlite3.Connection) -> None:
    """Who has one account cannot clear the way for guessing at others."""
    fail(connection, 10, "192.0.2.1", "ana", NOW)
    fail(connection, 20, "192.0.2.1", "ben", NOW)
    throttle.clear(connection, "192.0.2.1", "ana")
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ana", NOW) == 0
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ben", NOW) == 60


def test_a_clock_set_back_does_not_prolong_the_wait(connection: sqlite3.Connection) -> None:
    """Failures that lie in the future make nobody wait longer than a minute."""
    fail(connection, 10, "192.0.2.1", "ana", NOW + 86400)
    assert throttle.seconds_to_wait(connection, "192.0.2.1", "ana", NOW) == 60


def test_old_failures_are_deleted(connection: sqlite3.Connection) -> None:
    """The table holds the last minutes, and no names."""
    fail(connection, 50, "192.0.2.1", "ana", NOW)
    fail(connection, 1, "192.0.2.1", "ana", NOW + throttle.WINDOW)
    rows = connection.execute("SELECT account FROM failures").fetchall()
    assert len(rows) == 1
    assert b"ana" not in rows[0][0]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("x" * 1000, "x" * 100),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    """An IPv6 host has a whole /64 to choose from."""
    assert throttle.network(address) == network
