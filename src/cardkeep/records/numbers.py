# SPDX-License-Identifier: AGPL-3.0-or-later
"""Numbers as clients send them and as the tables hold them."""

import struct
from typing import Annotated

from msgspec import Meta

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
UINT32_MAX = 2**32 - 1

Int64 = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
Int32 = Annotated[int, Meta(ge=INT32_MIN, le=INT32_MAX)]
UInt32 = Annotated[int, Meta(ge=0, le=UINT32_MAX)]
UInt16 = Annotated[int, Meta(ge=0, le=65535)]
UInt8 = Annotated[int, Meta(ge=0, le=255)]

# Creation day of a collection in s: 35,000 years either way, within what engines reckon with.
CREATION_MIN, CREATION_MAX = -(2**40), 2**40
CreationTime = Annotated[int, Meta(ge=CREATION_MIN, le=CREATION_MAX)]

# Old clients computed intervals and times as floats, and some of those still travel.
Number = Int64 | float

_SINGLE = struct.Struct("<f")
# Any decimal of six digits survives single precision, and nine digits tell any two of its
# values apart; but below the smallest normal number there are fewer digits.
_DIGITS = range(6, 10)
_FEW_DIGITS = range(1, 10)
_SMALLEST_NORMAL = 2.0**-126


def whole(number: int | float) -> int:
    """The number without its fraction, held within 64 bits."""
    if type(number) is int:
        return number
    # Compared as floats: float(INT64_MAX) is 2**63, one too many.
    if number >= INT64_MAX:
        return INT64_MAX
    return INT64_MIN if number <= INT64_MIN else int(number)


def wrapped_int32(number: int | float) -> int:
    """Without its fraction, the low 32 bits taken as a signed number."""
    return (whole(number) + 2**31) % 2**32 - 2**31


def positive_uint32(number: int | float) -> int:
    """Without its fraction, 0 if negative, else the low 32 bits."""
    return max(whole(number), 0) % 2**32


def single(number: float) -> float:
    """The number rounded to single precision; infinite if that has no room for it."""
    try:
        rounded: float = _SINGLE.unpack(_SINGLE.pack(number))[0]
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")
    return rounded


def shortest(number: float) -> float:
    """The shortest decimal that reads back to the same single-precision value.

    A blob's 0.9 is 0.8999999762 when widened; JSON says 0.9 (docs/collection-format.md, 7.0).
    """
    for digits in _DIGITS if abs(number) >= _SMALLEST_NORMAL else _FEW_DIGITS:
        candidate = float(f"{number:.{digits}g}")
        if single(candidate) == number:
            return candidate
    return number
