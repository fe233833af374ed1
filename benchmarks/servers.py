# SPDX-License-Identifier: AGPL-3.0-or-later
"""The two servers: how each is started, reached and ended."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.clients.environments import NEWEST, interpreter

from benchmarks.client import Connection
from benchmarks.measure import Tree

REPOSITORY = Path(__file__).resolve().parent.parent


class ServerError(Exception):
    """A server did not start, or died."""


def _official(source: str) -> tuple[list[str], dict[str, str]]:
    return [str(interpreter(NEWEST)), "-m", "anki.syncserver"], {}


def _cardkeep(source: str) -> tuple[list[str], dict[str, str]]:
    """`source` is a folder with another revision of the package, or empty."""
    return [sys.executable, "-m", "cardkeep", "serve"], {"PYTHONPATH": source} if source else {}


KINDS = {"official": _official, "cardkeep": _cardkeep}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process (and its children) on a base folder of its own."""

    def __init__(self, label: str, kind: str, base: Path, users: Mapping[str, str]) -> None:
        self.label = label
        self.kind = kind
        self.base = base
        self.users = users
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, limit: float = 600.0) -> float:
        """Starts the server; gives the seconds until it answered `GET /health`."""
        self.base.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.base.parent),
            "LANG": "C.UTF-8",
            "SYNC_BASE": str(self.base),
            "SYNC_HOST": "127.0.0.1",
            "SYNC_PORT": str(self.port),
            "MAX_SYNC_PAYLOAD_MEGS": "2000",
        }
        for number, (name, password) in enumerate(self.users.items(), 1):
            environment[f"SYNC_USER{number}"] = f"{name}:{password}"
        name, _, source = self.kind.partition("@")
        command, additional = KINDS[name](source)
        environment |= additional
        begin = time.perf_counter()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        while not self._healthy():
            if self.process.poll() is not None:
                raise ServerError(f"{self.label} ended at the start:\n{self.log_tail()}")
            if time.perf_counter() - begin > limit:
                raise ServerError(f"{self.label} does not answer:\n{self.log_tail()}")
            time.sleep(0.002)
        return time.perf_counter() - begin

    def _healthy(self) -> bool:
        try:
            with contextlib.closing(Connection(self.port)) as connection:
                return connection.get("/health").status == 200
        except OSError:
            return False

    @property
    def log(self) -> Path:
        return self.base.with_suffix(".log")

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    @property
    def tree(self) -> Tree:
        if self.process is None:
            raise ServerError(f"{self.label} is not running")
        return Tree(self.process.pid)

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def place(self, user: str, collection: Path) -> None:
        """Gives a user a copy of a collection; for before the start."""
        folder = self.base / user
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / "collection.anki2"
        shutil.copyfile(collection, target)
        # Written back now and not during a measurement.
        handle = os.open(target, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


@contextlib.contextmanager
def running(servers: Sequence[Server], *, settle: bool = True) -> Iterator[Sequence[Server]]:
    """Starts the servers, and ends them whatever happens."""
    try:
        for server in servers:
            server.start()
        for server in servers if settle else ():
            server.tree.settle()
        yield servers
    finally:
        for server in servers:
            server.stop()
