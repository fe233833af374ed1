# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures for tests with real clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.proxy import Proxy
from tests.clients.story import Account
from tests.servers import Server


@pytest.fixture
def account(server: Server, tmp_path: Path) -> Iterator[Account]:
    """An account that no other test uses, on the module's server."""
    account = Account(server, tmp_path)
    yield account
    account.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy before the module's server that lets everything pass until told otherwise."""
    with Proxy(server.port) as proxy:
        yield proxy
