# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures for tests that speak the protocol directly."""

from collections.abc import Callable

import pytest

from tests.protocol.client import Client
from tests.protocol.collections import uploadable
from tests.servers import PASSWORD, Server


@pytest.fixture
def user(server: Server) -> str:
    """A user that no other test has."""
    return server.next_user()


@pytest.fixture(params=[11, 10], ids=["protocol 11", "protocol 10"])
def protocol(request: pytest.FixtureRequest) -> int:
    """The newest and the oldest framing; 8 and 9 are framed as 10."""
    chosen: int = request.param
    return chosen


@pytest.fixture
def device(server: Server, user: str) -> Callable[..., Client]:
    """Makes devices of the test's user that have logged in."""

    def make(protocol: int = 11, *, user: str = user) -> Client:
        return Client(server.port, protocol).login(user, PASSWORD)

    return make


@pytest.fixture
def client(device: Callable[..., Client], protocol: int) -> Client:
    """A device of the test's user, in each framing."""
    return device(protocol)


@pytest.fixture
def stocked(client: Client) -> Client:
    """The same, with the small collection of `collections` uploaded."""
    assert client.upload(uploadable(18 if client.protocol == 11 else 11)) == "OK"
    client.new_session()
    return client
