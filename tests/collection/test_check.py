# SPDX-License-Identifier: AGPL-3.0-or-later
"""The check of a stored collection: what it finds in damaged ones, and what it mends."""

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from cardkeep.collection import counts, database, header
from cardkeep.collection.check import WHOLE, check_collection
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.schema.create import create
from cardkeep.collection.schema.inspect import inspect
from cardkeep.collection.session_file import SessionFile, State
from cardkeep.errors import CopyError
from cardkeep.messages import Counts, Finding
from tests.collection.schema.files import (
    NOW_MS,
    PAGE,
    VECTORS,
    integrity,
    opened,
    patch,
    rows,
    tables,
)

USN = 57
LATER_MS = NOW_MS + 86_400_000


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A collection with something of everything, as it is after an upload and some syncs."""
    path = tmp_path_factory.mktemp("sound") / "rich.anki2"
    path.write_bytes((VECTORS / "rich-schema18.anki2").read_bytes())
    inspect(path)
    with opened(path) as db:
        db.execute("UPDATE col SET usn = ?", (USN,))
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, sound: bytes) -> UserFolder:
    """A user with that collection."""
    folder = UserFolder(tmp_path / "ana")
    folder.make()
    folder.collection.write_bytes(sound)
    return folder


def found(folder: UserFolder, **how: object) -> list[Finding]:
    return list(check_collection(folder, now_ms=lambda: LATER_MS, **how))  # type: ignore[arg-type]


def kinds(findings: Sequence[Finding]) -> list[str]:
    return sorted({finding.kind for finding in findings})


def edit(folder: UserFolder, *statements: str) -> None:
    with opened(folder.collection) as db:
        for statement in statements:
            db.execute(statement)


# --- sound collections ------------------------------------------------------------------


# What is odd about the two odd ones, besides what an upload puts right: the clients' own check
# finds the missing deck too.
ODD = ["deck-without-parent"]
UPLOADED = {
    "small-schema11": [],
    "rich-schema11": [],
    "odd-schema11": ODD,
    "odd-schema11-upgraded-to-18": [*ODD, "notetype-incomplete"],
    "rich-schema11-upgraded-to-18": [],
    "small-schema18": [],
    "rich-schema18": [],
}


@pytest.mark.parametrize(("name", "wrong"), UPLOADED.items(), ids=UPLOADED.keys())
def test_what_was_uploaded_is_sound(folder: UserFolder, name: str, wrong: list[str]) -> None:
    """Collections of real clients, as an upload leaves them, have nothing wrong."""
    folder.collection.write_bytes((VECTORS / f"{name}.anki2").read_bytes())
    inspect(folder.collection)
    assert kinds([each for each in found(folder) if not each.harmless]) == sorted(wrong)


def test_a_new_collection_is_sound(folder: UserFolder) -> None:
    """Nothing at all is said of it."""
    folder.collection.unlink()
    create(folder.collection, NOW_MS)
    assert found(folder) == []


def test_the_sound_one_is_sound(folder: UserFolder) -> None:
    """Nothing of what the tests below find is in it without the damage."""
    assert found(folder) == []


def test_a_user_without_a_collection(folder: UserFolder) -> None:
    """There is nothing to check, and nothing is made."""
    folder.collection.unlink()
    assert found(folder, repair=True) == []
    assert not folder.collection.exists()


# --- one damage each --------------------------------------------------------------------

FIRST = "(SELECT min(id) FROM cards)"
PLAIN = "odid = 0"

# What is done to it; what is found and mended; what is found and left.
DAMAGES: dict[str, tuple[tuple[str, ...], set[str], set[str]]] = {
    "card of no note": (
        (
            "INSERT INTO cards SELECT 9, 5, did, ord, mod, usn, type, queue, due, ivl, factor, "
            f"reps, lapses, left, odue, odid, flags, data FROM cards WHERE id = {FIRST}",
        ),
        {"card-without-note"},
        set(),
    ),
    "card in no deck": (
        (f"UPDATE cards SET did = 6 WHERE id = {FIRST}",),
        {"card-without-deck"},
        set(),
    ),
    "card whose filtered deck and home are gone": (
        (f"UPDATE cards SET did = 6, odid = 7, odue = 5 WHERE id = {FIRST}",),
        {"card-without-deck"},
        set(),
    ),
    "card at home with a home": (
        (f"UPDATE cards SET odid = 1, odue = 5 WHERE id = {FIRST}",),
        {"card-home"},
        set(),
    ),
    "card away without a home": (
        ("UPDATE cards SET odid = 0, odue = 0 WHERE odid != 0",),
        set(),
        {"card-in-filtered"},
    ),
    "twins": (
        (
            "INSERT INTO cards SELECT 9, nid, did, ord, mod, usn, type, queue, due, ivl, factor, "
            f"reps, lapses, left, odue, odid, flags, data FROM cards WHERE id = {FIRST}",
        ),
        {"card-twin"},
        set(),
    ),
    "card of no template": (
        (f"UPDATE cards SET ord = 7 WHERE id = {FIRST}",),
        set(),
        {"card-without-template"},
    ),
    "position too high": (
        (f"UPDATE cards SET type = 0, queue = 0, due = 2000001 WHERE {PLAIN}",),
        {"card-due"},
        set(),
    ),
    "day too high": (
        (f"UPDATE cards SET type = 2, queue = 2, due = 100001 WHERE {PLAIN}",),
        {"card-due"},
        set(),
    ),
    "due at home without a home": (
        (f"UPDATE cards SET type = 2, queue = 2, odue = 5 WHERE {PLAIN}",),
        {"card-due"},
        set(),
    ),
    "note of no notetype": (
        ("UPDATE notes SET mid = 77 WHERE id = (SELECT min(id) FROM notes)",),
        set(),
        {"note-without-notetype"},
    ),
    "note without cards": (
        ("DELETE FROM cards WHERE nid = (SELECT min(id) FROM notes)",),
        set(),
        {"note-without-card"},
    ),
    "a field too many": (
        ("UPDATE notes SET flds = flds || char(31) WHERE id = (SELECT min(id) FROM notes)",),
        set(),
        {"note-fields"},
    ),
    "sort field": (("UPDATE notes SET sfld = 'other'",), {"derived"}, set()),
    "sort field that is a number": (("UPDATE notes SET sfld = 0",), {"derived"}, set()),
    "checksum": (("UPDATE notes SET csum = 7",), {"derived"}, set()),
    "text of a note": (
        ("UPDATE notes SET flds = CAST(x'ff1f41' AS text) WHERE id = (SELECT min(id) FROM notes)",),
        set(),
        {"text"},
    ),
    "text of a card": (("UPDATE cards SET data = CAST(x'ff' AS text)",), set(), {"text"}),
    "notetype without fields": (
        ("DELETE FROM fields WHERE ntid = (SELECT max(id) FROM notetypes)",),
        set(),
        {"notetype-incomplete"},
    ),
    "no notetypes": (
        ("DELETE FROM notetypes",),
        set(),
        {
            "no-notetype",
            "note-without-notetype",
            "field-without-notetype",
            "template-without-notetype",
        },
    ),
    "field of no notetype": (
        ("INSERT INTO fields SELECT 5, ord, name, config FROM fields LIMIT 1",),
        set(),
        {"field-without-notetype"},
    ),
    "default deck": (
        (
            "UPDATE cards SET did = (SELECT max(id) FROM decks) WHERE did = 1",
            "DELETE FROM decks WHERE id = 1",
        ),
        {"default-deck"},
        set(),
    ),
    "default options": (
        (
            "UPDATE deck_config SET id = 77 WHERE id = 1",
            "UPDATE decks SET kind = x'0a02084d' WHERE substr(kind, 1, 1) = x'0a'",
        ),
        {"default-options"},
        set(),
    ),
    "options of a deck": (
        ("UPDATE decks SET kind = x'0a020809' WHERE id = 1",),
        set(),
        {"deck-without-options"},
    ),
    "parents of a deck": (
        (
            "INSERT INTO decks SELECT 9, 'a' || char(31) || 'b' || char(31) || 'c', 1, 0, common, "
            "kind FROM decks WHERE id = 1",
        ),
        {"deck-without-parent"},
        set(),
    ),
    "name of a deck": (
        (
            "INSERT INTO decks SELECT 8, 'a', 1, 0, common, kind FROM decks WHERE id = 1",
            "INSERT INTO decks SELECT 9, ' A: ', 1, 0, common, kind FROM decks WHERE id = 1",
        ),
        {"deck-name"},
        set(),
    ),
    "deck": (("UPDATE decks SET common = x'ff' WHERE id = 1",), set(), {"object"}),
    "deck of no kind": (("UPDATE decks SET kind = x'' WHERE id = 1",), set(), {"object"}),
    "preset": (("UPDATE deck_config SET config = x'ff'",), set(), {"object"}),
    "notetype": (("UPDATE notetypes SET config = x'ff'",), set(), {"object"}),
    "field": (("UPDATE fields SET config = x'ff'",), set(), {"object"}),
    "template": (("UPDATE templates SET config = x'ff'",), set(), {"object"}),
    "configuration": (("UPDATE config SET val = x'ff'",), set(), {"object"}),
    "configuration that is text": (("UPDATE config SET val = '1'",), set(), {"value-unreadable"}),
    "fraction of a day": (("UPDATE cards SET due = due + 0.5",), {"value"}, set()),
    "kind of a review": (("UPDATE revlog SET type = 9",), {"value"}, set()),
    "kind of a card": (
        ("UPDATE cards SET type = 9 WHERE id = (SELECT min(id) FROM cards)",),
        set(),
        {"value-unreadable"},
    ),
    "nothing in a column": (
        (
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_schema SET sql = replace(sql, 'reps integer NOT NULL', 'reps integer') "
            "WHERE name = 'cards'",
            "PRAGMA writable_schema = RESET",
            f"UPDATE cards SET reps = NULL WHERE id = {FIRST}",
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_schema SET sql = replace(sql, 'reps integer', 'reps integer NOT NULL') "
            "WHERE name = 'cards'",
        ),
        set(),
        {"value-unreadable"},
    ),
    "deletion of nothing": (
        ("INSERT INTO graves VALUES (4, 9, 3)",),
        {"grave-kind"},
        set(),
    ),
    **{
        f"usn {usn} in {table}": ((f"UPDATE {table} SET usn = {usn}",), {"usn"}, set())
        for table in ("cards", "notes", "revlog", "decks", "notetypes", "deck_config", "tags")
        for usn in (-1, USN + 1)
    },
    "usn of a deletion": (("INSERT INTO graves VALUES (4, 0, 99)",), {"usn"}, set()),
    **{
        f"deletion of what is there, in {table}": (
            (f"INSERT INTO graves SELECT id, {kind}, 5 FROM {table} WHERE id != 1",),
            {"grave"},
            set(),
        )
        for kind, table in enumerate(("cards", "notes", "decks"))
    },
    "missing indexes": (
        ("DROP INDEX ix_cards_nid", "DROP INDEX idx_decks_name"),
        {"index-missing"},
        set(),
    ),
    "index of other columns": (
        ("DROP INDEX ix_cards_sched", "CREATE INDEX ix_cards_sched ON cards (did, due)"),
        {"index-missing"},
        set(),
    ),
    "two of one name": (
        (
            "DROP INDEX idx_decks_name",
            "INSERT INTO decks SELECT 9, upper(name), 1, 0, common, kind FROM decks WHERE id = 1",
        ),
        set(),
        {"index-missing"},
    ),
    "trigger": (
        ("CREATE TRIGGER t AFTER UPDATE ON cards BEGIN DELETE FROM notes; END",),
        set(),
        {"schema-foreign"},
    ),
    "missing table": (("DROP TABLE graves",), set(), {"schema"}),
    "no row of its own": (("DELETE FROM col",), set(), {"schema"}),
    "two rows of its own": (
        (
            "INSERT INTO col SELECT 2, crt, mod, scm, ver, dty, usn, ls, '', '', '', '', '' "
            "FROM col",
        ),
        set(),
        {"schema"},
    ),
    "schema 17": (("UPDATE col SET ver = 17",), set(), {"schema"}),
}


@pytest.mark.parametrize(("statements", "mended", "left"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage(
    folder: UserFolder, statements: tuple[str, ...], mended: set[str], left: set[str]
) -> None:
    """Looking finds it and changes nothing; repairing mends what it can, and says what it left."""
    edit(folder, *statements)
    before = folder.collection.read_bytes()
    looked = found(folder)
    assert set(kinds(looked)) == mended | left
    assert mended <= {finding.kind for finding in looked if finding.repairable}
    assert not any(finding.repaired for finding in looked)
    if "trigger" not in str(statements):
        assert differing_pages(before, folder.collection.read_bytes()) <= {0}

    repaired = found(folder, repair=True)
    assert {finding.kind for finding in repaired if finding.repaired} == mended
    assert {finding.kind for finding in repaired if not finding.repaired} == left
    assert set(kinds(found(folder))) == left


def differing_pages(before: bytes, after: bytes) -> set[int]:
    """Numbers of the pages that are not the same; the first holds counters of writes."""
    return {
        at // PAGE
        for at in range(0, max(len(before), len(after)), PAGE)
        if before[at : at + PAGE] != after[at : at + PAGE]
    }


def test_names_that_are_no_text(folder: UserFolder) -> None:
    """They cannot be compared, so what needs their order is left out; nothing stumbles."""
    edit(folder, "INSERT INTO decks SELECT 9, 'a~b', 1, 0, common, kind FROM decks WHERE id = 1")
    folder.collection.write_bytes(folder.collection.read_bytes().replace(b"a~b", b"a\xffb"))
    assert kinds(found(folder, repair=True)) == ["text", "unreadable"]


# --- damaged files ----------------------------------------------------------------------


def root_page(folder: UserFolder, name: str) -> int:
    [(page,)] = rows(folder.collection, f"SELECT rootpage FROM sqlite_schema WHERE name = '{name}'")
    return int(page)


def empty_index(folder: UserFolder, *names: str) -> None:
    """Makes indexes empty, each whole in itself."""
    for name in names:
        patch(folder.collection, (root_page(folder, name) - 1) * PAGE, b"\x0a\0\0\0\0\x10\0\0")


def overwritten(folder: UserFolder) -> None:
    at = (root_page(folder, "cards") - 1) * PAGE
    patch(folder.collection, at, random.Random(1).randbytes(PAGE))


def circular(folder: UserFolder) -> None:
    """An inner page whose children are all itself."""
    page, cells = root_page(folder, "notes"), 400
    child = page.to_bytes(4, "big")
    head = b"\x05\0\0" + cells.to_bytes(2, "big") + (3000).to_bytes(2, "big") + b"\0" + child
    patch(folder.collection, (page - 1) * PAGE, head + (3000).to_bytes(2, "big") * cells)
    patch(folder.collection, (page - 1) * PAGE + 3000, child + b"\1")


BROKEN: dict[str, Callable[[UserFolder], object]] = {
    "overwritten page": overwritten,
    "circular page": circular,
    "cut short": lambda folder: folder.collection.write_bytes(
        folder.collection.read_bytes()[: 20 * PAGE]
    ),
    "cut within a page": lambda folder: folder.collection.write_bytes(
        folder.collection.read_bytes()[: -PAGE - 1000]
    ),
    "nothing": lambda folder: folder.collection.write_bytes(b""),
    "something else": lambda folder: folder.collection.write_bytes(b"something else" * 1000),
    "wrong free list": lambda folder: patch(folder.collection, 32, b"\0\0\0\x09\0\0\0\x01"),
}


@pytest.mark.parametrize("spoil", BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_file(folder: UserFolder, spoil: Callable[[UserFolder], object]) -> None:
    """It is told, in bounded time, and not touched: only a copy can help."""
    spoil(folder)
    before = folder.collection.read_bytes()
    for repair in (False, True):
        findings = found(folder, repair=repair)
        assert kinds(findings) in (["damaged"], ["schema"])
        assert not any(finding.repairable for finding in findings)
    # The server's journal is asked for in the header of what is still an SQLite file.
    assert differing_pages(before, folder.collection.read_bytes()) <= {0}
    assert len(before) == len(folder.collection.read_bytes())


def test_indexes_that_disagree_with_their_tables(folder: UserFolder) -> None:
    """They are made anew; then the rest is looked at."""
    empty_index(folder, "ix_cards_nid", "ix_revlog_cid", "idx_cards_odid")
    assert kinds(found(folder)) == ["index"]
    edit(folder, f"UPDATE cards SET odid = 1 WHERE id = {FIRST}")
    repaired = found(folder, repair=True)
    assert kinds(repaired) == ["card-home", "index"]
    assert all(finding.repaired for finding in repaired)
    assert integrity(folder.collection) == "ok"
    assert found(folder) == []


def test_all_indexes_that_disagree_are_made_anew(folder: UserFolder) -> None:
    """Also those of which SQLite, after so many lines about others, does not speak."""
    empty_index(folder, "ix_cards_usn", "ix_notes_usn", "ix_revlog_usn", "idx_notes_mid")
    (looked,) = found(folder)
    assert "ix_revlog_usn" not in looked.what
    repaired = found(folder, repair=True)
    assert [(each.kind, each.repaired) for each in repaired] == [("index", True)]
    assert found(folder) == []


def test_rows_that_an_index_hid_are_sent(folder: UserFolder) -> None:
    """A sync looks for them by their usn: what it did not see has reached no device."""
    edit(folder, "UPDATE cards SET usn = 50 WHERE id % 2", "UPDATE notes SET usn = 50")
    empty_index(folder, "ix_cards_usn")
    before = head(folder)
    assert kinds(found(folder, repair=True)) == ["index"]
    assert set(rows(folder.collection, "SELECT usn FROM cards")) == {(USN,)}
    assert set(rows(folder.collection, "SELECT usn FROM notes")) == {(50,)}
    assert head(folder).mod > before.mod


def test_indexes_alone_are_no_news_for_devices(folder: UserFolder) -> None:
    """The collection stays the one that they know."""
    before = head(folder)
    empty_index(folder, "ix_cards_nid")
    edit(folder, "DROP INDEX ix_notes_csum")
    assert kinds(found(folder, repair=True)) == ["index", "index-missing"]
    assert head(folder) == before


def head(folder: UserFolder) -> header.Header:
    with opened(folder.collection) as db:
        return header.read(db)


# --- mending reaches the devices --------------------------------------------------------


def test_what_is_mended_gets_the_usn_that_every_device_asks_from(folder: UserFolder) -> None:
    """The collection is later than before, has the usn and schema time that it had."""
    edit(
        folder,
        f"UPDATE cards SET did = 6 WHERE id = {FIRST}",
        "INSERT INTO decks SELECT 9, 'a' || char(31) || 'b', 1, 0, common, kind FROM decks "
        "WHERE id = 1",
        "UPDATE revlog SET usn = -1",
        "INSERT INTO cards SELECT 9, 5, did, ord, mod, usn, type, queue, due, ivl, factor, "
        "reps, lapses, left, odue, odid, flags, data FROM cards WHERE id = (SELECT max(id) "
        "FROM cards)",
    )
    before = head(folder)
    assert all(finding.repaired for finding in found(folder, repair=True))
    after = head(folder)
    assert after == msgspec.structs.replace(before, mod=LATER_MS)
    path, now = folder.collection, LATER_MS // 1000
    assert rows(path, "SELECT name, mtime_secs FROM decks WHERE usn = 57") == [("a", now)]
    assert rows(path, "SELECT did, mod FROM cards WHERE usn = 57") == [(1, now)]
    assert set(rows(path, "SELECT usn FROM revlog")) == {(USN,)}
    assert rows(path, "SELECT * FROM graves WHERE oid = 9") == [(9, 0, USN)]


def test_a_clock_that_went_back(folder: UserFolder) -> None:
    """The collection's time never does."""
    edit(folder, "UPDATE tags SET usn = -1")
    before = head(folder)
    assert list(check_collection(folder, now_ms=lambda: 1000, repair=True))
    assert head(folder).mod == before.mod + 1


