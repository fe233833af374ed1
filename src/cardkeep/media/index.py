# SPDX-License-Identifier: AGPL-3.0-or-later
"""media.db: which files a user has, and under which number each changed last.

The file is the official server's, version 4 (docs/sync-protocol.md, 9.7): a row a file, also
for deleted ones (size 0), and one row of totals. All SQL on it is here. Functions take an open
connection; those that write want to be called within `writing`.
"""

import contextlib
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cardkeep.errors import Unavailable
from cardkeep.messages import MediaChange

#: Changes in one answer to `mediaChanges` (9.2).
PAGE = 1000

#: Names in one look-up, at least as many as a request may hold.
MAX_NAMES = 25

_VERSION = 4
# How long a reader waits for a lock: only while another process recovers or closes the file,
# so briefly; or while a foreign server has it, and then waiting is no use. A writer waits for
# the user's other uploads.
_READ_SECONDS = 0.5
_WRITE_SECONDS = 20.0
# Page cache of each connection, KiB: the upper pages of an index of 100,000 files.
_CACHE_KIB = 128

_TABLES = """
CREATE TABLE media (
  fname text NOT NULL PRIMARY KEY,
  csum blob NOT NULL,
  size int NOT NULL,
  usn int NOT NULL,
  mtime int NOT NULL
);
CREATE INDEX ix_usn ON media (usn);
CREATE TABLE meta (
  last_usn int NOT NULL,
  total_bytes int NOT NULL,
  total_nonempty_files int NOT NULL
);
"""


class Fingerprint(NamedTuple):
    """What a file's bytes are known by: 20 bytes of SHA-1, and their number."""

    sha1: bytes
    size: int


class Entry(NamedTuple):
    """A row of the index. A deleted file keeps its checksum and has size 0."""

    sha1: bytes
    size: int
    usn: int


class Totals(NamedTuple):
    """`files` counts those that are not deleted."""

    last_usn: int
    total_bytes: int
    files: int


class Merged(NamedTuple):
    """What an upload makes of the index.

    `entries` are the rows that changed. `places` says for each file that the upload touched
    what should be on disk afterwards: the position of the element that has its bytes, or
    None for no file.
    """

    totals: Totals
    entries: Mapping[str, Entry]
    places: Mapping[str, int | None]


# --- opening ----------------------------------------------------------------------------


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """A connection to an index of version 4; an older one is converted, once.

    It may pass from thread to thread, but serves one at a time. Raises FileNotFoundError if
    there is none and `create` is false, Unavailable for a newer or damaged one.
    """
    if not create and not path.exists():
        raise FileNotFoundError(path)
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}",
        uri=True,
        timeout=_READ_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=32,
    )
    try:
        _prepare(connection)
        if _version(connection) != _VERSION:
            with writing(connection):
                _bring_up(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_resting(path: Path) -> sqlite3.Connection:
    """A connection that only reads, takes no lock, and makes no file.

    Only for an index without a write-ahead log; what somebody writes meanwhile may be seen in
    part. (SQLite itself sees to it that closing this one leaves the locks of others alone.)
    """
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def empty() -> sqlite3.Connection:
    """An index without files, in memory: what a user without media.db has."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _bring_up(connection)
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # The official server's journal mode. It also locks the file exclusively; we do not, so
    # that several processes can serve one user.
    connection.execute("PRAGMA journal_mode = WAL")
    # What an answer says is stored must be on disk.
    connection.execute("PRAGMA synchronous = FULL")
    # Nothing in the file gets to run code.
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _bring_up(connection: sqlite3.Connection) -> None:
    """Makes the tables of version 4, out of those of version 3 if there are any (9.7)."""
    version = _version(connection)
    if version == _VERSION:
        return
    if version > _VERSION:
        raise Unavailable(f"media.db has version {version}, which is newer than this server")
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
    if version == 3:
        connection.execute("ALTER TABLE media RENAME TO old_media")
        connection.execute("DROP INDEX IF EXISTS ix_usn")
        connection.execute("DROP TABLE meta")
    elif tables:
        raise Unavailable(f"media.db has version {version}, which no server writes")
    for statement in _TABLES.split(";")[:-1]:
        connection.execute(statement)
    if version == 3:
        connection.execute(
            """
            INSERT INTO media (fname, csum, size, usn, mtime)
            SELECT fname, csum, sz, usn, deleted FROM old_media WHERE csum IS NOT NULL
            """
        )
        connection.execute("DROP TABLE old_media")
    connection.execute(
        """
        INSERT INTO meta (last_usn, total_bytes, total_nonempty_files)
        SELECT coalesce(max(usn), 0), coalesce(sum(size), 0), count(nullif(size, 0)) FROM media
        """
    )
    connection.execute(f"PRAGMA user_version = {_VERSION}")


@contextlib.contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that no other writer of this user is in, in any process.

    Commits at the end; on an error nothing of it remains. Raises Unavailable if another
    writer does not finish in time.
    """
    connection.execute(f"PRAGMA busy_timeout = {int(_WRITE_SECONDS * 1000)}")
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(_READ_SECONDS * 1000)}")


