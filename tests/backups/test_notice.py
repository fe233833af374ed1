# SPDX-License-Identifier: AGPL-3.0-or-later
"""What users are told through the protocol, and how often."""

import os
from pathlib import Path

import pytest

from cardkeep.backups import notice
from cardkeep.collection.folder import UserFolder

MINUTES = 60_000
DAYS = 86_400_000


@pytest.fixture
def folder(tmp_path: Path) -> UserFolder:
    return UserFolder(tmp_path / "ana")


def test_nothing_is_told_without_a_notice(folder: UserFolder) -> None:
    """And no folder comes into being by asking."""
    assert notice.tell(folder, "1", "k", 0) == ""
    notice.followed(folder, "1", "k")
    notice.downloaded(folder, "1")
    notice.drop(folder)
    assert not folder.root.exists()


def test_each_device_is_told_once(folder: UserFolder) -> None:
    """At its next sync."""
    notice.put(folder, "words", 0)
    assert notice.tell(folder, "1", "a", 1) == "words"
    assert notice.tell(folder, "1", "b", 2) == ""
    assert notice.tell(folder, "2", "c", 3) == "words"


def test_what_a_background_look_may_have_swallowed_is_told_again(folder: UserFolder) -> None:
    """Some minutes later, thrice at most, unless a sync followed under the same session key."""
    notice.put(folder, "words", 0)
    told = [notice.tell(folder, "1", f"{n}", n * 6 * MINUTES) for n in range(5)]
    assert told == ["words", "words", "words", "", ""]
    assert notice.tell(folder, "2", "look", 0) == "words"
    notice.followed(folder, "2", "other")
    assert notice.tell(folder, "2", "sync", 6 * MINUTES) == "words"
    notice.followed(folder, "2", "sync")
    assert notice.tell(folder, "2", "later", 60 * MINUTES) == ""


def test_one_that_stays_is_told_until_the_device_has_downloaded(folder: UserFolder) -> None:
    """Whatever else the device does."""
    notice.put(folder, "words", 0, stays=True)
    for n in range(5):
        assert notice.tell(folder, "1", f"{n}", n) == "words"
        notice.followed(folder, "1", f"{n}")
    notice.downloaded(folder, "1")
    assert notice.tell(folder, "1", "k", 9) == ""
    assert notice.tell(folder, "2", "k", 9) == "words"


def test_a_notice_is_forgotten_after_a_month(folder: UserFolder) -> None:
    """A device that was in a drawer is not told old news."""
    notice.put(folder, "words", 0, stays=True)
    assert notice.tell(folder, "1", "a", 29 * DAYS) == "words"
    assert notice.tell(folder, "1", "a", 31 * DAYS) == ""
    assert not folder.notice.exists()


def test_the_last_notice_counts(folder: UserFolder) -> None:
    """It is told to all again; dropped, it is told to nobody."""
    notice.put(folder, "one", 0)
    notice.tell(folder, "1", "a", 1)
    notice.put(folder, "two", 2)
    assert notice.tell(folder, "1", "b", 3) == "two"
    notice.drop(folder)
    assert notice.tell(folder, "2", "c", 4) == ""


def test_what_another_process_puts_is_told_at_once(folder: UserFolder) -> None:
    """Also if it was known for long that there was nothing to tell."""
    folder.make()
    os.utime(folder.root, (1_000_000_000, 1_000_000_000))
    stamp = folder.stamp()
    assert stamp is not None
    assert notice.tell(folder, "1", "a", 1, stamp) == ""
    assert folder.stamp() == stamp
    notice.put(UserFolder(folder.root), "words", 2)
    assert notice.tell(folder, "1", "b", 3, folder.stamp()) == "words"


def test_a_damaged_notice_keeps_nobody_from_syncing(folder: UserFolder) -> None:
    """It counts as none."""
    notice.put(folder, "one", 0)
    folder.notice.write_bytes(b'{"words": ')
    assert notice.tell(folder, "1", "a", 1) == ""