def test_the_twin_that_was_studied_more_stays(folder: UserFolder) -> None:
    """Then the older one, as when devices made one each."""
    edit(
        folder,
        *(
            f"INSERT INTO cards SELECT {card}, nid, did, ord, mod, usn, type, queue, due, ivl, "
            f"factor, {reps}, lapses, left, odue, odid, flags, data FROM cards WHERE id = {FIRST}"
            for card, reps in ((2_000_000_000_001, 900), (2_000_000_000_002, 900), (8, 0))
        ),
    )
    found(folder, repair=True)
    note = "SELECT nid FROM cards WHERE id = 2000000000001"
    assert rows(folder.collection, f"SELECT id FROM cards WHERE nid = ({note}) AND ord = 0") == [
        (2_000_000_000_001,)
    ]


def test_lost_rows_are_no_reason_to_delete_the_rest(folder: UserFolder) -> None:
    """Where many cards lack their notes, the notes were lost: nothing is deleted."""
    copies = "WITH n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 101)"
    edit(
        folder,
        f"INSERT INTO cards {copies} SELECT n, n, did, ord, mod, usn, type, queue, due, ivl, "
        f"factor, reps, lapses, left, odue, odid, flags, data FROM cards, n WHERE id = {FIRST}",
    )
    before = tables(folder.collection)
    (finding,) = found(folder, repair=True)
    assert (finding.kind, finding.repairable, finding.repaired) == (
        "card-without-note",
        False,
        False,
    )
    assert finding.what.startswith("101 cards of notes that do not exist: 1, 2, 3, 4, 5, ….")
    assert tables(folder.collection) == before


