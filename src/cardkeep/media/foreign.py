# SPDX-License-Identifier: AGPL-3.0-or-later
"""Indexes of media as other servers keep them, and how one of ours comes out of them.

    official    as ours (version 4), or its version 3, which `index` converts
    ankisyncd   media(fname, usn, csum): csum is hexadecimal text, null if deleted; the greatest
                usn is the last. Also that of anki-sync-server-rs before 1.0
    a client's  media(fname, csum, mtime, dirty), meta(dirMod, lastUsn): a file's usn is not known,
                only that it is at most the last. AnkiServer and the first ankisyncd used it

Devices remember the last number that they have seen. So all numbers stay, and with them what each
device has yet to hear. Only where several files share one number, one of them keeps it and the
others get new ones above the last: our lists go from number to number, and would lose files
between two pages. A file that a device knows already costs it a line in a list.
"""

import contextlib
import itertools
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from cardkeep.errors import BadRequest, Unavailable
from cardkeep.media import index
from cardkeep.media.index import Fingerprint
from cardkeep.records.media_name import check_media_name

_HEXADECIMAL = re.compile("[0-9a-f]{40}")
_LARGEST_USN = 2**31 - 1

# What the three forms have in common: file name, checksum or null, usn, time.
_ROWS = {
    ("csum", "fname", "mtime", "size", "usn"): (
        "SELECT fname, CASE WHEN size > 0 THEN lower(hex(csum)) END AS csum, usn, mtime FROM media",
        "SELECT last_usn FROM meta",
    ),
    ("csum", "fname", "usn"): (
        "SELECT fname, csum, usn, 0 AS mtime FROM media",
        "SELECT coalesce(max(usn), 0) FROM media",
    ),
    ("csum", "dirty", "fname", "mtime"): (
        "SELECT fname, csum, (SELECT lastUsn FROM meta) AS usn, mtime FROM media",
        "SELECT lastUsn FROM meta",
    ),
}


class Listed(NamedTuple):
    """A file in a foreign index.

    `name` is how clients are to know it, `file` its name in the folder. `sha1` is None if the
    checksum is not known.
    """

    name: str
    file: str
    deleted: bool
    sha1: bytes | None
    usn: int
    mtime: int


class ForeignIndex:
    """A private copy of an index of any of the three forms. Raises Unavailable for any other."""

    def __init__(self, path: Path) -> None:
        """`path` is the copy, whole by itself."""
        try:
            self._connection = _opened(path)
        except sqlite3.Error as error:
            raise Unavailable(f"the media index cannot be read: {error}") from error
        # A name that is no UTF-8 is nobody's, but must not hide the others.
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        try:
            self._rows, last = _form(self._connection)
            self._last = int(self._connection.execute(last).fetchone()[0])
            statement = f"SELECT count(*) FROM ({self._rows}) WHERE csum IS NOT NULL"
            #: Files that are not deleted.
            self.files: int = self._connection.execute(statement).fetchone()[0]
        except (sqlite3.Error, TypeError, ValueError) as error:
            self._connection.close()
            raise Unavailable(f"the media index cannot be read: {error}") from error
        except Unavailable:
            self._connection.close()
            raise
        self.last_usn = max(self._last, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def names(self) -> Iterator[str]:
        """The names, in the folder, of the files that are not deleted."""
        statement = f"SELECT fname FROM ({self._rows}) WHERE csum IS NOT NULL"
        for (name,) in self._connection.execute(statement):
            if isinstance(name, str):
                yield name

    def entries(self) -> Iterator[Listed]:
        """All files, in the order of their numbers; `last_usn` holds once they are read.

        What has no name is left out.
        """
        self.last_usn = max(self._last, 0)
        rows = self._connection.execute(
            f"""
            SELECT fname, csum, usn, mtime, row_number() OVER (PARTITION BY usn ORDER BY fname)
            FROM ({self._rows})
            ORDER BY usn, fname
            """
        )
        for file, csum, usn, mtime, place in rows:
            if not isinstance(file, str):
                continue
            if place > 1 or not isinstance(usn, int) or not 0 < usn <= self._last:
                self.last_usn += 1
                usn = self.last_usn
            if self.last_usn > _LARGEST_USN:
                raise Unavailable(f"the media index counts to {self.last_usn}")
            known = isinstance(csum, str) and _HEXADECIMAL.fullmatch(csum)
            yield Listed(
                unicodedata.normalize("NFC", file),
                file,
                csum is None,
                bytes.fromhex(csum) if known else None,
                usn,
                mtime if isinstance(mtime, int) else 0,
            )


class NewIndex:
    """A media.db being made at a path where there is none. Whole, and closed, after `finish`."""

    def __init__(self, path: Path) -> None:
        self._connection = index.connect(path, create=True)
        self._connection.execute("BEGIN IMMEDIATE")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(self, listed: Listed, bytes_: Fingerprint | None) -> bool:
        """Lists a file, or with None a deleted one.

        False if there is one of that name already: of two, one that is not deleted stays.
        """
        sha1 = listed.sha1 or bytes(20)
        entry = bytes_ or Fingerprint(sha1, 0)
        done = self._connection.execute(
            """
            INSERT INTO media (fname, csum, size, usn, mtime) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (fname) DO UPDATE SET
              csum = excluded.csum,
              size = excluded.size,
              usn = excluded.usn,
              mtime = excluded.mtime
            WHERE media.size = 0 AND excluded.size > 0
            """,
            (listed.name, *entry, listed.usn, listed.mtime),
        )
        return done.rowcount > 0

    def lists(self, name: str) -> bool:
        """Whether a file of that name is listed, and not deleted."""
        found = index.entries(self._connection, [name]).get(name)
        return found is not None and found.size > 0

    def finish(self, last_usn: int, *, is_whole: bool = True) -> index.Totals:
        """Puts it on disk.

        If files had to be left out, one of the others gets a new number: so each device finds
        news, has them already, and then compares the numbers of files, which it would not do
        otherwise.
        """
        if not is_whole:
            last_usn += 1
            self._connection.execute(
                """
                UPDATE media SET usn = ? WHERE fname =
                  (SELECT fname FROM media WHERE size > 0 ORDER BY usn DESC, fname LIMIT 1)
                """,
                (last_usn,),
            )
        self._connection.execute("UPDATE meta SET last_usn = ?", (last_usn,))
        totals = index.recount(self._connection)
        self._connection.execute("COMMIT")
        self._connection.close()
        return totals


def is_fit(name: str) -> bool:
    """Whether clients, and we, can have a file of that name."""
    with contextlib.suppress(BadRequest):
        check_media_name(name)
        return True
    return False


def unlisted(names: Iterator[str]) -> Iterator[Listed]:
    """Files in a folder that has no index, as if each had just been added."""
    for usn, file in zip(itertools.count(1), names, strict=False):
        yield Listed(unicodedata.normalize("NFC", file), file, False, None, usn, 0)


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except BaseException:
        connection.close()
        raise
    if version != 3:
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection
    connection.close()
    return index.connect(path)  # which converts it


def _form(connection: sqlite3.Connection) -> tuple[str, str]:
    columns = sorted(row[1] for row in connection.execute("PRAGMA table_info(media)"))
    try:
        return _ROWS[tuple(columns)]
    except KeyError:
        raise Unavailable(
            f"the media index is of no known kind (columns {', '.join(columns) or 'missing'})"
        ) from None
