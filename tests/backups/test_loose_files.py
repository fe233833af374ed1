# SPDX-License-Identifier: AGPL-3.0-or-later
"""Collections that lie about: alone, in profiles, with their logs, and in use."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cardkeep.backups.loose_files import CollectionFile, CollectionFolder
from cardkeep.backups.migrate import copying
from cardkeep.backups.origin import open_origin
from cardkeep.backups.package_reader import Limits, Package
from cardkeep.collection.schema.inspect import inspect
from cardkeep.errors import BadRequest, PackageError, TooLarge
from cardkeep.records import unicase
from tests.backups.packages import RICH_11, RICH_18, olds
from tests.wire.zips import crafted_zip

MOST = 10_000_000


def reviews(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        db.create_collation("unicase", unicase.compare)
        (count,) = db.execute("SELECT count(*) FROM revlog").fetchone()
    return int(count)


def extracted(path: Path, folder: Path) -> Path:
    """What an import would go on with; it must be whole by itself, and good."""
    target = folder / "extracted.anki2"
    target.unlink(missing_ok=True)
    with open_origin(path, Limits(collection=MOST)) as origin:
        origin.extract_collection(target)
    inspect(target)
    assert [p.name for p in folder.glob("extracted*")] == ["extracted.anki2"]
    return target


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


CHANGE = """
import os, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.create_collation("unicase", lambda a, b: (a > b) - (a < b))
for statement in sys.argv[2:]:
    db.execute(statement).fetchall()
print("ready", flush=True)
time.sleep(100)
"""


@contextmanager
def in_use(path: Path, *statements: str) -> Iterator[subprocess.Popen[str]]:
    """Another program has it open and has done this; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHANGE, path, *statements], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def lying(tmp_path: Path) -> Path:
    """A collection in a folder."""
    (tmp_path / "lying").mkdir()
    return Path(shutil.copy(RICH_18, tmp_path / "lying" / "collection.anki2"))


ADD = "INSERT INTO revlog VALUES (12345, 1, 0, 1, 1, 1, 1, 1, 1)"


def test_a_collection_is_taken_as_it_is(lying: Path, tmp_path: Path) -> None:
    """Whatever it is called."""
    other = lying.rename(lying.with_name("backup of May.db"))
    before = snapshot(other.parent)
    assert reviews(extracted(other, tmp_path)) == reviews(other)
    assert snapshot(other.parent) == before


@pytest.mark.parametrize(
    "mode", ["journal_mode = WAL", "journal_mode = DELETE"], ids=["log", "journal"]
)
def test_what_a_killed_program_left_in_its_log_counts(
    lying: Path, tmp_path: Path, mode: str
) -> None:
    """A committed review is there, one that was not is not; the files stay as they were."""
    had = reviews(lying)
    with in_use(lying, f"PRAGMA {mode}", "PRAGMA wal_autocheckpoint = 0", ADD):
        pass
    with in_use(
        lying,
        "PRAGMA wal_autocheckpoint = 0",
        "PRAGMA cache_size = 1",
        "PRAGMA cache_spill = 1",
        "BEGIN",
        "DELETE FROM revlog",
        "UPDATE notes SET flds = flds || 'xxxxxxxxxxxxxxxxxxxxxx'",
    ):
        pass
    logs = [path for path in lying.parent.iterdir() if path.suffix != ".anki2"]
    assert any(log.stat().st_size for log in logs)
    for log in lying.parent.glob("*-shm"):
        log.unlink()
    before = snapshot(lying.parent)
    assert reviews(extracted(lying, tmp_path)) == had + 1
    assert snapshot(lying.parent) == before


def test_one_that_another_program_writes_to_is_refused(lying: Path, tmp_path: Path) -> None:
    """A running Anki locks its collection for itself alone."""
    before = snapshot(lying.parent)
    for statements in (
        ("PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL", ADD),
        ("PRAGMA journal_mode = DELETE", "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"),
    ):
        with in_use(lying, *statements):
            with pytest.raises(PackageError, match="in use"):
                extracted(lying, tmp_path)
    assert before
    extracted(lying, tmp_path)


def test_one_that_is_only_read_meanwhile_is_refused_too(lying: Path, tmp_path: Path) -> None:
    """Whoever reads now may write in a moment."""
    with in_use(lying, "BEGIN", "SELECT * FROM notes"):
        with pytest.raises(PackageError, match="in use"):
            extracted(lying, tmp_path)


