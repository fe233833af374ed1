# SPDX-License-Identifier: AGPL-3.0-or-later
"""A process that is killed at any step loses nothing, and the next request heals what it left."""

import errno
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cardkeep.errors import Unavailable
from cardkeep.media import incoming
from cardkeep.media.store import MediaStore
from cardkeep.messages import MediaEntry
from tests.media.crashing import USER_FILES, act
from tests.media.looking import Disk, download, on_disk, upload


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that is possible: a killed process does not need a disk that is slow."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def used(folder: Path, *, share: bool = False) -> Path:
    """A base folder with a user's files."""
    base = folder / "before"
    base.mkdir()
    store = MediaStore(base, share=share)
    upload(store, *USER_FILES.items(), ("back", b"was once here"))
    upload(store, ("back", None))
    store.close()
    return base


def used_since(folder: Path) -> Path:
    """What another device made of it then."""
    base = used(folder)
    store = MediaStore(base)
    upload(store, ("deleted", None), ("replaced", b"of the other device"), ("since", b"since"))
    store.close()
    return base


def killed(before: Path, action: str, *, share: bool = False) -> list[tuple[str, Path]]:
    """The folder of each killed process, and at what step it was."""
    after = before.with_name(f"{before.name}-{action}")
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "tests.media.crashing", before, after, action),
            *(["share"] if share else []),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    steps = ran.stdout.splitlines()
    assert steps.pop() == "the end"
    assert len(steps) > 10
    return [(step, after / f"{number}") for number, step in enumerate(steps, start=1)]


def finished(before: Path, action: str) -> Disk:
    """What the action makes of the folder when nothing happens to it."""
    base = before.with_name(f"{before.name}-whole")
    shutil.copytree(before, base)
    act(base, action)
    disk = on_disk(base)
    disk.check()
    shutil.rmtree(base)
    return disk


