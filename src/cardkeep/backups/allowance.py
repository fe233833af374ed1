# SPDX-License-Identifier: AGPL-3.0-or-later
"""Leave for one upload to lose much, where the operator has such uploads refused.

Given by command (`cardkeep snapshot allow`), good for one upload within a day.
"""

from cardkeep.collection.folder import UserFolder

GOOD_FOR_MS = 86_400_000


def give(folder: UserFolder) -> None:
    """Allows the user one such upload from now on."""
    folder.make()
    folder.allowance.touch(mode=0o600)


def is_given(folder: UserFolder, now_ms: int) -> bool:
    """Whether one is allowed now."""
    try:
        given = folder.allowance.stat().st_mtime
    except FileNotFoundError:
        return False
    return now_ms - given * 1000 < GOOD_FOR_MS


def use_up(folder: UserFolder) -> None:
    """It was used, or is not needed any more."""
    folder.allowance.unlink(missing_ok=True)
