# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes or restores a backup, and is killed at a step of it.

``python -m tests.backups.archive.crashing ACTION BASE FILE STRIDE [WORD]`` forks a process that
performs the action and is killed with SIGKILL as it reaches its first step, then one that is
killed STRIDE steps later, and so on, until one ends by itself. Steps are the moments before and
after each call that changes a file or a folder, opens one or flushes, and each SQL statement;
with WORD only those of which the name has it. After each, what was done is printed, and a line is
waited for: the test looks at what is left.
"""

import fcntl
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cardkeep.backups.archive.file import _Flushed, save
from cardkeep.backups.archive.restore import restore, restore_user
from cardkeep.backups.archive.stream import TarReader
from tests.backups.archive.conftest import unseen

ACTIONS: dict[str, Callable[[Path, Path], object]] = {
    "save": lambda base, file: save(base, file, unseen),
    "restore": lambda base, file: restore(base, file, unseen),
    "restore user": lambda base, file: restore_user(base, file, "ana", unseen),
}
_CALLS = ("open", "write", "fsync", "fdatasync", "replace", "rename", "unlink", "mkdir", "rmdir")
_write = os.write


class Killer:
    """Kills this process at its n-th step, and says where that was."""

    def __init__(self, fatal: int, word: str, report: int) -> None:
        self._left = fatal
        self._word = word
        self._report = report

    def step(self, name: str) -> None:
        self._left -= self._word in name
        if self._left == 0:
            _write(self._report, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.step(f"before {name} {args[:1]}")
            result = call(*args, **kwargs)
            self.step(f"after {name} {args[:1]}")
            return result

        return wrapper


def perform(action: str, base: Path, file: Path, killer: Killer) -> None:

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return killer.wrap(super().execute, " ".join(sql.split())[:40])(sql, *args)

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **kwargs: connect(*args, **{"factory": Connection, **kwargs})
    for name in _CALLS:
        setattr(os, name, killer.wrap(getattr(os, name), name))
    fcntl.flock = killer.wrap(fcntl.flock, "flock")
    shutil.rmtree = killer.wrap(shutil.rmtree, "rmtree")
    # Files are written past `os.write`, a piece after each of these.
    for owner, name in ((_Flushed, "write"), (TarReader, "_read")):
        setattr(owner, name, killer.wrap(getattr(owner, name), name))
    ACTIONS[action](base, file)


def main(action: str, base: Path, file: Path, stride: int, word: str = "") -> None:
    for fatal in range(1, 100_000, stride):
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            try:
                perform(action, base, file, Killer(fatal, word, write_end))
            finally:
                os._exit(0)
        os.close(write_end)
        where = os.read(read_end, 500).decode()
        os.close(read_end)
        _, status = os.waitpid(child, 0)
        print(where if os.WIFSIGNALED(status) else "the end", flush=True)
        if not os.WIFSIGNALED(status) or not sys.stdin.readline():
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
