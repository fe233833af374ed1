# SPDX-License-Identifier: AGPL-3.0-or-later
"""Takes a folder over, and is killed at steps of it in turn.

``python -m tests.backups.migrate.crashing SOURCE AFTER EVERY`` begins, for each EVERY-th step, with
a base folder ``AFTER/STEP`` that has one user of its own; a process takes SOURCE over into it, and
is killed with SIGKILL as it reaches that step. Steps are the moments before each call that changes
a file or folder, and each SQL statement. It goes on until a process ends by itself. Printed is a
line for each folder: the step's number, and what it was.
"""

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cardkeep.accounts.store import AccountStore
from cardkeep.backups.migrate.migration import Migration, staging
from cardkeep.backups.migrate.recognise import recognise
from cardkeep.backups.migrate.source import Secret
from cardkeep.cli.migrate import _Silence
from tests.accounts.test_passwords import PBKDF2_SHA256

# Taken as it is, so that nobody waits for hashing.
PASSWORDS = {name: Secret("phc", PBKDF2_SHA256, "test") for name in ("ana", "ben")}

_CALLS = ("open", "write", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir")
_write = os.write


def take_over(source: Path, base: Path) -> list[str]:
    """What the command does; the users who were taken over."""
    found = recognise(source, PASSWORDS, base.parent)
    with staging(base) as place:
        accounts = AccountStore(base)
        try:
            migration = Migration(found, base, accounts, place)
            prospects = migration.look(_Silence(), keep=True)
            waiting = [each for each in prospects if each.waits]
            for prospect in waiting:
                migration.take(prospect, _Silence())
        finally:
            accounts.close()
    return [each.name for each in waiting]


class Killer:
    """Kills this process at its n-th step."""

    def __init__(self, fatal: int, report: int) -> None:
        self._left = fatal
        self._report = report

    def step(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            _write(self._report, f"{name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def perform(source: Path, base: Path, fatal: int, report: int) -> None:
    killer = Killer(fatal, report)

    def wrapped(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            killer.step(f"{name} {args[0] if args else ''}")
            return call(*args, **kwargs)

        return wrapper

    def watched(kind: type[sqlite3.Connection]) -> type[sqlite3.Connection]:
        class Connection(kind):  # type: ignore[valid-type,misc]
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                killer.step(" ".join(sql.split())[:60])
                return super().execute(sql, *args)  # type: ignore[no-any-return]

        return Connection

    connect = sqlite3.connect

    def watched_connect(*args: Any, factory: Any = sqlite3.Connection, **kwargs: Any) -> Any:
        return connect(*args, factory=watched(factory), **kwargs)

    sqlite3.connect = watched_connect
    for name in _CALLS:
        setattr(os, name, wrapped(getattr(os, name), name))
    take_over(source, base)


def main(source: Path, after: Path, every: int) -> None:
    after.mkdir()
    for number in range(1, 100_000, every):
        base = after / f"{number}"
        base.mkdir()
        own = AccountStore(base)
        own.take_over("own", PBKDF2_SHA256)
        own.close()
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            try:
                perform(source, base, number, write_end)
            finally:
                os._exit(0)
        os.close(write_end)
        where = os.read(read_end, 200).decode().strip()
        os.close(read_end)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert status == 0, status
            print(number, "the end")
            return
        print(number, where)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
