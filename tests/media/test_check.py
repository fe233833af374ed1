# SPDX-License-Identifier: AGPL-3.0-or-later
"""A check finds what is wrong with a user's media, and mends what has one right answer."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cardkeep.errors import Unavailable
from cardkeep.media.check import bytes_to_check, check_media
from cardkeep.media.delivery import Delivery
from cardkeep.media.files import MediaFolder
from cardkeep.media.incoming import Incoming
from cardkeep.media.store import MediaStore
from cardkeep.media.trash import Trash
from cardkeep.messages import Finding
from tests.media.looking import USER, download, listed, on_disk, seed, sha1, trash_of, upload


def check(store: MediaStore, *, repair: bool = False) -> list[Finding]:
    return list(check_media(store, USER, repair=repair))


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def mend(store: MediaStore, *expected: str) -> list[Finding]:
    """All that is found can be repaired, is, and is not found again."""
    found = check(store)
    assert kinds(found) == list(expected)
    assert all(finding.repairable and not finding.repaired for finding in found)
    repaired = check(store, repair=True)
    assert kinds(repaired) == list(expected)
    assert all(finding.repairable and finding.repaired for finding in repaired)
    assert check(store) == []
    return repaired


def only_tell(store: MediaStore, kind: str) -> str:
    """One thing is found, and a repair leaves it as it is; the words."""
    (finding,) = check(store)
    assert not finding.repaired
    assert not finding.repairable
    assert finding.kind == kind
    assert check(store, repair=True) == [finding]
    return finding.what


def sql(base: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(base / USER / "media.db")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def media(base: Path) -> Path:
    return base / USER / "media"


@pytest.fixture
def used(store: MediaStore, tmp_path: Path) -> MediaStore:
    """Three files, and a deleted and a replaced one."""
    upload(store, ("a", b"1"), ("b", b"22"), ("ü 猫", b"333"), ("gone", b"4"))
    upload(store, ("gone", None), ("b", b"new"))
    return store


def test_what_is_right_is_not_told(used: MediaStore, tmp_path: Path) -> None:
    before = on_disk(tmp_path)
    assert check(used) == []
    assert check(used, repair=True) == []
    assert on_disk(tmp_path) == before


def test_who_has_no_media_has_nothing_wrong(store: MediaStore, tmp_path: Path) -> None:
    for repair in (False, True):
        assert check(store, repair=repair) == []
    assert list(tmp_path.iterdir()) == []
    assert bytes_to_check(store, USER) == 0


def test_progress_tells_of_all_bytes(used: MediaStore, tmp_path: Path) -> None:
    """Also of those that are not there to be read."""
    upload(used, ("large", b"x" * 3_000_000), ("lost", b"y" * 1000), ("cut", b"z" * 1000))
    (media(tmp_path) / "lost").unlink()
    (media(tmp_path) / "cut").write_bytes(b"z")
    told: list[int] = []
    assert len(list(check_media(used, USER, progress=told.append))) == 2
    assert sum(told) == bytes_to_check(used, USER) == 1 + 3 + 3 + 3_002_000 + 1 + 2
    assert max(told) <= 1 << 20


# --- the index --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE meta SET total_bytes = 99", ["media-totals"]),
        ("UPDATE meta SET total_nonempty_files = 2", ["media-totals"]),
        ("DELETE FROM meta", ["media-totals"]),
        ("INSERT INTO meta SELECT * FROM meta", ["media-totals"]),
        ("UPDATE meta SET last_usn = 'x'", ["media-usn"]),
        ("UPDATE meta SET last_usn = 4", ["media-usn"]),
        ("UPDATE meta SET last_usn = 4, total_bytes = 1", ["media-totals", "media-usn"]),
    ],
)
def test_totals_that_are_wrong_are_recounted(
    statement: str, expected: list[str], used: MediaStore, tmp_path: Path
) -> None:
    before = on_disk(tmp_path)
    sql(tmp_path, statement)
    mend(used, *expected)
    assert on_disk(tmp_path) == before
    assert upload(used, ("c", b"5")) == (1, 7)


def test_files_that_share_a_number_get_new_ones(used: MediaStore, tmp_path: Path) -> None:
    """A device may have passed over either of them; now it hears of both."""
    sql(tmp_path, "UPDATE media SET usn = 3 WHERE fname = 'a'")
    mend(used, "media-usn")
    on_disk(tmp_path).check()
    assert listed(used, 6) == [("a", 7, sha1(b"1")), ("ü 猫", 8, sha1(b"333"))]


def test_a_number_that_no_device_asks_for_is_replaced(used: MediaStore, tmp_path: Path) -> None:
    sql(tmp_path, "UPDATE media SET usn = 0 WHERE fname = 'a'")
    mend(used, "media-usn")
    assert listed(used, 6) == [("a", 7, sha1(b"1"))]


@pytest.mark.parametrize("name", ["", ".", "..", "../outside", "/etc/passwd", "a/b"])
def test_rows_whose_names_leave_the_folder_are_dropped(
    name: str, used: MediaStore, tmp_path: Path
) -> None:
    """No file can be there for them."""
    (tmp_path / USER / "outside").write_bytes(b"1")
    before = on_disk(tmp_path)
    sql(
        tmp_path,
        f"INSERT INTO media VALUES ('{name}', x'{sha1(b'1')}', 1, 7, 0)",
        "UPDATE meta SET last_usn = 7, total_bytes = 8, total_nonempty_files = 4",
    )
    assert kinds(check(used)) == ["media-row"]
    assert kinds(check(used, repair=True)) == ["media-row", "media-totals"]
    assert check(used) == []
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.rows == before.rows
    assert (tmp_path / USER / "outside").exists()


@pytest.mark.parametrize(
    "change", ["csum = 'text'", "csum = x'00'", "size = 'x'", "usn = 'x'", "fname = x'61'"]
)
def test_a_row_without_sense_is_made_anew_from_its_file(
    change: str, used: MediaStore, tmp_path: Path
) -> None:
    sql(tmp_path, f"UPDATE media SET {change} WHERE fname = 'a'")
    assert "media-row" in kinds(check(used))
    check(used, repair=True)
    assert check(used) == []
    on_disk(tmp_path).check()
    assert listed(used, 6) == [("a", 7, sha1(b"1"))]


@pytest.mark.parametrize("damage", ["no database", "no index", "newer", "broken page"])
def test_a_new_index_takes_the_place_of_a_damaged_one(
    damage: str, store: MediaStore, tmp_path: Path
) -> None:
    seed(tmp_path, {f"{n}": b"x" for n in range(500)})
    path = tmp_path / USER / "media.db"
    if damage == "no database":
        path.write_bytes(b"no database" * 1000)
    elif damage == "no index":
        sql(tmp_path, "ALTER TABLE meta RENAME TO other")
    elif damage == "newer":
        sql(tmp_path, "PRAGMA user_version = 5")
    else:
        content = bytearray(path.read_bytes())
        content[3 * 4096 : 4 * 4096] = b"\xff" * 4096
        path.write_bytes(content)
    before = path.read_bytes()
    found = check(store)
    assert set(kinds(found)) == {"media-index"}
    store.close()
    assert path.read_bytes() == before
    if damage == "newer":  # made by a server that is newer than this one
        assert not any(finding.repairable for finding in found)
        assert check(store, repair=True) == found
        assert path.read_bytes() == before
        return
    assert all(finding.repairable for finding in found)
    (mended,) = check(store, repair=True)
    assert (mended.kind, mended.repaired) == ("media-index", True)
    assert "a new one of 500 files" in mended.what
    (aside,) = (tmp_path / USER / ".cardkeep" / "damaged").iterdir()
    assert (aside / "media.db").read_bytes() == before
    # No device has a number as high, so all of them look at every file.
    assert min(usn for _, usn, _ in listed(store)) > 1_000_000
    assert check(store) == []
    on_disk(tmp_path).check()


def test_an_index_that_another_program_holds_is_no_finding(
    used: MediaStore, tmp_path: Path
) -> None:
    used.close()
    with contextlib.closing(sqlite3.connect(tmp_path / USER / "media.db")) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="locked"):
            check(MediaStore(tmp_path))


# --- listed files -----------------------------------------------------------------------


def rot(path: Path) -> None:
    path.write_bytes(b"!" * path.stat().st_size)


def cut(path: Path) -> None:
    path.write_bytes(b"")


def to_link(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)


DAMAGES: dict[Callable[[Path], None], str] = {
    Path.unlink: "media-missing",
    to_link: "media-missing",
    rot: "media-changed",
    cut: "media-changed",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_whose_bytes_are_kept_gets_them_back(
    damage: Callable[[Path], None], used: MediaStore, tmp_path: Path
) -> None:
    """Nothing changes for the devices, and what lay there is in the trash."""
    upload(used, ("kept", b"bytes"), ("kept too", b"other bytes"), ("twin", b"other bytes"))
    upload(used, ("kept", None))
    upload(used, ("kept", b"bytes"))
    before = on_disk(tmp_path)
    assert sha1(b"bytes") in before.trash
    damage(media(tmp_path) / "kept")
    damage(media(tmp_path) / "kept too")
    wrong = {path.read_bytes() for path in media(tmp_path).glob("kept*") if not path.is_symlink()}
    mend(used, DAMAGES[damage], DAMAGES[damage])
    disk = on_disk(tmp_path)
    disk.check()
    assert disk == before
    assert wrong <= set(disk.trash.values())
    assert not (media(tmp_path) / "kept").is_symlink()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_whose_bytes_are_nowhere_is_told(
    damage: Callable[[Path], None], used: MediaStore, tmp_path: Path
) -> None:
    """A device that has it will send it again; the index must not take it for deleted."""
    damage(media(tmp_path) / "a")
    before = on_disk(tmp_path)
    assert "'a'" in only_tell(used, DAMAGES[damage])
    assert on_disk(tmp_path) == before


def test_what_a_mended_file_has_in_its_way_keeps_no_other_from_mending(
    used: MediaStore, tmp_path: Path
) -> None:
    for name in ("a", "b", "ü 猫"):
        upload(used, (f"twin of {name}", (media(tmp_path) / name).read_bytes()))
        (media(tmp_path) / name).unlink()
    (media(tmp_path) / "b" / "full").mkdir(parents=True)
    found = check(used, repair=True)
    assert [finding.repaired for finding in found] == [True, False, True]
    assert set(on_disk_names(tmp_path)) >= {"a", "ü 猫"}
    (media(tmp_path) / "b" / "full").rmdir()
    (media(tmp_path) / "b").rmdir()
    check(used, repair=True)
    on_disk(tmp_path).check()


def on_disk_names(base: Path) -> list[str]:
    return [path.name for path in media(base).iterdir() if path.is_file()]


def test_an_empty_folder_of_many_files_is_told_once(used: MediaStore, tmp_path: Path) -> None:
    """A disk is not mounted, and nothing must be mended on what lies beneath."""
    upload(used, *[(f"{n}", b"x") for n in range(25)])
    media(tmp_path).rename(tmp_path / "unmounted")
    assert "mounted" in only_tell(used, "media-folder")
    assert not media(tmp_path).exists()
    media(tmp_path).mkdir()
    assert "mounted" in only_tell(used, "media-folder")


# --- files that are not listed ----------------------------------------------------------


def test_files_that_are_not_listed_are_offered_to_the_devices(
    used: MediaStore, tmp_path: Path
) -> None:
    """As new ones, also where one was deleted before: somebody has put it there."""
    files = {f"new {n}": b"bytes %d" % n for n in range(60)} | {"gone": b"4"}
    for name, data in files.items():
        (media(tmp_path) / name).write_bytes(data)
    mend(used, *["media-unlisted"] * 61)
    disk = on_disk(tmp_path)
    disk.check()
    assert len(listed(used, 6)) == 61
    assert set(disk.files) == {"a", "b", "ü 猫", *files}


def test_an_index_that_is_gone_is_made_anew(used: MediaStore, tmp_path: Path) -> None:
    used.close()
    before = on_disk(tmp_path)
    (tmp_path / USER / "media.db").unlink()
    store = MediaStore(tmp_path)
    mend(store, *["media-unlisted"] * 3)
    store.close()
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.files == before.files


@pytest.mark.parametrize(
    "name", [b"a\\b", b"C:x", b"line\nbreak", "e\u0301".encode(), b"\xff\xfe", b"empty"]
)
def test_a_file_that_can_never_be_listed_is_told(
    name: bytes, used: MediaStore, tmp_path: Path
) -> None:
    path = media(tmp_path) / os.fsdecode(name)
    path.write_bytes(b"" if name == b"empty" else b"x")
    before = on_disk(tmp_path)
    assert "it cannot be" in only_tell(used, "media-unlisted")
    assert on_disk(tmp_path) == before


def test_a_file_larger_than_clients_take_is_told(used: MediaStore, tmp_path: Path) -> None:
    with (media(tmp_path) / "huge").open("wb") as file:
        file.truncate(100 * 1024 * 1024 + 1)
    assert "104857601 bytes" in only_tell(used, "media-unlisted")


def test_links_are_told_and_folders_are_nobodys_business(used: MediaStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    (media(tmp_path) / "link").symlink_to(outside)
    (media(tmp_path) / "lost+found").mkdir()
    assert "'link'" in only_tell(used, "media-link")
    assert listed(used, 6) == []


# --- what was left behind ---------------------------------------------------------------


def leave_behind(base: Path) -> None:
    """As if killed before the commit: a new file is in place, and an old one replaced."""
    incoming = base / USER / ".cardkeep" / "incoming"
    (incoming / "7").write_bytes(b'[["n",0],["a",1],["gone",null]]')
    (media(base) / "a").rename(incoming / "7.1.replaced")
    (media(base) / "n").write_bytes(b"n")
    (media(base) / "a").write_bytes(b"new a")
    (media(base) / "gone").write_bytes(b"4")


def test_a_cut_off_change_is_one_finding_and_settled(used: MediaStore, tmp_path: Path) -> None:
    """What it did to the files is no fault of theirs."""
    before = on_disk(tmp_path)
    leave_behind(tmp_path)
    left = on_disk(tmp_path)
    check(used)
    assert on_disk(tmp_path) == left
    mend(used, "media-leftover")
    assert on_disk(tmp_path) == before


def test_bytes_that_were_written_aside_are_found_and_removed(
    used: MediaStore, tmp_path: Path
) -> None:
    before = on_disk(tmp_path)
    incoming = tmp_path / USER / ".cardkeep" / "incoming"
    (incoming / "0.3").write_bytes(b"aside")
    (incoming / "9.0").write_bytes(b"aside")
    mend(used, "media-leftover", "media-leftover")
    assert on_disk(tmp_path) == before


def test_a_leftover_that_cannot_be_settled_is_told(used: MediaStore, tmp_path: Path) -> None:
    leave_behind(tmp_path)
    trash = tmp_path / USER / ".cardkeep" / "trash"
    trash.rename(tmp_path / "trash")
    trash.write_text("a file in its place")
    (finding,) = check(used, repair=True)
    assert finding.kind == "media-leftover"
    assert finding.repairable
    assert not finding.repaired
    trash.unlink()
    mend(used, "media-leftover")
    on_disk(tmp_path).check()


# --- the trash --------------------------------------------------------------------------


def test_bytes_in_the_trash_are_named_by_their_checksum(used: MediaStore, tmp_path: Path) -> None:
    """The later of two times counts."""
    trash = tmp_path / USER / ".cardkeep" / "trash"
    (trash / sha1(b"something else")).write_bytes(b"x")
    (trash / "named by somebody").write_bytes(b"4")
    os.utime(trash / sha1(b"4"), (1000, 1000))
    os.utime(trash / "named by somebody", (2000, 2000))
    (trash / "folder").mkdir()
    mend(used, "media-trash", "media-trash")
    (trash / "folder").rmdir()
    assert trash_of(tmp_path) == {sha1(data): data for data in (b"x", b"4", b"22")}
    assert (trash / sha1(b"4")).stat().st_mtime == 2000


def test_bytes_with_a_wrong_name_in_the_trash_are_put_back_at_once(
    used: MediaStore, tmp_path: Path
) -> None:
    (media(tmp_path) / "a").unlink()
    (tmp_path / USER / ".cardkeep" / "trash" / "wrong").write_bytes(b"1")
    found = check(used, repair=True)
    assert kinds(found) == ["media-trash", "media-missing"]
    assert all(finding.repaired for finding in found)
    assert "device" not in found[1].what
    on_disk(tmp_path).check()


OTHER_DISK = Path("/dev/shm")


@pytest.mark.skipif(not OTHER_DISK.is_dir(), reason="there is no second file system")
def test_media_on_another_disk_are_checked_where_they_are(
    store: MediaStore, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as made:
        (tmp_path / USER).mkdir()
        media(tmp_path).symlink_to(made)
        upload(store, ("a", b"1"), ("b", b"2"), ("c", b"2"))
        upload(store, ("a", None))
        assert check(store) == []
        (Path(made) / "b").unlink()
        (Path(made) / ".cardkeep-trash" / sha1(b"1")).write_bytes(b"!")
        (Path(made) / ".cardkeep-incoming" / "7.0").write_bytes(b"aside")
        mend(store, "media-trash", "media-leftover", "media-missing")
        assert download(store, "b") == [("b", b"2")]


# --- while the server runs --------------------------------------------------------------


@pytest.mark.parametrize("repair", [False, True])
def test_what_changes_meanwhile_is_no_finding(
    repair: bool, store: MediaStore, tmp_path: Path
) -> None:
    """Files come, go and are replaced all the time while checks run, one after the other."""
    upload(store, *[(f"{n}", b"old %d" % n) for n in range(20)])
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            upload(
                store,
                *[(f"{m % 20}", b"new %d" % n) for m in range(n, n + 5)],
                (f"comes {n}", b"c"),
                (f"comes {n - 1}", None),
                (f"{n % 20}", None),
            )
            time.sleep(0.002)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(25):
            assert check(store, repair=repair) == []
    finally:
        stop.set()
        thread.join()
    on_disk(tmp_path).check()


def test_a_deletion_that_is_under_way_is_no_finding(
    store: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted files leave the folder a moment after the index; a repair must not list them anew."""
    upload(store, ("a", b"a"), ("b", b"b"))
    tidy = Delivery._tidy
    found = []

    def look_before(delivery: Delivery) -> None:
        assert (media(tmp_path) / "a").exists()
        found.append(check(store, repair=True))
        tidy(delivery)

    monkeypatch.setattr(Delivery, "_tidy", look_before)
    upload(store, ("a", None))
    assert found == [[]]
    assert [(name, sum_) for name, _, sum_ in listed(store)] == [("b", sha1(b"b")), ("a", "")]
    on_disk(tmp_path).check()


