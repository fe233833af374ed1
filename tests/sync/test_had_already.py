# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reviews that a client has are not sent to one that would store them twice."""

import pytest

from cardkeep.messages import ApplyChunk, Chunk, Counts
from tests.sync.conftest import Device, World

OLD = 10


def begun(device: Device) -> None:
    """A sync up to where the client's own rows are sent."""
    device.start()
    device.change()
    device.fetch()


def push(device: Device, *reviews: int) -> None:
    """Reviews as a client sends them: with the usn that `meta` told it."""
    assert device.known is not None
    usn = device.known.usn
    rows = [[one, 1, usn, 3, 1, 1, 2500, 1000, 1] for one in reviews]
    device.say(ApplyChunk(Chunk(True, revlog=rows)))


def reviewed(device: Device, *reviews: int) -> set[int]:
    """A whole sync that brings these; the ids of those it was sent."""
    device.meta()
    device.start()
    device.change()
    got = {row[0] for chunk in device.fetch() for row in chunk.revlog}
    push(device, *reviews)
    device.finish()
    return got


@pytest.mark.parametrize("own", [(), (30,)], ids=["with nothing of its own", "with its own"])
@pytest.mark.parametrize("between", [1, 2, 3])
def test_syncs_of_others_between_meta_and_start(
    world: World, own: tuple[int, ...], between: int
) -> None:
    """The late one gets the others' reviews once, and its own not at all."""
    late, other = world.device("late", protocol=OLD), world.device("other")
    for device in (late, other):
        reviewed(device)
    late.meta()
    for n in range(between):
        reviewed(other, 10 + n)
    late.start()
    late.change()
    got = [row[0] for chunk in late.fetch() for row in chunk.revlog]
    assert sorted(got) == [10 + n for n in range(between)]
    push(late, *own)
    late.finish()
    assert reviewed(late) == set()
    assert reviewed(other, 50) == set(own)
    assert reviewed(late) == {50}


def test_answers_that_are_lost_again_and_again(world: World) -> None:
    """What all of these syncs brought is not sent back; what others brought is sent anew."""
    device, other = world.device("device", protocol=OLD), world.device("other")
    for one in (device, other):
        reviewed(one)
    before = device.usn
    reviewed(device, 1, 2)
    device.usn = before
    reviewed(other, 10)
    assert reviewed(device, 1, 2, 3) == {10}
    device.usn = before
    assert reviewed(device, 1, 2, 3, 4) == {10}
    assert reviewed(device, 5) == set()
    assert {row[0] for row in world.sql("SELECT id FROM revlog")} == {1, 2, 3, 4, 5, 10}


def test_two_devices_with_one_key(world: World) -> None:
    """The official server's key is shared: each gets what the other one brought."""
    one, two = world.device("shared", protocol=OLD), world.device("shared", protocol=OLD)
    reviewed(one)
    reviewed(two)
    one.shares_key = two.shares_key = True
    for n in range(3):
        assert reviewed(one, 10 + n) == ({20 + n - 1} if n else set())
        assert reviewed(two, 20 + n) == {10 + n}
    # One fetches only, and so sends nothing that tells which usn it believes in.
    other = world.device("other")
    for n in range(3):
        reviewed(other, 30 + n)
        assert {30 + n} == reviewed(one) - {22} == reviewed(two)


def test_what_was_kept_back_from_the_wrong_device_comes_with_its_next_sync(world: World) -> None:
    """Where the counts tell that it lacks them, they are not kept back again."""
    lost, twin = world.device("shared", protocol=OLD), world.device("shared", protocol=OLD)
    reviewed(lost)
    twin.usn = lost.usn
    reviewed(lost, 1)
    twin.meta()
    begun(twin)
    push(twin)
    has = world.counts()
    answer = twin.check(Counts(0, 0, 0, has.notetypes, has.decks, has.deck_configs))
    assert not answer.ok
    assert reviewed(twin) == {1}


def test_new_clients_get_everything(world: World) -> None:
    """They ignore what they have."""
    device = world.device("device")
    reviewed(device)
    before = device.usn
    reviewed(device, 1)
    device.usn = before
    assert reviewed(device) == {1}
