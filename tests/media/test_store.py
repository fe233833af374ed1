# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the media methods do to a user's files and index."""

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cardkeep.errors import BadRequest, MissingMedia, Unavailable
from cardkeep.media.store import DOWNLOAD_TARGET, MediaStore
from cardkeep.messages import MediaEntry
from tests.media.looking import USER, download, element, listed, on_disk, seed, sha1, upload


def test_a_user_without_media_has_none(store: MediaStore, tmp_path: Path) -> None:
    """Asking makes nothing on disk: a name that somebody tries out costs no files."""
    assert store.last_usn(USER) == 0
    assert listed(store) == []
    assert store.sanity(USER, 0)
    assert not store.sanity(USER, 1)
    assert download(store) == []
    with pytest.raises(MissingMedia):
        download(store, "a")
    assert list(tmp_path.iterdir()) == []


def test_files_are_stored_under_their_own_names(store: MediaStore, tmp_path: Path) -> None:
    assert upload(store, ("a.png", b"1"), ("Ä 猫.mp3", b"22"), ("ab:c?", b"3")) == (3, 3)
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.files == {"a.png": b"1", "Ä 猫.mp3": b"22", "ab:c?": b"3"}
    assert listed(store) == [
        ("a.png", 1, sha1(b"1")),
        ("Ä 猫.mp3", 2, sha1(b"22")),
        ("ab:c?", 3, sha1(b"3")),
    ]
    assert disk.totals == (3, 4, 3)
    assert download(store, "Ä 猫.mp3", "a.png") == [("Ä 猫.mp3", b"22"), ("a.png", b"1")]


def test_an_upload_of_nothing_new_leaves_nothing_to_tidy_up(
    store: MediaStore, caplog: pytest.LogCaptureFixture
) -> None:
    upload(store, ("a", b"a"), ("b", b"b"))
    assert upload(store, ("b", b"b"), ("a", b"a")) == (2, 2)
    assert caplog.messages == []


def test_files_are_replaced_and_deleted(store: MediaStore, tmp_path: Path) -> None:
    upload(store, ("a", b"old"), ("b", b"b"), ("c", b"c"))
    assert upload(store, ("a", b"new"), ("b", None), ("nobody", None), ("c", b"c")) == (4, 5)
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.files == {"a": b"new", "c": b"c"}
    assert listed(store) == [("c", 3, sha1(b"c")), ("a", 4, sha1(b"new")), ("b", 5, "")]
    assert listed(store, 4) == [("b", 5, "")]
    # The checksum of a deleted file stays.
    assert disk.rows["b"] == (sha1(b"b"), 0, 5)
    assert store.last_usn(USER) == 5


def test_a_deleted_file_can_come_back(store: MediaStore, tmp_path: Path) -> None:
    upload(store, ("a", b"1"))
    upload(store, ("a", None))
    upload(store, ("a", b"1"))
    assert listed(store) == [("a", 3, sha1(b"1"))]
    on_disk(tmp_path).check()


def test_the_same_name_twice_in_one_upload_is_done_twice(store: MediaStore, tmp_path: Path) -> None:
    elements = [("a", b"1"), ("a", b"2"), ("b", b"x"), ("b", None), ("c", None), ("c", b"c")]
    assert upload(store, *elements) == (6, 5)
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.files == {"a": b"2", "c": b"c"}


def test_a_file_that_is_deleted_and_sent_again_at_once_stays(
    store: MediaStore, tmp_path: Path
) -> None:
    upload(store, ("a", b"1"))
    assert upload(store, ("a", None), ("a", b"1")) == (2, 3)
    on_disk(tmp_path).check()
    assert download(store, "a") == [("a", b"1")]


