# SPDX-License-Identifier: AGPL-3.0-or-later
"""A running server for each file of tests, and a client of its own for each test."""

from collections.abc import Iterator

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from cardkeep.http.protocol import CorkedProtocol
from tests.http.serving import Client, MemorySteps, serving


@pytest.fixture(scope="module", params=[CorkedProtocol, H11Protocol])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MemorySteps, int]]:
    """With our own protocol, and with what serves where httptools cannot be had."""
    steps = MemorySteps(tmp_path_factory.mktemp("spool"))
    with serving(steps, protocol=request.param) as port:
        yield steps, port


@pytest.fixture
def steps(served: tuple[MemorySteps, int]) -> MemorySteps:
    """As good as new for each test."""
    steps, _port = served
    steps.forget()
    return steps


@pytest.fixture
def client(steps: MemorySteps, served: tuple[MemorySteps, int]) -> Iterator[Client]:
    connected = Client(served[1])
    yield connected
    connected.close()
