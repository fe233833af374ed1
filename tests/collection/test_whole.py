# SPDX-License-Identifier: AGPL-3.0-or-later
"""A collection as a whole."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardkeep.collection import counts, header, whole
from cardkeep.collection.library import Library
from cardkeep.messages import ByteSource
from cardkeep.records import unicase


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = Library(tmp_path / "base", now_ms=lambda: 5)
    yield made
    made.close()


def everything(source: ByteSource) -> bytes:
    pieces = []
    while piece := source.read(10_000):
        pieces.append(piece)
    assert sum(map(len, pieces)) == source.size
    return b"".join(pieces)


def fill(db: sqlite3.Connection, rows: int, first: int = 1) -> None:
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO revlog VALUES (?, 1, 0, 1, 1, 1, 1, 1, 1)",
        [(i,) for i in range(first, first + rows)],
    )
    db.execute("COMMIT")


def reviews_in(content: bytes, at: Path) -> int:
    at.write_bytes(content)
    db = sqlite3.connect(f"{at.as_uri()}?immutable=1", uri=True)
    try:
        db.create_collation("unicase", unicase.compare)
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        return int(db.execute("SELECT count(*) FROM revlog").fetchone()[0])
    finally:
        db.close()


def test_a_pinned_collection_stays_as_it_was(library: Library, tmp_path: Path) -> None:
    """What is committed and checkpointed while it is read does not show."""
    path = library.folder("ana").collection
    with library.lend("ana") as db:
        fill(db, 1000)
        pinned = whole.pin(db, path)
        assert pinned is not None
        head = pinned.read(4096)
        fill(db, 20_000, first=2000)
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        content = head + b"".join(iter(lambda: pinned.read(65536), b""))
        pinned.close()
    assert reviews_in(content, tmp_path / "got.anki2") == 1000


def test_a_second_download_of_a_later_state_is_a_copy(library: Library, tmp_path: Path) -> None:
    """While the first holds its state the log cannot be emptied, so there is nothing to pin."""
    path = library.folder("ana").collection
    with library.lend("ana") as db:
        first = whole.pin(db, path)
        assert first is not None
        fill(db, 10)
        assert whole.pin(db, path) is None
        copied = whole.TemporaryFile(whole.copy(db, tmp_path))
        assert reviews_in(everything(copied), tmp_path / "got.anki2") == 10
        copied.close()
        first.close()
        again = whole.pin(db, path)
        assert again is not None
        again.close()
    assert not list(tmp_path.glob("*.anki2-*"))


@pytest.mark.parametrize("page_size", [1024, 4096, 65536])
def test_replacing_is_seen_by_those_who_have_it_open(
    library: Library, tmp_path: Path, page_size: int
) -> None:
    """A connection opened before reads the new collection after."""
    other = tmp_path / "other.anki2"
    with library.lend("bob") as db:
        fill(db, 3000)
        made = whole.copy(db, tmp_path)
    made.rename(other)
    plain = sqlite3.connect(other, isolation_level=None)
    plain.create_collation("unicase", unicase.compare)
    plain.execute(f"PRAGMA page_size = {page_size}")
    plain.execute("VACUUM")
    plain.close()
    with library.lend("ana") as holder, library.lend("ana") as db:
        fill(holder, 10)
        assert counts.count(holder).revlog == 10
        whole.replace(db, other)
        assert counts.count(holder).revlog == 3000
        assert header.read(holder) == header.read(db)
        assert holder.execute("PRAGMA journal_mode").fetchone() == ("wal",)