def test_an_upload_of_nothing_new_changes_nothing(
    store: MediaStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upload(store, ("a", b"1"))
    before = on_disk(tmp_path)
    assert upload(store) == (0, 1)
    assert upload(store, ("a", b"1"), ("b", None)) == (2, 1)
    assert on_disk(tmp_path) == before
    assert caplog.messages == []


def test_large_files_are_stored_piece_by_piece(store: MediaStore, tmp_path: Path) -> None:
    data = os.urandom(3_333_333)
    upload(store, ("large", data), ("small", b"s"))
    on_disk(tmp_path).check()
    assert listed(store)[0] == ("large", 1, sha1(data))
    assert download(store, "large") == [("large", data)]


def test_users_have_nothing_in_common(store: MediaStore, tmp_path: Path) -> None:
    upload(store, ("a", b"ana's"))
    upload(store, ("a", b"bo's"), ("b", b"b"), user="bo")
    assert (store.last_usn(USER), store.last_usn("bo")) == (1, 2)
    assert download(store, "a", user="bo") == [("a", b"bo's")]
    assert download(store, "a") == [("a", b"ana's")]


# --- pages, counts, downloads -----------------------------------------------------------


def test_changes_come_in_order_by_the_thousand(store: MediaStore, tmp_path: Path) -> None:
    """Paging by the last usn of each page finds each change once."""
    seed(tmp_path, {f"{n * 7919 % 1050}": b"%d" % n for n in range(1050)})
    upload(store, ("3", None), ("7", b"again"))
    pages = []
    usn = 0
    while page := listed(store, usn):
        pages.append(page)
        usn = page[-1][1]
    assert [len(page) for page in pages] == [1000, 50]
    changes = [change for page in pages for change in page]
    assert [usn for _, usn, _ in changes] == sorted(usn for _, usn, _ in changes)
    assert {name for name, _, _ in changes} == {str(n) for n in range(1050)}
    assert [(name, usn) for name, usn, _ in changes[-2:]] == [("3", 1051), ("7", 1052)]


def test_the_count_is_of_files_that_are_not_deleted(store: MediaStore) -> None:
    upload(store, ("a", b"1"), ("b", b"2"), ("c", b"3"))
    upload(store, ("b", None))
    assert store.sanity(USER, 2)
    assert not store.sanity(USER, 3)


def test_a_count_that_is_wrong_in_the_index_is_put_right(store: MediaStore, tmp_path: Path) -> None:
    upload(store, ("a", b"1"), ("b", b"2"))
    with contextlib.closing(sqlite3.connect(tmp_path / USER / "media.db")) as db:
        db.execute("UPDATE meta SET total_nonempty_files = 7, total_bytes = 0")
        db.commit()
    assert store.sanity(USER, 2)
    on_disk(tmp_path).check()


# --- listing ----------------------------------------------------------------------------


def test_a_listing_names_all_files_that_are_not_deleted(store: MediaStore, tmp_path: Path) -> None:
    upload(store, ("b", b"22"), ("a", b"1"), ("ü 猫", b"333"), ("gone", b"4"))
    upload(store, ("gone", None), ("b", b"new"))
    files = store.listing(USER)
    assert files.last_usn == 6
    assert list(files) == [
        ("a", sha1(b"1"), 1),
        ("b", sha1(b"new"), 3),
        ("ü 猫", sha1(b"333"), 3),
    ]
    assert list(files) == []


def test_a_listing_of_nothing_is_empty_and_makes_nothing(store: MediaStore, tmp_path: Path) -> None:
    files = store.listing(USER)
    assert (files.last_usn, list(files)) == (0, [])
    assert list(tmp_path.iterdir()) == []


def test_a_listing_is_of_one_moment_whatever_happens_meanwhile(
    store: MediaStore, tmp_path: Path
) -> None:
    """And nobody waits for whoever reads it slowly."""
    seed(tmp_path, {f"{n:04}": b"x" for n in range(3000)})
    files = store.listing(USER)
    found = [next(files)[0]]
    upload(store, ("0001", None), ("2999", None), ("zzz", b"x"))
    found += [name for name, _, _ in files]
    assert files.last_usn == 3000
    assert found == [f"{n:04}" for n in range(3000)]
    assert store.listing(USER).last_usn == 3003


def test_listings_that_are_not_read_to_their_end_keep_nothing_open(tmp_path: Path) -> None:
    store = MediaStore(tmp_path)
    seed(tmp_path, {f"{n}": b"x" for n in range(100)})
    assert store.last_usn(USER) == 100
    for n in range(5):
        store.listing(USER)
        files = store.listing(USER)
        next(files)
        del files
        files = store.listing(USER)
        next(files)
        files.close()
        files.close()
        assert list(files) == []
        upload(store, (f"new {n}", b"x"))
    store.close()
    # The log is folded in and gone, as nobody reads in it any more.
    assert not (tmp_path / USER / "media.db-wal").exists()


MIB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "sent"),
    [
        ([10, 10, 10], 3),
        ([DOWNLOAD_TARGET, 1, 1], 2),
        ([DOWNLOAD_TARGET + 1, 1, 1], 1),
        ([MIB, MIB, MIB, 1], 3),
        ([5 * MIB, 5 * MIB], 1),
    ],
)
def test_an_answer_ends_with_the_file_that_passes_the_target(
    sizes: list[int], sent: int, store: MediaStore
) -> None:
    """docs/sync-protocol.md, 9.4: a prefix of the names, at least one."""
    files = [(f"f{n}", os.urandom(size)) for n, size in enumerate(sizes)]
    for file in files:
        upload(store, file)
    assert download(store, *[name for name, _ in files]) == files[:sent]


