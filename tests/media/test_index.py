# SPDX-License-Identifier: AGPL-3.0-or-later
"""The index: its rules, its file, and older files."""

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest

from cardkeep.errors import Unavailable
from cardkeep.media import index
from cardkeep.media.index import Entry, Fingerprint, Totals

X, Y = Fingerprint(b"x" * 20, 10), Fingerprint(b"y" * 20, 7)
HAS_X = Entry(X.sha1, 10, 3)
DELETED = Entry(X.sha1, 0, 3)

# stored, received; then row, totals (usn 5, 100 bytes, 4 files before), place
TABLE = {
    "none, data": (None, X, Entry(X.sha1, 10, 6), Totals(6, 110, 5), 0),
    "deleted, data": (DELETED, X, Entry(X.sha1, 10, 6), Totals(6, 110, 5), 0),
    "deleted, other data": (DELETED, Y, Entry(Y.sha1, 7, 6), Totals(6, 107, 5), 0),
    "exists, same": (HAS_X, X, None, Totals(5, 100, 4), None),
    "exists, other": (HAS_X, Y, Entry(Y.sha1, 7, 6), Totals(6, 97, 4), 0),
    "exists, deletion": (HAS_X, None, Entry(X.sha1, 0, 6), Totals(6, 90, 3), None),
    "none, deletion": (None, None, None, Totals(5, 100, 4), None),
    "deleted, deletion": (DELETED, None, None, Totals(5, 100, 4), None),
}


@pytest.mark.parametrize(
    ("stored", "received", "row", "totals", "place"), TABLE.values(), ids=TABLE
)
def test_one_element_does_what_the_table_of_the_protocol_says(
    stored: Entry | None,
    received: Fingerprint | None,
    row: Entry | None,
    totals: Totals,
    place: int | None,
) -> None:
    """docs/sync-protocol.md, 9.3."""
    before: Mapping[str, Entry] = {"a": stored} if stored else {}
    merged = index.merge(Totals(5, 100, 4), before, [("a", received)])
    assert merged.entries == ({"a": row} if row else {})
    assert merged.totals == totals
    assert merged.places == ({"a": place} if row else {})


def test_a_name_that_comes_twice_is_processed_twice() -> None:
    merged = index.merge(
        Totals(0, 0, 0), {}, [("a", X), ("b", X), ("a", Y), ("b", None), ("a", Y), ("a", None)]
    )
    assert merged.entries == {"a": Entry(Y.sha1, 0, 5), "b": Entry(X.sha1, 0, 4)}
    assert merged.totals == Totals(5, 0, 0)
    assert merged.places == {"a": None, "b": None}


def test_the_last_bytes_of_a_name_that_comes_twice_are_the_ones_that_stay() -> None:
    merged = index.merge(Totals(0, 0, 0), {}, [("a", X), ("a", None), ("a", Y), ("a", Y)])
    assert merged.entries == {"a": Entry(Y.sha1, 7, 3)}
    assert merged.places == {"a": 2}


def test_totals_never_go_below_zero() -> None:
    """A file whose totals were wrong before stays usable."""
    merged = index.merge(Totals(5, 3, 0), {"a": HAS_X}, [("a", None)])
    assert merged.totals == Totals(6, 0, 0)


# --- the file ---------------------------------------------------------------------------

# What the official server 26.9.3 makes: PRAGMA table_info and index_info.
COLUMNS = {
    "media": [
        ("fname", "TEXT", 1, 1),
        ("csum", "BLOB", 1, 0),
        ("size", "INT", 1, 0),
        ("usn", "INT", 1, 0),
        ("mtime", "INT", 1, 0),
    ],
    "meta": [
        ("last_usn", "INT", 1, 0),
        ("total_bytes", "INT", 1, 0),
        ("total_nonempty_files", "INT", 1, 0),
    ],
}


