# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who has a data folder: servers share it, and whoever restores all of it has it alone.

A lock (flock) on the folder itself, which ends with the process that holds it; so nothing is
left behind by one that was killed. Where the file system has no locks, nobody is kept out.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cardkeep.errors import Unavailable

#: In the data folder until all of a backup is in its place (see `archive.restore`).
UNFINISHED = ".cardkeep-restore"

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


def share(base: Path) -> int:
    """For a server, for as long as the descriptor that it gives is open.

    Raises Unavailable while a backup is being restored, or if that was cut off.
    """
    descriptor = _lock(base, fcntl.LOCK_SH, f"a backup is being restored into {base}")
    unfinished = base / UNFINISHED
    if unfinished.exists() and any(unfinished.iterdir()):
        os.close(descriptor)
        raise Unavailable(
            f"a restore into {base} was cut off; run `cardkeep backup --restore` with the same "
            f"file again, or empty {base} to give it up"
        )
    return descriptor


@contextlib.contextmanager
def alone(base: Path) -> Iterator[None]:
    """Keeps servers out for as long as the block runs. Raises Unavailable if one is running."""
    descriptor = _lock(base, fcntl.LOCK_EX, f"a server is running on {base}; stop it first")
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(base: Path, how: int, refusal: str) -> int:
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Unavailable(refusal) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise
    return descriptor