def test_names_are_sent_as_often_and_in_the_order_they_are_asked_for(store: MediaStore) -> None:
    upload(store, ("a", b"1"), ("b", b"2"))
    assert [name for name, _ in download(store, "b", "a", "b")] == ["b", "a", "b"]


@pytest.mark.parametrize("missing", ["x", "gone", "", "..", ".", "a\0", "../bo/media/a", "media"])
def test_a_name_that_is_not_listed_is_refused(missing: str, store: MediaStore) -> None:
    upload(store, ("a", b"1"), ("gone", b"2"))
    upload(store, ("gone", None))
    upload(store, ("a", b"bo's"), user="bo")
    for names in ([missing], ["a", missing]):
        with pytest.raises(MissingMedia):
            download(store, *names)
    assert download(store, "a") == [("a", b"1")]


def test_more_than_twenty_five_are_refused_either_way(store: MediaStore, tmp_path: Path) -> None:
    many = [(f"{n}", b"x") for n in range(26)]
    with pytest.raises(BadRequest):
        upload(store, *many)
    with pytest.raises(BadRequest):
        download(store, *[name for name, _ in many])
    assert upload(store, *many[:25]) == (25, 25)
    assert len(download(store, *[name for name, _ in many[:25]])) == 25


def test_open_files_of_an_answer_are_not_changed_by_later_uploads(store: MediaStore) -> None:
    upload(store, ("a", b"old"), ("b", b"b"))
    (_, a), (_, b) = store.download(USER, ["a", "b"])
    upload(store, ("a", b"new one"), ("b", None))
    assert (a.read(99), b.read(99)) == (b"old", b"b")
    a.close()
    b.close()


# --- refusals ---------------------------------------------------------------------------


class Broken:
    """Bytes that turn out to be bad after some."""

    size = 4 << 20

    def __init__(self) -> None:
        self.closed = False
        self._read = 0

    def read(self, size: int) -> bytes:
        self._read += size
        if self._read > 2 << 20:
            raise BadRequest("bad bytes")
        return b"x" * size

    def close(self) -> None:
        self.closed = True


