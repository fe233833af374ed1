# SPDX-License-Identifier: AGPL-3.0-or-later
"""A backup holds the data folder as it is, and a restore makes the same folder of it."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from cardkeep.accounts.store import AccountStore
from cardkeep.backups import base_lock
from cardkeep.backups.archive import media as archive_media
from cardkeep.backups.archive.file import check, save, stream
from cardkeep.backups.archive.read import Read
from cardkeep.backups.archive.records import CONTENTS, MANIFEST, SUMS, UserContents
from cardkeep.backups.archive.restore import restore, restore_user
from cardkeep.backups.snapshot import Snapshots
from cardkeep.collection import database, header
from cardkeep.collection.folder import UserFolder
from cardkeep.errors import BackupError, DamagedBackup, Unavailable
from cardkeep.media.store import MediaStore
from tests.backups.archive.conftest import LARGE, MEDIA, rows, tree, unseen
from tests.media.looking import upload


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the backup goes."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk" / "b.tar.zst"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where it is restored; not there yet."""
    return tmp_path / "restored"


def unpacked(file: Path, into: Path) -> Path:
    """As somebody does it who has no cardkeep."""
    into.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", file, "-C", into], check=True)
    return into


# --- what is in it ----------------------------------------------------------------------


def test_it_holds_everything_but_what_is_live(base: Path, file: Path, tmp_path: Path) -> None:
    found = save(base, file, unseen)
    out = unpacked(file, tmp_path / "out")
    own = base / "ana" / ".cardkeep"
    there = {path for path in tree(out) if (out / path).is_file()}
    [copy] = [path.name for path in (own / "snapshots").iterdir() if path.name[0] != "."]
    expected = {
        MANIFEST,
        CONTENTS,
        SUMS,
        "accounts.db",
        "ana/collection.anki2",
        "ana/media.db",
        *(f"ana/media/{name}" for name in MEDIA),
        "ana/.cardkeep/history",
        "ana/.cardkeep/copied",
        *(
            f"ana/.cardkeep/snapshots/{copy}/{path.name}"
            for path in (own / "snapshots" / copy).iterdir()
        ),
        "ben/collection.anki2",
    }
    assert {path for path in there if "/trash/" not in path} == expected
    for name, data in MEDIA.items():
        assert (out / "ana" / "media" / name).read_bytes() == data
    assert Snapshots(UserFolder(out / "ana")).all() == Snapshots(UserFolder(base / "ana")).all()
    assert {path.stat().st_mode & 0o077 for path in out.rglob("*")} == {0}
    ana, ben = found.contents.users
    size = sum(map(len, MEDIA.values()))
    assert ana == UserContents("ana", 12, 9, 8, 4, size, 1, ana.trash)
    assert ben.name == "ben"
    assert found.contents.accounts
    assert found.contents.problem_count == 0
    assert found.manifest.users == ("ana", "ben")


def test_databases_are_what_they_were(base: Path, file: Path, tmp_path: Path) -> None:
    """Row by row, and each whole by itself."""
    save(base, file, unseen)
    out = unpacked(file, tmp_path / "out")
    for path, statement in {
        "ana/collection.anki2": "SELECT id, flds, usn FROM notes ORDER BY id",
        "ana/media.db": "SELECT * FROM media ORDER BY fname",
        "accounts.db": "SELECT id, name, password FROM users",
    }.items():
        assert len(rows(base / path, statement)) > 2
        assert rows(out / path, statement) == rows(base / path, statement)
        assert rows(out / path, "PRAGMA integrity_check") == [("ok",)]


def test_what_is_still_in_the_log_is_in_it(base: Path, file: Path, tmp_path: Path) -> None:
    """A server has the collection open and committed just now."""
    with closing(database.connect(base / "ana" / "collection.anki2")) as db:
        db.execute("UPDATE notes SET flds = 'changed'")
        assert (base / "ana" / "collection.anki2-wal").stat().st_size
        save(base, file, unseen)
    out = unpacked(file, tmp_path / "out")
    assert {*rows(out / "ana" / "collection.anki2", "SELECT flds FROM notes")} == {("changed",)}


