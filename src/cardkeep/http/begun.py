# SPDX-License-Identifier: AGPL-3.0-or-later
"""Coroutines that are begun outside of a task, and need one only if they have to wait.

What `asyncio.eager_task_factory` is from Python 3.12 on. Until its first wait a coroutine
begun so must not ask for its task, as `asyncio.timeout` does.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any


def begin(
    work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop
) -> asyncio.Task[None] | None:
    """Runs `work` until it is done or has to wait; in that case a task goes on with it."""
    try:
        awaited = work.send(None)
    except StopIteration:
        return None
    return loop.create_task(_go_on(work, awaited))


async def _go_on(work: Coroutine[Any, Any, None], awaited: object) -> None:
    await _rest(work, awaited)


@types.coroutine
def _rest(work: Coroutine[Any, Any, None], awaited: object) -> Generator[object, Any, None]:
    while True:
        try:
            came = yield awaited
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:  # noqa: BLE001 (it is for `work` to deal with)
            step = partial(work.throw, error)
        else:
            step = partial(work.send, came)
        try:
            awaited = step()
        except StopIteration:
            return
