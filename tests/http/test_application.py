# SPDX-License-Identifier: AGPL-3.0-or-later
"""The life of the application, as the server tells it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cardkeep.http.application import Application
from tests.http.serving import no_pages


def live(application: Application) -> list[dict[str, Any]]:
    """What the application says between start and stop."""
    told: list[dict[str, Any]] = []
    heard = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> dict[str, Any]:
        return next(heard)

    async def send(message: Any) -> None:
        told.append(message)

    with contextlib.suppress(ValueError):
        asyncio.run(application({"type": "lifespan"}, receive, send))
    return told


def test_without_a_life_of_its_own_it_starts_and_stops() -> None:
    assert [message["type"] for message in live(Application(no_pages, no_pages))] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


@pytest.mark.parametrize(
    ("fail", "types"),
    [
        ("", ["lifespan.startup.complete", "lifespan.shutdown.complete"]),
        ("start", ["lifespan.startup.failed"]),
        ("stop", ["lifespan.startup.complete", "lifespan.shutdown.failed"]),
    ],
)
def test_its_life_is_around_all_requests(fail: str, types: list[str]) -> None:
    """Entered before the first, left after the last; a failure is told."""
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def life() -> AsyncIterator[None]:
        steps.append("start")
        if fail == "start":
            raise ValueError("no")
        yield
        steps.append("stop")
        if fail == "stop":
            raise ValueError("no")

    told = live(Application(no_pages, no_pages, life))
    assert [message["type"] for message in told] == types
    assert steps == (["start"] if fail == "start" else ["start", "stop"])


def test_web_sockets_are_closed() -> None:
    """There is none."""
    told: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        told.append(message)

    asyncio.run(Application(no_pages, no_pages)({"type": "websocket"}, receive, send))
    assert told == [{"type": "websocket.close"}]
