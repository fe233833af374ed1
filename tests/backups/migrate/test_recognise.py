# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose folder it is, and what is found in it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cardkeep.backups.migrate.recognise import recognise
from cardkeep.backups.migrate.source import Found, Secret, Source
from cardkeep.errors import MigrationError
from tests.backups.migrate import folders
from tests.backups.migrate.conftest import make_user

PLAIN = {"ana": Secret("plain", "secret", "SYNC_USER1")}


def found(root: Path, passwords: dict[str, Secret] | None = None) -> Source:
    """What is recognised, while nothing in the folder changes."""
    work = root.parent / "work"
    work.mkdir()
    try:
        with folders.left_alone(root):
            return recognise(root, passwords or {}, work)
    finally:
        shutil.rmtree(work)


def users(source: Source) -> dict[str, Found]:
    return {user.name: user for user in source.users}


def test_the_official_server(official: Path) -> None:
    """A folder a user, and passwords from elsewhere."""
    (official / "lost+found").mkdir()
    (official / "log.txt").write_text("")
    source = found(official, PLAIN)
    assert source.kind == "the official server"
    ana, ben = users(source).values()
    assert (ana.name, ben.name) == ("ana", "ben")
    assert ana.collection == official / "ana" / "collection.anki2"
    assert ana.media is not None
    assert (ana.media.folder, ana.media.index) == (
        official / "ana" / "media",
        official / "ana" / "media.db",
    )
    assert ana.password == PLAIN["ana"]
    assert ben.password is None
    assert ben.media is None


def test_passwords_go_to_names_in_any_normal_form(tmp_path: Path) -> None:
    """A folder on a Mac is named in NFD."""
    make_user(tmp_path / "official", "Rene\u0301", {})
    secret = Secret("plain", "secret", "SYNC_USER1")
    [user] = found(tmp_path / "official", {"René": secret}).users
    assert user.password == secret


@pytest.mark.parametrize("column", ["username", "user"])
def test_ankisyncd(official: Path, tmp_path: Path, column: str) -> None:
    """Hashes from auth.db, keys from session.db; users who never synced have a password only."""
    root = folders.as_ankisyncd(official, tmp_path / "ankisyncd")
    hashes = {"ana": folders.hashed("ana", "x"), "cem": folders.hashed("cem", "y")}
    folders.auth_db(root, hashes, column)
    keys = [folders.host_key("ana", moment) for moment in (1, 2)]
    folders.session_db(root, {**dict.fromkeys(keys, "ana"), "strange": "ana"}, column)
    source = found(root)
    assert source.kind == "ankisyncd"
    assert "stay" in source.logins
    ana, ben, cem = users(source).values()
    folder = root / "collections" / "ana"
    assert ana.collection == folder / "collection.anki2"
    assert ana.media is not None
    assert (ana.media.folder, ana.media.index) == (
        folder / "collection.media",
        folder / "collection.media.server.db",
    )
    assert ana.password == Secret("ankisyncd", hashes["ana"], "auth.db")
    assert ana.keys == (keys[1], keys[0])
    assert ben.password is None
    assert (cem.collection, cem.media, cem.keys) == (None, None, ())
    assert cem.password is not None


def test_the_index_of_a_client_is_used_where_there_is_no_other(
    official: Path, tmp_path: Path
) -> None:
    """So it was until 2020."""
    root = folders.as_ankisyncd(official, tmp_path / "ankisyncd")
    folder = root / "collections" / "ana"
    folders.client_media(folder / "collection.media.db2", [], 5)
    ana = users(found(root))["ana"]
    assert ana.media is not None
    assert ana.media.index == folder / "collection.media.server.db"
    (folder / "collection.media.server.db").unlink()
    ana = users(found(root))["ana"]
    assert ana.media is not None
    assert ana.media.index == folder / "collection.media.db2"


def test_paths_in_the_configuration(official: Path, tmp_path: Path) -> None:
    """What it says counts, unless it is about a container and the things lie here."""
    root = folders.as_ankisyncd(official, tmp_path / "ankisyncd")
    folders.auth_db(root, {"ana": folders.hashed("ana", "x")})
    (root / "auth.db").rename(root / "users.db")
    (root / "collections").rename(tmp_path / "elsewhere")
    (root / "ankisyncd.conf").write_text(
        "[sync_app]\nhost = 0.0.0.0\ndata_root = ../elsewhere\nauth_db_path = /app/data/users.db\n"
    )
    ana = users(found(root))["ana"]
    assert ana.collection == root / ".." / "elsewhere" / "ana" / "collection.anki2"
    assert ana.password is not None


def test_a_configuration_that_cannot_be_read(official: Path, tmp_path: Path) -> None:
    """It is told."""
    root = folders.as_ankisyncd(official, tmp_path / "ankisyncd")
    (root / "ankisyncd.conf").write_text("data_root = x\n")
    with pytest.raises(MigrationError, match=r"ankisyncd\.conf cannot be read"):
        found(root)


