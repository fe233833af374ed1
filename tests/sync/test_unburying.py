# SPDX-License-Identifier: AGPL-3.0-or-later
"""Buried cards come back on a new day (docs/sync-protocol.md, 6.9)."""

from tests.sync.conftest import World, card

DAY_MS = 86_400_000


def config(world: World, key: str) -> list[tuple[bytes]]:
    return world.sql("SELECT val FROM config WHERE KEY = ?", key)


def test_once_a_day(world: World) -> None:
    """The first start of a day gives buried cards their queues; `mod` and usn stay."""
    phone = world.device("phone")
    phone.sync(
        cards=[
            card(1, 1, type=0, queue=-2),
            card(2, 2, type=2, queue=-3, due=70),
            card(3, 3, type=1, queue=-2, due=1_700_000_000),
            card(4, 4, type=3, queue=-3, due=70),
            card(5, 5, type=2, queue=-1),
        ]
    )
    world.device("tablet").sync()
    buried = world.sql("SELECT id, queue, mod, usn FROM cards ORDER BY id")
    assert [row[1] for row in buried] == [-2, -3, -2, -3, -1]
    world.clock.ms += DAY_MS
    tablet = world.device("tablet")
    tablet.meta()
    tablet.start()
    now = world.sql("SELECT id, queue, mod, usn FROM cards ORDER BY id")
    assert [row[1] for row in now] == [0, 2, 1, 3, -1]
    assert [(row[0], row[2], row[3]) for row in now] == [(r[0], r[2], r[3]) for r in buried]


def test_a_missing_rollover_hour_is_no_new_day(world: World) -> None:
    """The hour is written as clients write it, and buried cards stay buried."""
    phone = world.device("phone")
    phone.sync(cards=[card(1, 1, queue=-2)])
    world.sql("DELETE FROM config WHERE KEY = 'rollover'")
    phone.sync()
    assert config(world, "rollover") == [(b"4",)]
    assert world.sql("SELECT queue FROM cards") == [(-2,)]


def test_a_day_far_ahead_is_a_wrong_clock(world: World) -> None:
    """It does not keep cards buried for ever."""
    phone = world.device("phone")
    phone.sync(cards=[card(1, 1, queue=-2)])
    world.sql("INSERT INTO config VALUES ('lastUnburied', 0, 0, CAST('999999' AS BLOB))")
    phone.sync()
    assert world.sql("SELECT queue FROM cards") == [(0,)]
