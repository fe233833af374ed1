# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep check`: what it prints, its exit status, and what it looks at beside collections."""

import json
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cardkeep.collection.schema.inspect import inspect
from cardkeep.media.store import MediaStore
from tests.cli.conftest import Run
from tests.cli.serving import CARDKEEP, environment
from tests.collection.schema.files import VECTORS, edit
from tests.media.looking import upload

SERVER_UID = 12_345
IS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A collection with something of everything."""
    path = tmp_path_factory.mktemp("sound") / "rich.anki2"
    path.write_bytes((VECTORS / "rich-schema18.anki2").read_bytes())
    inspect(path)
    return path.read_bytes()


@pytest.fixture
def users(run: Run, base: Path, sound: bytes) -> Path:
    """A data folder with ana and ben, who have a sound collection each."""
    for name in ("ana", "ben"):
        assert run("user", "add", name, stdin="secret").returncode == 0
        (base / name).mkdir(mode=0o700)
        (base / name / "collection.anki2").write_bytes(sound)
    return base


def damage(base: Path, user: str, *statements: str) -> None:
    edit(base / user / "collection.anki2", *statements)


def findings(run: Run, *arguments: str) -> list[dict[str, Any]]:
    done = run("check", "--json", *arguments)
    assert done.stderr == ""
    told: list[dict[str, Any]] = json.loads(done.stdout)
    failed = any(not one["repaired"] and not one["harmless"] for one in told)
    assert done.returncode == int(failed)
    return told


def kinds(told: list[dict[str, Any]]) -> list[str]:
    return sorted(one["kind"] for one in told)


# --- telling ----------------------------------------------------------------------------


def test_all_is_well(run: Run, users: Path) -> None:
    """One line, and exit status 0."""
    done = run("check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 users checked: all is well\n", "")
    assert run("check", "--json").stdout == "[]\n"


def test_what_is_wrong(run: Run, users: Path) -> None:
    """By user, one line each, and what it comes to; exit status 1."""
    damage(users, "ben", "UPDATE tags SET usn = -1", "UPDATE notes SET csum = 7")
    damage(users, "ben", "DELETE FROM cards WHERE nid = (SELECT max(nid) FROM cards)")
    done = run("check")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == "ben"
    assert [line.split()[0] for line in lines[1:-1]] == ["mendable", "wrong", "note"]
    assert re.fullmatch(
        r"  wrong     1 note without a card: \d+\. .* \[note-without-card\]", lines[2]
    )
    assert lines[-1] == "2 users checked: 2 wrong, 1 of it can be mended with --repair, 1 note"


def test_what_was_mended(run: Run, users: Path) -> None:
    """It does not count as wrong; a copy was kept before."""
    damage(users, "ben", "UPDATE tags SET usn = -1", "UPDATE notes SET csum = 7")
    done = run("check", "--repair")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert [line.split()[0] for line in lines[1:-1]] == ["mended", "mended"]
    assert lines[-1] == "2 users checked: all is well, 2 mended"
    assert run("check").stdout == "2 users checked: all is well\n"
    copies = json.loads(run("snapshot", "list", "ben", "--json").stdout)
    assert [copy["reason"] for copy in copies] == ["repair"]
    assert json.loads(run("snapshot", "list", "ana", "--json").stdout) == []
    (row,) = json.loads(run("history", "ben", "--json").stdout)
    assert (row["kind"], row["note"]) == ("repair", "derived, usn")


def test_media(run: Run, users: Path) -> None:
    """They are looked at unless they are left out; what was mended is a row of the history."""
    store = MediaStore(users)
    upload(store, ("a", b"1"), ("b", b"2"), ("twin of b", b"2"))
    store.close()
    media = users / "ana" / "media"
    (media / "a").unlink()
    (media / "b").unlink()
    (media / "stray").write_bytes(b"stray")
    for leaving_out in ("--no-media", "--quick"):
        assert findings(run, leaving_out) == []
    told = findings(run)
    assert kinds(told) == ["media-missing", "media-missing", "media-unlisted"]
    assert [one["repairable"] for one in told] == [False, True, True]
    assert [one["repaired"] for one in findings(run, "--repair")] == [False, True, True]
    (row,) = json.loads(run("history", "ana", "--json").stdout)
    assert (row["kind"], row["note"]) == ("repair", "media-missing, media-unlisted")
    (left,) = findings(run)
    assert left["what"].startswith("The media file 'a' is not there; the first device")


def test_only_those_named(run: Run, users: Path) -> None:
    """Others, and the data folder, are left out."""
    damage(users, "ben", "UPDATE tags SET usn = -1")
    damage(users, "ana", "UPDATE decks SET usn = -1")
    (told,) = findings(run, "ben")
    assert (told["user"], told["kind"], told["repairable"]) == ("ben", "usn", True)
    assert run("check", "ben", "ana").stdout.splitlines()[-1].startswith("2 users checked: 2 wrong")


def test_usage(run: Run, users: Path, base: Path) -> None:
    """A user or folder that is not there is exit status 2, and nothing is checked."""
    for arguments in (["eva"], ["../x"], ["--folder", str(base / "none")], ["--slow"]):
        done = run("check", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr


def test_damage_of_one_user_does_not_stop_the_others(run: Run, users: Path) -> None:
    """What cannot be read at all is a finding too."""
    (users / "ana" / "collection.anki2").write_bytes(b"SQLite format 3\0" + b"x" * 9000)
    damage(users, "ben", "UPDATE tags SET usn = -1")
    told = findings(run)
    assert [(one["user"], one["kind"]) for one in told] == [("ana", "damaged"), ("ben", "usn")]


def test_a_terminal_shows_progress(users: Path) -> None:
    """Bars while it goes on; what is told stays."""
    damage(users, "ben", "UPDATE tags SET usn = -1")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*CARDKEEP, "check"],
        env=environment({"CARDKEEP_FOLDER": str(users), "COLUMNS": "200", "TERM": "xterm"}),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 10_000):
            shown += data
    except OSError:  # the terminal is gone
        pass
    os.close(ours)
    assert process.wait(20) == 1
    text = shown.decode()
    assert "ana: collection" in text
    assert "%" in text
    assert "[usn]" in text
    assert text.rstrip().endswith("2 users checked: 1 wrong, 1 of it can be mended with --repair")


def test_a_pipe_gets_lines_only(users: Path) -> None:
    """Also where the progress is on a terminal."""
    damage(users, "ben", "UPDATE tags SET usn = -1")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*CARDKEEP, "check"],
        env=environment({"CARDKEEP_FOLDER": str(users), "TERM": "xterm"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    out, _ = process.communicate(timeout=30)
    os.close(ours)
    assert [line.split()[0] for line in out.splitlines()] == ["ben", "mendable", "2"]
    assert "\x1b" not in out


# --- with everything --------------------------------------------------------------------


def test_kept_copies_and_folders_are_looked_at(run: Run, users: Path) -> None:
    """Unless only some users are asked for, where the data folder is left out."""
    assert run("snapshot", "take", "ana").returncode == 0
    (copy,) = (users / "ana" / ".cardkeep" / "snapshots").glob("2*")
    content = bytearray((copy / "collection.anki2.zst").read_bytes())
    content[len(content) // 2] ^= 255
    (copy / "collection.anki2.zst").write_bytes(content)
    assert run("user", "add", "eva", stdin="secret").returncode == 0
    assert [(one["user"], one["kind"]) for one in findings(run)] == [
        (None, "user-without-folder"),
        ("ana", "copy-damaged"),
    ]
    assert findings(run, "--quick", "ana", "eva") == []


def test_media_are_looked_at(run: Run, users: Path) -> None:
    """And mended; unless they are left out."""
    (users / "ana" / "media").mkdir()
    (users / "ana" / "media" / "a.png").write_bytes(b"x")
    for flag in ("--no-media", "--quick"):
        assert findings(run, flag) == []
    (told,) = findings(run)
    assert (told["user"], told["kind"], told["repairable"]) == ("ana", "media-unlisted", True)
    assert [one["repaired"] for one in findings(run, "--repair")] == [True]
    assert findings(run) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run for somebody else")
def test_a_repair_by_root_leaves_everything_to_the_server(run: Run, users: Path) -> None:
    """What it makes belongs to the owner of the folder."""
    damage(users, "ben", "UPDATE tags SET usn = -1")
    for path in (users, *users.rglob("*")):
        os.chown(path, 12_345, 12_345)
    assert run("check", "--repair").returncode == 0
    paths = list(users.rglob("*"))
    assert users / "ben" / ".cardkeep" / "session" in paths
    assert any(path.name == "manifest.json" for path in paths)
    assert {path.stat().st_uid for path in paths} == {12_345}


def test_a_folder_of_the_official_server(run: Run, base: Path, sound: bytes) -> None:
    """It has no accounts, and none are made."""
    (base / "ana").mkdir(parents=True)
    (base / "ana" / "collection.anki2").write_bytes(sound)
    (base / "something else").mkdir()
    before = sorted(base.rglob("*"))
    assert kinds(findings(run)) == ["folder-without-user"]
    assert sorted(base.rglob("*")) == before


# --- the page ---------------------------------------------------------------------------


def test_every_kind_is_on_the_page() -> None:
    """docs/check.md tells what each finding means."""
    root = Path(__file__).parents[2]
    source = root / "src" / "cardkeep"
    told: set[str] = set()
    for path in (
        *(source / "collection").glob("*.py"),
        source / "backups" / "check.py",
        source / "accounts" / "check.py",
        source / "cli" / "check.py",
        source / "cli" / "data_folder.py",
    ):
        text = path.read_text()
        told |= set(re.findall(r'(?:Finding|Fault|_indexes)\(\s*"([a-z-]+)"', text))
    told |= {"field-without-notetype", "template-without-notetype"}
    told |= {"text", "note-fields", "derived"}
    media = (source / "media" / "check.py").read_text()
    told |= {"media-totals", "media-usn"} | set(re.findall(r'"(media-[a-z]+)"', media))
    page = (root / "docs" / "check.md").read_text()
    assert {kind for kind in told if f"`{kind}`" not in page} == set()
    assert len(told) > 40
