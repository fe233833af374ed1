# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep export` and `cardkeep import` as an operator gives them.

That real clients agree is tested in tests/clients/test_packages.py.
"""

import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cardkeep.cli.main import main
from tests.backups.packages import RICH_11, RICH_18, olds, todays
from tests.cli.conftest import Run
from tests.cli.serving import Client, Serving, environment
from tests.wire.zips import crafted_zip

Serve = Callable[..., Serving]
MEDIA = [("a.png", b"aaa"), ("b.png", b"b" * 100_000)]
DOWNLOAD = "On each device: sync, and choose Download if Anki asks for the direction.\n"


@pytest.fixture
def run(base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: to start one costs more than most of these tests."""
    for name in set(os.environ) - environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("CARDKEEP_FOLDER", str(base))

    def run(*arguments: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for name, value in extra.items():
                patch.setenv(name, value)
            capfd.readouterr()
            status: object = 0
            try:
                main(arguments)
            except SystemExit as ended:
                status = ended.code
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(str(status or 0)), out, err)

    return run


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.colpkg"
    path.write_bytes(crafted_zip(todays(MEDIA)))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """The files that matter, with what is in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal")) and "spool" not in path.parts
    }


def assert_refused(run: Run, base: Path, *arguments: str, why: str) -> None:
    """In one line that says why, and nothing has changed."""
    before = tree(base)
    done = run(*arguments)
    assert done.returncode in (1, 2), done
    assert done.stdout == ""
    assert re.fullmatch(f"cardkeep: .*{why}.*\n", done.stderr), done.stderr
    assert tree(base) == before
    spool = base / ".cardkeep" / "spool"
    assert not spool.exists() or list(spool.iterdir()) == []


# --- import -----------------------------------------------------------------------------


def test_a_new_user_is_made(run: Run, serve: Serve, package: Path) -> None:
    """With a password as for `user add`; a running server lets the user in at once."""
    server = serve()
    done = run("import", "ana", str(package), stdin="secret\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "ana has 12 cards, 9 notes, 8 reviews and 2 media files of theirs.colpkg\n"
        "ana can log in now\n" + DOWNLOAD
    )
    client = Client(server.url())
    status, key = client.login("ana", "secret")
    assert (status, client.meta(key)) == (200, 200)


def test_without_a_password_nobody_is_made(run: Run, base: Path, package: Path) -> None:
    base.mkdir()
    run("user", "add", "other", stdin="x\n")
    assert_refused(run, base, "import", "ana", str(package), why="cardkeep user add ana")
    assert_refused(run, base, "import", "Other", str(package), why="differs only in case")
    assert_refused(run, base, "import", "../ana", str(package), why="user name")
    assert not (base / "ana").exists()


def test_an_existing_user_with_cards_is_asked_for(run: Run, base: Path, package: Path) -> None:
    """One without gets the collection as it is."""
    run("user", "add", "ana", stdin="x\n")
    done = run("import", "ana", str(package))
    assert (done.returncode, done.stderr) == (0, "")
    assert "log in" not in done.stdout
    assert_refused(run, base, "import", "ana", str(package), why="12 cards already; --replace")
    done = run("import", "ana", str(package), "--replace", "--no-media")
    assert done.returncode == 0
    kept = re.search(r"what it replaced is kept as copy (\S+)\n", done.stdout)
    assert kept
    assert "0 media files" in done.stdout
    assert (base / "ana" / ".cardkeep" / "snapshots" / kept[1]).is_dir()
    assert (base / "ana" / "media" / "a.png").read_bytes() == b"aaa"


def test_users_of_the_environment_need_no_account(run: Run, package: Path) -> None:
    """Nor does one whose folder is there, but who that is must be told."""
    done = run("import", "ana", str(package), SYNC_USER1="ana:secret")
    assert (done.returncode, "account" in done.stdout) == (0, False)
    done = run("import", "ana", str(package), "--replace")
    assert done.returncode == 0
    assert "no account yet; `cardkeep user add ana` makes one" in done.stdout


def test_files_that_no_device_could_have_are_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "theirs.colpkg"
    files = [(f"a:{n}.png", b"x") for n in range(25)]
    path.write_bytes(crafted_zip(todays([*MEDIA, ("empty", b""), *files])))
    done = run("import", "ana", str(path), "--max-media-file", "1k", stdin="x\n")
    assert done.returncode == 0
    assert "1 media file of theirs.colpkg" in done.stdout
    assert "25 media files are named as no client keeps it, and left out:\n  'a:0.png'" in (
        done.stderr
    )
    assert "  and 5 more\n" in done.stderr
    assert "1 media file is empty, and left out:\n  'empty'\n" in done.stderr
    assert "larger than 1024 bytes (setting max_media_file), and left out:" in done.stderr


BAD = {
    "no package": (b"once upon a time", "cannot be imported: zip: not a zip file"),
    "cut off": (crafted_zip(todays(MEDIA))[:-30], "cannot be imported: zip:"),
    "a damaged file": (
        crafted_zip(todays(MEDIA)).replace(b"aaa", b"aAa"),
        "media file 'a.png': zip: a member's checksum is wrong",
    ),
    "a dangerous name": (crafted_zip(todays([("../x", b"x")])), "dangerous name: '../x'"),
    "no collection": (crafted_zip(todays(MEDIA, anki21b=None)), "no collection.anki21b"),
    "a damaged collection": (
        crafted_zip(
            olds(anki21=olds()[1].__class__(b"collection.anki21", RICH_11.read_bytes()[:9000]))
        ),
        "damaged",
    ),
}


@pytest.mark.parametrize(("body", "why"), BAD.values(), ids=list(BAD))
def test_a_bad_package_changes_nothing(
    run: Run, base: Path, tmp_path: Path, body: bytes, why: str
) -> None:
    """No account is made either."""
    path = tmp_path / "theirs.colpkg"
    path.write_bytes(body)
    password = tmp_path / "password"
    password.write_text("secret\n")
    base.mkdir()
    run("user", "list")
    flags = ("--password-file", str(password))
    assert_refused(run, base, "import", "ana", str(path), *flags, why=re.escape(why))


def test_a_limit_is_named(run: Run, base: Path, package: Path) -> None:
    run("user", "add", "ana", stdin="x\n")
    limit = ("--max-collection", "100k")
    why = r"more than 102400 bytes \(setting max_collection\)"
    assert_refused(run, base, "import", "ana", str(package), *limit, why=why)
    assert_refused(run, base, "import", "ana", str(RICH_18), *limit, why=why)


def test_the_servers_own_folder_is_no_source(run: Run, base: Path, package: Path) -> None:
    """A live collection is exported, not read behind the server's back."""
    run("user", "add", "ana", stdin="x\n")
    run("user", "add", "ben", stdin="x\n")
    run("import", "ana", str(package))
    (base.parent / "link").symlink_to(base / "ana")
    for source in (base / "ana", base / "ana" / "collection.anki2", base.parent / "link"):
        assert_refused(
            run, base, "import", "ben", str(source), why="`cardkeep export ana FILE.colpkg`"
        )


