# SPDX-License-Identifier: AGPL-3.0-or-later
"""The file accounts.db: how it is opened, and its tables."""

import os
import sqlite3
from pathlib import Path

from cardkeep.errors import Unavailable

FILE = "accounts.db"

# Grows only: each entry is run once, in a transaction of its own, and `user_version` is the
# number of those that were. Times are seconds since 1970.
MIGRATIONS = (
    """
    CREATE TABLE users (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        folded TEXT NOT NULL,
        source TEXT NOT NULL,             -- own, environment, former (environment), open
        password TEXT,                    -- PHC string; only own users have one
        disabled INTEGER NOT NULL DEFAULT 0,
        created INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX users_folded ON users (folded);
    CREATE TABLE devices (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        user INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        kind TEXT NOT NULL,               -- key, official, open
        key BLOB UNIQUE,                  -- SHA-256 of the host key; NULL for official
        binding BLOB,                     -- HMAC-SHA-256(host key, environment's password)
        client TEXT NOT NULL DEFAULT '',
        address TEXT NOT NULL DEFAULT '',
        created INTEGER NOT NULL,
        last_used INTEGER,
        revoked INTEGER                   -- official only; others are deleted
    ) STRICT;
    CREATE INDEX devices_user ON devices (user);
    CREATE TABLE failures (               -- wrong logins of the last minutes
        address TEXT NOT NULL,
        account BLOB NOT NULL,            -- a digest: people type passwords into name fields
        at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX failures_address ON failures (address, at);
    CREATE INDEX failures_account ON failures (account, at);
    CREATE INDEX failures_at ON failures (at);
    """,
)


def prepare(base: Path) -> Path:
    """Makes accounts.db with all its tables, or brings an older one up to date.

    Raises Unavailable for a file that a newer cardkeep wrote or that is no database.
    """
    path = base / FILE
    _create_private(base, path)
    try:
        connection = connect(path)
    except sqlite3.DatabaseError as error:
        raise Unavailable(f"{path} cannot be opened: {error}") from error
    try:
        _migrate(connection, path)
    except sqlite3.DatabaseError as error:
        raise Unavailable(f"{path} cannot be used: {error}") from error
    finally:
        connection.close()
    return path


def _create_private(base: Path, path: Path) -> None:
    if not base.exists():
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except FileExistsError:
        return
    try:
        # A command run by root must not lock out a server that runs as the folder's owner.
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            owner = base.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode; usable from any thread, by one at a time."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=10, cached_statements=64
    )
    try:
        # Readers (every request of every worker) and a writer do not wait for each other.
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        # A key that a device was given must outlive a power cut, or the device is logged out.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cache_size=-256")
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)  # another process may have been first
        if version > len(MIGRATIONS):
            raise Unavailable(
                f"{path} was written by a newer cardkeep (its version is {version}, "
                f"this one knows {len(MIGRATIONS)})"
            )
        for number in range(version, len(MIGRATIONS)):
            for statement in _statements(MIGRATIONS[number]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number + 1}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _statements(script: str) -> list[str]:
    """`executescript` would commit first; so the script is cut at its semicolons."""
    statements, rest = [], ""
    for piece in script.split(";"):
        rest += piece + ";"
        if sqlite3.complete_statement(rest):
            statements.append(rest)
            rest = ""
    return statements