def copied(base: Path) -> Path:
    copy = base.with_name(f"{base.name}-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(base, copy)
    return copy


def check_for_official(disk: Disk, after: Disk) -> None:
    """At each moment, another server finds each listed file whole, in its old or new form."""
    disk.check_listed_files()
    for name, checksum in disk.live().items():
        found = hashlib.sha1(disk.files[name]).hexdigest()
        assert found in (checksum, after.live().get(name)), name


def check_nothing_lost(before: Disk, base: Path) -> None:
    """All bytes that there were, among the media or in the trash, are somewhere on disk."""
    found = {path.read_bytes() for path in (base / "ana").rglob("*") if path.is_file()}
    assert {*before.files.values(), *before.trash.values()} <= found


def check_kept(before: Disk, after: Disk) -> None:
    """They are among the media or in the trash."""
    after.check_trash()
    for data in (*before.files.values(), *before.trash.values()):
        assert after.has(data), data


def read_something(base: Path) -> None:
    store = MediaStore(base)
    assert download(store, "same") == [("same", b"same bytes")]
    store.close()


@pytest.mark.parametrize(
    ("action", "share"),
    [
        ("mixed", False),
        ("mixed", True),
        ("deletions", False),
        ("replacement", False),
        ("bringing back", False),
    ],
)
def test_a_change_killed_at_any_step_is_all_there_or_not_at_all(
    action: str, share: bool, folder: Path
) -> None:
    """Whatever request comes next: one for files, another upload, or the same one again.

    And no bytes are ever lost: each is under its name, or in the trash.
    """
    base = used_since(folder) if action == "bringing back" else used(folder, share=share)
    before, after = on_disk(base), finished(base, action)
    outcomes = []
    for step, left in killed(base, action, share=share):
        check_for_official(on_disk(copied(left)), after)
        check_nothing_lost(before, left)

        asked = copied(left)
        read_something(asked)
        healed = on_disk(asked)
        assert healed in (before, after), step
        check_kept(before, healed)
        outcomes.append(healed == after)

        other = copied(left)
        act(other, "other")
        disk = on_disk(other)
        disk.check()
        check_kept(before, disk)
        assert set(disk.live()) == set(healed.live()) | {"other"}, step

        act(left, action)
        disk = on_disk(left)
        disk.check()
        check_kept(before, disk)
        assert disk.live() == after.live(), step
        # What a lost answer stored is not stored again.
        assert healed == before or disk.rows.keys() == after.rows.keys(), step
    # Killed before the commit, it is undone; afterwards it stands.
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def test_a_first_upload_killed_at_any_step_leaves_a_folder_that_works(folder: Path) -> None:
    base = folder / "before"
    base.mkdir()
    after = finished(base, "first")
    for step, left in killed(base, "first"):
        store = MediaStore(left)
        assert store.last_usn("ana") in (0, 2), step
        store.close()
        act(left, "first")
        disk = on_disk(left)
        disk.check()
        assert disk == after, step


def test_a_mending_killed_at_any_step_goes_on(folder: Path) -> None:
    """A file that is gone, one with other bytes, one that is not listed, a cut-off upload."""
    base = used_since(folder)
    act(base, "bringing back")
    act(base, "deletions")
    act(base, "bringing back")
    store = MediaStore(base)
    upload(store, ("deleted", None))
    upload(store, ("deleted", USER_FILES["deleted"]))
    store.close()
    media = base / "ana" / "media"
    (media / "replaced").write_bytes(b"THE old bytes")
    (media / "deleted").unlink()
    (media / "unlisted").write_bytes(b"somebody's")
    leave_behind(base, b'[["same",0]]')
    before, after = on_disk(base), finished(base, "mending")
    assert after.live().keys() == {*before.live(), "unlisted"}
    for step, left in killed(base, "mending"):
        check_nothing_lost(before, left)
        act(left, "mending")
        disk = on_disk(left)
        disk.check()
        check_kept(before, disk)
        assert disk.live() == after.live(), step


def test_a_sweep_killed_at_any_step_is_finished_by_the_next(folder: Path) -> None:
    base = used_since(folder)
    assert on_disk(base).trash
    for _, left in killed(base, "sweeping"):
        act(left, "sweeping")
        disk = on_disk(left)
        disk.check()
        assert disk.trash == {}


@pytest.mark.parametrize("next_action", ["reading", "other"])
@pytest.mark.parametrize("moment", ["before COMMIT", "after COMMIT"])
def test_healing_that_is_killed_at_any_step_is_healed(
    moment: str, next_action: str, folder: Path
) -> None:
    base = used(folder)
    before, after = on_disk(base), finished(base, "mixed")
    # The last commit is the upload's own, or that of tidying up after it.
    (left, *_) = [left for step, left in killed(base, "mixed") if step == moment]
    for step, twice_killed in killed(left, next_action):
        check_for_official(on_disk(copied(twice_killed)), after)
        read_something(twice_killed)
        disk = on_disk(twice_killed)
        disk.check()
        expected = before if moment == "before COMMIT" else after
        live = {name: csum for name, csum in disk.live().items() if name != "other"}
        assert live == expected.live(), step


def without_nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "_NAMELESS", None)


def refused_nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "_NAMELESS", os.O_RDWR)  # of a folder: an error


def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "no /proc")

    monkeypatch.setattr(incoming, "_link_nameless", fail)


