# SPDX-License-Identifier: AGPL-3.0-or-later
"""The last usn of an index that nobody has open."""

import os
import random
import sqlite3
import time
from pathlib import Path

import pytest

from cardkeep.disk import Stamp, stamp
from cardkeep.media import index
from cardkeep.media.resting import RestingIndexes
from cardkeep.media.store import MediaStore
from tests.media.looking import USER, on_disk, upload


def once(base: Path, *elements: tuple[str, bytes | None]) -> None:
    """An upload by a process of its own, as it were."""
    store = MediaStore(base)
    upload(store, *elements)
    store.close()


def age(base: Path, name: str = "media.db") -> None:
    """The index has been as it is for a while."""
    past = time.time() - 100
    os.utime(base / USER / name, (past, past))


def files(base: Path) -> list[str]:
    return sorted(path.name for path in (base / USER).glob("media.db*"))


def test_it_is_read_without_a_trace(tmp_path: Path) -> None:
    once(tmp_path, ("a", b"1"), ("b", b"2"))
    opened = len(list(Path("/proc/self/fd").iterdir()))
    store = MediaStore(tmp_path)
    assert store.last_usn(USER) == 2
    assert files(tmp_path) == ["media.db"]
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_an_index_in_use_is_left_to_those_who_open_it(tmp_path: Path) -> None:
    """What was committed last is in the log."""
    store = MediaStore(tmp_path)
    upload(store, ("a", b"1"))
    assert RestingIndexes(tmp_path).last_usn(USER) is None
    assert MediaStore(tmp_path).last_usn(USER) == 1
    store.close()


def test_no_index_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RestingIndexes(tmp_path).last_usn(USER)


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_what_cannot_be_read_is_left_to_those_who_open_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / USER).mkdir()
    (tmp_path / USER / "media.db").write_bytes(content)
    assert RestingIndexes(tmp_path).last_usn(USER) is None


def test_it_is_read_once_and_then_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(tmp_path, ("a", b"1"))
    age(tmp_path)
    resting = RestingIndexes(tmp_path)
    assert resting.last_usn(USER) == 1
    monkeypatch.setattr(index, "connect_resting", None)
    assert resting.last_usn(USER) == 1


def test_a_first_index_is_noticed(tmp_path: Path) -> None:
    """Also if it was known for long that there was none."""
    folder = tmp_path / USER
    folder.mkdir()
    os.utime(folder, (1_000_000_000, 1_000_000_000))
    store = MediaStore(tmp_path)
    for _ in range(2):
        known = stamp(str(folder))
        assert known is not None
        assert store.last_usn(USER, known) == 0
    once(tmp_path, ("a", b"1"))
    assert store.last_usn(USER, stamp(str(folder))) == 1


def test_a_file_that_was_just_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next change may leave it with the very same times."""
    once(tmp_path, ("a", b"1"))
    resting = RestingIndexes(tmp_path)
    reads = []
    connect = index.connect_resting

    def counted(path: Path) -> sqlite3.Connection:
        reads.append(path)
        return connect(path)

    monkeypatch.setattr(index, "connect_resting", counted)
    assert [resting.last_usn(USER) for _ in range(3)] == [1, 1, 1]
    assert len(reads) == 3


@pytest.mark.parametrize("stamped", [False, True], ids=["looking", "by the folder's stamp"])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_always_the_last_one(seed: int, stamped: bool, tmp_path: Path) -> None:
    """Whoever changes the index, whoever has it open, however long ago it was changed."""

    def now() -> Stamp | None:
        return stamp(str(tmp_path / USER)) if stamped else None

    rng = random.Random(seed)
    stores = [MediaStore(tmp_path) for _ in range(3)]
    once(tmp_path, ("a", b"0"))
    usn = 1
    for _ in range(60):
        what = rng.randrange(5)
        number = rng.randrange(3)
        if what == 0:
            upload(stores[number], ("a", rng.randbytes(8)))
            usn += 1
        elif what == 1:
            stores[number].close()
            stores[number] = MediaStore(tmp_path)
        elif what == 2 and files(tmp_path) == ["media.db"]:
            age(tmp_path)
            os.utime(tmp_path / USER, (1_000_000_000, 1_000_000_000))
        elif what == 3 and "media.db-wal" in files(tmp_path):
            age(tmp_path, "media.db-wal")
            os.utime(tmp_path / USER, (1_000_000_000, 1_000_000_000))
        assert [store.last_usn(USER, now()) for store in stores] == [usn] * 3
    for store in stores:
        store.close()
    on_disk(tmp_path).check()