# --- reading ----------------------------------------------------------------------------


@contextlib.contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that sees the index as it is now, whatever others write meanwhile."""
    connection.execute("BEGIN")
    try:
        # The first statement that reads takes the moment.
        connection.execute("SELECT 1 FROM meta").fetchone()
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def last_usn(connection: sqlite3.Connection) -> int:
    """The number of the last change."""
    usn: int = connection.execute("SELECT last_usn FROM meta").fetchone()[0]
    return usn


def totals(connection: sqlite3.Connection) -> Totals:
    """The row of totals."""
    return Totals(
        *connection.execute(
            "SELECT last_usn, total_bytes, total_nonempty_files FROM meta"
        ).fetchone()
    )


def entries(connection: sqlite3.Connection, names: Sequence[str]) -> dict[str, Entry]:
    """The rows of at most 25 names, deleted files included."""
    unused = (None,) * (MAX_NAMES - len(names))
    rows = connection.execute(
        f"""
        SELECT fname, csum, size, usn FROM media WHERE fname IN ({",".join("?" * MAX_NAMES)})
        """,
        (*names, *unused),
    )
    return {name: Entry(sha1, size, usn) for name, sha1, size, usn in rows}


def changes(connection: sqlite3.Connection, after_usn: int) -> list[MediaChange]:
    """What changed after `after_usn`, in the order of the changes, at most a page."""
    rows = connection.execute(
        f"SELECT fname, usn, size, csum FROM media WHERE usn > ? ORDER BY usn LIMIT {PAGE}",
        (after_usn,),
    )
    return [MediaChange(name, usn, sha1.hex() if size else "") for name, usn, size, sha1 in rows]


def stored_files(connection: sqlite3.Connection) -> Iterator[list[tuple[str, Fingerprint]]]:
    """All files that are not deleted, by name, in pages; rows may be dropped between pages."""
    last = ""
    while rows := connection.execute(
        f"""
        SELECT fname, csum, size FROM media WHERE fname > ? AND size > 0
        ORDER BY fname LIMIT {PAGE}
        """,
        (last,),
    ).fetchall():
        yield [(name, Fingerprint(sha1, size)) for name, sha1, size in rows]
        last = rows[-1][0]


def listed(connection: sqlite3.Connection) -> Iterator[tuple[str, str, int]]:
    """Name, checksum (hexadecimal) and size of all files that are not deleted, by name.

    All of one moment if the caller is within `reading`.
    """
    rows = connection.execute("SELECT fname, csum, size FROM media WHERE size > 0 ORDER BY fname")
    for name, sha1, size in rows:
        yield name, sha1.hex(), size


def names_with(connection: sqlite3.Connection, sha1s: Collection[bytes]) -> dict[bytes, list[str]]:
    """Files that are not deleted, by checksum, for at most 25 checksums. Looks at all rows."""
    unused = (None,) * (MAX_NAMES - len(sha1s))
    rows = connection.execute(
        f"""
        SELECT csum, fname FROM media
        WHERE size > 0 AND csum IN ({",".join("?" * MAX_NAMES)})
        """,
        (*sha1s, *unused),
    )
    found: dict[bytes, list[str]] = {}
    for sha1, name in rows:
        found.setdefault(sha1, []).append(name)
    return found


def count_bytes(connection: sqlite3.Connection) -> int:
    """The bytes of all files that are not deleted, from the rows themselves."""
    row = connection.execute("SELECT coalesce(sum(size), 0) FROM media WHERE size > 0").fetchone()
    return int(row[0])


def count_files(connection: sqlite3.Connection) -> int:
    """The number of files that are not deleted, from the rows themselves."""
    count: int = connection.execute("SELECT count(*) FROM media WHERE size > 0").fetchone()[0]
    return count


# --- changing ---------------------------------------------------------------------------


def merge(
    before: Totals,
    stored: Mapping[str, Entry],
    uploaded: Sequence[tuple[str, Fingerprint | None]],
) -> Merged:
    """Applies an upload, element by element, by the table of 9.3; None is a deletion.

    A name may stand in it several times; each time that something changes takes a usn.
    """
    usn, total_bytes, files = before
    entries: dict[str, Entry] = {}
    places: dict[str, int | None] = {}
    for position, (name, bytes_) in enumerate(uploaded):
        old = entries.get(name) or stored.get(name)
        old_size = old.size if old else 0
        if bytes_ is None:
            if not old or not old_size:
                continue
            entry = Entry(old.sha1, 0, usn + 1)
        elif old and old_size and old.sha1 == bytes_.sha1:
            continue
        else:
            entry = Entry(bytes_.sha1, bytes_.size, usn + 1)
        usn += 1
        total_bytes = max(total_bytes - old_size, 0) + entry.size
        files = max(files - bool(old_size), 0) + bool(entry.size)
        entries[name] = entry
        places[name] = position if entry.size else None
    return Merged(Totals(usn, total_bytes, files), entries, places)


def difference(stored: Mapping[str, Entry], merged: Merged) -> tuple[int, int, int]:
    """How many files an upload added, changed and deleted."""
    added = changed = deleted = 0
    for name, entry in merged.entries.items():
        old = stored.get(name)
        was_there = old is not None and old.size > 0
        added += bool(entry.size and not was_there)
        changed += bool(entry.size and was_there)
        deleted += bool(not entry.size and was_there)
    return added, changed, deleted


def write(connection: sqlite3.Connection, merged: Merged, now: int) -> None:
    """Stores what an upload changed; `now` in seconds."""
    connection.executemany(
        """
        INSERT INTO media (fname, csum, size, usn, mtime) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (fname) DO UPDATE SET
          csum = excluded.csum,
          size = excluded.size,
          usn = excluded.usn,
          mtime = excluded.mtime
        """,
        [(name, *entry, now) for name, entry in merged.entries.items()],
    )
    connection.execute(
        "UPDATE meta SET last_usn = ?, total_bytes = ?, total_nonempty_files = ?", merged.totals
    )


def forget(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Drops entries without a trace, so that no device takes it for a deletion (9.4)."""
    connection.executemany("DELETE FROM media WHERE fname = ?", [(name,) for name in names])


