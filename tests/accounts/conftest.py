# SPDX-License-Identifier: AGPL-3.0-or-later
"""Stores over a folder of the test, and short words for using them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cardkeep.accounts.store import AccountStore, Device

ADDRESS = "203.0.113.7"
CLIENT = "26.09.3,29bb700b,linux"
NOW = 1_800_000_000


class Accounts:
    """One base folder; `open` gives a store as one process would have it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._stack = contextlib.ExitStack()

    def open(self, users: dict[str, str] | None = None, **options: Any) -> AccountStore:
        """A server's store, with these users in its environment."""
        return self._opened(AccountStore(self.base, environment_users=users or {}, **options))

    def command(self) -> AccountStore:
        """The store of a command, which knows nothing of the server's environment."""
        return self._opened(AccountStore(self.base))

    def _opened(self, store: AccountStore) -> AccountStore:
        return self._stack.enter_context(contextlib.closing(store))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    opened = Accounts(tmp_path / "base")
    yield opened
    opened.close()


def log_in(store: AccountStore, name: str, password: str, now: float = NOW) -> str:
    return store.login(name, password, address=ADDRESS, client=CLIENT, now=now).key


def known(store: AccountStore, key: str, now: float = NOW) -> Device | None:
    return store.authenticate(key, address=ADDRESS, client=CLIENT, now=now)


def who(store: AccountStore, key: str) -> str | None:
    device = known(store, key)
    return device.user if device else None
