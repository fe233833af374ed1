# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `col` row: the five numbers that drive syncing (docs/sync-protocol.md, beginning)."""

import sqlite3

import msgspec


class Header(msgspec.Struct, frozen=True):
    """`mod`, `scm`, `ls` in ms, `crt` in s."""

    crt: int
    mod: int
    scm: int
    usn: int
    ls: int


def read(db: sqlite3.Connection) -> Header:
    """The row as it is now."""
    row = db.execute("SELECT crt, mod, scm, usn, ls FROM col").fetchone()
    return Header(*row)


#: `mod`, `scm`, `usn` and whether there is no card.
Summary = tuple[int, int, int, bool]


def summary(db: sqlite3.Connection) -> Summary:
    """What `meta` tells, in one look."""
    mod, scm, usn, empty = db.execute(
        "SELECT mod, scm, usn, NOT EXISTS (SELECT 1 FROM cards) FROM col"
    ).fetchone()
    return mod, scm, usn, bool(empty)


def set_synced(db: sqlite3.Connection, *, mod: int, ls: int, usn: int) -> None:
    """Writes what a finished sync leaves behind."""
    db.execute("UPDATE col SET mod = ?, ls = ?, usn = ?", (mod, ls, usn))


def set_crt(db: sqlite3.Connection, crt: int) -> None:
    """Takes over the client's creation day, in s."""
    db.execute("UPDATE col SET crt = ?", (crt,))


def set_replaced(db: sqlite3.Connection, *, now: int, usn: int) -> None:
    """Makes a collection one that no device has: each asks its user for the direction."""
    db.execute("UPDATE col SET mod = ?, scm = ?, ls = ?, usn = ?", (now, now, now, usn))


def set_mod(db: sqlite3.Connection, mod: int) -> None:
    """Tells every device that there is something new; `mod` in ms."""
    db.execute("UPDATE col SET mod = ?", (mod,))


def set_usn(db: sqlite3.Connection, usn: int) -> None:
    """Gives later changes this number, and changes nothing else."""
    db.execute("UPDATE col SET usn = ?", (usn,))