def recount(connection: sqlite3.Connection) -> Totals:
    """Makes bytes and number of files in the totals those of the rows."""
    connection.execute(
        """
        UPDATE meta SET (total_bytes, total_nonempty_files) =
          (SELECT coalesce(sum(size), 0), count(*) FROM media WHERE size > 0)
        """
    )
    return totals(connection)


def renumber(connection: sqlite3.Connection, after_usn: int) -> int:
    """Numbers all files that are not deleted anew, after `after_usn`, in their old order.

    Every client then looks at each of them again; deletions keep their numbers. Returns the last
    number.
    """
    connection.execute(
        """
        UPDATE media SET usn = ? + numbered.place FROM (
          SELECT fname, row_number() OVER (ORDER BY usn) AS place FROM media WHERE size > 0
        ) AS numbered WHERE media.fname = numbered.fname
        """,
        (after_usn,),
    )
    connection.execute(
        "UPDATE meta SET last_usn = max(?, (SELECT coalesce(max(usn), 0) FROM media))",
        (after_usn,),
    )
    return last_usn(connection)


# --- checking ---------------------------------------------------------------------------

# Values that no server writes, and names that lead out of the folder (`leaves_folder`).
_IS_BROKEN = """
  typeof(fname) <> 'text' OR fname IN ('', '.', '..')
  OR instr(fname, '/') OR instr(fname, char(0))
  OR typeof(csum) <> 'blob' OR length(csum) <> 20
  OR typeof(size) <> 'integer' OR size < 0
  OR typeof(usn) <> 'integer'
"""