def test_bytes_that_turn_out_bad_leave_everything_as_it_was(
    store: MediaStore, tmp_path: Path
) -> None:
    upload(store, ("a", b"1"), ("b", b"2"))
    before = on_disk(tmp_path)
    broken = Broken()
    entries = [element("a", b"new"), element("b", None), MediaEntry("c", lambda: broken)]
    with pytest.raises(BadRequest, match="bad bytes"):
        store.upload(USER, entries)
    assert broken.closed
    assert on_disk(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/", "a\0", "../x", "e\u0301", "x" * 256, "a\\b", "C:\\x", "a\n"]
)
def test_bad_names_are_refused_by_the_store_too(
    name: str, store: MediaStore, tmp_path: Path
) -> None:
    upload(store, ("a", b"1"))
    before = on_disk(tmp_path)
    for data in (b"x", None):
        with pytest.raises(BadRequest):
            upload(store, ("b", b"2"), (name, data))
    assert on_disk(tmp_path) == before


def test_an_empty_file_is_refused(store: MediaStore, tmp_path: Path) -> None:
    """Size 0 in the index means deleted."""
    with pytest.raises(BadRequest):
        upload(store, ("a", b"x"), ("b", b""))
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.files == {}


def plant(base: Path, name: str, data: bytes) -> None:
    """A file as the official server would have stored it."""
    (base / USER / "media" / name).write_bytes(data)
    with contextlib.closing(sqlite3.connect(base / USER / "media.db")) as db:
        db.execute(
            "INSERT INTO media SELECT ?, ?, ?, last_usn + 1, 0 FROM meta",
            (name, bytes.fromhex(sha1(data)), len(data)),
        )
        db.execute(
            "UPDATE meta SET last_usn = last_usn + 1, total_bytes = total_bytes + ?,"
            " total_nonempty_files = total_nonempty_files + 1",
            (len(data),),
        )
        db.commit()


@pytest.mark.parametrize("name", ["a\\b", "line\nbreak", "C:\\x", "\x01"])
def test_an_odd_name_of_the_official_server_is_served_and_can_be_deleted(
    name: str, store: MediaStore, tmp_path: Path
) -> None:
    """A client stores it under another name, and then sends a deletion; more than once maybe."""
    upload(store, ("a", b"1"))
    plant(tmp_path, name, b"odd")
    assert download(store, name) == [(name, b"odd")]
    with pytest.raises(BadRequest):
        upload(store, (name, b"new"))
    assert upload(store, (name, None), ("ab", b"odd")) == (2, 4)
    assert upload(store, (name, None)) == (1, 4)
    on_disk(tmp_path).check()


def test_a_file_that_cannot_be_put_in_its_place_takes_the_others_back(
    store: MediaStore, tmp_path: Path
) -> None:
    """Here a folder is in its way; it could as well be a full disk."""
    upload(store, ("a", b"1"), ("b", b"2"), ("c", b"3"))
    before = on_disk(tmp_path)
    blocked = tmp_path / USER / "media" / "blocked"
    (blocked / "full").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(Unavailable, match="blocked"):
            upload(store, ("a", b"new"), ("n", b"n"), ("b", None), ("blocked", b"x"), ("c", b"4"))
    (blocked / "full").rmdir()
    blocked.rmdir()
    assert on_disk(tmp_path) == before
    assert upload(store, ("blocked", b"x")) == (1, 4)


# --- folders that are not as they should be ---------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1])


def link(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(secret)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [remove, cut, link, pipe, folder])
def test_a_file_that_is_not_as_listed_is_forgotten_without_a_trace(
    damage: Callable[[Path], None], store: MediaStore, tmp_path: Path
) -> None:
    """No deletion is recorded: a device that has the file must not lose it, but send it."""
    upload(store, ("a", b"aa"), ("b", b"bb"), ("c", b"cc"))
    damage(tmp_path / USER / "media" / "b")
    with pytest.raises(MissingMedia):
        download(store, "a", "b", "c")
    assert listed(store) == [("a", 1, sha1(b"aa")), ("c", 3, sha1(b"cc"))]
    assert store.last_usn(USER) == 3
    assert store.sanity(USER, 2)
    assert len(download(store, "a", "c")) == 2
    if damage is not folder:
        upload(store, ("b", b"bb"))
        on_disk(tmp_path).check()


