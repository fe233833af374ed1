# SPDX-License-Identifier: AGPL-3.0-or-later
"""Words for users whose collection on the server cannot be read any more (a broken disk, say)."""

from collections.abc import Sequence

from cardkeep.backups.notice import in_command
from cardkeep.backups.snapshot import Copy

_DAMAGED = "The server's file of your collection is damaged; what is on this device is not. "
_FOUND_DAMAGED = (
    " The server's file was damaged. If a device has later work, choose Upload on it first, "
    "and then Download on the others."
)


def told(user: str, copies: Sequence[Copy]) -> str:
    """What clients show meanwhile; `copies` are the kept ones, newest first."""
    name = in_command(user)
    if not copies:
        return (
            f"{_DAMAGED}Whoever runs the server can put a file that you export here in its place "
            f"with the command: cardkeep import {name} FILE --replace"
        )
    newest = copies[0]
    return (
        f"{_DAMAGED}Whoever runs the server can put back its newest copy, of {newest.cards:,} "
        f"cards and {newest.reviews:,} reviews, with the command: cardkeep snapshot restore {name} "
        f"{newest.id}"
    )


def told_after(words: str) -> str:
    """What clients show once something was put in the place of the damaged file."""
    return words + _FOUND_DAMAGED