def damage(connection: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with the file itself; at most 20 lines."""
    lines = [row[0] for row in connection.execute("PRAGMA quick_check(20)")]
    # Fails if it is whole, but not an index.
    connection.execute("SELECT fname, csum, size, usn, mtime FROM media LIMIT 0")
    connection.execute("SELECT last_usn, total_bytes, total_nonempty_files FROM meta LIMIT 0")
    return [] if lines == ["ok"] else lines


def broken_rows(connection: sqlite3.Connection) -> list[object]:
    """The names in rows that no client could make sense of."""
    return [row[0] for row in connection.execute(f"SELECT fname FROM media WHERE {_IS_BROKEN}")]


def forget_broken(connection: sqlite3.Connection) -> None:
    """Drops those rows; the totals are left to `mend`."""
    connection.execute(f"DELETE FROM media WHERE {_IS_BROKEN}")


def disagreements(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Where usns and totals do not fit the rows: a word for what it is ("usn" or "totals"),
    and a sentence. `mend` makes all of it right.
    """
    found = []
    metas = connection.execute(
        "SELECT last_usn, total_bytes, total_nonempty_files FROM meta"
    ).fetchall()
    greatest, total_bytes, files = _counted(connection)
    if len(metas) != 1:
        found.append(("totals", f"The media index has {len(metas)} rows of totals instead of one."))
    else:
        (meta,) = metas
        if meta[1:] != (total_bytes, files):
            found.append(
                (
                    "totals",
                    f"The media index counts {meta[2]} files with {meta[1]} bytes, "
                    f"and lists {files} with {total_bytes}.",
                )
            )
        if not isinstance(meta[0], int) or meta[0] < greatest:
            found.append(
                (
                    "usn",
                    f"The media index ends at number {meta[0]!r}, but number {greatest} is given.",
                )
            )
    if unusable := len(_without_own_usn(connection)):
        found.append(("usn", f"{unusable} media files have no number of their own."))
    return found


def mend(connection: sqlite3.Connection) -> None:
    """Makes usns and totals agree with the rows.

    Files that share a usn get new ones, all of them: some device may have passed over any.
    """
    metas = connection.execute("SELECT last_usn FROM meta WHERE typeof(last_usn) = 'integer'")
    greatest, total_bytes, files = _counted(connection)
    last_usn = max([greatest, *(row[0] for row in metas)])
    renumbered = list(enumerate(_without_own_usn(connection), start=last_usn + 1))
    connection.executemany("UPDATE media SET usn = ? WHERE fname = ?", renumbered)
    connection.execute("DELETE FROM meta")
    connection.execute(
        "INSERT INTO meta (last_usn, total_bytes, total_nonempty_files) VALUES (?, ?, ?)",
        (last_usn + len(renumbered), total_bytes, files),
    )


def _counted(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """The greatest usn, and the totals that the rows make."""
    row = connection.execute(
        """
        SELECT coalesce(max(usn), 0), coalesce(sum(size), 0), count(nullif(size, 0)) FROM media
        """
    ).fetchone()
    return row[0], row[1], row[2]


def _without_own_usn(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        """
        SELECT fname FROM media
        WHERE usn < 1 OR usn IN (SELECT usn FROM media GROUP BY usn HAVING count(*) > 1)
        ORDER BY usn, fname
        """
    )
    return [row[0] for row in rows]
