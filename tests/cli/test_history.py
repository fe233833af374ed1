# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep history`, for people and for programs, and what other commands write into it."""

import json
import os
import pty
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cardkeep.backups.history import History, Kind, Numbers, Row
from cardkeep.collection.folder import UserFolder
from tests.cli.conftest import Run
from tests.cli.serving import CARDKEEP, Client, Serving, environment

Serve = Callable[..., Serving]

NOW = time.time_ns() // 1_000_000
HOUR, DAY = 3_600_000, 86_400_000

ROWS = (
    Row(NOW - 9 * DAY, Kind.LOGIN, device="7", address="2001:db8::1", took=64),
    Row(
        NOW - 8 * DAY,
        Kind.SYNC,
        device="7",
        client="anki,2.1.54 (b6a7760c),linux",
        address="2001:db8::1",
        notes=Numbers(12),
        cards=Numbers(0, 1, 3),
        reviews=Numbers(40),
        decks=Numbers(0, 0, 1),
        deck_configs=Numbers(0, 2),
        received=1_234,
        sent=999,
        took=321,
        copy="20261125-190501",
    ),
    Row(NOW - 3 * HOUR, Kind.SYNC, device="9", client="26.09.3,29bb700b,linux", took=1),
    Row(
        NOW - 2 * HOUR,
        Kind.UPLOAD,
        device="9",
        client="26.09.3,29bb700b,android:36",
        notes=Numbers(1, 0, 12_000),
        cards=Numbers(2, 0, 15_000),
        reviews=Numbers(0, 0, 400_000),
        received=25_000_000,
        took=125_000,
        copy="20261125-190502-2",
    ),
    Row(NOW - HOUR - 1000, Kind.MEDIA, device="9", media=Numbers(25), received=100, took=10),
    Row(NOW - HOUR, Kind.MEDIA, device="9", media=Numbers(0, 1, 1), received=100, took=10),
    Row(NOW - 1000, Kind.RESTORE, note="of the copy 20261125-190502-2"),
)


@pytest.fixture
def ana(base: Path) -> UserFolder:
    """A user with these rows."""
    folder = UserFolder(base / "ana")
    folder.make()
    for row in ROWS:
        History().add(folder, row)
    return folder


def shown(run: Run, *arguments: str) -> list[dict[str, Any]]:
    done = run("history", "ana", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_rows_for_programs(ana: UserFolder, run: Run) -> None:
    """An array, newest first; each field in each row; uploads of media in a row as one."""
    rows = shown(run)
    assert [row["kind"] for row in rows] == ["restore", "media", "upload", "sync", "sync", "login"]
    none = {"added": 0, "changed": 0, "deleted": 0}
    assert rows[1] == {
        "time": NOW - HOUR,
        "kind": "media",
        "device": "9",
        "client": "",
        "address": "",
        "cards": none,
        "notes": none,
        "reviews": none,
        "decks": none,
        "notetypes": none,
        "deck_configs": none,
        "tags": none,
        "media": {"added": 25, "changed": 1, "deleted": 1},
        "received": 200,
        "sent": 0,
        "took": 20,
        "copy": "",
        "note": "",
    }


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_no_rows(base: Path, run: Run, arguments: list[str]) -> None:
    """Of a user who is there, and of one who has a folder and nothing in it."""
    assert run("user", "add", "ana", stdin="x").returncode == 0
    (base / "ben").mkdir()
    for name in ("ana", "ben"):
        done = run("history", name, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == ("[]\n" if arguments else f"nothing is written down for {name}\n")
    assert not (base / "ana").exists()


def test_rows_for_people(ana: UserFolder, run: Run) -> None:
    """One line each where nobody looks at it on a terminal."""
    lines = [line.rstrip() for line in run("history", "ana", TZ="UTC").stdout.splitlines()]
    when = [time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row.time / 1000)) for row in ROWS]
    assert [" ".join(line.split()) for line in lines] == [
        "when device what happened",
        f"{when[6]} restored from a copy: of the copy 20261125-190502-2",
        f"{when[5]} 26.09.3 android:36 (device 9) media sync: +25 media files; "
        "1 media file changed; −1 media file · 200 B in · 20 ms",
        f"{when[3]} 26.09.3 android:36 (device 9) upload of everything: "
        "now 1 note, 2 cards, 0 reviews; before 12,000 notes, 15,000 cards, 400,000 reviews "
        "· copy 20261125-190502-2 kept · 25.0 MB in · 2 min 5 s",
        f"{when[2]} 26.09.3 linux (device 9) sync: nothing new from this device · 1 ms",
        f"{when[1]} 2.1.54 linux (device 7) from 2001:db8::1 sync: +12 notes, +40 reviews; "
        "1 card changed, 2 deck presets changed; −3 cards, −1 deck "
        "· copy 20261125-190501 kept · 1 kB in · 999 B out · 321 ms",
        f"{when[0]} 2.1.54 linux (device 7) from 2001:db8::1 login · 64 ms",
    ]