def check_layout(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        objects = db.execute(
            "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
        )
        assert set(objects) == {
            ("table", "media", "media"),
            ("table", "meta", "meta"),
            ("index", "ix_usn", "media"),
        }
        for table, columns in COLUMNS.items():
            found = db.execute(f"PRAGMA table_info({table})").fetchall()
            assert [(row[1], row[2].upper(), row[3], row[5]) for row in found] == columns
        assert [row[2] for row in db.execute("PRAGMA index_info(ix_usn)")] == ["usn"]
        assert db.execute("PRAGMA user_version").fetchone() == (4,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_new_index_is_laid_out_as_the_official_servers(tmp_path: Path) -> None:
    path = tmp_path / "media.db"
    index.connect(path, create=True).close()
    check_layout(path)
    with contextlib.closing(index.connect(path)) as db:
        assert index.totals(db) == Totals(0, 0, 0)


def test_no_index_is_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        index.connect(tmp_path / "media.db")
    assert list(tmp_path.iterdir()) == []


def test_an_index_of_odd_places_opens(tmp_path: Path) -> None:
    folder = tmp_path / "50% ?mode=memory#ü"
    folder.mkdir()
    index.connect(folder / "media.db", create=True).close()
    assert (folder / "media.db").exists()


def make_version_3(path: Path, rows: list[tuple[str, bytes | None, int, int, int]]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(
            """
            CREATE TABLE media (
              fname text NOT NULL PRIMARY KEY, csum blob, sz int NOT NULL, usn int NOT NULL,
              deleted int NOT NULL
            );
            CREATE INDEX ix_usn ON media (usn);
            CREATE TABLE meta (usn int NOT NULL, sz int NOT NULL);
            INSERT INTO meta VALUES (99, 12345);
            PRAGMA user_version = 3;
            """
        )
        db.executemany("INSERT INTO media VALUES (?, ?, ?, ?, ?)", rows)
        db.commit()


def test_an_index_of_version_3_is_converted(tmp_path: Path) -> None:
    """Deleted files had no checksum then and go; the totals are counted anew (9.7)."""
    path = tmp_path / "media.db"
    make_version_3(
        path, [("a", X.sha1, 10, 1, 1111), ("gone", None, 0, 9, 2222), ("b", Y.sha1, 7, 4, 3333)]
    )
    with contextlib.closing(index.connect(path)) as db:
        assert index.totals(db) == Totals(4, 17, 2)
        assert db.execute("SELECT * FROM media ORDER BY fname").fetchall() == [
            ("a", X.sha1, 10, 1, 1111),
            ("b", Y.sha1, 7, 4, 3333),
        ]
    check_layout(path)


def test_an_empty_index_of_version_3_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "media.db"
    make_version_3(path, [])
    with contextlib.closing(index.connect(path)) as db:
        assert index.totals(db) == Totals(0, 0, 0)
    check_layout(path)


def test_an_index_whose_making_was_cut_off_is_made(tmp_path: Path) -> None:
    path = tmp_path / "media.db"
    path.touch()
    index.connect(path).close()
    check_layout(path)


@pytest.mark.parametrize("version", [1, 5, 99])
def test_an_index_of_an_unknown_version_is_left_alone(version: int, tmp_path: Path) -> None:
    path = tmp_path / "media.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(f"CREATE TABLE new (x); PRAGMA user_version = {version}")
    with pytest.raises(Unavailable, match=str(version)):
        index.connect(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("new",)]
        assert db.execute("PRAGMA user_version").fetchone() == (version,)


def test_changes_are_found_by_their_index(tmp_path: Path) -> None:
    """A page costs what it holds, however many files there are."""
    with contextlib.closing(index.connect(tmp_path / "media.db", create=True)) as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN"
            " SELECT fname, usn, size, csum FROM media WHERE usn > ? ORDER BY usn LIMIT 1000",
            (0,),
        ).fetchall()
        assert [row[3] for row in plan] == ["SEARCH media USING INDEX ix_usn (usn>?)"]
