# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep migrate`, as people run it."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.accounts.test_passwords import PBKDF2_SHA256
from tests.backups.migrate import folders
from tests.backups.migrate.conftest import make_user, official
from tests.backups.migrate.folders import left_alone, snapshot
from tests.cli.conftest import Run
from tests.cli.serving import CARDKEEP, Client, Serving, environment
from tests.collection.schema.files import rows

__all__ = ["official"]

Serve = Callable[..., Serving]


def words(text: str) -> list[list[str]]:
    """The lines of what was printed, without the spaces of its table."""
    return [line.split() for line in text.splitlines() if line.strip()]


def test_a_dry_run_tells_and_changes_nothing(run: Run, official: Path, base: Path) -> None:
    """How much there is, where it comes from, and what becomes of passwords."""
    with left_alone(official.parent):
        done = run("migrate", str(official), "--dry-run", SYNC_USER1="ana:secret")
    assert (done.returncode, done.stderr) == (0, "")
    printed = words(done.stdout)
    heading = f"{official} is the folder of the official server; its users go to {base}"
    assert printed[0] == heading.split()
    assert printed[1] == ["user", "notes", "cards", "reviews", "media", "size", "password"]
    assert printed[2][0:2] == ["ana", "2"]
    assert printed[2][-7:] == ["taken", "over", "(SYNC_USER1)", "to", "be", "taken", "over"]
    assert printed[3][0] == "ben"
    assert printed[3][-5:] == ["none", "to", "be", "taken", "over"]
    assert "2 of 2 users to be taken over, with 0 cards, 2 media files" in done.stdout
    assert "No password is known of: ben" in done.stdout
    assert done.stdout.endswith("Nothing was changed.\n")
    assert not base.exists()


def test_users_are_taken_over_beside_a_running_server(
    run: Run, serve: Serve, official: Path, base: Path
) -> None:
    """Which knows them at its next request; a second run has nothing to do."""
    client = Client(serve().url())
    assert client.login("ana", "secret")[0] == 403
    with left_alone(official):
        done = run("migrate", str(official), "--yes", SYNC_USER1="ana:secret")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ana is taken over\nben is taken over\n" in done.stdout
    assert "nobody can log in until `cardkeep user add ben`" in done.stdout
    assert "devices log in once more" in done.stdout
    status, key = client.login("ana", "secret")
    assert status == 200
    assert client.meta(key) == 200
    assert rows(base / "ben" / "collection.anki2", "SELECT usn, ver FROM col") == [(7, 18)]
    assert (base / "ana" / "media" / "a.txt").read_bytes() == b"aa"
    [row] = json.loads(run("history", "ben", "--json").stdout)
    assert row["kind"] == "import"
    assert row["note"] == f"taken over from the official server in {official}"
    before = snapshot(base / "ben")
    again = run("migrate", str(official), "--yes", SYNC_USER1="ana:other")
    assert again.returncode == 0
    assert again.stdout.count("was taken over before") == 2
    assert "There is nothing to be done." in again.stdout
    assert snapshot(base / "ben") == before
    assert not (base / ".cardkeep" / "migrate").exists()
    # The password that was not known comes later.
    late = run("migrate", str(official), "--yes", SYNC_USER1="ben:late")
    assert late.returncode == 0
    assert "its data are here, its account is to be made" in late.stdout
    assert client.login("ben", "late")[0] == 200
    assert client.login("ana", "secret")[0] == 200
    # Whoever is removed stays so.
    assert run("user", "remove", "ana").returncode == 0
    last = run("migrate", str(official), "--yes", SYNC_USER1="ana:secret")
    assert "was taken over before, has no account now" in last.stdout
    assert client.login("ana", "secret")[0] == 403


def test_whoever_cannot_be_taken_over_is_told_and_the_others_are(
    run: Run, tmp_path: Path, base: Path
) -> None:
    """Each with the reason; the status says that somebody is missing."""
    source = tmp_path / "official"
    for name in ("ana", "ben", "Ben", "con", "dan", "eva", "fay"):
        make_user(source, name, {})
    (source / "dan" / "collection.anki2").write_bytes(b"garbage" * 1000)
    (source / "dan" / "media").mkdir()
    with (source / "fay" / "collection.anki2").open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))
    assert run("user", "add", "EVA", stdin="x").returncode == 0
    (base / "ana").mkdir()
    (base / "ana" / "collection.anki2").write_text("mine")
    with left_alone(source), left_alone(base / "ana"):
        for flag in ("--dry-run", "--yes"):
            done = run("migrate", str(source), flag)
            assert done.returncode == 1
            found = {line.split()[0]: line for line in done.stdout.splitlines() if line}
            assert "refused: there is a user of that name here" in found["ana"]
            assert "refused: the name differs only in case from Ben" in found["ben"]
            assert "refused: the name differs only in case from ben" in found["Ben"]
            assert "refused: user name 'con' is reserved" in found["con"]
            assert "refused: its collection cannot be used: no SQLite header" in found["dan"]
            assert "refused: the name differs only in case from EVA, who is here" in found["eva"]
            assert "refused: its collection cannot be used: " in found["fay"]
    make_user(source, "gus", {})
    done = run("migrate", str(source), "--yes")
    assert done.returncode == 1
    assert "gus is taken over" in done.stdout
    assert sorted(path.name for path in base.iterdir() if path.is_dir()) == ["ana", "gus"]


