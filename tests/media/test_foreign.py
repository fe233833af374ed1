# SPDX-License-Identifier: AGPL-3.0-or-later
"""Indexes of other servers, and the ones that come out of them."""

import contextlib
import hashlib
import sqlite3
from pathlib import Path

import pytest

from cardkeep.errors import Unavailable
from cardkeep.media import index
from cardkeep.media.foreign import ForeignIndex, Listed, NewIndex, is_fit, unlisted
from cardkeep.media.index import Fingerprint
from tests.backups.migrate.folders import client_media, database, server_media


def sha1(text: str) -> bytes:
    return hashlib.sha1(text.encode()).digest()


def read(path: Path) -> tuple[int, int, list[Listed]]:
    """Number of files, last usn, and all entries."""
    with ForeignIndex(path) as found:
        entries = list(found.entries())
        assert sorted(found.names()) == sorted(each.file for each in entries if not each.deleted)
        return found.files, found.last_usn, entries


def test_numbers_of_the_official_server_stay(tmp_path: Path) -> None:
    """Those of deleted files too; the last one may be above all of them."""
    path = tmp_path / "media.db"
    with contextlib.closing(index.connect(path, create=True)) as made:
        made.execute("INSERT INTO media VALUES ('a', ?, 3, 2, 20)", (sha1("a"),))
        made.execute("INSERT INTO media VALUES ('b', ?, 0, 5, 50)", (sha1("b"),))
        made.execute("UPDATE meta SET last_usn = 9")
    assert read(path) == (
        1,
        9,
        [Listed("a", "a", False, sha1("a"), 2, 20), Listed("b", "b", True, None, 5, 50)],
    )


def test_version_3_is_read(tmp_path: Path) -> None:
    """Deleted files have no checksum there, and are dropped, as the official server does it."""
    path = database(
        tmp_path / "media.db",
        "CREATE TABLE media (fname text PRIMARY KEY, csum blob, sz int, usn int, deleted int)",
        "CREATE INDEX ix_usn ON media (usn)",
        "CREATE TABLE meta (usn int, sz int)",
        ("INSERT INTO media VALUES ('a', ?, 3, 2, 0)", (sha1("a"),)),
        "INSERT INTO media VALUES ('b', NULL, 0, 3, 1)",
        "INSERT INTO meta VALUES (3, 3)",
        "PRAGMA user_version = 3",
    )
    assert read(path) == (1, 2, [Listed("a", "a", False, sha1("a"), 2, 0)])


def test_numbers_of_ankisyncd_stay(tmp_path: Path) -> None:
    """Its last number is the greatest."""
    path = tmp_path / "collection.media.server.db"
    server_media(path, [("a", 1, sha1("a").hex()), ("b", 4, None), ("c", 3, sha1("c").hex())])
    assert read(path) == (
        2,
        4,
        [
            Listed("a", "a", False, sha1("a"), 1, 0),
            Listed("c", "c", False, sha1("c"), 3, 0),
            Listed("b", "b", True, None, 4, 0),
        ],
    )


def test_a_number_that_several_share_is_kept_by_one(tmp_path: Path) -> None:
    """The others come after the last; so does what has no number that a device could ask for."""
    path = tmp_path / "collection.media.server.db"
    server_media(
        path,
        [
            *((name, 7, sha1(name).hex()) for name in "abc"),
            ("d", 0, sha1("d").hex()),
            ("e", -1, None),
            ("f", 8, sha1("f").hex()),
        ],
    )
    _, last, entries = read(path)
    numbers = {each.name: each.usn for each in entries}
    assert numbers == {"e": 9, "d": 10, "a": 7, "b": 11, "c": 12, "f": 8}
    assert last == 12


def test_an_index_of_a_client_has_one_number_for_all(tmp_path: Path) -> None:
    """As many numbers are new as it takes to tell the files apart."""
    path = tmp_path / "collection.media.db2"
    client_media(path, [("a", sha1("a").hex()), ("b", None), ("c", sha1("c").hex())], 40)
    files, last, entries = read(path)
    assert (files, last) == (2, 42)
    assert [(each.name, each.deleted, each.usn) for each in entries] == [
        ("a", False, 40),
        ("b", True, 41),
        ("c", False, 42),
    ]


def test_an_empty_index(tmp_path: Path) -> None:
    """Nothing was ever stored."""
    path = tmp_path / "collection.media.server.db"
    server_media(path, [])
    assert read(path) == (0, 0, [])


