# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is deleted or replaced is kept for some days, by its checksum."""

import errno
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from cardkeep.media.files import MediaFolder
from cardkeep.media.store import MediaStore
from cardkeep.media.trash import Trash
from tests.media.looking import USER, download, on_disk, sha1, trash_of, upload

DAY = 24 * 60 * 60
NOW = 1_800_000_000


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> MediaStore:
    return MediaStore(tmp_path, now=clock)


def trash(base: Path) -> Path:
    return base / USER / ".cardkeep" / "trash"


def times(base: Path) -> dict[str, float]:
    return {path.name: path.stat().st_mtime for path in trash(base).iterdir()}


def test_deleted_and_replaced_bytes_are_kept(store: MediaStore, tmp_path: Path) -> None:
    """Under their checksum, with the time at which they went."""
    large = os.urandom(3_000_000)
    upload(store, ("deleted", b"1"), ("replaced", b"2"), ("large", large), ("stays", b"4"))
    upload(store, ("deleted", None), ("replaced", b"new"), ("large", None))
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.files == {"replaced": b"new", "stays": b"4"}
    assert disk.trash == {sha1(data): data for data in (b"1", b"2", large)}
    assert times(tmp_path) == dict.fromkeys(disk.trash, NOW)


def test_nothing_is_made_before_something_is_deleted(store: MediaStore, tmp_path: Path) -> None:
    upload(store, ("a", b"1"))
    upload(store, ("b", b"2"), ("a", b"1"), ("c", None))
    assert not trash(tmp_path).exists()
    assert store.sweep_trash(USER) == (0, 0)
    assert store.sweep_trash("nobody") == (0, 0)
    assert not trash(tmp_path).exists()
    assert not (tmp_path / "nobody").exists()


def test_the_same_bytes_are_one_file_with_the_later_time(
    store: MediaStore, tmp_path: Path, clock: Clock
) -> None:
    upload(store, ("a", b"1"), ("b", b"1"))
    upload(store, ("a", None))
    clock.now += 5 * DAY
    upload(store, ("b", b"2"))
    assert times(tmp_path) == {sha1(b"1"): NOW + 5 * DAY}


def test_the_name_is_the_checksum_of_the_bytes_and_not_of_the_index(
    store: MediaStore, tmp_path: Path
) -> None:
    """Somebody has changed the files behind the server's back."""
    upload(store, ("a", b"1"), ("b", b"2"))
    for name in ("a", "b"):
        (tmp_path / USER / "media" / name).write_bytes(b"!" + name.encode())
    upload(store, ("a", None), ("b", b"new"))
    assert trash_of(tmp_path) == {sha1(b"!a"): b"!a", sha1(b"!b"): b"!b"}


def test_a_file_that_somebody_put_there_is_kept_when_an_upload_takes_its_name(
    store: MediaStore, tmp_path: Path
) -> None:
    upload(store, ("a", b"1"))
    (tmp_path / USER / "media" / "stray").write_bytes(b"of somebody")
    upload(store, ("stray", b"of a device"))
    on_disk(tmp_path).check()
    assert trash_of(tmp_path) == {sha1(b"of somebody"): b"of somebody"}


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_what_is_no_file_does_not_get_there(what: str, store: MediaStore, tmp_path: Path) -> None:
    upload(store, ("a", b"1"))
    path = tmp_path / USER / "media" / "a"
    path.unlink()
    outside = tmp_path / "outside"
    outside.write_bytes(b"keep me")
    if what == "link":
        path.symlink_to(outside)
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    upload(store, ("a", None))
    assert trash_of(tmp_path) == {}
    assert path.exists() == (what == "folder")
    assert outside.read_bytes() == b"keep me"