def test_rows_fit_a_terminal(ana: UserFolder, base: Path) -> None:
    """Of 80 columns, and every word is there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*CARDKEEP, "history", "ana"],
        env=environment({"CARDKEEP_FOLDER": str(base), "COLUMNS": "80", "TERM": "dumb"}),
        stdin=theirs,
        stdout=theirs,
    )
    os.close(theirs)
    output = b""
    try:
        while data := os.read(ours, 1000):
            output += data
    except OSError:  # the terminal is gone
        pass
    os.close(ours)
    assert process.wait(20) == 0
    lines = output.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert "20261125-190502-2" in output.decode()
    assert "400,000" in output.decode()


def test_a_part_of_the_rows(ana: UserFolder, run: Run) -> None:
    """The newest so many, or those since a time."""
    assert [row["kind"] for row in shown(run, "--limit", "2")] == ["restore", "media"]
    assert len(shown(run, "--limit", "0")) == 6
    assert len(shown(run, "--since", "90m")) == 2
    assert len(shown(run, "--since", "4h")) == 4
    assert len(shown(run, "--since", "8d", "--limit", "3")) == 3
    assert len(shown(run, "--since", "2w")) == 6
    moment = time.localtime((NOW - 8 * DAY - HOUR) / 1000)
    for form in ("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"):
        assert len(shown(run, "--since", time.strftime(form, moment))) == 5
    day = time.strftime("%Y-%m-%d", time.localtime((NOW + 2 * DAY) / 1000))
    assert shown(run, "--since", day) == []


def test_people_see_fifty_and_are_told_of_more(base: Path, run: Run) -> None:
    """Programs see all."""
    folder = UserFolder(base / "ana")
    folder.make()
    for n in range(60):
        History().add(folder, Row(NOW + n, Kind.SYNC))
    lines = run("history", "ana").stdout.splitlines()
    assert len(lines) == 1 + 50 + 2
    assert lines[-1] == "There is more: these are the newest 50 rows; --limit 0 shows all."
    assert len(run("history", "ana", "--limit", "0").stdout.splitlines()) == 1 + 60
    assert len(run("history", "ana", "--limit", "60").stdout.splitlines()) == 1 + 60
    assert len(shown(run)) == 60


def test_what_a_client_says_does_nothing_to_the_terminal(base: Path, run: Run) -> None:
    """Its text may hold anything."""
    folder = UserFolder(base / "ana")
    folder.make()
    evil = "\x1b[2J\x07\r\n[bold]x[/bold]\u202e"
    History().add(folder, Row(NOW, "\x1b[2J", client=evil, copy="\x1b", note="\x1b]0;x\x07"))
    output = run("history", "ana").stdout
    assert not [c for c in output if not c.isprintable() and c != "\n"]
    assert "[bold]x[/bold]" in output
    assert len(output.splitlines()) == 2
    assert shown(run)[0]["client"] == evil


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["eva"], 1, "cardkeep: there is no user eva"),
        (["../ana"], 1, "cardkeep: user name '../ana' contains '/'"),
        (["ana", "--since", "yesterday"], 2, "'yesterday'; expected a date such as"),
        (["ana", "--since", "2026-13-01"], 2, "'2026-13-01'; expected a date such as"),
        (["ana", "--limit", "-1"], 2, "-1 is not in the range x>=0"),
        (["ana", "--limit", "x"], 2, "'x' is not a valid integer"),
    ],
)
def test_a_mistake_is_told(
    ana: UserFolder, run: Run, arguments: list[str], status: int, message: str
) -> None:
    """And nothing is made."""
    before = sorted(ana.root.parent.iterdir())
    done = run("history", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert {"eva", "yesterday"}.isdisjoint(path.name for path in ana.root.parent.iterdir())
    assert set(before) <= set(ana.root.parent.iterdir())


def test_bounds_come_from_the_settings(ana: UserFolder, run: Run) -> None:
    """Of a command as of the server."""
    done = run("history", "ana", "--json", CARDKEEP_HISTORY_DAYS="7")
    assert len(json.loads(done.stdout)) == 4


# --- what commands and the server write -------------------------------------------------


def test_what_the_operator_does_is_written_down(base: Path, run: Run, serve: Serve) -> None:
    """Beside what a device did, while the server runs and after it."""
    run("user", "add", "ana", stdin="secret")
    server = serve()
    client = Client(server.url())
    keys = [client.login("ana", "secret")[1] for _ in range(3)]
    assert client.meta(keys[0]) == 200
    assert run("device", "revoke", "ana", "1").returncode == 0
    assert run("device", "revoke", "ana").returncode == 0
    assert run("user", "passwd", "ana", stdin="other").returncode == 0
    assert run("user", "disable", "ana").returncode == 0
    assert run("user", "enable", "ana").returncode == 0
    assert client.login("ana", "other")[0] == 200
    server.close()
    assert run("user", "remove", "ana").returncode == 0
    rows = shown(run)[::-1]
    assert [(row["kind"], row["device"], row["note"]) for row in rows] == [
        ("login", "1", ""),
        ("login", "2", ""),
        ("login", "3", ""),
        ("revoke", "1", ""),
        ("revoke", "3", ""),
        ("revoke", "2", ""),
        ("passwd", "", "all devices are logged out"),
        ("disable", "", "all devices are logged out"),
        ("enable", "", ""),
        ("login", "4", ""),
        ("remove", "", "all devices are logged out"),
    ]
    assert all(row["client"] == "26.09.3,29bb700b,linux" for row in rows if row["device"])
    assert {row["address"] for row in rows if row["kind"] == "login"} == {"127.0.0.1"}
    assert sorted(row["time"] for row in rows) == [row["time"] for row in rows]


def test_what_failed_is_not_written_down(ana: UserFolder, run: Run) -> None:
    """A command that changed nothing leaves no row."""
    before = shown(run)
    assert run("user", "add", "ana", stdin="secret").returncode == 0
    assert run("user", "passwd", "ana", stdin="").returncode == 1
    assert run("device", "revoke", "ana", "5").returncode == 1
    assert run("user", "disable", "eva").returncode == 1
    assert shown(run) == before


def test_commands_make_no_folder(base: Path, run: Run) -> None:
    """A user who never was there with a device has no history."""
    run("user", "add", "ana", stdin="secret")
    for command in (["passwd"], ["disable"], ["enable"], ["remove"]):
        assert run("user", *command, "ana", stdin="x").returncode == 0
    assert {path.name for path in base.iterdir()} - {"accounts.db"} <= {
        "accounts.db-wal",
        "accounts.db-shm",
    }


def test_data_that_are_deleted_take_their_history_along(ana: UserFolder, run: Run) -> None:
    """No folder comes back."""
    run("user", "add", "ana", stdin="secret")
    assert run("user", "remove", "ana", "--delete-data", "--yes").returncode == 0
    assert not ana.root.exists()
