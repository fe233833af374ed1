# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs a command, and kills it with SIGKILL at one of its steps.

Steps are the moments before and after each call that changes a file, and each SQL statement. A
command runs in a fork of this process, which has imported everything; so it costs a tenth of a
real one.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cardkeep import app, settings
from cardkeep.accounts import store
from cardkeep.cli import export, import_
from cardkeep.cli.main import main
from cardkeep.collection import database

_CALLS = ("open", "write", "pwrite", "fsync", "replace", "rename", "link", "unlink", "mkdir")
# Those after which others see another state.
_TELLING = ("backup", "rename", "link")
#: Imported, so that no fork has to.
MODULES = (app, settings, store, export, import_)


class _Killer:
    """Kills this process at its n-th step."""

    def __init__(self, fatal: int, report: int) -> None:
        self._left = fatal
        self._report = report

    def step(self, name: str) -> None:
        self._left -= 1
        _write(self._report, f"{name}\n".encode())
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.step(f"before {name(*args)}")
            result = call(*args, **kwargs)
            self.step(f"after {name(*args)}")
            return result

        return wrapper


_write = os.write


def run(base: Path, arguments: Sequence[str], fatal: int = 0) -> tuple[list[str], int | None]:
    """The steps that the command took, and its exit status; None if it was killed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(read_end)
        status = 70
        try:
            status = _perform(base, arguments, _Killer(fatal, write_end))
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end) as report:
        steps = report.read().splitlines()
    _, status = os.waitpid(child, 0)
    return steps, None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def _perform(base: Path, arguments: Sequence[str], killer: _Killer) -> int:
    for number in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    os.environ["CARDKEEP_FOLDER"] = str(base)
    _wrap_sqlite(killer)
    for name in _CALLS:
        call = getattr(os, name)
        setattr(os, name, killer.around(call, lambda *_, name=name: name))
    try:
        main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _wrap_sqlite(killer: _Killer) -> None:
    def words(_: object, sql: object = "", *__: object) -> str:
        return " ".join(str(sql).split())[:30] if isinstance(sql, str) else "backup"

    class Connection(sqlite3.Connection):
        """For those that open without a class of their own."""

    for kind in (Connection, database._Connection):
        for name in ("execute", "executemany", "backup"):
            setattr(kind, name, killer.around(getattr(sqlite3.Connection, name), words))
    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(  # type: ignore[assignment]
        *args, **{"factory": Connection} | options
    )


def chosen(steps: Sequence[str], about: int) -> list[int]:
    """Numbers of steps: about so many, spread evenly, and all that make others see a change."""
    telling = {f"{when} {what}" for when in ("before", "after") for what in _TELLING}
    spread = range(1, len(steps) + 1, max(len(steps) // about, 1))
    named = [number for number, step in enumerate(steps, 1) if step in telling]
    return sorted({*spread, *named})


@contextlib.contextmanager
def copied(base: Path, to: Path) -> Any:
    """A copy of a base folder, gone afterwards."""
    shutil.copytree(base, to)
    try:
        yield to
    finally:
        shutil.rmtree(to)
