# SPDX-License-Identifier: AGPL-3.0-or-later
"""A media file on its way into a package, or out of one."""

from collections.abc import Callable
from typing import NamedTuple

from cardkeep.messages import ByteSource

#: Told how many bytes have just been dealt with.
Progress = Callable[[int], None]


class MediaSource(NamedTuple):
    """`open` gives None where the file has vanished; `sha1` is None where nobody told it."""

    name: str
    open: Callable[[], ByteSource | None]
    sha1: bytes | None
    size: int


def unwatched(done: int) -> None:
    """A progress that nobody looks at."""
