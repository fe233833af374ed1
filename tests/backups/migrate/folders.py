# SPDX-License-Identifier: AGPL-3.0-or-later
"""Folders as other servers leave them, made out of one of the official server.

Those of ankisyncd and anki-sync-server-rs are put together from their schemas:

    ankisyncd (and -rs before 1.0)
        collections/USER/collection.anki2
            schema 11 (to 2.2.0, whose Anki was 2.1.22), 16 (2.3.0: 2.1.43), 18 (2.4.0: 2.1.49)
        collections/USER/collection.media/ with the files
        collections/USER/collection.media.server.db
            CREATE TABLE media (fname TEXT NOT NULL PRIMARY KEY, usn INT NOT NULL,
                csum TEXT -- null if deleted);
            CREATE INDEX idx_media_usn ON media (usn);
        auth.db
            CREATE TABLE auth (username VARCHAR PRIMARY KEY, hash VARCHAR), before 2019 `user`
        session.db
            CREATE TABLE session (hkey VARCHAR PRIMARY KEY, skey VARCHAR, username VARCHAR,
                path VARCHAR), before 2019 `user`
    anki-sync-server-rs from 1.0 on
        collections/USER/ as the official server's folder of a user
        auth.db, ankisyncd.toml
"""

import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.clients.environments import interpreter

SALT = "00112233445566ff"

_LEAVE = """
import sys
from anki.collection import Collection
Collection(sys.argv[1], server=True).close(downgrade=sys.argv[2] == "11")
"""


def snapshot(folder: Path) -> dict[str, tuple[str, int, int, int]]:
    """Everything below a folder: content, time, mode and owner of each thing."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (
            content,
            status.st_mtime_ns,
            status.st_mode,
            status.st_uid,
        )
    return found


@contextlib.contextmanager
def left_alone(folder: Path) -> Iterator[None]:
    """Nothing below the folder is changed, added or removed in the block."""
    before = snapshot(folder)
    yield
    assert snapshot(folder) == before


def hashed(name: str, password: str) -> str:
    """What auth.db holds for a password."""
    return hashlib.sha256((name + password + SALT).encode()).hexdigest() + SALT


def host_key(name: str, moment: int = 1_600_000_000, random: str = "aB3dE6gH") -> str:
    """A key as ankisyncd made them at a login."""
    return hashlib.md5(f"{name}:{moment}:{random}".encode()).hexdigest()


def database(path: Path, *statements: str | tuple[str, tuple[object, ...]]) -> Path:
    """A SQLite file made by these statements."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            if isinstance(statement, str):
                connection.execute(statement)
            else:
                connection.execute(*statement)
    return path


def auth_db(root: Path, users: Mapping[str, str], column: str = "username") -> None:
    """`users` are names and hashes."""
    database(
        root / "auth.db",
        f"CREATE TABLE auth ({column} VARCHAR PRIMARY KEY, hash VARCHAR)",
        *(("INSERT INTO auth VALUES (?, ?)", each) for each in users.items()),
    )


def session_db(root: Path, keys: Mapping[str, str], column: str = "username") -> None:
    """`keys` are host keys and whose they are."""
    database(
        root / "session.db",
        "CREATE TABLE session "
        f"(hkey VARCHAR PRIMARY KEY, skey VARCHAR, {column} VARCHAR, path VARCHAR)",
        *(
            ("INSERT INTO session VALUES (?, ?, ?, ?)", (key, "12345678", name, f"/x/{name}"))
            for key, name in keys.items()
        ),
    )


def server_media(index: Path, rows: list[tuple[str, int, str | None]]) -> None:
    """The index of media as ankisyncd kept it: name, usn, checksum."""
    database(
        index,
        """
        CREATE TABLE media (
            fname TEXT NOT NULL PRIMARY KEY,
            usn INT NOT NULL,
            csum TEXT -- null if deleted
        )
        """,
        "CREATE INDEX idx_media_usn ON media (usn)",
        *(("INSERT INTO media VALUES (?, ?, ?)", row) for row in rows),
    )


def client_media(index: Path, rows: list[tuple[str, str | None]], last_usn: int) -> None:
    """The same as clients keep it, and as servers did until 2020."""
    database(
        index,
        """
        CREATE TABLE media (
            fname text not null primary key, csum text, mtime int not null, dirty int not null
        )
        """,
        "CREATE INDEX idx_media_dirty ON media (dirty)",
        "CREATE TABLE meta (dirMod int, lastUsn int)",
        ("INSERT INTO meta VALUES (0, ?)", (last_usn,)),
        *(
            ("INSERT INTO media VALUES (?, ?, ?, 0)", (name, csum, 1 if csum else 0))
            for name, csum in rows
        ),
    )


def left_by_engine(path: Path, schema: int) -> None:
    """Brings a collection into the form in which the servers' engines left it."""
    runs = {11: [("2.1.49", "11")], 18: [("2.1.49", "18")]}
    runs[16] = [*runs[11], ("2.1.39", "16")]
    for release, form in runs[schema]:
        subprocess.run(
            [interpreter(release), "-W", "ignore", "-c", _LEAVE, path, form],
            check=True,
            capture_output=True,
        )
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT ver FROM col").fetchone() == (schema,)


def as_ankisyncd(official: Path, root: Path, schema: int | None = None) -> Path:
    """The users' folders of an official server that is stopped, as ankisyncd would have them.

    Collections stay as they are if no schema is given.
    """
    for folder in official.iterdir():
        made = root / "collections" / folder.name
        made.mkdir(parents=True)
        for side in ("", "-wal"):
            source = folder / f"collection.anki2{side}"
            if source.exists():
                shutil.copy(source, made)
        if schema:
            left_by_engine(made / "collection.anki2", schema)
        if (folder / "media.db").exists():
            shutil.copytree(folder / "media", made / "collection.media")
            _turn_index(folder / "media.db", made / "collection.media.server.db")
    return root


def _turn_index(official: Path, index: Path) -> None:
    with tempfile_copy(official) as connection:
        rows = connection.execute("SELECT fname, usn, size, hex(csum) FROM media").fetchall()
    server_media(
        index, [(name, usn, csum.lower() if size else None) for name, usn, size, csum in rows]
    )


@contextlib.contextmanager
def tempfile_copy(path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of a database, with its log."""
    folder = path.parent / f"copy-{os.urandom(4).hex()}"
    folder.mkdir()
    try:
        for side in ("", "-wal"):
            source = path.with_name(path.name + side)
            if source.exists():
                shutil.copy(source, folder)
        with contextlib.closing(sqlite3.connect(folder / path.name)) as connection:
            yield connection
    finally:
        shutil.rmtree(folder)


def as_rs(official: Path, root: Path) -> Path:
    """The same as anki-sync-server-rs from 1.0 on has them."""
    shutil.copytree(official, root / "collections")
    (root / "ankisyncd.toml").write_text(
        '[listen]\nhost = "0.0.0.0"\nport = 27701\n[paths]\nroot_dir = "/app"\n'
    )
    return root