def test_a_server_that_is_still_running_must_be_stopped(
    run: Run, official: Path, base: Path
) -> None:
    """It is seen by the locks that it holds, before anything is done."""
    path = official / "ana" / "media.db"
    hold = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN IMMEDIATE')"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; print(flush=True); sys.stdin.read()", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = run("migrate", str(official), "--yes")
        assert (done.returncode, done.stderr) == (
            1,
            f"cardkeep: {path} is open in another program: stop the server that it belongs to\n",
        )
        dry = run("migrate", str(official), "--dry-run")
        assert dry.returncode == 0
        assert f"Now it cannot be done: {path} is open" in dry.stdout
        holder.kill()
    assert not base.exists()


def on_a_terminal(arguments: list[str], base: Path, answers: list[tuple[str, str]]) -> str:
    """Runs a command on a terminal; answers what it asks."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*CARDKEEP, *arguments],
        env=environment({"CARDKEEP_FOLDER": str(base), "TERM": "xterm", "COLUMNS": "200"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = ""
    try:
        while True:
            try:
                shown += os.read(ours, 4096).decode()
            except OSError:
                break
            if answers and answers[0][0] in shown:
                os.write(ours, answers.pop(0)[1].encode() + b"\n")
    finally:
        os.close(ours)
        process.wait(20)
    return shown


def test_passwords_are_asked_for_on_a_terminal(serve: Serve, official: Path, base: Path) -> None:
    """One after the other, unseen; nobody need know them all."""
    answers = [
        ("Password of ana", "se cret"),
        ("Password of ben", ""),
        ("Take them over?", "y"),
    ]
    shown = on_a_terminal(["migrate", str(official)], base, answers)
    assert answers == []
    assert "se cret" not in shown
    assert "ana is taken over" in shown
    client = Client(serve().url())
    assert client.login("ana", "se cret")[0] == 200
    assert client.login("ben", "")[0] == 403


def test_whoever_says_no_changes_nothing(official: Path, base: Path) -> None:
    """Not even what was made ready stays."""
    answers = [("Password of ana", ""), ("Password of ben", ""), ("Take them over?", "n")]
    with left_alone(official.parent):
        shown = on_a_terminal(["migrate", str(official)], base, answers)
    assert "stopped" in shown
    assert not base.exists()


def test_passwords_from_a_file(run: Run, serve: Serve, official: Path, tmp_path: Path) -> None:
    """A line a user; it counts more than the environment."""
    file = tmp_path / "passwords"
    file.write_text("ana:one:two\n\nben:three\n")
    done = run("migrate", str(official), "--yes", "--passwords", str(file), SYNC_USER1="ana:other")
    assert done.returncode == 0
    client = Client(serve().url())
    assert client.login("ana", "one:two")[0] == client.login("ben", "three")[0] == 200
    file.write_text("ana:one\nben\n")
    done = run("migrate", str(official), "--yes", "--passwords", str(file))
    assert done.returncode == 2
    assert "line 2" in done.stderr


def test_hashed_passwords_of_the_environment(run: Run, serve: Serve, official: Path) -> None:
    """They go on to be right."""
    done = run(
        "migrate", str(official), "--yes", SYNC_USER1=f"ana:{PBKDF2_SHA256}", PASSWORDS_HASHED="1"
    )
    assert done.returncode == 0
    client = Client(serve().url())
    assert client.login("ana", "wrong")[0] == 403
    assert client.login("ana", "secret")[0] == client.login("ana", "secret")[0] == 200


def test_an_account_that_is_here_keeps_its_password(run: Run, serve: Serve, official: Path) -> None:
    """The data come to it."""
    assert run("user", "add", "ana", stdin="mine").returncode == 0
    done = run("migrate", str(official), "--yes", SYNC_USER1="ana:secret")
    assert "stays the one that it is here" in done.stdout
    assert "ana is taken over" in done.stdout
    client = Client(serve().url())
    assert client.login("ana", "secret")[0] == 403
    assert client.login("ana", "mine")[0] == 200


def ankisyncd(official: Path, root: Path) -> tuple[Path, str]:
    """A folder of it, and the key of a device that is logged in."""
    folders.as_ankisyncd(official, root)
    hashes = {"ana": folders.hashed("ana", "secret"), "ben": "strange"}
    folders.auth_db(root, {**hashes, "cem": folders.hashed("cem", "new")})
    key = folders.host_key("ana")
    folders.session_db(root, {key: "ana"})
    return root, key


def test_users_of_ankisyncd(run: Run, serve: Serve, official: Path, tmp_path: Path) -> None:
    """Passwords and logins stay; so does a user who never synced."""
    root, key = ankisyncd(official, tmp_path / "ankisyncd")
    with left_alone(root):
        done = run("migrate", str(root), "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "none (is stored in an unknown way)" in done.stdout
    assert "  logins that stay: 1\n" in done.stdout
    client = Client(serve().url())
    assert client.meta(key) == 200
    assert client.login("ana", "wrong")[0] == 403
    assert client.login("ana", "secret")[0] == client.login("ana", "secret")[0] == 200
    assert client.meta(key) == 200
    assert client.login("cem", "new")[0] == 200
    listed = run("device", "list", "ana").stdout
    assert "ankisyncd" in listed or "26.09.3" in listed
    assert run("migrate", str(root), "--yes").returncode == 0


def test_logins_can_be_ended(run: Run, serve: Serve, official: Path, tmp_path: Path) -> None:
    """With `--log-out`."""
    root, key = ankisyncd(official, tmp_path / "ankisyncd")
    done = run("migrate", str(root), "--yes", "--log-out")
    assert "devices log in once more" in done.stdout
    client = Client(serve().url())
    assert client.meta(key) == 403
    assert client.login("ana", "secret")[0] == 200


def test_media_that_are_left_out_are_told(run: Run, official: Path, base: Path) -> None:
    """Some by name, all of them in a file."""
    (official / "ana" / "media" / "a.txt").write_bytes(b"another")
    done = run("migrate", str(official), "--yes")
    assert done.returncode == 0
    assert "  media files left out: 1;" in done.stdout
    assert "    'a.txt': the file is not the one that was stored" in done.stdout
    assert "a.txt" in (base / "ana" / ".cardkeep" / "migrated").read_text()
    assert not (base / "ana" / "media" / "a.txt").exists()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_cut_off_goes_on(
    run: Run, tmp_path: Path, base: Path, kill: signal.Signals
) -> None:
    """Files that it has copied are not copied again."""
    source = tmp_path / "official"
    make_user(source, "ana", {f"{n:02}": os.urandom(1_500_000) for n in range(25)})
    process = subprocess.Popen(
        [*CARDKEEP, "migrate", str(source), "--yes"],
        env=environment({"CARDKEEP_FOLDER": str(base)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ready = base / ".cardkeep" / "migrate" / "ana" / "user" / "media"
    while not (ready / "04").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(kill)
    process.wait(20)
    assert not (base / "ana").exists()
    copied = {name: (ready / name).stat() for name in ("00", "01", "02", "03")}
    assert not (ready / "24").exists()
    with left_alone(source):
        assert run("migrate", str(source), "--yes").returncode == 0
    there = base / "ana" / "media"
    for name, before in copied.items():
        after = (there / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    for path in (source / "ana" / "media").iterdir():
        assert (there / path.name).read_bytes() == path.read_bytes()


def test_folders_that_cannot_be(run: Run, official: Path, base: Path, tmp_path: Path) -> None:
    """This server's own, one within the other, and what is no folder of a server."""
    run("user", "add", "zoe", stdin="x")
    for folder, message in (
        (base, "is the folder of this server itself"),
        (tmp_path, "lie within each other"),
        (tmp_path / "nowhere", "is no folder"),
    ):
        done = run("migrate", str(folder), "--yes")
        assert done.returncode == 1
        assert message in done.stderr
    done = run("migrate", str(official), "--yes", "--folder", str(official / "new"))
    assert "lie within each other" in done.stderr
    assert not (official / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_takes_over_belongs_to_the_server(run: Run, official: Path, base: Path) -> None:
    """Everything has the owner of the base folder, as whom the server runs."""
    base.mkdir()
    os.chown(base, 12345, 12346)
    assert run("migrate", str(official), "--yes", SYNC_USER1="ana:x").returncode == 0
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in base.rglob("*")}
    assert owners == {(12345, 12346)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make small disks")
def test_a_disk_that_is_too_small(run: Run, official: Path, tmp_path: Path) -> None:
    """It is told before anything is copied, with the numbers."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=66m", "tmpfs", disk]).returncode:
        pytest.skip("no disk can be made here")
    try:
        (disk / "filling").write_bytes(bytes(4_000_000))
        done = run("migrate", str(official), "--yes", "--folder", str(disk / "base"))
        assert done.returncode == 1
        assert "MB left; " in done.stderr
        assert [path.name for path in disk.iterdir()] == ["filling"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_runs_at_once(run: Run, official: Path, base: Path) -> None:
    """The second is told, and does nothing."""
    (base / ".cardkeep" / "migrate").mkdir(parents=True)
    hold = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)"
    with subprocess.Popen(
        [
            "python3",
            "-c",
            f"{hold}; print(flush=True); sys.stdin.read()",
            base / ".cardkeep/migrate",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = run("migrate", str(official), "--yes")
        holder.kill()
    assert done.returncode == 1
    assert "another `cardkeep migrate`" in done.stderr
    assert not (base / "ana").exists()
