# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep user` and `cardkeep device`, on their own and beside a running server."""

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.serving import CARDKEEP, Client, Serving, environment

Serve = Callable[..., Serving]


def listed(run: Run) -> dict[str, dict[str, object]]:
    done = run("user", "list", "--json")
    assert done.returncode == 0
    return {entry["name"]: entry for entry in json.loads(done.stdout)}


# --- making users -----------------------------------------------------------------------


def test_the_password_comes_from_standard_input(run: Run, serve: Serve) -> None:
    """Its first line, without the newline."""
    done = run("user", "add", "ana", stdin=" se cret \r\nmore\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ana can log in now\n", "")
    assert Client(serve().url()).login("ana", " se cret ")[0] == 200


def test_the_password_comes_from_the_environment(run: Run, serve: Serve) -> None:
    """CARDKEEP_PASSWORD, or a file that CARDKEEP_PASSWORD_FILE names."""
    assert run("user", "add", "ana", CARDKEEP_PASSWORD="one").returncode == 0
    client = Client(serve().url())
    assert client.login("ana", "one")[0] == 200


def test_the_password_comes_from_a_file(run: Run, serve: Serve, tmp_path: Path) -> None:
    """`--password-file` counts before the environment; the last newline does not count."""
    file = tmp_path / "password"
    file.write_text("two\n")
    given = run("user", "add", "ana", "--password-file", str(file), CARDKEEP_PASSWORD="one")
    named = run("user", "add", "ben", CARDKEEP_PASSWORD_FILE=str(file))
    dashed = run("user", "add", "eva", "--password-file", "-", stdin="two", CARDKEEP_PASSWORD="1")
    assert [done.returncode for done in (given, named, dashed)] == [0, 0, 0]
    client = Client(serve().url())
    assert [client.login(name, "two")[0] for name in ("ana", "ben", "eva")] == [200] * 3


