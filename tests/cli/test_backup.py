# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep backup` as people run it, on its own and beside a running server."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cardkeep.media.store import MediaStore
from tests.cli.conftest import Run
from tests.cli.serving import CARDKEEP, Client, Serving, environment
from tests.media.looking import upload

Serve = Callable[..., Serving]
COLLECTIONS = Path(__file__).parents[1] / "vectors" / "collections"


@pytest.fixture
def filled(run: Run, base: Path) -> Path:
    """A data folder with ana, who has a collection and two media files."""
    assert run("user", "add", "ana", stdin="secret").returncode == 0
    (base / "ana").mkdir()
    shutil.copy(COLLECTIONS / "rich-schema18.anki2", base / "ana" / "collection.anki2")
    store = MediaStore(base)
    upload(store, ("a.txt", b"a"), ("b.txt", b"bb"))
    store.close()
    return base


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "b.tar.zst"


def test_there_and_back(run: Run, serve: Serve, filled: Path, file: Path, tmp_path: Path) -> None:
    """Beside a running server; what is restored is served, and nobody has to log in again."""
    serving = serve()
    key = Client(serving.url()).login("ana", "secret")[1]
    done = run("backup", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 user, 12 cards, 2 media files" in done.stdout
    assert "verified" in done.stdout

    restored = tmp_path / "restored"
    done = run("backup", "--restore", str(file), "--folder", str(restored))
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 cards" in done.stdout
    assert Client(serve(CARDKEEP_FOLDER=str(restored)).url()).meta(key) == 200
    listed = run("history", "ana", "--json", CARDKEEP_FOLDER=str(restored))
    assert "backup of" in json.loads(listed.stdout)[0]["note"]


def test_looking_at_it(run: Run, filled: Path, file: Path) -> None:
    run("backup", str(file))
    verified = run("backup", "--verify", str(file))
    assert verified.returncode == 0
    assert verified.stdout.startswith(f"{file} is whole: the backup of 20")
    listed = run("backup", "--list", str(file))
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[2].split()[:5] == ["ana", "12", "9", "8", "2"]
    found = json.loads(run("backup", "--list", "--json", str(file)).stdout)
    assert found["format"] == 1
    [ana] = found["users"]
    assert (ana["name"], ana["cards"], ana["media_files"]) == ("ana", 12, 2)


def test_through_a_pipe(filled: Path, file: Path, run: Run) -> None:
    """To standard output; the words go to standard error and say that it was not verified."""
    with file.open("wb") as output:
        done = subprocess.run(
            [*CARDKEEP, "backup", "-"],
            env=environment({"CARDKEEP_FOLDER": str(filled)}),
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert "not verified" in done.stderr
    assert run("backup", "--verify", str(file)).returncode == 0


def test_a_reader_who_goes_away(filled: Path) -> None:
    """`cardkeep backup - | head -c 1` ends without a word."""
    (filled / "ana" / "media" / "noise").write_bytes(os.urandom(3_000_000))
    done = subprocess.run(
        ["sh", "-c", f"{CARDKEEP[0]} -m cardkeep backup - | head -c 1 >/dev/null"],
        env=environment({"CARDKEEP_FOLDER": str(filled)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""


def test_what_is_missing_is_said_and_counts_as_failure(run: Run, filled: Path, file: Path) -> None:
    """A cron job notices; all else is in the backup, and each later look says it again."""
    (filled / "ana" / "media" / "a.txt").unlink()
    for arguments in (("backup",), ("backup", "--verify"), ("backup", "--list")):
        done = run(*arguments, str(file))
        assert done.returncode == 1
        assert done.stderr == "cardkeep: media file 'a.txt' of ana is not there as listed\n"
    restored = file.with_name("restored")
    done = run("backup", "--restore", str(file), "--folder", str(restored))
    assert done.returncode == 0
    assert "a.txt" in done.stderr
    assert (restored / "ana" / "media" / "b.txt").read_bytes() == b"bb"


def test_a_damaged_one_is_one_line(run: Run, filled: Path, file: Path) -> None:
    run("backup", str(file))
    file.write_bytes(file.read_bytes()[:-100])
    for arguments in (("--verify",), ("--list",), ("--restore", "--folder", f"{file}-restored")):
        done = run("backup", *arguments, str(file))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"cardkeep: {file} is damaged: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere/b.tar.zst"], 1, "cannot be made"),
        (["--verify", "nowhere"], 1, "cannot be read"),
        (["--restore", "nowhere"], 1, "was not finished"),
        (["--user", "ana", "b"], 2, "--user goes with --restore"),
        (["--json", "b"], 2, "--json with --list"),
        (["--level", "20", "b"], 2, "20"),
        ([], 2, "FILE"),
        (["b", "--folder", "nowhere"], 2, "is no folder"),
    ],
)
def test_a_mistake_is_told(
    run: Run, filled: Path, arguments: list[str], status: int, message: str
) -> None:
    done = run("backup", *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_not_onto_what_is_there(run: Run, filled: Path, file: Path) -> None:
    run("backup", str(file))
    done = run("backup", "--restore", str(file))
    assert done.returncode == 1
    assert "is not empty" in done.stderr


def test_one_user(run: Run, serve: Serve, filled: Path, file: Path) -> None:
    """Whose folder is gone, beside the running server."""
    run("backup", str(file))
    serve().url()
    shutil.rmtree(filled / "ana")
    done = run("backup", "--restore", "--user", "ana", str(file))
    assert (done.returncode, done.stdout) == (0, f"ana is back in {filled}\n")
    assert (filled / "ana" / "media" / "b.txt").read_bytes() == b"bb"
    run("user", "remove", "ana")
    shutil.rmtree(filled / "ana")
    done = run("backup", "--restore", "--user", "ana", str(file))
    assert "cardkeep user add ana" in done.stdout


def test_no_server_on_half_a_restore(run: Run, filled: Path, file: Path, tmp_path: Path) -> None:
    """It says what to do, and does not make a new data folder around it."""
    restored = tmp_path / "restored"
    (restored / ".cardkeep-restore" / "unpacking").mkdir(parents=True)
    done = run("serve", "--port", "0", CARDKEEP_FOLDER=str(restored))
    assert done.returncode == 1
    assert "was cut off" in done.stderr
    assert len(list(restored.iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing(filled: Path, tmp_path: Path, number: int) -> None:
    with (filled / "ana" / "media" / "noise").open("wb") as noise:
        for _ in range(80):
            noise.write(os.urandom(1_000_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    process = subprocess.Popen(
        [*CARDKEEP, "backup", disk / "b.tar.zst"],
        env=environment({"CARDKEEP_FOLDER": str(filled)}),
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not list(disk.glob(".cardkeep-backup-*/b.tar.zst")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait(30) in (130, 143)
    assert list(disk.iterdir()) == []
