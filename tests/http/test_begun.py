# SPDX-License-Identifier: AGPL-3.0-or-later
"""Coroutines that are begun outside of a task."""

import asyncio

import pytest

from cardkeep.http.begun import begin


def test_what_need_not_wait_needs_no_task() -> None:
    """It is done when `begin` returns."""
    done: list[object] = []

    async def work() -> None:
        done.append(asyncio.current_task())

    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: done.append(begin(work(), loop)))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert done == [None, None]


def test_what_waits_goes_on_in_a_task() -> None:
    """With what it waited for, value or error, as often as it waits."""
    told: list[object] = []

    async def work(first: "asyncio.Future[int]", second: "asyncio.Future[int]") -> None:
        told.append(await first)
        try:
            await second
        except ValueError as error:
            told.append(str(error))
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        told.append(asyncio.current_task())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        task = begin(work(first, second), loop)
        assert task is not None
        assert told == []
        first.set_result(7)
        second.set_exception(ValueError("no"))
        await task
        assert told == [7, "no", task]

    asyncio.run(main())


def test_an_error_after_waiting_is_the_tasks() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    async def main() -> None:
        task = begin(work(), asyncio.get_running_loop())
        assert task is not None
        with pytest.raises(KeyError):
            await task

    asyncio.run(main())


def test_work_may_go_on_after_it_was_cancelled() -> None:
    """The error is its own to deal with, and what it then waits for is waited for."""
    told: list[object] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append(await asyncio.sleep(0, "after"))

    async def main() -> None:
        task = begin(work(), asyncio.get_running_loop())
        assert task is not None
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(main())
    assert told == ["after"]


def test_cancelling_the_task_reaches_the_work() -> None:
    """Whoever waits can put things in order first."""
    told = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            told.append("in order")

    async def main() -> None:
        task = begin(work(), asyncio.get_running_loop())
        assert task is not None
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert told == ["in order"]