def test_a_copy_is_kept_first(folder: UserFolder) -> None:
    """Before anything is mended; and only then."""
    seen: list[list[tuple[int]]] = []

    def keep() -> None:
        with database.connect(folder.collection) as db:
            seen.append(db.execute("SELECT count(*) FROM decks WHERE id = 1").fetchall())
            database.close(db)

    assert found(folder, repair=True, keep_copy=keep) == []
    assert seen == []
    edit(
        folder,
        "UPDATE cards SET did = (SELECT max(id) FROM decks) WHERE did = 1",
        "DELETE FROM decks WHERE id = 1",
    )
    assert found(folder, keep_copy=keep)
    assert seen == []
    assert found(folder, repair=True, keep_copy=keep)
    assert seen == [[(0,)]]


def test_without_a_copy_nothing_is_mended(folder: UserFolder) -> None:
    """The disk may be full, or broken."""

    def fail() -> None:
        raise CopyError("no copy could be kept: the disk is full")

    edit(folder, "UPDATE tags SET usn = -1")
    before = tables(folder.collection)
    findings = found(folder, repair=True, keep_copy=fail)
    assert kinds(findings) == ["not-mended", "usn"]
    assert not any(finding.repaired for finding in findings)
    assert tables(folder.collection) == before


# --- counts -----------------------------------------------------------------------------


