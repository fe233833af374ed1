# SPDX-License-Identifier: AGPL-3.0-or-later
"""An export or import that is killed at any step leaves the old state or the new one."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cardkeep.backups.package_reader import Limits, Package
from cardkeep.media.store import MediaStore
from cardkeep.records import unicase
from tests.backups.killing import chosen, copied, run
from tests.backups.packages import RICH_18, todays, zstd
from tests.backups.test_package_reader import whole
from tests.media.looking import on_disk, upload
from tests.wire.zips import Member, crafted_zip

OLD = {"a.png": b"the old a", "kept.png": b"kept"}
NEW = {f"{n}.png": b"%d" % n for n in range(26)} | {"a.png": b"a", "large.mp3": b"x" * 2_000_000}


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that is possible: a killed process does not need a disk that is slow."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def package(path: Path, files: dict[str, bytes], collection: Path = RICH_18) -> Path:
    packed = Member(b"collection.anki21b", zstd(collection.read_bytes()))
    path.write_bytes(crafted_zip(todays(list(files.items()), anki21b=packed)))
    return path


def smaller(path: Path) -> Path:
    """The collection without a review and a card."""
    shutil.copy(RICH_18, path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM revlog WHERE id = (SELECT min(id) FROM revlog)")
        db.execute("DELETE FROM cards WHERE id = (SELECT min(id) FROM cards)")
        db.commit()
    return path


def contents(base: Path) -> list[object]:
    """Rows of what a user studies, as whoever opens the collection next finds them."""
    found = base / "ana" / "collection.anki2"
    if not found.exists():
        return []
    with closing(sqlite3.connect(found)) as db:
        db.create_collation("unicase", unicase.compare)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [
            sorted(db.execute(f"SELECT id FROM {table}").fetchall())
            for table in ("notes", "cards", "revlog", "decks")
        ]


def media(base: Path) -> dict[str, bytes]:
    """After the next request has healed what there was to heal."""
    with closing(MediaStore(base)) as store:
        upload(store, ("healing", None))
    disk = on_disk(base)
    disk.check()
    return dict(disk.files)


def finished(base: Path, arguments: list[str]) -> tuple[list[str], list[object], dict[str, bytes]]:
    """What the command does if nothing happens to it: its steps, and what is there then."""
    with copied(base, base.with_name("whole")) as done:
        steps, status = run(done, arguments)
        assert status == 0
        return steps, contents(done), media(done)


def check_tidy(base: Path) -> None:
    assert list((base / ".cardkeep" / "spool").iterdir()) == []


def test_a_killed_import(folder: Path) -> None:
    """The collection is the old one or the new one; media are whole; the command can be given
    again, and then everything is as if it had not been killed."""
    base = folder / "base"
    base.mkdir()
    password = folder / "password"
    password.write_text("secret")
    first = package(folder / "first.colpkg", OLD, smaller(folder / "smaller.anki2"))
    second = package(folder / "second.colpkg", NEW)
    assert run(base, ["import", "ana", str(first), "--password-file", str(password)])[1] == 0
    before = contents(base)
    arguments = ["import", "ana", str(second), "--replace"]
    steps, after, all_media = finished(base, arguments)
    assert before != after
    assert all_media == OLD | NEW

    outcomes = []
    for number in chosen(steps, 12):
        with copied(base, folder / "killed") as killed:
            assert run(killed, arguments, number)[1] is None
            found = contents(killed)
            assert found in (before, after), steps[number - 1]
            outcomes.append(found == after)
            files = media(killed)
            for name, data in files.items():
                assert data in (OLD.get(name), NEW.get(name)), (steps[number - 1], name)
            assert files.keys() >= OLD.keys()
            if found == after:
                assert files == all_media, steps[number - 1]

            assert run(killed, arguments)[1] == 0, steps[number - 1]
            assert (contents(killed), media(killed)) == (after, all_media), steps[number - 1]
            check_tidy(killed)
    # Killed before the one transaction, nothing is replaced; afterwards it is.
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def test_a_killed_import_over_a_damaged_collection(folder: Path) -> None:
    """What lies there lies there still, or the new one does; what lay there is kept."""
    base = folder / "base"
    base.mkdir()
    password = folder / "password"
    password.write_text("secret")
    given = package(folder / "given.colpkg", OLD)
    assert run(base, ["import", "ana", str(given), "--password-file", str(password)])[1] == 0
    garbage = os.urandom(50_000)
    (base / "ana" / "collection.anki2").write_bytes(garbage)
    arguments = ["import", "ana", str(given), "--replace"]
    steps, after, _ = finished(base, arguments)
    assert any(after)
    outcomes = []
    for number in chosen(steps, 20):
        with copied(base, folder / "killed") as killed:
            assert run(killed, arguments, number)[1] is None
            lies = (killed / "ana" / "collection.anki2").read_bytes()
            outcomes.append(lies != garbage)
            if lies != garbage:
                assert contents(killed) == after
            else:
                assert run(killed, arguments)[1] == 0, steps[number - 1]
                assert contents(killed) == after
                check_tidy(killed)
            kept = [*(killed / "ana" / ".cardkeep" / "damaged").rglob("*.anki2*")]
            assert garbage in [path.read_bytes() for path in kept], steps[number - 1]
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def test_a_killed_import_of_a_new_user(folder: Path) -> None:
    """Nobody has half a collection, and the command can be given again."""
    base = folder / "base"
    base.mkdir()
    password = folder / "password"
    password.write_text("secret")
    given = package(folder / "given.colpkg", OLD)
    arguments = ["import", "ana", str(given), "--password-file", str(password)]
    steps, after, all_media = finished(base, arguments)
    for number in chosen(steps, 6):
        with copied(base, folder / "killed") as killed:
            assert run(killed, arguments, number)[1] is None
            found = contents(killed)
            is_new = found == after
            assert is_new or not found or not any(found[:3]), steps[number - 1]
            again = run(killed, [*arguments, *(["--replace"] if is_new else [])])
            assert again[1] == 0, steps[number - 1]
            assert (contents(killed), media(killed)) == (after, all_media), steps[number - 1]
            check_tidy(killed)


@pytest.mark.parametrize(("legacy", "force"), [(False, False), (True, True)])
def test_a_killed_export(folder: Path, legacy: bool, force: bool) -> None:
    """The package is whole or not there; what was there before stays until then."""
    base = folder / "base"
    base.mkdir()
    password = folder / "password"
    password.write_text("secret")
    given = package(folder / "given.colpkg", NEW)
    assert run(base, ["import", "ana", str(given), "--password-file", str(password)])[1] == 0
    before, target = contents(base), folder / "out.colpkg"
    flags = [*(["--legacy"] if legacy else []), *(["--force"] if force else [])]
    arguments = ["export", "ana", str(target), *flags]
    if force:
        target.write_bytes(b"old")
    steps, *_ = finished(base, arguments)
    for number in chosen(steps, 8):
        target.unlink(missing_ok=True)
        if force:
            target.write_bytes(b"old")
        with copied(base, folder / "killed") as killed:
            assert run(killed, arguments, number)[1] is None
            if force:
                assert target.exists(), steps[number - 1]
            if target.exists() and target.read_bytes() != b"old":
                check_package(target)
            again = ["export", "ana", str(target), *flags, "--force"]
            assert run(killed, again)[1] == 0, steps[number - 1]
            check_package(target)
            assert contents(killed) == before
            check_tidy(killed)
            assert list(folder.glob(".*")) == []


def check_package(path: Path) -> None:
    with Package(path, Limits()) as opened:
        assert {file.name: whole(file.open()) for file in opened.media()} == NEW
