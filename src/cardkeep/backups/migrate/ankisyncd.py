# SPDX-License-Identifier: AGPL-3.0-or-later
"""ankisyncd, the server in Python (dsnopek's, tsudoko's, ankicommunity's; to 2.4.0 of 2022).

As its `ankisyncd.conf` says, by default below one folder:

    collections/USER/collection.anki2
    collections/USER/collection.media/
    collections/USER/collection.media.server.db   media(fname, usn, csum); csum is null if deleted
    auth.db                                       auth(username, hash), before 2019 auth(user, hash)
    session.db                                    session(hkey, skey, username, path), likewise

The collection is as its Anki left it: of schema 11 up to 2.2.0, of 15 to 18 later.

`hash` is 64 hexadecimal digits of SHA-256 over name, password and salt, then the salt, 16
characters. A host key is the MD5 of name, time of login in seconds, and 8 random letters or digits.
Those 47 bits, and a time that is stored nowhere, are more than anybody can try over a network, and
of a key we store only the SHA-256; so devices keep theirs.
"""

import configparser
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from cardkeep.backups.migrate.copying import private_copy
from cardkeep.backups.migrate.source import (
    Found,
    Secret,
    Source,
    ankisyncd_media,
    by_name,
    collection_in,
    folders,
)
from cardkeep.errors import MigrationError

KIND = "ankisyncd"
LOGINS = (
    "devices that are logged in stay so (`cardkeep device list NAME` shows them, "
    "`cardkeep device revoke` logs one out)"
)
NO_LOGINS = "devices log in once more, with the same name and password"
CONFIG = "ankisyncd.conf"
# As many devices as a user may have here; the ones used last.
_MOST_KEYS = 500
_KEY = re.compile("[0-9a-f]{32}")


class Places(configparser.RawConfigParser):
    """Where a server's things are: as its configuration says, as far as that is true here.

    Paths in a configuration are often those within a container. So what lies in the folder itself
    under the path's last name comes first.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(strict=False)
        self._root = root
        try:
            self.read(root / CONFIG, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise MigrationError(f"{root / CONFIG} cannot be read: {error}") from None

    def of(self, option: str, default: str) -> Path:
        """The place of what the option names."""
        given = self.get("sync_app", option, fallback="") or default
        beside = self._root / Path(given).name
        return beside if beside.exists() else self._root / given


def find(root: Path, passwords: Mapping[str, Secret], work: Path) -> Source | None:
    """The users below its folder; None if it is none. `work` is for copies of its databases."""
    if any(place.index for folder in folders(root) if (place := ankisyncd_media(folder))):
        # Somebody gave us the folder `collections` itself.
        places, collections = Places(root.parent), root
    else:
        places = Places(root)
        collections = places.of("data_root", "collections")
    if not collections.is_dir():
        return None
    hashes = read_hashes(places.of("auth_db_path", "auth.db"), work)
    keys = read_keys(places.of("session_db_path", "session.db"), work)
    users = []
    for name in names(collections, hashes):
        folder = collections / name
        collection, media = collection_in(folder), ankisyncd_media(folder)
        password = by_name(passwords, name) or hashes.get(name)
        users.append(Found(name, collection, media, password, keys.get(name, ())))
    return Source(KIND, root, tuple(users), LOGINS) if users else None


def names(collections: Path, hashes: Mapping[str, Secret]) -> list[str]:
    """Whoever has a collection or media or a password."""
    having = {
        folder.name
        for folder in folders(collections)
        if collection_in(folder) or ankisyncd_media(folder)
    }
    return sorted(having | hashes.keys())


def read_hashes(path: Path, work: Path) -> dict[str, Secret]:
    """Password hashes by user, from `auth.db`; none if there is no such file."""
    rows = _rows(path, work, "auth", "hash")
    return {name: Secret("ankisyncd", hashed, path.name) for name, hashed in rows}


def read_keys(path: Path, work: Path) -> dict[str, tuple[str, ...]]:
    """The host keys of each user, from `session.db`, the last used first."""
    found: dict[str, list[str]] = {}
    for name, key in _rows(path, work, "session", "hkey"):
        of_user = found.setdefault(name, [])
        if len(of_user) < _MOST_KEYS and _KEY.fullmatch(key):
            of_user.append(key)
    return {name: tuple(keys) for name, keys in found.items()}


def _rows(path: Path, work: Path, table: str, column: str) -> list[tuple[str, str]]:
    """User and value of each row, the newest first."""
    if not path.is_file():
        return []
    try:
        with private_copy(path, work) as connection:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            user = "username" if "username" in columns else "user"
            rows = connection.execute(
                f"SELECT {user}, {column} FROM {table} ORDER BY rowid DESC"
            ).fetchall()
    except sqlite3.Error as error:
        raise MigrationError(f"{path} cannot be read: {error}") from None
    return [row for row in rows if all(isinstance(value, str) for value in row)]