def test_kept_counts(folder: UserFolder) -> None:
    """Wrong ones are counted again; they are no news for devices."""
    with opened(folder.collection) as db:
        right = counts.count(db)
    before = head(folder)
    counts.keep(folder, before, msgspec.structs.replace(right, cards=3, notes=4))
    (finding,) = found(folder)
    assert finding.kind == "counts"
    assert finding.what == "The kept counts are wrong: 3 cards instead of 12, 4 notes instead of 9."
    (finding,) = found(folder, repair=True)
    assert finding.repaired
    assert counts.kept(folder, before) == right
    assert head(folder) == before


def test_counts_after_mending(folder: UserFolder) -> None:
    """They are those of the mended collection."""
    edit(folder, f"UPDATE cards SET nid = 5 WHERE id = {FIRST}")
    found(folder, repair=True)
    kept = counts.kept(folder, head(folder))
    assert kept == Counts(cards=11, notes=9, revlog=8, notetypes=7, decks=14, deck_configs=2)


# --- beside syncs -----------------------------------------------------------------------

LIVE = State(
    key="k",
    device="d",
    client="",
    protocol=11,
    min_usn=1,
    usn=USN,
    mod=3,
    scm=4,
    local_newer=True,
    opened=LATER_MS - 5000,
    active=LATER_MS - 5000,
)


