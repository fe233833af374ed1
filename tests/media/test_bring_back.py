# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files get the bytes of an earlier list again, as changes that every device hears of."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cardkeep.errors import BadRequest, Unavailable
from cardkeep.media.store import MediaStore
from tests.media.looking import USER, download, listed, on_disk, seed, sha1, trash_of, upload

Wanted = Sequence[tuple[str, str, int]]


def wanted(**files: bytes) -> list[tuple[str, str, int]]:
    return [(name, sha1(data), len(data)) for name, data in files.items()]


def kept(store: MediaStore) -> list[tuple[str, str, int]]:
    return list(store.listing(USER))


def test_deleted_and_replaced_files_come_back_under_new_usns(
    store: MediaStore, tmp_path: Path
) -> None:
    """What was added since stays, and what replaced a file goes to the trash in its turn."""
    large = os.urandom(3_000_000)
    upload(store, ("deleted", b"1"), ("replaced", b"2"), ("same", b"3"), ("large", large))
    then = kept(store)
    upload(store, ("deleted", None), ("replaced", b"new"), ("large", None), ("since", b"5"))
    assert store.last_usn(USER) == 8
    assert store.bring_back(USER, then) == (3, 1, [], [])
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.files == {
        "deleted": b"1",
        "replaced": b"2",
        "same": b"3",
        "large": large,
        "since": b"5",
    }
    assert disk.trash == {sha1(b"new"): b"new"}
    assert [change[0] for change in listed(store, 8)] == ["deleted", "large", "replaced"]
    assert store.last_usn(USER) == 11


def test_what_is_as_it_was_changes_nothing(store: MediaStore, tmp_path: Path) -> None:
    upload(store, *[(f"{n}", b"%d" % n) for n in range(25)])
    upload(store, *[(f"{n}", b"%d" % n) for n in range(25, 40)])
    before = on_disk(tmp_path)
    assert store.bring_back(USER, kept(store)) == (0, 40, [], [])
    assert on_disk(tmp_path) == before
    assert not (tmp_path / USER / ".cardkeep" / "trash").exists()


def test_more_files_than_one_change_takes(store: MediaStore, tmp_path: Path) -> None:
    """Progress is told as names are done."""
    files = {f"{n}": b"bytes %d" % n for n in range(120)}
    seed(tmp_path, files)
    then = kept(store)
    for n in range(0, 100, 25):
        upload(store, *[(f"{m}", None) for m in range(n, n + 25)])
    told: list[int] = []
    assert store.bring_back(USER, then, told.append) == (100, 20, [], [])
    assert told == [25, 25, 25, 25, 20]
    on_disk(tmp_path).check()
    assert on_disk(tmp_path).files == files


def test_bytes_are_found_under_other_names(store: MediaStore, tmp_path: Path) -> None:
    """A file was renamed; another's bytes are wanted under two names."""
    upload(store, ("renamed", b"1"), ("now", b"1"), ("one", b"2"))
    upload(store, ("renamed", None), ("one", None))
    store.sweep_trash(USER, 1e10)
    upload(store, ("one", b"2"))
    upload(store, ("one", None))
    files = wanted(renamed=b"1", one=b"2", two=b"2")
    assert store.bring_back(USER, files) == (3, 0, [], [])
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.files == {"renamed": b"1", "now": b"1", "one": b"2", "two": b"2"}
    # Else a server that writes into files would change one with the other.
    for name in disk.files:
        assert (tmp_path / USER / "media" / name).stat().st_nlink == 1


def test_what_cannot_be_found_is_named(store: MediaStore, tmp_path: Path) -> None:
    """The others come back all the same."""
    upload(store, ("swept", b"1"), ("there", b"2"), ("kept", b"3"))
    then = kept(store)
    upload(store, ("swept", None))
    store.sweep_trash(USER, 1e10)
    upload(store, ("kept", None))
    assert store.bring_back(USER, then) == (1, 1, ["swept"], [])
    assert set(on_disk(tmp_path).files) == {"there", "kept"}
    assert store.bring_back("nobody", then).missing == ["kept", "swept", "there"]


def test_bytes_that_are_not_what_their_name_says_are_not_taken(
    store: MediaStore, tmp_path: Path
) -> None:
    upload(store, ("a", b"1"), ("b", b"22"), ("c", b"22"), ("d", b"4444"))
    then = kept(store)
    upload(store, ("a", None), ("b", None), ("d", None))
    folder = tmp_path / USER / ".cardkeep" / "trash"
    (folder / sha1(b"1")).write_bytes(b"!")
    (folder / sha1(b"22")).write_bytes(b"!!")
    (folder / sha1(b"4444")).write_bytes(b"too long")
    # The second is whole under another name.
    assert store.bring_back(USER, then) == (1, 1, ["a", "d"], [])
    disk = on_disk(tmp_path)
    assert disk.files == {"b": b"22", "c": b"22"}
    assert disk.waiting == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty", b""),
        ("a\\b", b"1"),
        ("C:x", b"1"),
        ("line\nbreak", b"1"),
        ("..", b"1"),
        ("", b"1"),
        ("a/b", b"1"),
        ("a\0", b"1"),
        ("\udcff", b"1"),
        ("x" * 256, b"1"),
        ("e\u0301", b"1"),
    ],
)
def test_what_an_upload_may_not_bring_does_not_come_back(
    name: str, data: bytes, store: MediaStore, tmp_path: Path
) -> None:
    upload(store, ("one", b"1"), ("two", b"2"))
    upload(store, ("one", None), ("two", None))
    result = store.bring_back(USER, [(name, sha1(data), len(data)), *wanted(two=b"2")])
    assert result == (1, 0, [], [name])
    on_disk(tmp_path).check()