def test_a_file_that_cannot_be_opened_now_is_not_forgotten(
    store: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here because the process has too many files open."""
    upload(store, ("a", b"aa"), ("b", b"bb"))
    really = os.open

    def failing(path: str, *args: int, **kwargs: int) -> int:
        if path == "b":
            raise OSError(errno.EMFILE, "Too many open files", path)
        return really(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        with pytest.raises(Unavailable, match="Too many"):
            download(store, "a", "b")
    assert len(download(store, "a", "b")) == 2


def test_all_files_that_are_gone_are_forgotten_at_once(store: MediaStore, tmp_path: Path) -> None:
    """Else each of them would fail a sync."""
    seed(tmp_path, {f"{n}": b"x" for n in range(1100)})
    for n in range(5, 1100):
        (tmp_path / USER / "media" / f"{n}").unlink()
    with pytest.raises(MissingMedia, match="1095"):
        download(store, "0", "700")
    on_disk(tmp_path).check()
    assert store.sanity(USER, 5)


def test_an_empty_folder_of_many_files_is_taken_for_an_unmounted_disk(
    store: MediaStore, tmp_path: Path
) -> None:
    """Nothing is forgotten, and all is well once the disk is back."""
    seed(tmp_path, {f"{n}": b"x" for n in range(50)})
    media = tmp_path / USER / "media"
    media.rename(tmp_path / "unmounted")
    for _ in range(2):
        with pytest.raises(Unavailable, match="mounted"):
            download(store, "1")
    assert store.sanity(USER, 50)
    media.rmdir()
    (tmp_path / "unmounted").rename(media)
    assert download(store, "1") == [("1", b"x")]


def test_a_file_that_is_gone_comes_back_when_it_is_sent_again(
    store: MediaStore, tmp_path: Path
) -> None:
    """The index lists just these bytes: nothing changes but the folder."""
    upload(store, ("a", b"aa"), ("b", b"bb"))
    (tmp_path / USER / "media" / "a").unlink()
    cut(tmp_path / USER / "media" / "b")
    assert upload(store, ("a", b"aa"), ("b", b"bb")) == (2, 2)
    on_disk(tmp_path).check()
    assert download(store, "a", "b") == [("a", b"aa"), ("b", b"bb")]


def test_deleting_a_file_that_is_gone_is_fine(store: MediaStore, tmp_path: Path) -> None:
    upload(store, ("a", b"aa"))
    (tmp_path / USER / "media" / "a").unlink()
    assert upload(store, ("a", None)) == (1, 2)
    on_disk(tmp_path).check()


def test_an_upload_replaces_a_link_and_not_what_it_points_to(
    store: MediaStore, tmp_path: Path
) -> None:
    upload(store, ("a", b"aa"))
    outside = tmp_path / "outside"
    outside.write_bytes(b"keep me")
    for name in ("a", "new"):
        path = tmp_path / USER / "media" / name
        path.unlink(missing_ok=True)
        path.symlink_to(outside)
        upload(store, (name, b"bytes"))
        assert not path.is_symlink()
    assert outside.read_bytes() == b"keep me"
    on_disk(tmp_path).check()


OTHER_DISK = Path("/dev/shm")


@pytest.mark.skipif(not OTHER_DISK.is_dir(), reason="there is no second file system")
def test_media_on_another_disk_work_through_a_link(store: MediaStore, tmp_path: Path) -> None:
    """There, bytes cannot be moved in from the user's folder."""
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as made:
        other = Path(made)
        (tmp_path / USER).mkdir()
        (tmp_path / USER / "media").symlink_to(other)
        upload(store, ("a", b"1"), ("b", b"2"))
        upload(store, ("a", b"3"), ("b", None))
        assert download(store, "a") == [("a", b"3")]
        own = [".cardkeep-incoming", ".cardkeep-trash"]
        assert sorted(path.name for path in other.iterdir()) == [*own, "a"]
        assert [path.name for path in (other / ".cardkeep-incoming").iterdir()] == ["0"]


@pytest.mark.parametrize("asked_between", [False, True])
def test_a_replaced_index_is_noticed(
    asked_between: bool, store: MediaStore, tmp_path: Path
) -> None:
    """An operator restores an older folder while the server runs."""
    upload(store, ("a", b"1"))
    store.close()
    shutil.copytree(tmp_path / USER, tmp_path / "copy")
    running = MediaStore(tmp_path)
    upload(running, ("b", b"2"))
    assert running.last_usn(USER) == 2
    (tmp_path / USER).rename(tmp_path / "old")
    if asked_between:
        assert running.last_usn(USER) == 0
    (tmp_path / "copy").rename(tmp_path / USER)
    assert running.last_usn(USER) == 1
    assert upload(running, ("c", b"3")) == (1, 2)
    running.close()
    on_disk(tmp_path).check()


def test_an_index_that_another_program_has_locked_is_unavailable(
    store: MediaStore, tmp_path: Path
) -> None:
    upload(store, ("a", b"1"))
    store.close()
    running = MediaStore(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / USER / "media.db")) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        for ask in (running.last_usn, lambda user: listed(running, 0, user)):
            with pytest.raises(Unavailable):
                ask(USER)
    assert running.last_usn(USER) == 1
    running.close()


