# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether accounts.db is sound, without changing it."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from cardkeep.accounts import database
from cardkeep.messages import Finding


def check_accounts(base: Path) -> Iterator[Finding]:
    """What is wrong with the accounts of a data folder; nothing if it has none."""
    path = base / database.FILE
    if not path.exists():
        return
    try:
        with contextlib.closing(_open(path)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            complaints = [line for (line,) in connection.execute("PRAGMA integrity_check(20)")]
            loose = connection.execute("PRAGMA foreign_key_check").fetchall()
    except (sqlite3.Error, OSError) as error:
        yield Finding("accounts-damaged", f"{path} cannot be read: {error}.")
        return
    if version > len(database.MIGRATIONS):
        yield Finding("accounts-newer", f"{path} was written by a newer cardkeep.")
    if complaints != ["ok"]:
        yield Finding("accounts-damaged", f"{path} is damaged: {'; '.join(complaints[:3])}.")
    elif loose:
        yield Finding("accounts-damaged", f"{path} has {len(loose)} devices of no user.")


def user_names(base: Path) -> list[str]:
    """The users who have an account, as far as that can be read."""
    path = base / database.FILE
    if not path.exists():
        return []
    try:
        with contextlib.closing(_open(path)) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM users ORDER BY name")]
    except (sqlite3.Error, OSError):
        return []


def _open(path: Path) -> sqlite3.Connection:
    connection = database.connect(path)
    connection.execute("PRAGMA query_only=ON")
    return connection
