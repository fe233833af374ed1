# SPDX-License-Identifier: AGPL-3.0-or-later
"""A device whose last sync the server does not know of: its data folder was set back."""

import pytest

from cardkeep.backups import lost_usns
from cardkeep.collection import database, header
from cardkeep.errors import Conflict
from tests.sync.conftest import USER, World, note


def set_back(world: World, usn: int, first: int) -> None:
    """What a restore does to the collection."""
    folder = world.context.library.folder(USER)
    db = database.connect(folder.collection)
    header.set_usn(db, usn)
    lost_usns.leave_out(folder, header.read(db), first)
    header.set_usn(db, first)
    database.close(db)


def test_it_is_told_with_its_next_sync(world: World) -> None:
    """From then on every device asks for the direction, and is told why."""
    ntid, fields = world.basic()
    ahead, behind = world.device("phone"), world.device("laptop")
    ahead.sync(notes=[note(1, ntid, fields)])
    behind.sync()
    ahead.sync(notes=[note(2, ntid, fields)])
    known = ahead.meta()
    set_back(world, known.usn - 1, 1_000_000)

    behind.sync(notes=[note(3, ntid, fields)])
    told = ahead.meta()
    assert told.scm == known.scm
    with pytest.raises(Conflict, match="went back"):
        ahead.start()
    for device in (ahead, behind):
        told = device.meta()
        assert told.scm > known.scm
        assert told.mod == told.scm
        assert "backup" in told.message
    # The sync that was refused has left nothing behind.
    newcomer = world.device("new")
    newcomer.usn = told.usn
    newcomer.sync()


def test_a_folder_that_was_copied_back_by_hand(world: World) -> None:
    """Nothing was noted, but the device's number is one that the server has not reached."""
    ahead = world.device("phone")
    ahead.sync()
    ahead.sync()
    db = database.connect(world.context.library.folder(USER).collection)
    header.set_usn(db, ahead.usn - 1)
    database.close(db)
    ahead.meta()
    with pytest.raises(Conflict, match="went back"):
        ahead.start()


def test_the_server_waits_its_turn(world: World) -> None:
    """Another device's live sync is not cut off by it; it ends with 409 or before."""
    ahead, behind = world.device("phone"), world.device("laptop")
    ahead.sync()
    behind.sync()
    ahead.sync()
    set_back(world, ahead.usn - 1, 1_000_000)
    behind.meta()
    behind.start()
    behind.change()
    behind.fetch()
    behind.finish()
    ahead.meta()
    with pytest.raises(Conflict):
        ahead.start()