def test_a_reader_of_an_earlier_state_does_not_matter(
    base: Path, file: Path, tmp_path: Path
) -> None:
    """While a slow download pins the log, the collection is copied as it is now."""
    path = base / "ana" / "collection.anki2"
    with closing(database.connect(path)) as db, closing(database.connect(path)) as slow:
        slow.execute("BEGIN")
        slow.execute("SELECT count(*) FROM notes").fetchone()
        db.execute("UPDATE notes SET flds = 'changed'")
        save(base, file, unseen)
    out = unpacked(file, tmp_path / "out")
    assert {*rows(out / "ana" / "collection.anki2", "SELECT flds FROM notes")} == {("changed",)}


def test_a_sync_that_is_under_way_is_not_in_it(base: Path, file: Path, tmp_path: Path) -> None:
    """What is not committed is not there, and does not hold the backup up."""
    path = base / "ana" / "collection.anki2"
    with closing(database.connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM notes")
        save(base, file, unseen)
        db.execute("ROLLBACK")
    out = unpacked(file, tmp_path / "out")
    assert len(rows(out / "ana" / "collection.anki2", "SELECT id FROM notes")) == 9


def test_commits_meanwhile_are_wholly_in_it_or_not(base: Path, file: Path, tmp_path: Path) -> None:
    """Two tables that each transaction changes alike are alike in every backup."""
    path = base / "ana" / "collection.anki2"
    with closing(database.connect(path)) as db:
        db.execute("INSERT INTO config VALUES ('x', 0, 0, x'')")
    stop = threading.Event()

    def sync() -> None:
        with closing(database.connect(path)) as db:
            while not stop.is_set():
                db.execute("BEGIN IMMEDIATE")
                db.execute("UPDATE col SET ls = ls + 1")
                db.execute("UPDATE notes SET flds = flds || ' and more'")
                db.execute("UPDATE config SET usn = (SELECT ls FROM col) WHERE key = 'x'")
                db.execute("COMMIT")

    syncing = threading.Thread(target=sync)
    syncing.start()
    try:
        for number in range(5):
            save(base, file, unseen)
            out = unpacked(file, tmp_path / f"out{number}") / "ana" / "collection.anki2"
            assert rows(out, "PRAGMA integrity_check") == [("ok",)]
            assert rows(out, "SELECT ls FROM col") == rows(
                out, "SELECT usn FROM config WHERE key = 'x'"
            )
    finally:
        stop.set()
        syncing.join()


def test_it_reads_well_from_a_pipe(base: Path, file: Path) -> None:
    """`cardkeep backup -`."""
    with file.open("wb") as output:
        contents = stream(base, output, unseen)
    assert check(file, unseen).contents == contents


def test_an_empty_data_folder(tmp_path: Path, file: Path, target: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert save(tmp_path / "empty", file, unseen).contents.users == ()
    restore(target, file, unseen)
    assert tree(target) == {}


# --- media ------------------------------------------------------------------------------


def media_of(file: Path, into: Path) -> dict[str, bytes]:
    """The files that the index in a backup lists; fails if one is not there as listed."""
    out = unpacked(file, into) / "ana"
    listed = rows(out / "media.db", "SELECT fname, csum, size FROM media WHERE size > 0")
    counted = rows(out / "media.db", "SELECT total_nonempty_files, total_bytes FROM meta")
    assert counted == [(len(listed), sum(row[2] for row in listed))]
    found = {}
    for name, checksum, size in listed:
        data = (out / "media" / name).read_bytes()
        assert (hashlib.sha1(data).digest(), len(data)) == (checksum, size), name
        found[name] = data
    return found


class Meddling:
    """Has something done to the media when a file of that name is about to be read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def when(self, name: str, deed: Callable[[], object]) -> None:
        original = archive_media._Folder.open
        done = False

        def open_(folder: archive_media._Folder, opened: str) -> object:
            nonlocal done
            if opened == name and not done:
                done = True
                deed()
            return original(folder, opened)

        self._monkeypatch.setattr(archive_media._Folder, "open", open_)


@pytest.fixture
def meddling(monkeypatch: pytest.MonkeyPatch) -> Meddling:
    return Meddling(monkeypatch)


@pytest.fixture
def store(base: Path) -> Iterator[MediaStore]:
    with closing(MediaStore(base)) as store:
        yield store


@pytest.mark.parametrize("name", ["a.txt", "large.bin"])
def test_a_file_replaced_meanwhile(
    base: Path, file: Path, tmp_path: Path, store: MediaStore, meddling: Meddling, name: str
) -> None:
    """The backup has the new bytes, or still the old ones; and its index says so."""
    meddling.when(name, lambda: upload(store, (name, b"replaced")))
    assert save(base, file, unseen).contents.problem_count == 0
    assert media_of(file, tmp_path / "out") == MEDIA | {name: b"replaced"}


def test_a_file_deleted_meanwhile(
    base: Path, file: Path, tmp_path: Path, store: MediaStore, meddling: Meddling
) -> None:
    meddling.when("a.txt", lambda: upload(store, ("a.txt", None)))
    assert save(base, file, unseen).contents.problem_count == 0
    found = media_of(file, tmp_path / "out")
    assert found == {name: data for name, data in MEDIA.items() if name != "a.txt"}


def test_a_file_forgotten_meanwhile(
    base: Path, file: Path, tmp_path: Path, meddling: Meddling
) -> None:
    """A request found it missing: it is not listed, and no device is told to delete it."""

    def forget() -> None:
        (base / "ana" / "media" / "a.txt").unlink()
        with closing(sqlite3.connect(base / "ana" / "media.db")) as index:
            index.execute("DELETE FROM media WHERE fname = 'a.txt'")
            index.commit()

    meddling.when("a.txt", forget)
    assert save(base, file, unseen).contents.problem_count == 0
    assert "a.txt" not in media_of(file, tmp_path / "out")
    assert rows(tmp_path / "out/ana/media.db", "SELECT 1 FROM media WHERE fname = 'a.txt'") == []


def test_an_upload_in_the_middle_is_waited_for(
    base: Path, file: Path, tmp_path: Path, meddling: Meddling
) -> None:
    """A file is in its place and its index not committed yet; a moment later it is."""
    path = base / "ana" / "media" / "a.txt"

    def commit() -> None:
        with closing(sqlite3.connect(base / "ana" / "media.db")) as index:
            index.execute(
                "UPDATE media SET csum = ?, size = 3, usn = 99 WHERE fname = 'a.txt'",
                (hashlib.sha1(b"new").digest(),),
            )
            index.commit()

    def move_in() -> None:
        path.write_bytes(b"new")
        threading.Timer(0.2, commit).start()

    meddling.when("a.txt", move_in)
    assert save(base, file, unseen).contents.problem_count == 0
    assert media_of(file, tmp_path / "out")["a.txt"] == b"new"


@pytest.mark.parametrize(
    "place", ["trash/86f7e437faa5a7fce15d1ddcb9eaeaea377667b8", "incoming/0.0.replaced"]
)
def test_what_a_killed_upload_moved_away_is_found(
    base: Path, file: Path, tmp_path: Path, place: str
) -> None:
    """Until the next request puts it back, the listed bytes are elsewhere."""
    path = base / "ana" / "media" / "a.txt"
    path.replace(base / "ana" / ".cardkeep" / place)
    path.write_bytes(b"not committed")
    assert save(base, file, unseen).contents.problem_count == 0
    assert media_of(file, tmp_path / "out") == MEDIA


def test_lost_files_are_said(base: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, shortened or changed on the disk is named; all else is in the backup."""
    monkeypatch.setattr(archive_media, "_PATIENCE", 0.5)
    media = base / "ana" / "media"
    (media / "a.txt").unlink()
    (media / "large.bin").write_bytes(LARGE[:-1])
    (media / ("x" * 200 + ".jpg")).write_bytes(b"LONG NAME")
    contents = save(base, file, unseen).contents
    assert contents.problem_count == 3
    assert {problem.partition(" of ana")[0] for problem in contents.problems} == {
        f"media file {name!r}" for name in ("a.txt", "large.bin", "x" * 200 + ".jpg")
    }
    assert contents.users[0].media_files == 1


def test_many_lost_files_are_counted_without_waiting_for_each(
    base: Path, file: Path, store: MediaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_media, "_PATIENCE", 0.5)
    for start in range(0, 300, 25):
        upload(store, *((f"{n}.bin", b"%d" % n) for n in range(start, start + 25)))
    shutil.rmtree(base / "ana" / "media")
    contents = save(base, file, unseen).contents
    assert contents.problem_count == 304
    assert len(contents.problems) == 200


def test_unlisted_files_are_taken_too(base: Path, file: Path, target: Path) -> None:
    """Neither server looks at them; but they are somebody's."""
    (base / "ana" / "media" / "unlisted.txt").write_bytes(b"unlisted")
    (base / "ana" / "media" / "link").symlink_to("/etc/passwd")
    os.mkfifo(base / "ana" / "media" / "pipe")
    save(base, file, unseen)
    restore(target, file, unseen)
    assert (target / "ana" / "media" / "unlisted.txt").read_bytes() == b"unlisted"
    assert len(list((target / "ana" / "media").iterdir())) == len(MEDIA) + 1


# --- damage on the server's side --------------------------------------------------------


@pytest.mark.parametrize("path", ["ana/collection.anki2", "ana/media.db", "accounts.db"])
@pytest.mark.parametrize("rubbish", [b"rubbish" * 1000, b"SQLite format 3\0"])
def test_a_damaged_database_is_taken_as_it_lies(
    base: Path, file: Path, target: Path, path: str, rubbish: bytes
) -> None:
    """And is said; everything else is in the backup as ever."""
    (base / path).write_bytes(rubbish)
    [problem] = save(base, file, unseen).contents.problems
    assert "damaged" in problem
    restore(target, file, unseen)
    assert (target / path).read_bytes() == rubbish
    for name, data in MEDIA.items():
        assert (target / "ana" / "media" / name).read_bytes() == data


def test_an_empty_collection_file_is_said_too(base: Path, file: Path, target: Path) -> None:
    """To SQLite it is a database, but one without a collection."""
    (base / "ana" / "collection.anki2").write_bytes(b"")
    [problem] = save(base, file, unseen).contents.problems
    assert "the collection of ana is damaged" in problem
    restore(target, file, unseen)


@pytest.mark.parametrize("path", ["ana/collection.anki2", "ana/media.db"])
def test_what_another_program_has_locked_is_no_backup(base: Path, file: Path, path: str) -> None:
    """The official server holds both exclusively."""
    with closing(sqlite3.connect(base / path)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("PRAGMA user_version = 4" if "media" in path else "UPDATE col SET ls = 1")
        other.execute("COMMIT")
        with pytest.raises((Unavailable, BackupError), match="locked"):
            save(base, file, unseen)
    assert list(file.parent.iterdir()) == []


# --- the file ---------------------------------------------------------------------------


def test_it_takes_the_place_of_an_older_one(base: Path, file: Path) -> None:
    file.write_bytes(b"older")
    save(base, file, unseen)
    check(file, unseen)
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_an_older_one_stays_if_it_cannot_be_made(base: Path, file: Path) -> None:
    file.write_bytes(b"older")
    (base / "ana" / "collection.anki2").chmod(0)
    path = base / "ana" / "collection.anki2"
    path.unlink()
    path.mkdir()
    with pytest.raises(BackupError):
        save(base, file, unseen)
    assert file.read_bytes() == b"older"
    assert list(file.parent.iterdir()) == [file]


def test_what_a_killed_backup_left_is_removed(base: Path, file: Path) -> None:
    left = file.parent / ".cardkeep-backup-12345678"
    left.mkdir()
    (left / "b.tar.zst").write_bytes(b"half")
    save(base, file, unseen)
    assert list(file.parent.iterdir()) == [file]


def test_two_backups_into_one_folder(base: Path, file: Path) -> None:
    """Neither takes the other for a leftover."""
    files = [file.with_name(f"{number}.tar.zst") for number in range(3)]
    backups = [threading.Thread(target=save, args=(base, each, unseen)) for each in files]
    for backup in backups:
        backup.start()
    for backup in backups:
        backup.join()
    for each in files:
        check(each, unseen)
    assert sorted(file.parent.iterdir()) == files


@pytest.mark.parametrize("place", ["folder", "missing"])
def test_a_place_where_no_file_can_be(base: Path, file: Path, place: str) -> None:
    file.mkdir()
    with pytest.raises(BackupError):
        save(base, file if place == "folder" else file.parent / "no" / "b.tar.zst", unseen)
    assert list(file.parent.iterdir()) == [file]


# --- restoring --------------------------------------------------------------------------


def restored(base: Path, file: Path, target: Path) -> Read:
    save(base, file, unseen)
    return restore(target, file, unseen)


def test_the_restored_folder_is_the_same(base: Path, file: Path, target: Path) -> None:
    """But for what belonged to the running server, and the numbers that devices go on with."""
    found = restored(base, file, target)
    before, after = tree(base), tree(target)
    for user in ("ana", "ben"):
        del after[f"{user}/.cardkeep/lost-usns"]
        history = after.pop(f"{user}/.cardkeep/history") or b""
        last = json.loads(history.splitlines()[-1])
        assert last["note"] == f"backup of {found.manifest.made}"
        written = before.pop(f"{user}/.cardkeep/history", b"") or b""
        assert history.startswith(written)
    live = (".cardkeep", "session", "journal", "counts", "incoming", "brought-", "notice.")
    left_out = {
        path
        for path in before
        if path.startswith(".cardkeep")
        or path.removeprefix("ana/.cardkeep/").startswith(live)
        or path.removeprefix("ben/.cardkeep/").startswith(live)
        or path.endswith(("/.lock", "/new.anki2", "-wal", "-shm"))
    } - {"ana/.cardkeep", "ben/.cardkeep"}
    assert set(after) == set(before) - left_out
    for path in after:
        if after[path] is not None and not path.endswith((".db", ".anki2")):
            assert after[path] == before[path], path
            assert int((target / path).stat().st_mtime) == int((base / path).stat().st_mtime), path
    statement = "SELECT id, guid, mid, mod, usn, tags, flds FROM notes ORDER BY id"
    path = "ana/collection.anki2"
    assert rows(target / path, statement) == rows(base / path, statement)
    assert {found.stat().st_mode & 0o077 for found in target.rglob("*")} == {0}
    with closing(AccountStore(target)) as accounts:
        assert [user.name for user in accounts.users()] == ["ana", "ben", "eva"]


def test_devices_can_go_on(base: Path, file: Path, target: Path) -> None:
    """Nothing of the header changes but the usn; media are numbered anew, deletions are not."""
    restored(base, file, target)
    with closing(database.connect(base / "ana/collection.anki2")) as db:
        before = header.read(db)
    with closing(database.connect(target / "ana/collection.anki2")) as db:
        after = header.read(db)
    assert (after.crt, after.mod, after.scm, after.ls) == (
        before.crt,
        before.mod,
        before.scm,
        before.ls,
    )
    assert after.usn >= before.usn + 1_000_000
    statement = "SELECT fname, usn FROM media WHERE size {} 0 ORDER BY usn"
    path = "ana/media.db"
    assert rows(target / path, statement.format("=")) == rows(base / path, statement.format("="))
    [(first, usn), *more] = rows(target / path, statement.format(">"))
    assert usn >= 1_000_000
    old = [name for name, _ in rows(base / path, statement.format(">"))]
    assert [first, *(name for name, _ in more)] == old
    assert len({usn, *(number for _, number in more)}) == len(old)
    assert rows(target / path, "SELECT last_usn FROM meta") == [(more[-1][1],)]


def test_a_restored_folder_is_backed_up_and_restored_again(
    base: Path, file: Path, target: Path, tmp_path: Path
) -> None:
    """And the numbers that were left out the first time are still known."""
    restored(base, file, target)
    second = tmp_path / "second"
    restored(target, file.with_name("c.tar.zst"), second)
    gaps = (second / "ana" / ".cardkeep" / "lost-usns").read_text()
    assert gaps.count('"scm"') == 2


def test_a_folder_that_is_not_empty_is_refused(base: Path, file: Path, target: Path) -> None:
    """And stays as it is."""
    save(base, file, unseen)
    target.mkdir()
    (target / "accounts.db").write_bytes(b"mine")
    with pytest.raises(BackupError, match=r"not empty \(accounts.db\)"):
        restore(target, file, unseen)
    assert tree(target) == {"accounts.db": b"mine"}


def test_an_empty_file_system_counts_as_empty(base: Path, file: Path, target: Path) -> None:
    """A volume of its own has a `lost+found`."""
    (target / "lost+found").mkdir(parents=True)
    restored(base, file, target)
    assert (target / "ana" / "collection.anki2").exists()


def test_no_restore_under_a_running_server(base: Path, file: Path, target: Path) -> None:
    save(base, file, unseen)
    target.mkdir()
    held = base_lock.share(target)
    with pytest.raises(Unavailable, match="a server is running"):
        restore(target, file, unseen)
    os.close(held)
    restore(target, file, unseen)


def test_no_server_during_a_restore(target: Path) -> None:
    target.mkdir()
    with base_lock.alone(target):
        with pytest.raises(Unavailable, match="is being restored"):
            base_lock.share(target)
    os.close(base_lock.share(target))


def test_no_server_on_half_a_restore(target: Path) -> None:
    (target / base_lock.UNFINISHED / "unpacking").mkdir(parents=True)
    with pytest.raises(Unavailable, match="was cut off"):
        base_lock.share(target)


@pytest.mark.parametrize("place", [0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_backup_restores_nothing(
    base: Path, file: Path, target: Path, place: float, damage: str
) -> None:
    """It is said, verification says it too, and nothing is left in the data folder."""
    save(base, file, unseen)
    data = bytearray(file.read_bytes())
    at = int(len(data) * place)
    data[at] ^= 0x10
    file.write_bytes(data[:at] if damage == "cut" else data)
    for attempt in (lambda: check(file, unseen), lambda: restore(target, file, unseen)):
        with pytest.raises(DamagedBackup, match=f"{file.name} is damaged"):
            attempt()
    assert not target.exists()


def test_a_newer_format_is_refused(base: Path, file: Path, target: Path) -> None:
    """Before anything is unpacked."""
    save(base, file, unseen)
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(file.read_bytes())
    newer = plain.replace(b'"format": 1', b'"format": 2', 1)
    file.write_bytes(zstandard.compress(newer))
    with pytest.raises(DamagedBackup, match="format 2"):
        restore(target, file, unseen)


@pytest.mark.parametrize("name", ["ana", "ana/media", "other", "other/collection.anki2"])
def test_strangers_in_a_backup_are_refused(base: Path, file: Path, target: Path, name: str) -> None:
    """What belongs to no user of the manifest, or is there twice."""
    from cardkeep.backups.archive.records import Contents, Manifest, encode
    from cardkeep.backups.archive.stream import TarWriter

    manifest = encode(Manifest(1, "x", "0", "now", ("ana",), 0))
    with file.open("wb") as output, closing(TarWriter(output, file.parent)) as writer:
        writer.add(MANIFEST, manifest, 0)
        writer.add("ana/media/a", b"1", 0)
        writer.add(name, b"2", 0)
        writer.add(CONTENTS, encode(Contents((), False, writer.files, writer.bytes)), 0)
        writer.finish()
    with pytest.raises(DamagedBackup, match=r"twice|belongs to no user"):
        restore(target, file, unseen)
    assert not target.exists()


def test_a_promise_that_is_larger_than_the_disk_is_refused(file: Path, target: Path) -> None:
    from cardkeep.backups.archive.records import Manifest, encode
    from cardkeep.backups.archive.stream import TarWriter

    with file.open("wb") as output, closing(TarWriter(output, file.parent)) as writer:
        writer.add(MANIFEST, encode(Manifest(1, "x", "0", "now", ("ana",), 1 << 60)), 0)
        writer.finish()
    with pytest.raises(BackupError, match="no room"):
        restore(target, file, unseen)
    assert not target.exists()


# --- one user ---------------------------------------------------------------------------


def test_one_user_comes_back_beside_a_running_server(base: Path, file: Path) -> None:
    save(base, file, unseen)
    shutil.rmtree(base / "ana")
    held = base_lock.share(base)
    restore_user(base, file, "ana", unseen)
    os.close(held)
    for name, data in MEDIA.items():
        assert (base / "ana" / "media" / name).read_bytes() == data
    assert not (base / ".cardkeep-restore-user").exists()


def test_one_user_who_is_there_or_nowhere(base: Path, file: Path) -> None:
    save(base, file, unseen)
    before = tree(base)
    with pytest.raises(BackupError, match="ana is there"):
        restore_user(base, file, "ana", unseen)
    with pytest.raises(BackupError, match="there is no zoe"):
        restore_user(base, file, "zoe", unseen)
    assert tree(base) == before
