# SPDX-License-Identifier: AGPL-3.0-or-later
"""A card: row array of the wire and row of the table (docs/sync-protocol.md, 4.7)."""

from enum import IntEnum
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import astuple

from cardkeep.errors import BadRequest
from cardkeep.records.numbers import (
    INT32_MAX,
    INT32_MIN,
    UINT32_MAX,
    Int32,
    Int64,
    Number,
    UInt8,
    UInt16,
    UInt32,
    positive_uint32,
    whole,
    wrapped_int32,
)

CARD_COLUMNS = (
    "id",
    "nid",
    "did",
    "ord",
    "mod",
    "usn",
    "type",
    "queue",
    "due",
    "ivl",
    "factor",
    "reps",
    "lapses",
    "left",
    "odue",
    "odid",
    "flags",
    "data",
)


class CardType(IntEnum):
    """How far a card has come."""

    NEW = 0
    LEARNING = 1
    REVIEW = 2
    RELEARNING = 3


class CardQueue(IntEnum):
    """Where the scheduler takes a card from; negative: from nowhere for now."""

    BURIED_BY_USER = -3
    BURIED_BY_SCHEDULER = -2
    SUSPENDED = -1
    NEW = 0
    LEARNING = 1
    REVIEW = 2
    DAY_LEARNING = 3
    PREVIEW = 4


class CardEntry(Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """A card on the wire: 18 elements in the order of the table's columns.

    The ranges matter: clients cannot read a row outside them (docs/collection-format.md, 8).
    """

    id: Int64
    nid: Int64
    did: Int64
    ord: UInt16
    mod: Number
    usn: Int32
    type: Annotated[int, Meta(ge=0, le=3)]
    queue: Annotated[int, Meta(ge=-3, le=4)]
    due: Number
    ivl: Number
    factor: UInt16
    reps: UInt32
    lapses: UInt32
    left: UInt32
    odue: Number
    odid: Int64
    flags: UInt8
    data: str


def card_row(entry: CardEntry) -> tuple[Any, ...]:
    """The values of CARD_COLUMNS. `data` stays as it came: newer clients keep more in it.

    BadRequest if that is no text (a lone surrogate).
    """
    mod, due, ivl, odue = entry.mod, entry.due, entry.ivl, entry.odue
    if not entry.data.isascii():
        _check_text(entry)
    row: tuple[Any, ...] = astuple(entry)
    if (
        type(mod) is type(due) is type(ivl) is type(odue) is int
        and INT32_MIN <= due <= INT32_MAX
        and 0 <= ivl <= UINT32_MAX
        and INT32_MIN <= odue <= INT32_MAX
    ):
        return row
    values = list(row)
    values[4] = whole(mod)
    values[8] = wrapped_int32(due)
    values[9] = positive_uint32(ivl)
    values[14] = wrapped_int32(odue)
    return tuple(values)


def _check_text(entry: CardEntry) -> None:
    try:
        entry.data.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"card {entry.id}: a lone surrogate in its data") from error
