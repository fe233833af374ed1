# SPDX-License-Identifier: AGPL-3.0-or-later
"""The official server (`anki-sync-server`, `python -m anki.syncserver`).

A folder a user in its base folder: `collection.anki2`, `media.db`, `media/`. It keeps no users and
no passwords, but is given them in SYNC_USERn at each start, and a device's key is made of them.
"""

from collections.abc import Mapping
from pathlib import Path

from cardkeep.backups.migrate.source import (
    Found,
    Secret,
    Source,
    by_name,
    collection_in,
    folders,
    official_media,
)

KIND = "the official server"
LOGINS = (
    "devices log in once more, with the same name and password; or start the server with the same "
    "SYNC_USERn as before, and they stay logged in"
)


def find(root: Path, passwords: Mapping[str, Secret]) -> Source | None:
    """The users in its base folder; None if it is none."""
    users = []
    for folder in folders(root):
        collection, media = collection_in(folder), official_media(folder)
        if collection or media:
            password = by_name(passwords, folder.name)
            users.append(Found(folder.name, collection, media, password))
    return Source(KIND, root, tuple(users), LOGINS) if users else None