def test_a_damaged_index_is_unavailable_for_its_user_alone(
    store: MediaStore, tmp_path: Path
) -> None:
    upload(store, ("a", b"1"), user="bo")
    (tmp_path / USER).mkdir()
    (tmp_path / USER / "media.db").write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable):
        store.last_usn(USER)
    with pytest.raises(Unavailable):
        upload(store, ("a", b"1"))
    assert store.last_usn("bo") == 1


# --- connections ------------------------------------------------------------------------


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_few_files_stay_open_however_many_users_come(tmp_path: Path) -> None:
    store = MediaStore(tmp_path)
    before = open_files()
    for n in range(60):
        seed(tmp_path, {"a": b"1"}, user=f"user{n}")
        assert len(download(store, "a", user=f"user{n}")) == 1
        assert store.last_usn(f"user{n}") == 1
    assert open_files() - before <= 16 * 3
    store.close()
    assert open_files() == before


def test_nothing_stays_open_after_requests_that_fail(tmp_path: Path) -> None:
    store = MediaStore(tmp_path)
    upload(store, ("a", b"1"))
    before = open_files()
    for _ in range(3):
        with pytest.raises(BadRequest):
            store.upload(USER, [element("x", b"1"), MediaEntry("c", lambda: Broken())])
        with pytest.raises(MissingMedia):
            download(store, "a", "nobody")
    assert open_files() == before
    store.close()


def test_an_answer_that_is_dropped_unread_closes_its_files(store: MediaStore) -> None:
    upload(store, ("a", b"1"), ("b", b"2"))
    before = open_files()
    answer = store.download(USER, ["a", "b"])
    assert open_files() == before + 2
    del answer
    assert open_files() == before


def test_the_last_usn_is_known_while_an_upload_of_that_user_is_at_work(
    store: MediaStore,
) -> None:
    upload(store, ("a", b"1"))
    reached, go_on = threading.Event(), threading.Event()

    class Slow:
        size = 5

        def __init__(self) -> None:
            self._data = b"slow!"

        def read(self, size: int) -> bytes:
            reached.set()
            assert go_on.wait(30)
            data, self._data = self._data, b""
            return data

        def close(self) -> None:
            pass

    thread = threading.Thread(target=store.upload, args=(USER, [MediaEntry("s", Slow)]))
    thread.start()
    assert reached.wait(30)
    assert store.last_usn(USER) == 1
    assert upload(store, ("b", b"2")) == (1, 2)
    assert download(store, "b") == [("b", b"2")]
    go_on.set()
    thread.join()
    assert store.last_usn(USER) == 3