def test_one_that_goes_on_changing_is_refused(
    lying: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the locks of the file system do not tell; a single change is waited for."""
    monkeypatch.setattr(copying, "_WAIT", 0.0)
    moments = iter(range(1, 100))

    def touch(_: int) -> None:
        moment = next(moments, None)
        if moment is not None:
            os.utime(lying, (moment, moment))

    target = tmp_path / "target"
    with CollectionFile(lying, MOST) as origin, pytest.raises(PackageError, match="changed"):
        origin.extract_collection(target, touch)
    moments = iter([100])
    with CollectionFile(lying, MOST) as origin:
        origin.extract_collection(target, touch)
    assert target.read_bytes() == lying.read_bytes()


def test_a_log_that_is_no_log_means_nothing(lying: Path, tmp_path: Path) -> None:
    """As SQLite has it: what has no right checksums was never committed."""
    lying.with_name("collection.anki2-wal").write_bytes(b"rubbish" * 1000)
    assert reviews(extracted(lying, tmp_path)) == reviews(RICH_18)


def test_a_damaged_file_with_a_log_is_refused(lying: Path, tmp_path: Path) -> None:
    lying.write_bytes(b"SQLite format 3\0" + bytes(5000))
    lying.with_name("collection.anki2-wal").write_bytes(b"rubbish" * 1000)
    with pytest.raises(BadRequest):
        extracted(lying, tmp_path)


def test_one_that_is_too_large_is_refused(lying: Path, tmp_path: Path) -> None:
    """Its log counts too."""
    size = lying.stat().st_size
    lying.with_name("collection.anki2-wal").write_bytes(b"x")
    with CollectionFile(lying, size) as origin, pytest.raises(TooLarge) as refused:
        origin.extract_collection(tmp_path / "target")
    assert refused.value.setting == "max_collection"
    assert not (tmp_path / "target").exists()


# --- folders ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["collection.media", "media"])
def test_a_folder_has_media(lying: Path, name: str) -> None:
    """Its plain files; neither folders, links out of it, nor what Windows puts there."""
    media = lying.with_name(name)
    media.mkdir()
    for file, content in (("b.png", b"bb"), ("e\u0301.png", b"e"), ("Thumbs.db", b"x")):
        (media / file).write_bytes(content)
    (media / "folder").mkdir()
    (media / "folder" / "in it").touch()
    (media / "link").symlink_to("/etc/passwd")
    os.mkfifo(media / "pipe")
    with CollectionFolder(lying.parent, MOST) as origin:
        assert (origin.media_files, origin.media_bytes) == (2, 3)
        found = {}
        for listed in origin.media():
            source = listed.open()
            assert source is not None
            found[listed.name] = source.read(100)
            source.close()
            assert len(found[listed.name]) == listed.size
        assert found == {"b.png": b"bb", "é.png": b"e"}
        (gone, *_) = origin.media()
        (media / "b.png").unlink()
        assert gone.open() is None


def test_a_folder_without_media_has_none(lying: Path) -> None:
    with CollectionFolder(lying.parent, MOST) as origin:
        assert (origin.media_files, list(origin.media())) == (0, [])


def test_a_folder_of_folders_says_which_to_take(lying: Path, tmp_path: Path) -> None:
    """As when somebody names Anki's own folder instead of a profile's."""
    with pytest.raises(PackageError, match="lying"):
        open_origin(tmp_path, Limits())
    (tmp_path / "empty").mkdir()
    with pytest.raises(PackageError, match=r"no collection\.anki2"):
        open_origin(tmp_path / "empty", Limits())


# --- what it is -------------------------------------------------------------------------


def test_it_is_what_it_is_and_not_what_it_is_called(lying: Path, tmp_path: Path) -> None:
    package = tmp_path / "collection.anki2"
    package.write_bytes(crafted_zip(olds()))
    with open_origin(package, Limits()) as origin:
        assert isinstance(origin, Package)
    collection = lying.rename(tmp_path / "a.colpkg")
    with open_origin(collection, Limits()) as origin:
        assert isinstance(origin, CollectionFile)


def test_packages_of_decks_are_refused(tmp_path: Path) -> None:
    """Unless they are called as whole collections were before 2.1."""
    for name, taken in (
        ("French.apkg", False),
        ("FRENCH.APKG", False),
        ("my collection.apkg", False),
        ("collection.apkg", True),
        ("backup-37.apkg", True),
        ("Backup-37.APKG", True),
    ):
        path = tmp_path / name
        path.write_bytes(crafted_zip(olds()))
        if taken:
            with open_origin(path, Limits()) as origin:
                assert isinstance(origin, Package)
        else:
            with pytest.raises(PackageError, match="decks"):
                open_origin(path, Limits())


def test_nothing_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="there is no"):
        open_origin(tmp_path / "nothing", Limits())
    with pytest.raises(PackageError, match="no file"):
        open_origin(Path("/dev/null"), Limits())


def test_an_old_collection_is_taken(tmp_path: Path) -> None:
    assert reviews(extracted(RICH_11, tmp_path)) == reviews(RICH_11)