def test_a_running_sync_is_not_ended(folder: UserFolder) -> None:
    """If it goes on for too long, nothing is mended."""
    edit(folder, "UPDATE tags SET usn = -1")
    with SessionFile(folder, wait=True) as session:
        session.begin(LIVE)
    before = tables(folder.collection)
    findings = found(folder, repair=True, patience=0.2)
    assert kinds(findings) == ["not-mended", "usn"]
    assert tables(folder.collection) == before
    with SessionFile(folder, wait=True) as session:
        assert session.read() == LIVE


@pytest.mark.parametrize("protocol", [10, 11])
def test_a_running_sync_is_waited_for(folder: UserFolder, protocol: int) -> None:
    """Mending begins right after its end."""
    edit(folder, "UPDATE tags SET usn = -1")
    live = msgspec.structs.replace(LIVE, protocol=protocol)
    with SessionFile(folder, wait=True) as session:
        session.begin(live)

    def end() -> None:
        time.sleep(0.3)
        with SessionFile(folder, wait=True) as session:
            session.read()
            session.write(msgspec.structs.replace(live, committed=5))

    ending = threading.Thread(target=end)
    ending.start()
    findings = found(folder, repair=True, patience=20)
    ending.join()
    assert [finding.repaired for finding in findings] == [True]


