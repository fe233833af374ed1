# SPDX-License-Identifier: AGPL-3.0-or-later
"""A grave: what a deletion leaves behind.

docs/collection-format.md, 5, and docs/sync-protocol.md, 4.3.
"""

import re
from collections.abc import Sequence
from enum import IntEnum

from msgspec import Struct

from cardkeep.errors import BadRequest
from cardkeep.records.numbers import INT64_MAX, INT64_MIN, Int64

_INTEGER = re.compile("[+-]?[0-9]{1,30}")


class GraveKind(IntEnum):
    """What lies in it: the column `type`."""

    CARD = 0
    NOTE = 1
    DECK = 2


class GravesEntry(Struct, frozen=True):
    """Deleted ids on the wire; all three lists must be there.

    Old AnkiMobile writes the ids as decimal strings.
    """

    cards: list[Int64 | str]
    decks: list[Int64 | str]
    notes: list[Int64 | str]


def grave_ids(ids: Sequence[int | str]) -> list[int]:
    """The ids as numbers; BadRequest for text that holds none."""
    return [value if isinstance(value, int) else _number(value) for value in ids]


def _number(text: str) -> int:
    if _INTEGER.fullmatch(text):
        number = int(text)
        if INT64_MIN <= number <= INT64_MAX:
            return number
    raise BadRequest(f"graves: expected an id, got {text[:40]!r}")
