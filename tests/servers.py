# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sync servers as real processes on 127.0.0.1: cardkeep, and the official one as its judge."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.clients.environments import NEWEST, interpreter

PASSWORD = "secret"
START_SECONDS = 60.0
STOP_SECONDS = 10.0
COMMAND_SECONDS = 60.0
# How many users a server that tests share begins with, and how many a test may take of them.
USERS = 16
USERS_OF_A_TEST = 3


def _command(kind: str) -> list[str]:
    if kind == "cardkeep":
        return [sys.executable, "-m", "cardkeep", "serve"]
    if kind.startswith("official"):
        _, _, release = kind.partition("-")
        return [str(interpreter(release or NEWEST)), "-m", "anki.syncserver"]
    raise ValueError(f"no server {kind!r}")


class Server:
    """One server process over one base folder; it can be killed and started again."""

    def __init__(
        self,
        kind: str,
        base: Path,
        users: list[str],
        *,
        environment: Mapping[str, str] | None = None,
        wrapper: list[str] | None = None,
    ) -> None:
        self.kind = kind
        self.base = base
        self.users = users
        self.environment = dict(environment or {})
        self.wrapper = wrapper or []
        self.port = _free_port()
        self.log_path = base.with_name(f"{base.name}.log")
        self._process: subprocess.Popen[bytes] | None = None
        self._spare_users = list(users)
        self._named = len(users)

    @property
    def url(self) -> str:
        """What clients are given."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> "Server":
        """Returns when the server answers."""
        self.base.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.wrapper, *_command(self.kind)],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind} did not start:\n{self.log()}")
            time.sleep(0.02)
        return self

    def answers(self) -> bool:
        """True if `GET /health` is answered with 200; early official servers do not have it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/health")
                status = connection.getresponse().status
                return status == 200 or (status == 404 and self.kind.startswith("official"))
            except (OSError, http.client.HTTPException):
                return False

    def stop(self) -> int:
        """Ends it as an operator would; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL: whatever was not on its way to disk is lost."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kills and starts again on the same port."""
        self.kill()
        self.start()

    def log(self) -> str:
        """All that it has printed."""
        return self.log_path.read_text(errors="replace")

    def folder(self, user: str) -> Path:
        """Where this user's collection and media lie."""
        return self.base / user

    def copy_of_collection(self, user: str, into: Path) -> Path:
        """The user's collection as it lies on disk, with its write-ahead log."""
        into.mkdir(parents=True, exist_ok=True)
        for file in self.folder(user).glob("collection.anki2*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, into)
        return into / "collection.anki2"

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `cardkeep …` on the same folder, as an operator would beside the server."""
        return subprocess.run(
            [sys.executable, "-m", "cardkeep", *arguments],
            env={**self._environment(), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
            timeout=COMMAND_SECONDS,
        )

    def begin_command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts such a command, to be waited for or killed; what it says is lost."""
        return subprocess.Popen(
            [sys.executable, "-m", "cardkeep", *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def next_user(self) -> str:
        """A user that no other test has."""
        return self._spare_users.pop(0)

    def renew_users(self) -> None:
        """Starts again with new users if few are left; between tests, since it cuts connections.

        The official server takes its users from the environment alone, and 65 ms for each.
        """
        if len(self._spare_users) >= USERS_OF_A_TEST:
            return
        self._named += USERS
        self.users = [f"user{n}" for n in range(self._named - USERS + 1, self._named + 1)]
        self._spare_users = list(self.users)
        self.restart()

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SYNC_", "CARDKEEP_")) and name not in _OTHER_SETTINGS
        }
        users = {
            f"SYNC_USER{n}": f"{name}:{PASSWORD}" for n, name in enumerate(self.users, start=1)
        }
        return {
            **kept,
            "SYNC_BASE": str(self.base),
            "SYNC_HOST": "127.0.0.1",
            "SYNC_PORT": str(self.port),
            "PYTHONUNBUFFERED": "1",
            **users,
            **self.environment,
        }


_OTHER_SETTINGS = {"FOLDER", "HOST", "PORT", "MAX_SYNC_PAYLOAD_MEGS", "PASSWORDS_HASHED"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    kind: str,
    users: int = 1,
    *,
    base: Path | None = None,
    environment: Mapping[str, str] | None = None,
    wrapper: list[str] | None = None,
) -> Iterator[Server]:
    """A server with `users` accounts, ended afterwards; its folder goes unless given."""
    with contextlib.ExitStack() as stack:
        if base is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{kind}-"))
            base = Path(folder) / "base"
        names = [f"user{n}" for n in range(1, users + 1)]
        server = Server(kind, base, names, environment=environment, wrapper=wrapper)
        server.start()
        try:
            yield server
        finally:
            server.kill()
