# SPDX-License-Identifier: AGPL-3.0-or-later
"""A review: row array of the wire and row of the table (docs/sync-protocol.md, 4.7)."""

from typing import Any

from msgspec import Struct

from cardkeep.records.numbers import (
    INT32_MAX,
    INT32_MIN,
    UINT32_MAX,
    Int32,
    Int64,
    Number,
    UInt8,
    positive_uint32,
    wrapped_int32,
)

REVLOG_COLUMNS = ("id", "cid", "usn", "ease", "ivl", "lastIvl", "factor", "time", "type")

RevlogRow = tuple[int, int, int, int, int, int, int, int, int]

# 0 learn, 1 review, 2 relearn, 3 filtered, 4 manual, 5 rescheduled.
_LAST_TYPE = 5


class RevlogEntry(Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """A review on the wire: 9 elements, of which old clients leave out the last."""

    id: Int64
    cid: Int64
    usn: Int32
    ease: UInt8
    ivl: Number
    lastIvl: Number  # noqa: N815 - the column's name
    factor: Number
    time: Number
    type: Any = 0


def revlog_row(entry: RevlogEntry) -> RevlogRow:
    """The values of REVLOG_COLUMNS; a type that is none becomes 0."""
    ivl, last_ivl, factor, time = entry.ivl, entry.lastIvl, entry.factor, entry.time
    if not (type(ivl) is int and INT32_MIN <= ivl <= INT32_MAX):
        ivl = wrapped_int32(ivl)
    if not (type(last_ivl) is int and INT32_MIN <= last_ivl <= INT32_MAX):
        last_ivl = wrapped_int32(last_ivl)
    if not (type(factor) is int and 0 <= factor <= UINT32_MAX):
        factor = positive_uint32(factor)
    if not (type(time) is int and 0 <= time <= UINT32_MAX):
        time = positive_uint32(time)
    kind = entry.type
    if type(kind) is not int or not 0 <= kind <= _LAST_TYPE:
        kind = 0
    return (entry.id, entry.cid, entry.usn, entry.ease, ivl, last_ivl, factor, time, kind)
