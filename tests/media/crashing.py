# SPDX-License-Identifier: AGPL-3.0-or-later
"""Does something to a user's media, and is killed at each step of it in turn.

``python -m tests.media.crashing BEFORE AFTER ACTION [share]`` copies the base folder BEFORE to
``AFTER/1``, ``AFTER/2``, …; in the n-th, a process performs ACTION and is killed with
SIGKILL as it reaches its n-th step. It goes on until a process ends by itself. Steps are the
moments before and after each call that changes or opens a file, and each SQL statement. Printed
is a line for each folder that says at what step it happened.
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

from cardkeep.media.check import check_media
from cardkeep.media.store import MediaStore
from tests.media.looking import USER, download, sha1, upload

LARGE = bytes(range(256)) * 5000

USER_FILES = {
    "same": b"same bytes",
    "replaced": b"the old bytes",
    "deleted": b"bytes of deleted",
}

# What an earlier list may name besides: two names for the same bytes, in the trash and not.
WANTED = {**USER_FILES, "twin": b"bytes of deleted", "copy": b"same bytes", "lost": b"lost"}


def bring_back(store: MediaStore) -> None:
    wanted = [(name, sha1(data), len(data)) for name, data in WANTED.items()]
    result = store.bring_back(USER, wanted)
    assert (result.missing, result.refused) == (["lost"], [])


ACTIONS: dict[str, Callable[[MediaStore], object]] = {
    "mixed": lambda store: upload(
        store,
        ("new", b"new bytes"),
        ("replaced", b"their new bytes"),
        ("deleted", None),
        ("same", b"same bytes"),
        ("back", b"back again"),
        ("large", LARGE),
        ("twice", b"1"),
        ("twice", b"22"),
    ),
    "first": lambda store: upload(store, ("a", b"aa"), ("b", b"bb")),
    "deletions": lambda store: upload(store, ("deleted", None), ("replaced", None)),
    "replacement": lambda store: upload(store, ("replaced", b"their new bytes")),
    "bringing back": bring_back,
    "mending": lambda store: list(check_media(store, USER, repair=True)),
    "sweeping": lambda store: store.sweep_trash(USER, 1e10),
    "other": lambda store: upload(store, ("other", b"other bytes")),
    "reading": lambda store: download(store, "same"),
}

_CALLS = ("open", "write", "fsync", "replace", "link", "unlink", "mkdir", "utime", "close")


class Killer:
    """Kills this process at its n-th step."""

    def __init__(self, fatal: int) -> None:
        self._left = fatal

    def step(self, name: str, report: int) -> None:
        self._left -= 1
        if self._left == 0:
            _write(report, f"{name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


_write = os.write


def act(base: Path, action: str, *, share: bool = False) -> None:
    store = MediaStore(base, share=share)
    ACTIONS[action](store)
    store.close()


def perform(base: Path, action: str, share: bool, fatal: int, report: int) -> None:
    killer = Killer(fatal)

    def wrapped(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            killer.step(f"before {name}", report)
            result = call(*args, **kwargs)
            killer.step(f"after {name}", report)
            return result

        return wrapper

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return wrapped(super().execute, " ".join(sql.split())[:40])(sql, *args)

        def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return wrapped(super().executemany, " ".join(sql.split())[:40])(sql, *args)

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=Connection, **kwargs)
    for name in _CALLS:
        setattr(os, name, wrapped(getattr(os, name), name))
    fcntl.flock = wrapped(fcntl.flock, "flock")
    ACTIONS[action](MediaStore(base, share=share))


def main(before: Path, after: Path, action: str, share: bool) -> None:
    after.mkdir()
    for number in range(1, 1000):
        base = after / f"{number}"
        shutil.copytree(before, base)
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            try:
                perform(base, action, share, number, write_end)
            finally:
                os._exit(0)
        os.close(write_end)
        where = os.read(read_end, 200).decode().strip()
        os.close(read_end)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            print("the end")
            return
        print(where)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], "share" in sys.argv)
