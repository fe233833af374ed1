# SPDX-License-Identifier: AGPL-3.0-or-later
"""Threads of their own for password hashing, few and of low priority.

A flood of wrong logins then costs at most the processors' idle time: other requests go first.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from cardkeep.errors import Unavailable

T = TypeVar("T")

AT_ONCE = max(1, (os.cpu_count() or 1) // 2)
LONGEST_WAIT = 20  # seconds; clients give up a login after 30
MOST_WAITING = 64


class Hashing:
    """Runs hashing jobs, as many at a time as half of the processors."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(
            max_workers=AT_ONCE,
            thread_name_prefix="hashing",
            initializer=_step_back,
        )
        self._places = threading.BoundedSemaphore(MOST_WAITING)

    def run(self, job: Callable[[], T]) -> T:
        """The job's result. Raises Unavailable if its turn does not come in time."""
        if not self._places.acquire(blocking=False):
            raise Unavailable("too many logins at once")
        try:
            future = self._pool.submit(job)
            try:
                return future.result(LONGEST_WAIT)
            except FutureTimeoutError:
                future.cancel()
                raise Unavailable("too many logins at once") from None
        finally:
            self._places.release()

    def close(self) -> None:
        """Lets a running job end by itself; none begins any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _step_back() -> None:
    # On Linux a priority belongs to a thread; elsewhere it would slow the whole process down.
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