def test_it_is_emptied_of_what_is_old(store: MediaStore, tmp_path: Path, clock: Clock) -> None:
    upload(store, ("a", b"1"), ("b", b"22"), ("c", b"333"))
    for name in ("a", "b", "c"):
        upload(store, (name, None))
        clock.now += 10 * DAY
    assert store.sweep_trash(USER, NOW + 30 * DAY - 1) == (0, 0)
    assert store.sweep_trash(USER, NOW + 30 * DAY) == (1, 1)
    assert set(trash_of(tmp_path)) == {sha1(b"22"), sha1(b"333")}
    clock.now = NOW + 50 * DAY
    assert store.sweep_trash(USER) == (2, 5)
    assert trash_of(tmp_path) == {}


def test_what_is_not_ours_is_not_swept(store: MediaStore, tmp_path: Path) -> None:
    upload(store, ("a", b"1"))
    upload(store, ("a", None))
    names = ["README", "new-old", sha1(b"x").upper(), f"new-{'0' * 16}"]
    for name in names:
        (trash(tmp_path) / name).write_bytes(b"x")
    left = [*names[:3], "folder", "f" * 40]
    for name in left[3:]:
        (trash(tmp_path) / name).mkdir()
    assert store.sweep_trash(USER, NOW + 300 * DAY) == (2, 2)
    assert sorted(path.name for path in trash(tmp_path).iterdir()) == sorted(left)


def test_none_is_kept_for_no_days(store: MediaStore, tmp_path: Path, clock: Clock) -> None:
    """And what is there from before goes with the next sweep."""
    upload(store, ("a", b"1"), ("b", b"2"), ("c", b"3"))
    upload(store, ("a", None))
    keeping_none = MediaStore(tmp_path, trash_days=0, now=clock)
    upload(keeping_none, ("b", None), ("c", b"new"))
    on_disk(tmp_path).check()
    assert trash_of(tmp_path) == {sha1(b"1"): b"1"}
    assert keeping_none.sweep_trash(USER) == (1, 1)
    keeping_none.close()
    assert trash_of(tmp_path) == {}


def test_bytes_that_come_again_while_they_are_swept_stay(tmp_path: Path, clock: Clock) -> None:
    """A sweep looks at their time and removes them in one go, as far as others can see."""
    old = sha1(b"1")
    with MediaFolder(tmp_path / USER) as folder, Trash(folder, now=clock) as opened:
        rounds = 300
        stop = threading.Event()

        def sweep() -> None:
            with Trash(folder, now=clock) as other:
                while not stop.is_set():
                    other.sweep(NOW + 40 * DAY)

        thread = threading.Thread(target=sweep)
        path = tmp_path / USER / "media" / "a"
        path.write_bytes(b"1")
        opened.dispose("a", folder.descriptor)
        thread.start()
        try:
            for _ in range(rounds):
                clock.now = NOW
                path.write_bytes(b"1")
                opened.dispose("a", folder.descriptor)
                clock.now = NOW + 40 * DAY
                path.write_bytes(b"1")
                opened.dispose("a", folder.descriptor)
                assert (trash(tmp_path) / old).exists()
        finally:
            stop.set()
            thread.join()


# --- where it cannot be done ------------------------------------------------------------


def test_a_deletion_stands_while_there_can_be_no_trash(store: MediaStore, tmp_path: Path) -> None:
    """Nothing is lost meanwhile, nobody is held up, and once there can be one all is tidied."""
    upload(store, *[(f"{n}", b"bytes %d" % n) for n in range(4)], ("other", b"other"))
    trash(tmp_path).write_text("a file in its place")
    assert upload(store, ("0", None)) == (1, 6)
    assert upload(store, ("1", None), ("2", b"new")) == (2, 8)
    assert upload(store, ("3", b"another")) == (1, 9)
    # Its bytes still wait under that name; they are not what replaces them.
    assert upload(store, ("0", b"new 0")) == (1, 10)
    assert download(store, "0", "2", "3", "other")[0] == ("0", b"new 0")
    disk = on_disk(tmp_path)
    disk.check_listed_files()
    assert set(disk.files) - set(disk.live()) == {"1"}
    trash(tmp_path).unlink()
    download(store, "other")
    disk = on_disk(tmp_path)
    disk.check()
    assert set(disk.trash.values()) == {b"bytes %d" % n for n in range(4)}


