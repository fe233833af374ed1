# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep serve` as a real process, and what it prints."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zstandard

CARDKEEP = (sys.executable, "-m", "cardkeep")
SETTINGS = ("FOLDER", "HOST", "PORT", "PASSWORDS_HASHED", "MAX_SYNC_PAYLOAD_MEGS")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the tests without any setting, and with `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SYNC_", "CARDKEEP_")) and name not in SETTINGS
    }
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[2]), **(extra or {})}


class Serving:
    """A server of one test; ends with it. `printed` is the announcement."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.log_path = folder / "log"
        self._log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            command,
            env=environment(extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.printed = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """What is on standard error by now."""
        return self.log_path.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Reads standard output until it matches."""
        assert self.process.stdout is not None
        while not (match := re.search(pattern, self.printed)):
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f"no {pattern!r} in {self.printed!r}; log: {self.log}")
            self.printed += line
        return match

    def url(self) -> str:
        """An address that was printed, of this machine's loopback."""
        return self.wait_for(r"http://127\.0\.0\.1:[0-9]+/")[0]

    def get(self, path: str = "health", url: str | None = None) -> int:
        """The status of GET."""
        parts = urlsplit(url or self.url())
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.request("GET", parts.path + path)
            return connection.getresponse().status
        finally:
            connection.close()

    def end(self, number: int) -> tuple[int, float]:
        """Sends the signal; exit status, and seconds that it took."""
        begun = time.monotonic()
        os.kill(self.pid, number)
        return self.process.wait(20), time.monotonic() - begun

    def rest(self) -> str:
        """Standard output from here to its end."""
        assert self.process.stdout is not None
        self.printed += self.process.stdout.read()
        return self.printed

    def close(self) -> None:
        """Whatever is left of it ends now."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


def children(pid: int) -> list[int]:
    """The processes that this one has started and that still are there."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is not merely waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Client:
    """The two requests of a client that concern its account (docs/sync-protocol.md, 1.3)."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc

    def login(self, name: str, password: str) -> tuple[int, str]:
        """Status, and the host key if it is 200."""
        status, answer = self._post("hostKey", "", {"u": name, "p": password})
        return status, answer["key"] if status == 200 else ""

    def meta(self, key: str) -> int:
        """The status of the request that every sync begins with."""
        return self._post("meta", key, {"v": 11, "cv": "26.09.3,29bb700b,linux"})[0]

    def _post(self, method: str, key: str, message: object) -> tuple[int, Any]:
        header = {"v": 11, "k": key, "c": "26.09.3,29bb700b,linux", "s": "abcdef"}
        connection = http.client.HTTPConnection(self._address, timeout=30)
        try:
            connection.request(
                "POST",
                f"/sync/{method}",
                zstandard.compress(json.dumps(message).encode()),
                {"anki-sync": json.dumps(header)},
            )
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            return answer.status, None
        return 200, json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(body))
