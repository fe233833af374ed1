# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finds out whose folder it is."""

from collections.abc import Mapping
from pathlib import Path

from cardkeep.backups.migrate import ankisyncd, ankisyncd_rs, official
from cardkeep.backups.migrate.source import COLLECTION, Secret, Source
from cardkeep.errors import MigrationError

# A file that gives away a folder that is none of another server.
_OTHERS = {
    "accounts.db": "is the folder of a cardkeep server; `cardkeep backup` moves that elsewhere",
    "prefs21.db": "is the folder of an Anki on a desktop; choose Upload there instead",
    COLLECTION: "is the folder of one user; give the folder above it",
}


def recognise(root: Path, passwords: Mapping[str, Secret], work: Path) -> Source:
    """What is in the folder of another server.

    `passwords` are given by people, by user name, and count more than what is found; `work` is for
    copies of the server's databases. Raises MigrationError if there is nothing to be found.
    """
    if not root.is_dir():
        raise MigrationError(f"{root} is no folder")
    for name, words in _OTHERS.items():
        if (root / name).is_file():
            raise MigrationError(f"{root} {words}")
    found = (
        ankisyncd_rs.find(root, passwords, work)
        or ankisyncd.find(root, passwords, work)
        or official.find(root, passwords)
    )
    if found is None:
        raise MigrationError(
            f"{root} holds nothing of a server that is known: neither folders of users with a "
            "collection.anki2 (the official server), nor `collections` and auth.db (ankisyncd, "
            "anki-sync-server-rs)"
        )
    return found
