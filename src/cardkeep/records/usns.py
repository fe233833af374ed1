# SPDX-License-Identifier: AGPL-3.0-or-later
"""Update sequence numbers that no lost state can have given out."""

_2020 = 1_577_836_800
# Where the clock is wrong: more than anybody has synced since the last state that is known.
_MANY = 1_000_000
# Clients keep numbers in 32 bits.
_MOST = 2**31 - 2 * _MANY


def beyond(usn: int, now: float) -> int:
    """A number that no later state than the one of `usn` has reached by `now` (s since 1970).

    Seconds since 2020: nobody syncs once a second for years.
    """
    later = max(usn + _MANY, int(now) - _2020)
    return later if later < _MOST else usn + 1
