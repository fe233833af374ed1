# SPDX-License-Identifier: AGPL-3.0-or-later
"""anki-sync-server-rs, the server in Rust (ankicommunity's, 0.1 of 2021 to 1.1.4 of 2023).

Below the `root_dir` of its `ankisyncd.toml` it has `auth.db` and `collections/` as ankisyncd has
them. In a user's folder, up to 0.2 the media are ankisyncd's as well, and so are `session.db` and
the host keys in it. From 1.0 on there is the official server inside: `media.db` and `media/`, and
no sessions; whoever came from 0.2 has both, the old ones unused.

From 1.0 on the host key is the password hash in `auth.db` itself, for all devices of a user.
To accept it, we would have to store what a password can be guessed from; so devices log in again.
"""

import sqlite3
import tomllib
from collections.abc import Mapping
from pathlib import Path

from cardkeep.backups.migrate.ankisyncd import LOGINS, NO_LOGINS, names, read_hashes, read_keys
from cardkeep.backups.migrate.copying import private_copy
from cardkeep.backups.migrate.source import (
    Found,
    MediaPlace,
    Secret,
    Source,
    ankisyncd_media,
    by_name,
    collection_in,
    folders,
    official_media,
)
from cardkeep.errors import MigrationError

KIND = "anki-sync-server-rs"
# The file that it makes at its first start; up to 0.1 under the other name.
CONFIGS = ("ankisyncd.toml", "Settings.toml")


def find(root: Path, passwords: Mapping[str, Secret], work: Path) -> Source | None:
    """The users below its folder; None if it is none. `work` is for copies of its databases."""
    config = next((root / name for name in CONFIGS if (root / name).is_file()), None)
    home = _home(root, config)
    collections = home / "collections"
    if not collections.is_dir():
        return None
    having = [official_media(folder) for folder in folders(collections)]
    is_new = any(media and media.index for media in having)
    if not (config or is_new):
        return None
    hashes = read_hashes(home / "auth.db", work)
    keys = {} if is_new else read_keys(home / "session.db", work)
    everybody = {*names(collections, hashes)} | {
        folder.name for folder in folders(collections) if official_media(folder)
    }
    users = tuple(
        Found(
            name,
            collection_in(collections / name),
            _media(collections / name, work),
            by_name(passwords, name) or hashes.get(name),
            keys.get(name, ()),
        )
        for name in sorted(everybody)
    )
    return Source(KIND, root, users, NO_LOGINS if is_new else LOGINS) if users else None


def _home(root: Path, config: Path | None) -> Path:
    if config is None or (root / "collections").is_dir():
        return root
    try:
        content = tomllib.loads(config.read_text(encoding="utf-8"))
        given = content["paths"]["root_dir"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise MigrationError(f"{config} cannot be read: {error}") from None
    return root / str(given)


def _media(folder: Path, work: Path) -> MediaPlace | None:
    """The official form, unless only the form before it was ever used."""
    new, old = official_media(folder), ankisyncd_media(folder)
    if new and old and new.index and old.index and not _was_used(new.index, work):
        return old
    return new or old


def _was_used(index: Path, work: Path) -> bool:
    try:
        with private_copy(index, work) as connection:
            return connection.execute("SELECT 1 FROM media LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return True  # whatever is wrong with it is told when it is taken over
