# SPDX-License-Identifier: AGPL-3.0-or-later
"""Numbers: widths, and decimals of single precision."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.records.numbers import positive_uint32, shortest, single, whole, wrapped_int32


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_wrap_as_machines_do(number: int) -> None:
    """The low 32 bits, with a sign or, if not negative, without."""
    low = number.to_bytes(8, "little", signed=True)[:4]
    assert whole(number) == number
    assert wrapped_int32(number) == int.from_bytes(low, "little", signed=True)
    assert positive_uint32(number) == (int.from_bytes(low, "little") if number >= 0 else 0)


@pytest.mark.parametrize(
    ("number", "integer"),
    [(1.9, 1), (-1.9, -1), (1e19, 2**63 - 1), (-1e19, -(2**63)), (2.0**63, 2**63 - 1)],
)
def test_fractions_are_cut_off(number: float, integer: int) -> None:
    """Towards zero, and held within 64 bits."""
    assert whole(number) == integer


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_shortest_decimal_reads_back_to_the_same_value(number: float) -> None:
    """And no decimal of fewer digits does."""
    found = shortest(number)
    assert single(found) == number
    digits = len(repr(found).replace("-", "").replace(".", "").split("e")[0].strip("0"))
    for fewer in range(1, digits):
        assert single(float(f"{number:.{fewer}g}")) != number


@pytest.mark.parametrize("number", [0.9, 0.1, 1.3, 2.5, 0.0, 1.0, 36500.0, 1e-7, 3.4e38])
def test_what_people_write_comes_back(number: float) -> None:
    """0.9 is 0.9 again, not 0.8999999762."""
    assert shortest(single(number)) == number


def test_single_precision_has_its_own_infinity() -> None:
    """A number too large for it is infinite."""
    assert single(1e39) == math.inf
    assert single(-1e39) == -math.inf
    largest = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
    assert single(largest) == largest
