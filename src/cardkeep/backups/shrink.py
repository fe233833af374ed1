# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether much is about to go: rules on numbers, and what is said about it."""

from dataclasses import dataclass
from enum import StrEnum

from cardkeep.backups.notice import in_command
from cardkeep.messages import Counts


class Guard(StrEnum):
    """What happens to an upload that holds far less than what it replaces."""

    OFF = "off"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Rules:
    """From where on a loss is a large one: both the share and the number must be passed.

    An upload loses much if it holds less than `upload_percent` of the stored cards or reviews;
    a sync, if it deletes more than `deletion_percent` of the notes or cards.
    """

    guard: Guard = Guard.WARN
    upload_percent: int = 50
    upload_least: int = 100
    deletion_percent: int = 20
    deletion_least: int = 100


def upload_loses_much(stored: Counts, uploaded: Counts, rules: Rules) -> bool:
    """Whether the uploaded collection holds far fewer cards or reviews than the stored one."""
    return any(
        after * 100 < before * rules.upload_percent and before - after >= rules.upload_least
        for before, after in (
            (stored.cards, uploaded.cards),
            (stored.revlog, uploaded.revlog),
        )
    )


def sync_deletes_much(stored: Counts, *, notes: int, cards: int, rules: Rules) -> bool:
    """Whether a sync that deletes so many notes and cards of the stored ones deletes much."""
    return any(
        deleted * 100 > before * rules.deletion_percent and deleted > rules.deletion_least
        for before, deleted in ((stored.notes, notes), (stored.cards, cards))
    )


# --- in words ---------------------------------------------------------------------------


def told_what_was_kept(user: str, stored: Counts, uploaded: Counts, copy_id: str) -> str:
    """What the user is told after such an upload; clients show it as rich text."""
    return (
        f"An upload has replaced your collection on the server by a much smaller one: "
        f"{_numbers(uploaded)} instead of {_numbers(stored)}. If that was a mistake: the server "
        f"has kept the earlier collection. Whoever runs the server can put it back with the "
        f"command: cardkeep snapshot restore {in_command(user)} {copy_id}"
    )


def refusal(user: str, stored: Counts, uploaded: Counts) -> str:
    """Why such an upload is refused, and what to do."""
    return (
        f"The server keeps the collection that it has: yours has {_numbers(uploaded)}, the one on "
        f"the server has {_numbers(stored)}. To get the one on the server, sync again and choose "
        f"Download. If yours really is to replace it, whoever runs the server can allow that once "
        f"with the command: cardkeep snapshot allow {in_command(user)}"
    )


def _numbers(counts: Counts) -> str:
    return f"{counts.cards:,} cards and {counts.revlog:,} reviews"