def test_the_password_is_asked_for_on_a_terminal(base: Path, serve: Serve) -> None:
    """Twice, and without showing it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*CARDKEEP, "user", "add", "ana"],
        env=environment({"CARDKEEP_FOLDER": str(base)}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    for question in (b"Password: ", b"Repeat for confirmation: "):
        while question not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, b"hunter2\n")
    try:
        while data := os.read(ours, 1000):
            shown += data
    except OSError:  # the terminal is gone
        pass
    os.close(ours)
    assert process.wait(20) == 0
    assert b"ana can log in now" in shown
    assert b"hunter2" not in shown
    assert Client(serve().url()).login("ana", "hunter2")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["add", "ana"], "", "the password must not be empty"),
        (["add", "ana"], "\n", "the password must not be empty"),
        (["add", "../ana"], "x", "user name '../ana' contains '/', which folders cannot have"),
        (["add", ""], "x", "a user name must not be empty"),
        (["add", "Ben"], "x", "the name Ben differs only in case from the user ben"),
        (["add", "ben"], "x", "there is a user ben already"),
        (["passwd", "eva"], "x", "there is no user eva"),
        (["passwd", "ben"], "", "the password must not be empty"),
        (["remove", "eva"], "", "there is no user eva"),
        (["disable", "eva"], "", "there is no user eva"),
        (["enable", "eva"], "", "there is no user eva"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], stdin: str, message: str, run: Run) -> None:
    """On standard error, with exit status 1, and changes nothing."""
    assert run("user", "add", "ben", stdin="secret").returncode == 0
    before = listed(run)
    done = run("user", *arguments, stdin=stdin)
    assert done.returncode == 1
    assert done.stderr.startswith(f"cardkeep: {message}")
    assert done.stderr.count("\n") == 1
    assert listed(run) == before


def test_a_user_who_is_there_can_be_ignored(run: Run, serve: Serve) -> None:
    """For scripts that run again and again; the password stays."""
    assert run("user", "add", "ana", stdin="one").returncode == 0
    again = run("user", "add", "--ignore-exists", "ana", stdin="two")
    assert (again.returncode, again.stdout) == (0, "ana is there already; nothing was changed\n")
    assert Client(serve().url()).login("ana", "one")[0] == 200


def test_a_folder_that_is_not_there(run: Run) -> None:
    """Only `add` makes it; others say that it is the wrong one."""
    done = run("user", "list")
    assert done.returncode == 2
    assert "is no folder; expected the server's" in done.stderr


# --- beside a running server ------------------------------------------------------------


def test_changes_hold_at_the_next_request(run: Run, serve: Serve) -> None:
    """Made, changed, disabled, enabled and removed without a restart, for several workers."""
    client = Client(serve("--workers", "2").url())
    assert client.login("ana", "one")[0] == 403

    run("user", "add", "ana", stdin="one")
    key = client.login("ana", "one")[1]
    assert [client.meta(key) for _ in range(4)] == [200] * 4

    run("user", "passwd", "ana", stdin="two")
    assert [client.meta(key) for _ in range(4)] == [403] * 4
    assert client.login("ana", "one")[0] == 403
    key = client.login("ana", "two")[1]
    assert client.meta(key) == 200

    run("user", "disable", "ana")
    assert client.meta(key) == 403
    assert client.login("ana", "two")[0] == 403
    run("user", "enable", "ana")
    assert client.meta(key) == 403
    key = client.login("ana", "two")[1]
    assert client.meta(key) == 200

    run("user", "remove", "ana")
    assert client.meta(key) == 403
    assert client.login("ana", "two")[0] == 403


def test_one_device_is_logged_out(run: Run, serve: Serve) -> None:
    """The list tells which; the others go on."""
    run("user", "add", "ana", stdin="one")
    client = Client(serve().url())
    lost, kept = client.login("ana", "one")[1], client.login("ana", "one")[1]
    devices = json.loads(run("device", "list", "--json", "ana").stdout)
    assert [entry["client"] for entry in devices] == ["26.09.3,29bb700b,linux"] * 2
    assert {entry["address"] for entry in devices} == {"127.0.0.1"}
    first = min(devices, key=lambda entry: int(entry["id"]))
    done = run("device", "revoke", "ana", first["id"])
    assert (done.returncode, done.stdout) == (0, "1 device is logged out\n")
    assert (client.meta(lost), client.meta(kept)) == (403, 200)
    assert run("device", "revoke", "ana").stdout == "1 device is logged out\n"
    assert client.meta(kept) == 403
    wrong = run("device", "revoke", "ana", "99")
    assert (wrong.returncode, wrong.stderr) == (1, "cardkeep: ana has no device 99\n")


def test_users_of_the_environment_are_listed_and_left_alone(run: Run, serve: Serve) -> None:
    """Each change says where they can be changed."""
    client = Client(serve(SYNC_USER1="eva:secret").url())
    key = client.login("eva", "secret")[1]
    assert listed(run)["eva"]["source"] == "environment"
    for command in ("passwd", "disable", "enable", "remove"):
        done = run("user", command, "eva", stdin="other\n")
        assert done.returncode == 1
        assert "eva is given by SYNC_USERn to the server" in done.stderr
    assert "there is a user eva already" in run("user", "add", "eva", stdin="x").stderr
    assert client.meta(key) == 200


def test_the_throttle_answers_before_the_password_is_looked_at(serve: Serve, run: Run) -> None:
    """After ten wrong passwords the right one waits, with another status than 403."""
    client = Client(serve(SYNC_USER1="eva:secret").url())
    key = client.login("eva", "secret")[1]
    assert [client.login("eva", "wrong")[0] for _ in range(10)] == [403] * 10
    status = client.login("eva", "secret")[0]
    assert status not in (200, 403)
    assert client.meta(key) == 200


def test_failed_logins_are_in_the_log(serve: Serve) -> None:
    """One line each, with a date, as fail2ban needs it, whatever is sent as a name."""
    server = serve(SYNC_USER1="eva:secret")
    client = Client(server.url())
    client.login("eva", "hunter2")
    client.login("x' address=1.2.3.4\nlogin failed user='eva", "hunter2")
    server.end(signal.SIGTERM)
    lines = [line for line in server.log.splitlines() if " WARNING login failed " in line]
    assert len(lines) == 2
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"
    for line, name in zip(
        lines, ["eva", r"x\' address=1.2.3.4\nlogin failed user=\'eva"], strict=True
    ):
        assert re.fullmatch(f"{date} WARNING login failed user='(.*)' address=127.0.0.1", line)
        assert f"user='{name}'" in line
    assert "hunter2" not in server.log


# --- lists ------------------------------------------------------------------------------


def test_the_list_for_people(run: Run) -> None:
    """A line per user; wide names are not cut where no terminal is."""
    name = "n" * 90
    run("user", "add", "ana", stdin="x")
    run("user", "add", name, stdin="x")
    run("user", "add", "[red]eva[", stdin="x")
    run("user", "disable", "ana")
    done = run("user", "list")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["name", "from", "state", "devices", "last", "sync"]
    assert [line.split()[0] for line in lines] == ["[red]eva[", "ana", name]
    assert lines[1].split() == ["ana", "user", "add", "disabled", "0", "never"]


def test_the_list_for_programs(run: Run) -> None:
    """JSON with times in seconds."""
    run("user", "add", "zoé", stdin="x")
    assert listed(run)["zoé"].keys() == {
        "name",
        "source",
        "disabled",
        "created",
        "devices",
        "last_used",
    }


# --- removing ---------------------------------------------------------------------------


@pytest.fixture
def data(run: Run, base: Path) -> Path:
    """A file of the user ana."""
    run("user", "add", "ana", stdin="x")
    file = base / "ana" / "media" / "a.jpg"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    return file


def test_removing_a_user_keeps_the_folder(run: Run, data: Path) -> None:
    """And says so."""
    done = run("user", "remove", "ana")
    assert done.returncode == 0
    assert f"{data.parents[1]} is kept" in done.stdout
    assert data.exists()
    assert listed(run) == {}


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_data_is_deleted_only_after_a_yes(answer: str, run: Run, data: Path) -> None:
    """Any other answer leaves user and data as they are."""
    done = run("user", "remove", "--delete-data", "ana", stdin=answer)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert data.exists()
    assert list(listed(run)) == ["ana"]


@pytest.mark.parametrize(("flags", "answer"), [([], "y\n"), (["--yes"], "")])
def test_data_is_deleted_with_a_yes(
    flags: list[str], answer: str, run: Run, data: Path, base: Path
) -> None:
    """Nothing of the folder is left, and nothing else is touched."""
    (base / "ben").mkdir()
    done = run("user", "remove", "--delete-data", *flags, "ana", stdin=answer)
    assert done.returncode == 0
    assert not data.parents[1].exists()
    assert (base / "ben").exists()
    assert list((base / ".cardkeep").iterdir()) == []
    assert listed(run) == {}


# --- the program ------------------------------------------------------------------------


def test_the_version(run: Run) -> None:
    """One line."""
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("cardkeep, version ")


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["user", "nothing"], ["serve", "--nothing"], ["user", "add"]]
)
def test_wrong_usage(arguments: list[str], run: Run) -> None:
    """Exit status 2, and a hint instead of a traceback."""
    done = run(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
