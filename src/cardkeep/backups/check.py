# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether kept copies can be put back: each is, byte for byte, what was copied."""

import contextlib
import time
from collections.abc import Callable, Iterator

from cardkeep.backups.snapshot import Copy, Snapshots
from cardkeep.errors import CopyError
from cardkeep.messages import Finding

# What somebody is still making is younger than this, in s.
_LEFT_AFTER = 3600


def size(snapshots: Snapshots) -> int:
    """What `progress` of `check_copies` adds up to."""
    return sum(copy.size for copy in snapshots.all())


def check_copies(
    snapshots: Snapshots,
    *,
    repair: bool = False,
    quick: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Finding]:
    """What is wrong with a user's kept copies, the newest first.

    `quick` looks at the sizes of files only. With `repair`, what a killed process left half made
    is removed; a copy never is. `progress` is told the bytes of each piece that was unpacked.
    """
    for identity in snapshots.unreadable():
        text = f"The manifest of copy {identity} cannot be read, so it cannot be put back."
        yield Finding("copy-unreadable", text)
    for copy in snapshots.all():
        try:
            if quick:
                _check_size(snapshots, copy)
            else:
                _check_bytes(snapshots, copy, progress)
        except CopyError as error:
            if (snapshots.path / copy.id).exists():  # else retention removed it meanwhile
                yield Finding("copy-damaged", f"{str(error)[:1].upper()}{str(error)[1:]}.")
    left = _leftovers(snapshots)
    if left:
        if repair:
            snapshots.sweep()
        yield Finding(
            "leftover",
            f"{left} half-made kept cop{'y' if left == 1 else 'ies'} of a killed process.",
            repaired=repair and not _leftovers(snapshots),
            repairable=True,
            harmless=True,
        )


def _check_bytes(snapshots: Snapshots, copy: Copy, progress: Callable[[int], None]) -> None:
    for piece in snapshots.pieces(copy):
        progress(len(piece))
    files = sum(1 for _ in snapshots.media(copy))
    if files != copy.media_files:
        raise CopyError(
            f"the media list of copy {copy.id} has {files} files instead of {copy.media_files}"
        )


def _check_size(snapshots: Snapshots, copy: Copy) -> None:
    try:
        found = snapshots.packed_size(copy)
    except OSError as error:
        raise CopyError(f"copy {copy.id} cannot be read: {error}") from error
    if found != copy.bytes:
        raise CopyError(f"copy {copy.id} is damaged: {found} bytes instead of {copy.bytes}")


def _leftovers(snapshots: Snapshots) -> int:
    count = 0
    for path in snapshots.half_made():
        with contextlib.suppress(FileNotFoundError):
            count += time.time() - path.stat().st_mtime > _LEFT_AFTER
    return count