def test_a_folder_is_taken_with_its_media(run: Run, base: Path, tmp_path: Path) -> None:
    profile = tmp_path / "User 1"
    (profile / "collection.media").mkdir(parents=True)
    (profile / "collection.media" / "a.png").write_bytes(b"aaa")
    shutil.copy(RICH_11, profile / "collection.anki2")
    done = run("import", "ana", str(profile), stdin="x\n")
    assert done.returncode == 0
    assert "9 notes" in done.stdout
    assert "1 media file of User 1" in done.stdout
    assert (base / "ana" / "media" / "a.png").read_bytes() == b"aaa"
    with closing(sqlite3.connect(base / "ana" / "collection.anki2")) as db:
        assert db.execute("SELECT ver FROM col").fetchone() == (18,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_imports_is_the_servers(run: Run, base: Path, tmp_path: Path) -> None:
    """It runs as the owner of the data folder; links that lie there are not followed."""
    outside = tmp_path / "outside"
    outside.touch()
    (base / "ana" / "media").mkdir(parents=True)
    (base / "ana" / "media" / "link").symlink_to(outside)
    os.chown(base, 12345, 12345)
    path = tmp_path / "theirs.colpkg"
    path.write_bytes(crafted_zip(todays(MEDIA)))
    assert run("import", "ana", str(path)).returncode == 0
    for made in (*(base / "ana").rglob("*"), *(base / ".cardkeep").rglob("*")):
        assert made.lstat().st_uid == 12345, made
    assert outside.stat().st_uid == 0


# --- export -----------------------------------------------------------------------------


@pytest.fixture
def ana(run: Run, package: Path) -> None:
    """A user with something to export."""
    assert run("import", "ana", str(package), stdin="x\n").returncode == 0


@pytest.mark.usefixtures("ana")
def test_an_export_says_what_it_wrote(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.colpkg"
    done = run("export", "ana", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out} holds the collection of ana and 2 media files (")
    without = tmp_path / "without.colpkg"
    done = run("export", "ana", str(without), "--no-media", "--legacy")
    assert done.stdout.startswith(f"{without} holds the collection of ana (")
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


@pytest.mark.usefixtures("ana")
def test_an_export_overwrites_nothing_unasked(run: Run, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.colpkg"
    out.write_bytes(b"dear to me")
    assert_refused(run, base, "export", "ana", str(out), why="exists already; --force")
    assert out.read_bytes() == b"dear to me"
    assert run("export", "ana", str(out), "--force").returncode == 0
    assert out.read_bytes().startswith(b"PK")


@pytest.mark.usefixtures("ana")
def test_an_export_tells_what_is_not_as_it_should_be(run: Run, base: Path, tmp_path: Path) -> None:
    (base / "ana" / "media" / "a.png").unlink()
    (base / "ana" / "media" / "b.png").write_bytes(b"changed")
    done = run("export", "ana", str(tmp_path / "out.colpkg"))
    assert done.returncode == 0
    assert "1 media file is not there any more, and left out:\n  'a.png'\n" in done.stderr
    assert "1 media file is not what the server's list of media says" in done.stderr
    assert "and 1 media file (" in done.stdout


def test_what_cannot_be_exported(run: Run, base: Path, tmp_path: Path) -> None:
    run("user", "add", "ana", stdin="x\n")
    out = str(tmp_path / "out.colpkg")
    assert_refused(run, base, "export", "ana", out, why="ana has no collection yet")
    assert_refused(run, base, "export", "ben", out, why="no user ben")
    assert_refused(run, base, "export", "ana", str(tmp_path / "out.apkg"), why=r"\.colpkg")
    assert list(tmp_path.glob("*.colpkg")) == []


@pytest.mark.usefixtures("ana")
def test_a_folder_that_is_missing_is_an_error(run: Run, base: Path, tmp_path: Path) -> None:
    assert_refused(
        run, base, "export", "ana", str(tmp_path / "no" / "out.colpkg"), why="No such file"
    )
