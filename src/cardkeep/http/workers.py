# SPDX-License-Identifier: AGPL-3.0-or-later
"""The threads for whatever takes longer than a millisecond: packing, JSON, files.

No job waits for a client: a thread is taken for one batch of about a mebibyte and given
back. A hop costs 40 to 120 µs, so small requests do everything in the event loop.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Workers:
    """A pool of `threads` threads of its own, so that no other work can fill it."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="http")

    async def run(self, job: Callable[..., T], *arguments: object) -> T:
        """Runs the job. It is never left behind: a cancelled caller goes on after its end.

        So a file or context that jobs work on is never closed under a running one.
        """
        future = asyncio.get_running_loop().run_in_executor(self._pool, job, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
        finally:
            # An error holds this frame, and the future the error: all that the job had in
            # memory would stay until the garbage is collected.
            del future

    def close(self) -> None:
        """Ends the threads once they have nothing left to do."""
        self._pool.shutdown(wait=False)
