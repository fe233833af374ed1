# SPDX-License-Identifier: AGPL-3.0-or-later
"""A new index in the place of one that is damaged.

It begins empty, and with a number that the damaged one cannot have come to: so every device
compares all of its files once with those that are put into it then, and sends what is missing.
Deletions are forgotten; a device that had not heard of one sends the file again.
"""

import os
import shutil
from contextlib import closing, suppress
from pathlib import Path

from cardkeep.media import index
from cardkeep.records.usns import beyond

_SIDES = ("-wal", "-shm")


def renew(user_folder: Path, now: float, moment: str) -> Path:
    """Makes the new index, on disk at the end; `moment` names the folder of the damaged one.

    Who has the damaged one open from before opens the new one with the next request. Raises
    OSError if the disk cannot take it; then the damaged one is still there.
    """
    damaged, aside = user_folder / "media.db", _make_aside(user_folder, moment)
    fresh = aside / "new.db"
    with closing(index.connect(fresh, create=True)) as connection, index.writing(connection):
        index.renumber(connection, beyond(0, now))
    shutil.copystat(damaged, fresh)
    status = damaged.stat()
    with suppress(PermissionError):
        os.chown(fresh, status.st_uid, status.st_gid)
    _flush(fresh)
    try:
        (aside / damaged.name).hardlink_to(damaged)
    except OSError:  # a file system without links: for a moment there is no index
        damaged.rename(aside / damaged.name)
    # SQLite would take a log that lies there for the new file's.
    for side in _SIDES:
        with suppress(FileNotFoundError):
            damaged.with_name(damaged.name + side).rename(aside / (damaged.name + side))
    _flush(aside)
    fresh.rename(damaged)
    _flush(user_folder)
    return aside


def _make_aside(user_folder: Path, moment: str) -> Path:
    number, aside = 1, user_folder / ".cardkeep" / "damaged" / moment
    while aside.exists():
        number += 1
        aside = aside.with_name(f"{moment}-{number}")
    aside.mkdir(mode=0o700, parents=True)
    return aside


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
