# SPDX-License-Identifier: AGPL-3.0-or-later
"""The server's processes.

One worker runs in the program's own process. Several are forked by a supervisor, which holds
the sockets, starts dead ones again, and serves nothing itself. How they end: `ending`.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import uvicorn

from cardkeep.app import Application
from cardkeep.cli.ending import GRACE, SIGNALS, Ending, leave
from cardkeep.errors import CardkeepError

log = logging.getLogger("cardkeep")

REQUEST_GRACE = 3  # seconds of GRACE that running requests have to end by themselves
# Clients drop an idle connection after 90 s. If the server did it first, a request that is just
# being sent would be lost, and a POST is not sent again.
KEEP_ALIVE = 120
QUICK_DEATH = 5.0  # seconds; a worker that died sooner did not get far
MOST_QUICK_DEATHS = 5  # in a row, then the supervisor gives up
LOOK_AT_MEMORY = 30.0  # seconds between two looks
SMALL = 64 * 1024 * 1024  # bytes in memory that need no second look


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: they would end with the signal's status.

    It also wakes less often to see whether to end: an idle server should be idle.
    """

    async def main_loop(self) -> None:
        """Looks every half second, not every tenth."""
        tenths = 0
        while not await self.on_tick(tenths):
            tenths = (tenths + 5) % 864000
            await asyncio.sleep(0.5)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    build: Callable[[], Application],
    sockets: list[socket.socket],
    ending: Ending,
    ready: Callable[[], None] | None = None,
) -> NoReturn:
    """Serves in this process until it is to end; never returns.

    `build` makes the application, `ready` is called once connections are taken.
    """
    status = 1
    try:
        # A thread at work gives way to the event loop after this, not after 5 ms.
        sys.setswitchinterval(0.001)
        application = build()
        threading.Thread(target=_stay_small, name="memory", daemon=True).start()
        if ready is not None:
            ready()
        server = _Server(_config(application))
        ending.watch(server)
        gc.collect()
        gc.freeze()
        runner = asyncio.Runner(loop_factory=_loop_factory())
        runner.run(server.serve(sockets))
        application.close()
        status = 0
    except SystemExit as error:  # uvicorn's way to say that the application did not start
        status = error.code if isinstance(error.code, int) else 1
    except CardkeepError as error:
        log.error("the server cannot start: %s", error)  # noqa: TRY400 - a sentence says it all
    except BaseException:
        log.exception("the server ended")
    leave(status)


def _config(application: Application) -> uvicorn.Config:
    return uvicorn.Config(
        application.asgi,
        http=_protocol(),
        ws="none",
        lifespan="auto",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # `ip_header` is read by our own `http`
        server_header=False,
        backlog=1024,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=REQUEST_GRACE,
    )


def _protocol() -> type[asyncio.Protocol] | Literal["h11"]:
    try:
        from cardkeep.http.protocol import CorkedProtocol
    except ImportError:  # no httptools
        return "h11"
    return CorkedProtocol


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def spare_memory() -> None:
    """Keeps the process small; best effort, glibc only. Call it before threads begin.

    By default glibc gives each thread an arena of its own, and keeps in each what its thread
    once needed; and having freed a large block once, it keeps all blocks of that size.
    """
    arena_max, mmap_threshold, trim_threshold = -8, -3, -1
    if libc := _glibc():
        libc.mallopt(arena_max, 2)
        libc.mallopt(mmap_threshold, 4 * 1024 * 1024)
        libc.mallopt(trim_threshold, 8 * 1024 * 1024)


def _stay_small() -> None:
    """Gives freed memory back after a rush, which `spare_memory` alone does not.

    glibc gives back only what is free at the end of an arena, and one small block that is
    still in use keeps everything before it.
    """
    libc = _glibc()
    while libc:
        time.sleep(LOOK_AT_MEMORY)
        if _resident() > SMALL:
            libc.malloc_trim(0)  # a millisecond or less


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _glibc() -> Any:
    """The C library; None where it is another one."""
    import ctypes

    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - AttributeError where it is not glibc
    except (OSError, AttributeError, TypeError):
        return None
    return libc