SYSTEMS = [None, without_nameless, refused_nameless, without_proc]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system and system.__name__)
def test_an_upload_that_the_disk_does_not_take_leaves_nothing(
    folder: Path,
    system: Callable[[pytest.MonkeyPatch], None] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in the trash either. What somebody has put in a new file's place stays, and is kept."""
    if system is not None:
        system(monkeypatch)
    base = used(folder)
    by_hand = base / "ana/media/by hand"
    by_hand.write_bytes(b"somebody's")
    before = on_disk(base)
    store = MediaStore(base)
    files = [
        ("first", b"1" * 100_000),
        ("by hand", b"theirs"),
        ("replaced", b"3"),
        ("second", b"2" * 300_000),
    ]
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most))
    try:
        with pytest.raises(Unavailable, match="File too large"):
            upload(store, *files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
    failed = on_disk(base)
    assert (failed.files, failed.trash) == (before.files, before.trash)
    assert failed.waiting == []
    upload(store, *files)
    store.close()
    disk = on_disk(base)
    disk.check()
    assert {**disk.files, **dict(files)} == disk.files
    assert disk.has(b"somebody's")


def test_an_upload_under_way_is_not_taken_for_a_killed_one(folder: Path) -> None:
    """Two devices at once: the bytes that one has written aside are not the other's to remove."""
    base = used(folder)
    first, second = MediaStore(base), MediaStore(base)

    class Meanwhile:
        size = 3 << 20

        def __init__(self) -> None:
            self._pieces = [b"a" * (1 << 20), b"b" * (1 << 20), b"c" * (1 << 20)]

        def read(self, size: int) -> bytes:
            upload(second, ("other", b"%d" % len(self._pieces)))
            assert download(second, "same") == [("same", b"same bytes")]
            return self._pieces.pop(0) if self._pieces else b""

        def close(self) -> None:
            pass

    first.upload("ana", [MediaEntry("small", None), MediaEntry("slow", Meanwhile)])
    first.close()
    second.close()
    disk = on_disk(base)
    disk.check()
    assert {"other", "slow"} <= set(disk.live())


@pytest.mark.parametrize(
    "leftover",
    ["0", "7", "7.3", "7.3.replaced", "0.3", "0.0.replaced"],
)
def test_pieces_of_a_leftover_are_removed(leftover: str, folder: Path) -> None:
    """A power cut may keep any of an upload's files and lose the others."""
    base = used(folder)
    before = on_disk(base)
    incoming = base / "ana" / ".cardkeep" / "incoming"
    outside = base / "ana" / "outside"
    outside.touch()
    for content in (
        b"",
        b"[[",
        b"\xff\0",
        b'[["same",3]]',
        b'[["deleted",null]]',
        b'[["x",3],["y",1]]',
        b'[["../outside",null],["..",3],["",null]]',
    ):
        (incoming / leftover).write_bytes(content)
        read_something(base)
        assert on_disk(base) == before
    assert outside.exists()


def leave_behind(base: Path, journal: bytes) -> Path:
    journal_file = base / "ana" / ".cardkeep" / "incoming" / "7"
    journal_file.write_bytes(journal)
    return journal_file


def test_a_leftover_that_cannot_be_settled_keeps_nobody_waiting(folder: Path) -> None:
    """Here since somebody has put a folder into a file's place; later it is settled."""
    base = used(folder)
    media = base / "ana" / "media"
    journal = leave_behind(base, b'[["replaced",0]]')
    journal.with_name("7.0.replaced").write_bytes(b"the old bytes")
    (media / "replaced").unlink()
    (media / "replaced" / "full").mkdir(parents=True)
    read_something(base)
    act(base, "other")
    assert journal.with_name("7.0.replaced").exists()
    shutil.rmtree(media / "replaced")
    read_something(base)
    on_disk(base).check()
    assert (media / "replaced").read_bytes() == b"the old bytes"


def test_a_folder_in_the_place_of_a_file_to_be_removed_is_left_alone(folder: Path) -> None:
    base = used(folder)
    (base / "ana" / "media" / "back").mkdir()
    journal = leave_behind(base, b'[["back",null]]')
    read_something(base)
    assert journal.read_bytes().strip() == b"[]"
    assert (base / "ana" / "media" / "back").is_dir()


def test_where_cases_are_not_told_apart_a_file_survives_the_removal_of_its_other_name(
    folder: Path,
) -> None:
    """A client renames a file from SAME to same. (Two links stand for such a file system.)"""
    base = used(folder)
    media = base / "ana" / "media"
    (media / "SAME").hardlink_to(media / "same")
    (media / "OTHER").write_bytes(b"a real other file")
    leave_behind(base, b'[["SAME",null],["OTHER",null],["same",0]]')
    read_something(base)
    assert (media / "SAME").exists()
    assert not (media / "OTHER").exists()


def test_what_is_not_an_uploads_is_left_alone(folder: Path) -> None:
    base = used(folder)
    stray = base / "ana" / "media" / "stray"
    stray.write_bytes(b"of somebody who put it there")
    incoming = base / "ana" / ".cardkeep" / "incoming"
    (incoming / "7").write_bytes(b'[["stray",0]]')
    (incoming / "7.0").write_bytes(b"never moved in")
    note = base / "ana" / ".cardkeep" / "incoming" / "README.txt"
    note.write_text("what is this folder?")
    read_something(base)
    act(base, "other")
    assert on_disk(base).waiting == [note.name]
    assert stray.read_bytes() == b"of somebody who put it there"
