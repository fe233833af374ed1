# SPDX-License-Identifier: AGPL-3.0-or-later
"""The end of a serving process.

SIGTERM and SIGINT end it with status 0, the sooner the better and within GRACE at most: what a
client was told is stored is on disk already, and whatever else is going on (a phone that
sends nothing more, a thread that checks a big collection) may be cut off at any point. Process 1
of a container gets only the signals that it handles, so the handlers are set up before anything
slow is imported; this file imports little for the same reason.
"""

import os
import signal
import threading
from types import FrameType
from typing import NoReturn, Protocol

GRACE = 4.0  # seconds from a signal to the end, whatever hangs
SIGNALS = {signal.SIGTERM, signal.SIGINT}


class Stoppable(Protocol):
    """A server that looks at this flag."""

    should_exit: bool


class Ending:
    """The wish to end, from the first signal on.

    Before there is a server to stop, the wish ends the process at once; so does a second SIGINT.
    """

    def __init__(self) -> None:
        self._wished = False
        self._server: Stoppable | None = None
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._wished and number == signal.SIGINT:
            leave(0)
        self.wish()

    def wish(self) -> None:
        """Ends the server soon, and the process after GRACE in any case."""
        if self._server is None:
            leave(0)
        if self._wished:
            return
        self._wished = True
        watchdog = threading.Timer(GRACE, leave, (0,))
        watchdog.daemon = True
        watchdog.start()
        self._server.should_exit = True

    def watch(self, server: Stoppable) -> None:
        """From now on the wish stops this server."""
        self._server = server


def leave(status: int) -> NoReturn:
    """Ends the process now; threads that still work do not delay it."""
    os._exit(status)
