# SPDX-License-Identifier: AGPL-3.0-or-later
"""A new index in the place of one that is damaged.

It begins empty, and with a number that the damaged one cannot have come to: so every device
compares all of its files once with those that are put into it then, and sends what is missing.
Deletions are forgotten; a device that had not heard of one sends the file again.
"""

import shutil
from contextlib import closing
from pathlib import Path

from cardkeep.disk import replace_ruined
from cardkeep.media import index
from cardkeep.records.usns import beyond


def renew(user_folder: Path, now: float) -> Path:
    """Makes the new index, on disk at the end; the damaged one is kept in the folder returned.

    That is named after `now` (s). Who has the damaged one open from before opens the new one with
    the next request. Raises OSError if the disk cannot take it; the damaged one is there then.
    """
    damaged = user_folder / "media.db"
    ours = user_folder / ".cardkeep"
    ours.mkdir(mode=0o700, exist_ok=True)
    fresh = ours / "new.db"
    fresh.unlink(missing_ok=True)
    with closing(index.connect(fresh, create=True)) as connection, index.writing(connection):
        index.renumber(connection, beyond(0, now))
    shutil.copymode(damaged, fresh)
    return replace_ruined(damaged, fresh, ours / "damaged", now)