def test_a_name_that_the_file_system_cannot_have_stops_no_other(
    store: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here since the folder has moved to another one."""
    upload(store, *[(name, name.encode()) for name in "abc"])
    then = kept(store)
    upload(store, *[(name, None) for name in "abc"])
    really = os.replace

    def failing(old: str, new: str, **folders: int) -> None:
        if new == "b":
            raise OSError(errno.EILSEQ, "Invalid or incomplete multibyte", new)
        really(old, new, **folders)

    monkeypatch.setattr(os, "replace", failing)
    assert store.bring_back(USER, then) == (2, 0, [], ["b"])
    on_disk(tmp_path).check()
    assert trash_of(tmp_path) == {sha1(b"b"): b"b"}


@pytest.mark.parametrize("checksum", ["", "xyz", "12 34", "ab" * 19])
def test_a_checksum_that_is_none_is_refused(checksum: str, store: MediaStore) -> None:
    upload(store, ("a", b"1"))
    with pytest.raises(BadRequest, match="checksum"):
        store.bring_back(USER, [("b", checksum, 1)])


def test_a_file_that_is_listed_and_gone_is_put_in_its_place(
    store: MediaStore, tmp_path: Path
) -> None:
    """The devices have it, so they need not hear of it."""
    upload(store, ("a", b"1"), ("b", b"1"), ("c", b"22"))
    then = kept(store)
    (tmp_path / USER / "media" / "a").unlink()
    (tmp_path / USER / "media" / "c").unlink()
    assert store.bring_back(USER, then) == (1, 1, ["c"], [])
    assert store.last_usn(USER) == 3
    assert download(store, "a", "b") == [("a", b"1"), ("b", b"1")]


def test_it_can_go_back_and_forth(store: MediaStore, tmp_path: Path) -> None:
    upload(store, ("a", b"1"), ("b", b"2"))
    first = kept(store)
    upload(store, ("a", b"2"), ("b", None), ("c", b"1"))
    second = kept(store)
    for _ in range(3):
        assert store.bring_back(USER, first).missing == []
        assert download(store, "a", "b") == [("a", b"1"), ("b", b"2")]
        assert store.bring_back(USER, second).missing == []
        assert download(store, "a", "c") == [("a", b"2"), ("c", b"1")]
        on_disk(tmp_path).check()


def test_a_disk_that_cannot_take_it_is_unavailable_and_it_goes_on_later(
    store: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(store, ("a", b"1"))
    then = kept(store)
    upload(store, ("a", None))
    really = os.fsync

    def failing(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "media":
            raise OSError(errno.ENOSPC, "No space left on device")
        really(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(Unavailable, match="No space"):
            store.bring_back(USER, then)
    assert on_disk(tmp_path).has(b"1")
    assert store.bring_back(USER, then) == (1, 0, [], [])
    on_disk(tmp_path).check()


BRINGING = """
import sys
from pathlib import Path
from cardkeep.media.store import MediaStore
store = MediaStore(Path(sys.argv[1]))
wanted = [line.split() for line in sys.stdin]
result = store.bring_back("ana", [(name, sha1, int(size)) for name, sha1, size in wanted])
assert not result.missing and not result.refused, result
store.close()
"""


def test_another_process_brings_back_while_the_server_runs(
    store: MediaStore, tmp_path: Path
) -> None:
    """Uploads go on meanwhile; each change has a number of its own."""
    seed(tmp_path, {f"{n}": b"bytes %d" % n for n in range(200)})
    then = kept(store)
    for n in range(0, 200, 25):
        upload(store, *[(f"{m}", None) for m in range(n, n + 25)])
    lines = "".join(f"{name} {checksum} {size}\n" for name, checksum, size in then)
    with subprocess.Popen(
        [sys.executable, "-c", BRINGING, tmp_path], stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write(lines)
        process.stdin.close()
        n = 0
        while process.poll() is None:
            upload(store, (f"new {n}", b"new"))
            n += 1
            time.sleep(0.005)  # a lock that is never free for a moment is not to be had
    assert process.returncode == 0
    disk = on_disk(tmp_path)
    disk.check()
    assert len(disk.files) == 200 + n
    assert store.last_usn(USER) == 200 + 200 + 200 + n