@pytest.mark.parametrize(("protocol", "silent"), [(11, 60_000), (10, 300_000)])
def test_a_client_that_has_gone_is_not_waited_for(
    folder: UserFolder, protocol: int, silent: int
) -> None:
    """It says nothing for longer than any client waits."""
    edit(folder, "UPDATE tags SET usn = -1")
    with SessionFile(folder, wait=True) as session:
        session.begin(msgspec.structs.replace(LIVE, protocol=protocol, active=LATER_MS - silent))
    findings = found(folder, repair=True, patience=0)
    assert [finding.repaired for finding in findings] == [True]


def test_writers_do_not_wait(folder: UserFolder) -> None:
    """A commit at any moment of a check finds no lock."""
    edit(
        folder,
        "INSERT INTO revlog WITH n(n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM n WHERE n < "
        "200000) SELECT n, 1, 0, 3, 1, 1, 2500, 1000, 1 FROM n",
    )
    stop, commits = threading.Event(), 0

    def write() -> None:
        nonlocal commits
        db = database.connect(folder.collection)
        db.execute("PRAGMA busy_timeout = 0")
        while not stop.is_set():
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE col SET ls = ls + 1")
            db.execute("COMMIT")
            commits += 1
        database.close(db)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for _ in range(3):
            assert found(folder) == []
    finally:
        stop.set()
        writing.join()
    assert commits > 20
    assert rows(folder.collection, "SELECT ls FROM col") == [(commits,)]