def allow_many_connections() -> None:
    """Raises the number of open files to what the system lets this user have."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 65536 if most == resource.RLIM_INFINITY else min(most, 65536)
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


# --- several workers --------------------------------------------------------------------


def supervise(
    build: Callable[[], Application],
    sockets: list[socket.socket],
    workers: int,
    ready: Callable[[], None],
) -> NoReturn:
    """Keeps that many workers serving the sockets until this process is to end."""
    # Blocked signals wait for `sigwait`; nothing is missed between two of them.
    signals = {*SIGNALS, signal.SIGCHLD, signal.SIGALRM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    gc.collect()
    gc.freeze()  # so that the workers go on sharing what is there now
    supervisor = _Supervisor(build, sockets, workers)
    supervisor.fill_up()
    ready()
    while True:
        if signal.sigwait(signals) in SIGNALS:
            supervisor.end(0)
        supervisor.bury()
        supervisor.fill_up()


class _Supervisor:
    def __init__(
        self, build: Callable[[], Application], sockets: list[socket.socket], workers: int
    ) -> None:
        self._build = build
        self._sockets = sockets
        self._workers = workers
        self._started: dict[int, float] = {}
        self._quick_deaths = 0
        self._next_start = 0.0
        # A worker that finds this pipe closed knows that the supervisor was killed.
        self._pipe = os.pipe()

    def fill_up(self) -> None:
        """Starts what is missing, or has SIGALRM call again if it is too early for that."""
        missing = self._workers - len(self._started)
        early = self._next_start - time.monotonic()
        if missing and early > 0:
            signal.setitimer(signal.ITIMER_REAL, early)
            return
        for _ in range(missing):
            process = os.fork()
            if process == 0:
                self._work()
            self._started[process] = time.monotonic()

    def bury(self) -> None:
        """Takes note of dead workers. Gives up if they die as soon as they start."""
        for process, status in _dead():
            started = self._started.pop(process, None)
            if started is None:  # as process 1: an orphan of somebody else
                continue
            now = time.monotonic()
            self._quick_deaths = self._quick_deaths + 1 if now - started < QUICK_DEATH else 0
            # Whatever killed it may last a moment.
            self._next_start = now + 0.2 * self._quick_deaths
            log.error("worker %d ended (%s); another takes its place", process, status)
        if self._quick_deaths >= MOST_QUICK_DEATHS:
            log.error("the workers end as soon as they start; giving up")
            self.end(1)

    def end(self, status: int) -> NoReturn:
        """Ends all workers, then this process."""
        deadline = time.monotonic() + GRACE
        self._kill(signal.SIGTERM)
        while self._started and time.monotonic() < deadline:
            for process, _ in _dead():
                self._started.pop(process, None)
            time.sleep(0.02)
        self._kill(signal.SIGKILL)
        leave(status)

    def _kill(self, number: signal.Signals) -> None:
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def _work(self) -> NoReturn:
        try:
            ending = Ending()
            signals = {*SIGNALS, signal.SIGCHLD, signal.SIGALRM}
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            os.close(self._pipe[1])
            watching = threading.Thread(target=_end_with, args=(self._pipe[0], ending))
            watching.daemon = True
            watching.start()
            serve(self._build, self._sockets, ending)
        finally:
            leave(1)


def _end_with(pipe: int, ending: Ending) -> None:
    """Waits until the other end of the pipe is gone, and ends this process then."""
    os.read(pipe, 1)
    ending.wish()


def _dead() -> Iterator[tuple[int, str]]:
    """Process id of each child that has ended, and how."""
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if process == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        yield process, f"signal {-code}" if code < 0 else f"status {code}"
