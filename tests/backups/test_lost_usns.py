# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which numbers a restored collection leaves out, and which device's number tells what."""

from pathlib import Path

import pytest

from cardkeep.backups import lost_usns
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.header import Header
from cardkeep.records.usns import beyond

NOW = 1_800_000_000.0  # January 2027


def header(usn: int, scm: int = 1) -> Header:
    return Header(0, 0, scm, usn, 0)


@pytest.fixture
def folder(tmp_path: Path) -> UserFolder:
    return UserFolder(tmp_path / "ana")


def test_later_restores_go_further(folder: UserFolder) -> None:
    """Also of the same backup, and by more than anybody can have synced in between."""
    first = beyond(7, NOW)
    assert first > 1_000_000
    assert beyond(7, NOW + 3600) == first + 3600
    assert beyond(first + 50, NOW + 3600) > first + 1_000_000


def test_a_wrong_clock_does_not_matter() -> None:
    """A machine without one begins in 1970."""
    assert beyond(7, 0) == 1_000_007


def test_numbers_stay_within_32_bits() -> None:
    for usn in (0, 2**30, 2**31 - 1_000_000, 2**31 - 10):
        for now in (0.0, NOW, NOW * 2):
            assert usn < beyond(usn, now) < 2**31


def test_who_knows_more(folder: UserFolder) -> None:
    """A device that begins after the backup's usn; not one that knows the backup, or the server."""
    lost_usns.leave_out(folder, header(7), 1_000_007)
    server = header(1_000_020)
    assert [usn for usn in (0, 7) if lost_usns.is_lost(folder, usn, server)] == []
    assert all(lost_usns.is_lost(folder, usn, server) for usn in (8, 9, 500_000, 1_000_007))
    assert not any(lost_usns.is_lost(folder, usn, server) for usn in (1_000_008, 1_000_020))
    assert lost_usns.is_lost(folder, 1_000_021, server)


def test_each_restore_leaves_a_gap(folder: UserFolder) -> None:
    lost_usns.leave_out(folder, header(7), 1_000)
    lost_usns.leave_out(folder, header(1_050), 5_000)
    server = header(5_010)
    told = [
        usn for usn in (7, 8, 1_001, 1_050, 1_051, 5_001) if lost_usns.is_lost(folder, usn, server)
    ]
    assert told == [8, 1_051]


def test_another_collection_counts_from_elsewhere(folder: UserFolder) -> None:
    """After an upload the numbers are those of the device that it came from."""
    lost_usns.leave_out(folder, header(7, scm=1), 1_000_007)
    assert not lost_usns.is_lost(folder, 9, header(10, scm=2))
    assert lost_usns.is_lost(folder, 11, header(10, scm=2))


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b'[{"scm":"x"}]', b"\xff"])
def test_a_torn_file_is_no_reason_to_fail(folder: UserFolder, content: bytes) -> None:
    folder.make()
    folder.lost_usns.write_bytes(content)
    assert not lost_usns.is_lost(folder, 7, header(7))
    lost_usns.leave_out(folder, header(7), 20)
    assert lost_usns.is_lost(folder, 8, header(30))


def test_without_a_restore_nothing_is_made(folder: UserFolder) -> None:
    assert not lost_usns.is_lost(folder, 7, header(7))
    assert not folder.root.exists()
