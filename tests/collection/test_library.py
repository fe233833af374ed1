# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lending collections."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardkeep.collection import header
from cardkeep.collection.library import Library
from cardkeep.errors import Unavailable

NOW = 1_700_000_000_000


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = Library(tmp_path, now_ms=lambda: NOW, keep_open=3)
    yield made
    made.close()


def test_a_new_user_has_a_fresh_collection(library: Library) -> None:
    """Never synced: mod 0, usn 0, no cards, and a schema time that stays the same."""
    for _ in range(2):
        with library.lend("ana") as db:
            assert header.summary(db) == (0, NOW, 0, True)


def test_many_at_once_make_one_collection(library: Library) -> None:
    """Two requests of a new user meet one file."""
    inodes = []

    def look() -> None:
        with library.lend("ana") as db:
            header.read(db)
            inodes.append(library.folder("ana").collection.stat().st_ino)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(inodes)) == 1
    assert len(inodes) == 8


def test_an_open_transaction_is_rolled_back(library: Library) -> None:
    """What a holder did not commit is gone, and the next holder is not in its transaction."""
    with library.lend("ana") as db:
        db.execute("BEGIN")
        db.execute("UPDATE col SET usn = 7")
    with library.lend("ana") as db:
        assert not db.in_transaction
        assert header.read(db).usn == 0


def test_a_replaced_file_is_noticed(library: Library, tmp_path: Path) -> None:
    """A connection to a file that is no longer there is not lent again."""
    with library.lend("ana") as db:
        header.set_synced(db, mod=1, ls=1, usn=5)
    with library.lend("bob"):
        pass
    library.close()
    fresh = Library(tmp_path, now_ms=lambda: NOW)
    try:
        with fresh.lend("ana") as db:
            assert header.read(db).usn == 5
        (tmp_path / "bob" / "collection.anki2").rename(tmp_path / "ana" / "collection.anki2")
        for side in ("-wal", "-shm"):
            (tmp_path / "ana" / f"collection.anki2{side}").unlink(missing_ok=True)
        with fresh.lend("ana") as db:
            assert header.read(db).usn == 0
    finally:
        fresh.close()


def test_a_replaced_file_is_noticed_by_the_stamp(library: Library, tmp_path: Path) -> None:
    """The stamp saves a look at the file only as long as no file was replaced."""
    for user, usn in (("ana", 5), ("bob", 6)):
        with library.lend(user) as db:
            header.set_synced(db, mod=1, ls=1, usn=usn)
    library.close()
    fresh = Library(tmp_path, now_ms=lambda: NOW)
    folder = fresh.folder("ana")
    try:
        with fresh.lend("ana"):
            pass
        os.utime(folder.root, (1_000_000_000, 1_000_000_000))
        for _ in range(2):
            stamp = folder.stamp()
            assert stamp is not None
            with fresh.lend("ana", stamp=stamp) as db:
                assert header.read(db).usn == 5
        (tmp_path / "bob" / "collection.anki2").rename(folder.collection)
        for side in ("-wal", "-shm"):
            (folder.root / f"collection.anki2{side}").unlink(missing_ok=True)
        assert folder.stamp() is None
        os.utime(folder.root, (1_100_000_000, 1_100_000_000))
        stamp = folder.stamp()
        assert stamp is not None
        with fresh.lend("ana", stamp=stamp) as db:
            assert header.read(db).usn == 6
    finally:
        fresh.close()


def test_the_log_does_not_grow_without_end(library: Library) -> None:
    """What was written back is written over."""
    with library.lend("ana") as db:
        db.execute("CREATE TABLE filler (text BLOB)")
        db.execute("INSERT INTO filler VALUES (NULL)")
    log = library.folder("ana").root / "collection.anki2-wal"
    longest = 0
    for _ in range(40):
        with library.working("ana") as db:
            db.execute("UPDATE filler SET text = randomblob(2000000)")
        longest = max(longest, log.stat().st_size)
        # What was put among the chores before is done now.
        done = threading.Event()
        library._chores.put(done.set)
        assert done.wait(30)
    assert 15_000_000 < longest < 25_000_000


def test_the_pages_of_few_stay_in_memory(library: Library) -> None:
    """Those of the users who committed last, also if they were at work when others came."""
    first = library.take("ana")
    for user in ("ana", "bob", "eva"):
        with library.working(user) as db:
            header.read(db)
    library.give_back("ana", first, heavy=False)
    done = threading.Event()
    library._chores.put(done.set)
    assert done.wait(30)
    keeping = {user for user, held in library._idle.items() if held.keeps_pages}
    assert keeping == {"bob", "eva"}


def test_few_files_stay_open(library: Library) -> None:
    """A hundred users do not cost a hundred open files, and no WAL stays behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(100):
        with library.lend(f"user{number}") as db:
            header.set_synced(db, mod=1, ls=1, usn=1)
    library.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert not list(library.folder("user5").root.glob("*-wal"))


def test_another_programs_lock_is_no_damage(library: Library) -> None:
    """While the official server has the file, requests are told to come later."""
    with library.lend("ana"):
        pass
    path = library.folder("ana").collection
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA busy_timeout = 0")
    try:
        other.execute("BEGIN IMMEDIATE")
        with library.lend("ana") as db:
            db.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(Unavailable), library.lend("ana") as db:
            db.execute("BEGIN IMMEDIATE")
    finally:
        other.close()