def test_names_are_told_to_clients_in_nfc(tmp_path: Path) -> None:
    """A server on a Mac kept them apart; in the folder they have the name that they have."""
    path = tmp_path / "collection.media.server.db"
    server_media(path, [("e\u0301.png", 1, sha1("a").hex())])
    assert read(path)[2] == [Listed("é.png", "e\u0301.png", False, sha1("a"), 1, 0)]


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """It does not keep the others from being read; clients cannot have it."""
    path = tmp_path / "collection.media.server.db"
    server_media(path, [("a", 1, sha1("a").hex()), ("b", 2, sha1("b").hex())])
    database(path, "UPDATE media SET fname = CAST(x'ff2e706e67' AS TEXT) WHERE fname = 'b'")
    names = [each.name for each in read(path)[2]]
    assert names == ["a", "\udcff.png"]
    assert not is_fit(names[1])


@pytest.mark.parametrize("csum", ["", "xyz", "A" * 40, b"\x00" * 20])
def test_a_checksum_that_is_none(tmp_path: Path, csum: str) -> None:
    """It is not known, then."""
    path = tmp_path / "collection.media.server.db"
    server_media(path, [("a", 1, csum)])
    [entry] = read(path)[2]
    assert (entry.deleted, entry.sha1) == (False, None)


@pytest.mark.parametrize(
    "statements",
    [
        (),
        ("CREATE TABLE media (fname TEXT, usn INT)",),
        ("CREATE TABLE media (fname, csum, mtime, dirty)",),
        ("PRAGMA user_version = 5", "CREATE TABLE other (a)"),
    ],
)
def test_what_is_no_index(tmp_path: Path, statements: tuple[str, ...]) -> None:
    """It is refused."""
    with pytest.raises(Unavailable, match="media index"):
        ForeignIndex(database(tmp_path / "media.db", *statements))


def test_garbage_is_no_index(tmp_path: Path) -> None:
    """Nor is a file that is none of SQLite."""
    path = tmp_path / "media.db"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(Unavailable, match="media index"):
        ForeignIndex(path)


def test_the_index_that_is_made_is_ours(tmp_path: Path) -> None:
    """Numbers, deletions and totals are there; it lies whole in one file."""
    path = tmp_path / "media.db"
    with NewIndex(path) as new:
        assert new.add(Listed("a", "a", False, sha1("a"), 3, 30), Fingerprint(sha1("a"), 5))
        assert new.add(Listed("b", "b", True, None, 4, 40), None)
        assert new.lists("a")
        assert not new.lists("b")
        assert not new.lists("c")
        assert new.finish(12) == (12, 5, 1)
    assert [each.name for each in tmp_path.iterdir()] == ["media.db"]
    with contextlib.closing(index.connect(path)) as made:
        assert index.totals(made) == (12, 5, 1)
        changes = [(each.name, each.usn, each.sha1) for each in index.changes(made, 0)]
        assert changes == [("a", 3, sha1("a").hex()), ("b", 4, "")]
    with contextlib.closing(sqlite3.connect(path)) as bare:
        assert bare.execute("PRAGMA user_version").fetchone() == (4,)


def test_where_files_are_left_out_devices_compare(tmp_path: Path) -> None:
    """They look at an index whose last number is new; one file that they have got it."""
    path = tmp_path / "media.db"
    with NewIndex(path) as new:
        for name, usn in (("a", 3), ("b", 5)):
            new.add(Listed(name, name, False, sha1(name), usn, 0), Fingerprint(sha1(name), 1))
        new.add(Listed("c", "c", True, None, 6, 0), None)
        assert new.finish(7, is_whole=False) == (8, 2, 2)
    with contextlib.closing(index.connect(path)) as made:
        numbers = [(each.name, each.usn) for each in index.changes(made, 0)]
        assert numbers == [("a", 3), ("c", 6), ("b", 8)]


@pytest.mark.parametrize("deleted_first", [True, False])
def test_of_two_with_one_name_one_that_is_there_stays(tmp_path: Path, deleted_first: bool) -> None:
    """Names that differ in Unicode form only are one name to clients."""
    there = Listed("é", "é", False, sha1("a"), 1, 0), Fingerprint(sha1("a"), 5)
    gone = Listed("é", "e\u0301", True, None, 2, 0), None
    other = Listed("é", "e\u0301", False, sha1("b"), 3, 0), Fingerprint(sha1("b"), 6)
    order = [gone, there, other] if deleted_first else [there, gone, other]
    with NewIndex(tmp_path / "media.db") as new:
        added = [new.add(*each) for each in order]
        assert added == ([True, True, False] if deleted_first else [True, False, False])
        assert new.finish(3) == (3, 5, 1)


def test_a_folder_without_an_index(tmp_path: Path) -> None:
    """Each file is new."""
    assert [(each.name, each.usn) for each in unlisted(iter(["b", "a"]))] == [("b", 1), ("a", 2)]


def test_names_that_can_be() -> None:
    """Those that the official server takes."""
    assert is_fit("a.png")
    assert is_fit("a\\b")
    assert not any(map(is_fit, ["", "..", "a/b", "e\u0301", "x" * 256, "\ud800"]))