def test_a_full_disk_does_not_keep_a_deletion_from_standing(
    store: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a name fits in; the next request tries again."""
    upload(store, ("a", b"1"), ("b", b"2"))
    really = os.replace

    def failing(old: str, new: str, **folders: int) -> None:
        if len(new) == 40:
            raise OSError(errno.ENOSPC, "No space left on device", new)
        really(old, new, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        assert upload(store, ("a", None)) == (1, 3)
        assert download(store, "b") == [("b", b"2")]
    assert on_disk(tmp_path).files == {"a": b"1", "b": b"2"}
    assert download(store, "b") == [("b", b"2")]
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.trash == {sha1(b"1"): b"1"}


def test_somebody_elses_file_is_copied(
    store: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time cannot be set. (As root it can, so this is played.)"""
    upload(store, ("a", b"1"))
    really = os.utime

    def refusing(path: str, *args: object, **kwargs: object) -> None:
        if path == "a":
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        really(path, *args, **kwargs)

    monkeypatch.setattr(os, "utime", refusing)
    upload(store, ("a", None))
    on_disk(tmp_path).check()
    assert times(tmp_path) == {sha1(b"1"): NOW}


FILL = """
import contextlib, os, sys
from pathlib import Path
from cardkeep.media.store import MediaStore
from tests.media.looking import upload, on_disk
base = Path(sys.argv[1])
store = MediaStore(base)
upload(store, *[(f"{n}", os.urandom(40_000)) for n in range(20)])
before = on_disk(base)
with open(base / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
    while True:
        filler.write(b"x" * 4096)
done = 0
for n in range(20):
    try:
        upload(store, (f"{n}", None))
        done += 1
    except Exception as error:
        print(type(error).__name__, error)
disk = on_disk(base)
for data in before.files.values():
    assert disk.has(data)
(base / "filler").unlink()
upload(store, *[(f"{n}", None) for n in range(20)])
disk = on_disk(base)
disk.check()
assert set(disk.trash.values()) == set(before.files.values())
print("done", done)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
def test_on_a_disk_that_is_really_full_nothing_is_lost(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no small disk can be made here")
    try:
        ran = subprocess.run(
            [sys.executable, "-c", FILL, small], capture_output=True, text=True, timeout=100
        )
    finally:
        subprocess.run(["umount", small], check=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "done" in ran.stdout


OTHER_DISK = Path("/dev/shm")


@pytest.mark.skipif(not OTHER_DISK.is_dir(), reason="there is no second file system")
def test_on_another_disk_it_lies_within_media(store: MediaStore, tmp_path: Path) -> None:
    """What went to the trash before media moved there is found and swept all the same."""
    upload(store, ("a", b"1"), ("b", b"2"))
    wanted = list(store.listing(USER))
    upload(store, ("a", None))
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as made:
        other, media = Path(made), tmp_path / USER / "media"
        (media / "b").unlink()
        (other / "b").write_bytes(b"2")
        media.rmdir()
        media.symlink_to(other)
        upload(store, ("b", None))
        assert [path.name for path in (other / ".cardkeep-trash").iterdir()] == [sha1(b"2")]
        assert list(trash_of(tmp_path)) == [sha1(b"1")]
        assert store.bring_back(USER, wanted) == (2, 0, [], [])
        assert download(store, "a", "b") == [("a", b"1"), ("b", b"2")]
        assert trash_of(tmp_path) == {}
        assert list((other / ".cardkeep-trash").iterdir()) == []
        upload(store, ("a", None), ("b", None))
        assert store.sweep_trash(USER, NOW + 31 * DAY) == (2, 2)