def test_a_sync_need_not_wait_for_a_check(store: MediaStore, tmp_path: Path) -> None:
    """Not while a large file is hashed, nor while somebody thinks about a finding."""
    upload(store, ("large", b"x" * 3_000_000), ("lost", b"1"), ("z", b"z"))
    (media(tmp_path) / "lost").unlink()
    (media(tmp_path) / "stray").write_bytes(b"stray")
    uploads = 0

    def progress(_: int) -> None:
        nonlocal uploads
        uploads += 1
        assert upload(store, (f"{uploads}", b"x")) == (1, 3 + uploads)

    for repair in (False, True):
        for finding in check_media(store, USER, repair=repair, progress=progress):
            if finding.kind == "media-missing":
                progress(0)
        if not repair:
            assert uploads > 3


def test_a_file_replaced_just_before_it_would_be_mended_stays(
    store: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check has found other bytes than listed, and their right ones; a device is faster."""
    upload(store, ("a", b"right"), ("twin", b"right"))
    (media(tmp_path) / "a").write_bytes(b"wrong")
    taken = MediaStore.delivery

    def slow(self: MediaStore, user: str) -> object:
        monkeypatch.setattr(MediaStore, "delivery", taken)
        upload(store, ("a", b"newer"))
        return taken(self, user)

    monkeypatch.setattr(MediaStore, "delivery", slow)
    check(store, repair=True)
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.files["a"] == b"newer"
    assert disk.has(b"wrong")


CHECKING = """
import sys
from pathlib import Path
from cardkeep.media.check import check_media
from cardkeep.media.store import MediaStore
store = MediaStore(Path(sys.argv[1]))
for finding in check_media(store, "ana", repair=True):
    print(finding.kind, finding.repaired)
store.close()
"""


def test_another_process_checks_a_user_who_syncs(store: MediaStore, tmp_path: Path) -> None:
    seed(tmp_path, {f"{n}": b"bytes %d" % n for n in range(500)})
    for n in range(100):
        (media(tmp_path) / f"stray {n}").write_bytes(b"stray %d" % n)
    upload(store, ("0", b"x"))
    with subprocess.Popen(
        [sys.executable, "-c", CHECKING, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        n = 0
        while process.poll() is None:
            upload(store, (f"{n % 500}", b"new %d" % n))
            n += 1
            time.sleep(0.005)  # a lock that is never free for a moment is not to be had
        assert process.stdout is not None
        assert process.stdout.read() == "media-unlisted True\n" * 100
    disk = on_disk(tmp_path)
    disk.check()
    assert len(disk.files) == 600
    assert check(store) == []


def test_memory_stays_the_same_however_large_a_file(store: MediaStore, tmp_path: Path) -> None:
    seed(tmp_path, {"small": b"x"})
    with (media(tmp_path) / "large").open("wb") as file:
        file.truncate(90 << 20)
    script = CHECKING + "print(Path('/proc/self/status').read_text())"
    ran = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    finding, *status = ran.stdout.splitlines()
    assert finding == "media-unlisted True"
    (peak,) = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
    assert peak < 60_000


def test_trash_and_folder_can_be_looked_at_without_an_index(tmp_path: Path) -> None:
    """As a check does where the index is damaged."""
    (tmp_path / USER).mkdir()
    with MediaFolder(tmp_path / USER) as folder, Trash(folder, now=lambda: 0.0) as trash:
        with Incoming(folder, trash) as incoming:
            assert incoming.killed() == []
        assert list(trash.names()) == []
        assert trash.size() == 0
    assert [path.name for path in (tmp_path / USER).iterdir()] == ["media"]
