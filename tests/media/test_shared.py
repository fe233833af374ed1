# SPDX-License-Identifier: AGPL-3.0-or-later
"""The same bytes of many users stored once."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardkeep.media.shared import SharedBytes
from cardkeep.media.store import MediaStore
from tests.media.looking import download, on_disk, sha1, trash_of, upload

SMALL, LARGE = b"small", b"large" * 500_000


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[MediaStore]:
    store = MediaStore(tmp_path, share=True)
    yield store
    store.close()


def inode(base: Path, user: str, name: str) -> int:
    return (base / user / "media" / name).stat().st_ino


def stored(base: Path) -> set[str]:
    return {path.name for path in (base / ".cardkeep" / "media").glob("??/*")}


def test_nothing_is_shared_unless_asked_for(store: MediaStore, tmp_path: Path) -> None:
    """The official server writes into files: shared ones would change for all users."""
    for user in ("ana", "bo"):
        upload(store, ("a", SMALL), user=user)
    assert inode(tmp_path, "ana", "a") != inode(tmp_path, "bo", "a")
    assert stored(tmp_path) == set()


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_the_same_bytes_are_one_file(data: bytes, sharing: MediaStore, tmp_path: Path) -> None:
    for user in ("ana", "bo"):
        upload(sharing, ("of " + user, data), ("own", user.encode()), user=user)
        on_disk(tmp_path, user).check()
    upload(sharing, ("again", data))
    assert inode(tmp_path, "ana", "of ana") == inode(tmp_path, "bo", "of bo")
    assert inode(tmp_path, "ana", "of ana") == inode(tmp_path, "ana", "again")
    assert stored(tmp_path) == {sha1(data), sha1(b"ana"), sha1(b"bo")}


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_what_one_user_does_to_a_shared_file_is_nothing_to_others(
    data: bytes, sharing: MediaStore, tmp_path: Path
) -> None:
    for user in ("ana", "bo", "cy"):
        upload(sharing, ("a", data), user=user)
    upload(sharing, ("a", b"other"))
    upload(sharing, ("a", None), user="bo")
    assert download(sharing, "a", user="cy") == [("a", data)]
    for user in ("ana", "bo", "cy"):
        on_disk(tmp_path, user).check()


def test_stored_bytes_that_were_changed_by_somebody_are_not_used(
    sharing: MediaStore, tmp_path: Path
) -> None:
    upload(sharing, ("a", SMALL))
    (tmp_path / "ana" / "media" / "a").write_bytes(b"SMALL")
    upload(sharing, ("a", SMALL), user="bo")
    on_disk(tmp_path, "bo").check()
    assert download(sharing, "a", user="bo") == [("a", SMALL)]
    upload(sharing, ("a", SMALL), user="cy")
    assert inode(tmp_path, "bo", "a") == inode(tmp_path, "cy", "a")


def test_what_no_user_has_any_more_goes(tmp_path: Path) -> None:
    sharing = MediaStore(tmp_path, share=True, trash_days=0)
    for user in ("ana", "bo"):
        upload(sharing, ("a", SMALL), (user, LARGE), user=user)
    upload(sharing, ("a", None))
    assert stored(tmp_path) == {sha1(SMALL), sha1(LARGE)}
    upload(sharing, ("a", None), user="bo")
    assert stored(tmp_path) == {sha1(LARGE)}
    assert download(sharing, "ana") == [("ana", LARGE)]
    sharing.close()


def test_what_a_user_left_behind_is_swept(sharing: MediaStore, tmp_path: Path) -> None:
    """Somebody removed the folder, or a process was killed between two steps."""
    for user in ("ana", "bo"):
        upload(sharing, ("a", SMALL), (user, user.encode()), user=user)
    shutil.rmtree(tmp_path / "ana")
    assert [path.name for path in SharedBytes(tmp_path).unused()] == [sha1(b"ana")]
    assert SharedBytes(tmp_path).sweep() == 1
    assert stored(tmp_path) == {sha1(SMALL), sha1(b"bo")}


def test_what_is_in_a_trash_stays(sharing: MediaStore, tmp_path: Path) -> None:
    """It is the same file there too, and takes no room of its own."""
    for user in ("ana", "bo"):
        upload(sharing, ("a", SMALL), user=user)
        upload(sharing, ("a", None), user=user)
    assert SharedBytes(tmp_path).sweep() == 0
    assert trash_of(tmp_path, "ana") == trash_of(tmp_path, "bo") == {sha1(SMALL): SMALL}
    later = time.time() + 31 * 24 * 3600
    assert sharing.sweep_trash("ana", later) == (1, 5)
    assert stored(tmp_path) == {sha1(SMALL)}
    assert sharing.sweep_trash("bo", later) == (1, 5)
    assert stored(tmp_path) == set()


def test_a_shared_file_can_be_deleted_twice(sharing: MediaStore, tmp_path: Path) -> None:
    """Renaming one name of a file to another name of it does nothing, and leaves both."""
    for name in ("a", "b", "c"):
        upload(sharing, (name, SMALL))
    upload(sharing, ("a", None))
    upload(sharing, ("b", None), ("c", b"other"))
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.trash == {sha1(SMALL): SMALL}


def test_shared_bytes_come_back_as_one_file(sharing: MediaStore, tmp_path: Path) -> None:
    """From the trash, or from another user's media once that is swept."""
    for name, user in (("a", "ana"), ("b", "ana"), ("a", "bo")):
        upload(sharing, (name, SMALL), user=user)
    wanted = list(sharing.listing("ana"))
    for days in (0, 31):
        upload(sharing, ("a", None), ("b", None))
        sharing.sweep_trash("ana", time.time() + days * 24 * 3600)
        assert sharing.bring_back("ana", wanted).brought == 2
        on_disk(tmp_path).check()
        assert inode(tmp_path, "ana", "a") == inode(tmp_path, "ana", "b")
        assert inode(tmp_path, "ana", "a") == inode(tmp_path, "bo", "a")