def test_another_programs_lock(folder: UserFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official server holds a collection as long as it has it open."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    other = sqlite3.connect(folder.collection, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert kinds(found(folder)) == ["in-use"]
    finally:
        other.close()


# --- how it goes ------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("damage", [(), ("UPDATE tags SET usn = -1",), ("DROP TABLE graves",)])
def test_progress_adds_up(folder: UserFolder, quick: bool, damage: tuple[str, ...]) -> None:
    """To the whole, whatever is found."""
    edit(folder, *damage)
    told: list[int] = []
    found(folder, quick=quick, repair=True, progress=told.append)
    assert sum(told) == WHOLE
    assert all(part > 0 for part in told)


def test_quick_leaves_out_what_takes_long(folder: UserFolder) -> None:
    """Texts of notes and the order of indexes; everything else is found all the same."""
    edit(folder, "UPDATE notes SET csum = 7", f"UPDATE cards SET did = 6 WHERE id = {FIRST}")
    empty_index(folder, "ix_revlog_cid")
    assert kinds(found(folder, quick=True)) == ["card-without-deck"]
    assert kinds(found(folder)) == ["index"]


def test_a_collection_that_is_gone(folder: UserFolder) -> None:
    """It was there when a sync kept its counts."""
    counts.keep(folder, head(folder), Counts(1, 1, 1, 1, 1, 1))
    folder.collection.unlink()
    assert kinds(found(folder)) == ["collection-missing"]


MEASURED = """
import resource, sys
from pathlib import Path
from cardkeep.collection.check import check_collection
from cardkeep.collection.folder import UserFolder
for finding in check_collection(UserFolder(Path(sys.argv[1])), now_ms=lambda: 0):
    assert finding.kind in ("note-without-card", "derived", "card-without-note"), finding
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: UserFolder) -> int:
    """KiB that a check takes at most."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, folder.root], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_memory_does_not_grow_with_the_collection(folder: UserFolder) -> None:
    """60 MB, with hundreds of thousands of rows that have something wrong."""
    small = peak(folder)
    numbers = "WITH n(n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM n WHERE n < 100000)"
    edit(
        folder,
        f"INSERT INTO notes {numbers} SELECT n, 'g' || n, mid, mod, usn, tags, hex(zeroblob(200)) "
        "|| char(31), sfld, 1, 0, '' FROM notes, n WHERE id = (SELECT min(id) FROM notes)",
        f"INSERT INTO cards {numbers} SELECT n, -n, did, ord, mod, usn, type, queue, due, ivl, "
        f"factor, reps, lapses, left, odue, odid, flags, data FROM cards, n WHERE id = {FIRST}",
    )
    assert folder.collection.stat().st_size > 60_000_000
    assert peak(folder) < small + 25_000


REPAIRED = """
import sys
from pathlib import Path
from cardkeep.collection.check import check_collection
from cardkeep.collection.folder import UserFolder
print("begins", flush=True)
list(check_collection(UserFolder(Path(sys.argv[1])), now_ms=lambda: 1_795_423_255_765, repair=True))
print("done", flush=True)
"""


@pytest.mark.parametrize("after", [0.005, 0.01, 0.02, 0.04, 0.08])
def test_killed_while_mending(folder: UserFolder, after: float) -> None:
    """What is there afterwards is the old state or the mended one, and can be mended again."""
    edit(folder, "UPDATE tags SET usn = -1", f"UPDATE cards SET nid = 5 WHERE id = {FIRST}")
    process = subprocess.Popen(
        [sys.executable, "-c", REPAIRED, folder.root], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = set(kinds(found(folder)))
    assert left in (
        {"usn", "card-without-note", "note-without-card"},
        {"note-without-card"},
    )
    found(folder, repair=True)
    assert kinds(found(folder)) == ["note-without-card"]
    assert integrity(folder.collection) == "ok"