def test_the_folder_collections_itself(official: Path, tmp_path: Path) -> None:
    """What lies beside it is looked for."""
    root = folders.as_ankisyncd(official, tmp_path / "ankisyncd")
    folders.auth_db(root, {"ana": folders.hashed("ana", "x")})
    source = found(root / "collections")
    assert source.kind == "ankisyncd"
    assert users(source)["ana"].password is not None
    assert users(source)["ana"].media is not None


def test_an_auth_db_that_is_none(official: Path, tmp_path: Path) -> None:
    """Nobody becomes a user without a password because of it."""
    root = folders.as_ankisyncd(official, tmp_path / "ankisyncd")
    (root / "auth.db").write_text("garbage" * 1000)
    with pytest.raises(MigrationError, match=r"auth\.db cannot be read"):
        found(root)


def test_an_auth_db_that_was_left_by_a_kill(official: Path, tmp_path: Path) -> None:
    """Its journal is minded, in a copy."""
    root = folders.as_ankisyncd(official, tmp_path / "ankisyncd")
    folders.auth_db(root, {"ana": folders.hashed("ana", "x")})
    killed = f"""
import os, signal, sqlite3
connection = sqlite3.connect({str(root / "auth.db")!r}, isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("PRAGMA cache_spill = 1")
connection.execute("BEGIN")
connection.execute("UPDATE auth SET hash = 'wrong'")
connection.execute("CREATE TABLE filling AS WITH RECURSIVE n(i) AS "
    "(SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) SELECT randomblob(100) FROM n")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert (root / "auth.db-journal").stat().st_size
    password = users(found(root))["ana"].password
    assert password is not None
    assert password.text == folders.hashed("ana", "x")


def test_anki_sync_server_rs_before_1(official: Path, tmp_path: Path) -> None:
    """It is as ankisyncd; its configuration gives it away."""
    root = folders.as_ankisyncd(official, tmp_path / "rs")
    (root / "ankisyncd.toml").write_text('[listen]\n[paths]\nroot_dir = "."\n')
    folders.auth_db(root, {"ana": folders.hashed("ana", "x")})
    folders.session_db(root, {folders.host_key("ana"): "ana"})
    source = found(root)
    assert source.kind == "anki-sync-server-rs"
    ana = users(source)["ana"]
    assert ana.keys == (folders.host_key("ana"),)
    assert ana.media is not None
    assert ana.media.folder.name == "collection.media"


def test_anki_sync_server_rs_from_1_on(official: Path, tmp_path: Path) -> None:
    """Media as the official server has them; keys, also old ones, are of no use any more."""
    root = folders.as_rs(official, tmp_path / "rs")
    folders.auth_db(root, {"ana": folders.hashed("ana", "x")})
    folders.session_db(root, {folders.host_key("ana"): "ana"})
    source = found(root)
    assert source.kind == "anki-sync-server-rs"
    assert "once more" in source.logins
    ana = users(source)["ana"]
    assert ana.keys == ()
    assert ana.media is not None
    assert ana.media.index == root / "collections" / "ana" / "media.db"
    assert ana.password == Secret("ankisyncd", folders.hashed("ana", "x"), "auth.db")
    (root / "ankisyncd.toml").unlink()
    assert found(root).kind == "anki-sync-server-rs"


@pytest.mark.parametrize("used", [True, False])
def test_anki_sync_server_rs_that_was_updated(official: Path, tmp_path: Path, used: bool) -> None:
    """Of both kinds of media that a user has, the new ones count once there are any."""
    root = folders.as_rs(official, tmp_path / "rs")
    folder = root / "collections" / "ana"
    (folder / "collection.media").mkdir()
    folders.server_media(folder / "collection.media.server.db", [("old", 1, "0" * 40)])
    if not used:
        folders.database(folder / "media.db", "DELETE FROM media")
    ana = users(found(root))["ana"]
    assert ana.media is not None
    assert ana.media.folder.name == ("media" if used else "collection.media")


def test_a_root_in_the_configuration(official: Path, tmp_path: Path) -> None:
    """`root_dir` is where the things are, if they are not beside it."""
    folders.as_rs(official, tmp_path / "data").joinpath("ankisyncd.toml").unlink()
    root = tmp_path / "rs"
    root.mkdir()
    (root / "ankisyncd.toml").write_text('[listen]\n[paths]\nroot_dir = "../data"\n')
    assert users(found(root)).keys() == {"ana", "ben"}
    (root / "ankisyncd.toml").write_text("[paths]\n")
    with pytest.raises(MigrationError, match=r"ankisyncd\.toml cannot be read"):
        found(root)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("accounts.db", "of a cardkeep server"),
        ("prefs21.db", "of an Anki on a desktop"),
        ("collection.anki2", "of one user"),
        ("readme.txt", "nothing of a server that is known"),
    ],
)
def test_other_folders(tmp_path: Path, file: str, words: str) -> None:
    """What it is, and what to do instead."""
    root = tmp_path / "folder"
    root.mkdir()
    (root / file).write_text("")
    with pytest.raises(MigrationError, match=words):
        found(root)
    with pytest.raises(MigrationError, match="is no folder"):
        found(root / file)
