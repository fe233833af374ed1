# SPDX-License-Identifier: AGPL-3.0-or-later
"""Packages that cardkeep writes are imported by Anki, and the other way round."""

import hashlib
import json
import random
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.device import Device, Json
from tests.clients.story import Account, account_on, differences, disagreements
from tests.clients.test_full_sync import rich
from tests.servers import Server, running

NOISE = random.Random(3).randbytes(1_500_000)
MEDIA = {
    "picture.png": b"\x89PNG" * 40,
    "猫 の 声.mp3": b"miau" * 1000,
    "ü.txt": b"u",
    "large.mp3": NOISE,
}
CURRENT = ("26.9.3", "24.11", "2.1.60", "2.1.54")
LEGACY = ("26.9.3", "2.1.60", "2.1.54", "2.1.39")

NewDevice = Callable[[str], Device]


@pytest.fixture
def loose_device(tmp_path: Path) -> Iterator[NewDevice]:
    """Makes clients without a login, as when somebody opens a package at home."""
    made: list[Device] = []

    def make(release: str) -> Device:
        name = f"home{len(made)}-{release}"
        made.append(Device(release, tmp_path / name, name))
        return made[-1]

    yield make
    for device in made:
        device.close()


def worked(account: Account, release: str = "26.9.3") -> Device:
    """A device that has uploaded one of everything, with reviews and media."""
    device = account.device(release, rich(release))
    for name, data in MEDIA.items():
        assert device.add_media(name, data) == name
    for card in device.cards()[:2]:
        device.make_due(card)
        device.answer(card)
    device.upload()
    device.sync_media()
    return device


def sums(media: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha1(data).hexdigest() for name, data in media.items()}


def assert_same(holds: Json, device: Device) -> None:
    """The device has all of it, but for the time of the last change that allows no merging."""
    problems = [line for line in disagreements(holds, device) if not line.startswith("/col/scm")]
    assert problems == []
    assert holds["revlog"]
    assert device.damage() == []


# --- out --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "releases"),
    [
        pytest.param((), CURRENT, id="current"),
        pytest.param(("--legacy",), LEGACY, id="legacy"),
        pytest.param(("--legacy",), ("2.1.49",), id="2.1.49", marks=pytest.mark.long),
    ],
)
def test_what_is_exported_is_imported_by_anki(
    account: Account,
    tmp_path: Path,
    flags: tuple[str, ...],
    releases: tuple[str, ...],
    loose_device: NewDevice,
) -> None:
    """By each release that knows the form, with every kind of object, reviews and media."""
    worked(account)
    package = tmp_path / "out.colpkg"
    done = account.server.command("export", account.user, str(package), *flags)
    assert done.stderr == ""
    assert "4 media files" in done.stdout
    holds = account.contents()
    for release in releases:
        device = loose_device(release)
        device.add_note("is replaced", "")
        device.import_package(package)
        assert_same(holds, device)
        assert device.media() == sums(MEDIA), device


def test_a_program_that_is_too_old_for_a_package_says_so(
    account: Account, tmp_path: Path, loose_device: NewDevice
) -> None:
    """It opens the collection that is there for it, and shows one note."""
    worked(account)
    for flags in ((), ("--legacy",)):
        package = tmp_path / f"out{len(flags)}.colpkg"
        account.server.command("export", account.user, str(package), *flags)
        with zipfile.ZipFile(package) as archive:
            (tmp_path / f"{len(flags)}").write_bytes(archive.read("collection.anki2"))
        old = Device("2.1.39", tmp_path / f"old{len(flags)}", "", tmp_path / f"{len(flags)}")
        try:
            (note,) = old.notes()
            assert "update Anki" in old.note(note)["fields"][0]
            assert len(old.cards()) == 1
            assert old.damage() == []
        finally:
            old.close()


def test_an_export_beside_a_sync_holds_one_state(
    account: Account, tmp_path: Path, loose_device: NewDevice
) -> None:
    """Devices go on syncing meanwhile; what they bring is in it wholly or not at all."""
    device = worked(account)
    sizes = set()
    for n in range(4):
        package = tmp_path / f"out{n}.colpkg"
        process = account.server.begin_command("export", account.user, str(package))
        while process.poll() is None:
            for k in range(3):
                device.add_note(f"{n} {k}", "")
            device.sync()
        assert process.wait() == 0
        home = loose_device("26.9.3").import_package(package)
        assert home.damage() == []
        sizes.add(len(home.notes()) % 3)
    assert sizes == {9 % 3}
    account.assert_converged()


def test_an_export_during_a_download_waits_for_nobody(
    account: Account, tmp_path: Path, loose_device: NewDevice
) -> None:
    """The state that a slow download holds is in the way of pinning another: it is copied."""
    device = worked(account)
    held = sqlite3.connect(account.server.folder(account.user) / "collection.anki2")
    held.execute("BEGIN")
    held.execute("SELECT count(*) FROM notes").fetchone()
    device.add_note("after that", "")
    device.sync()
    for flags in ((), ("--legacy",)):
        package = tmp_path / f"out{len(flags)}.colpkg"
        account.server.command("export", account.user, str(package), *flags)
        assert_same(account.contents(), loose_device("26.9.3").import_package(package))
    held.close()
    assert list((account.server.base / ".cardkeep" / "spool").iterdir()) == []


# --- in ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "legacy"),
    [
        ("26.9.3", False),
        ("26.9.3", True),
        ("2.1.54", False),
        ("2.1.54", True),
        ("2.1.39", True),
        pytest.param("2.1.49", True, marks=pytest.mark.long),
    ],
)
def test_what_anki_exports_is_imported(
    server: Server, tmp_path: Path, release: str, legacy: bool
) -> None:
    """A new device downloads it, and has everything, with media."""
    with account_on(server, tmp_path / "devices") as account:
        source = account.device(release, rich(release))
        for name, data in MEDIA.items():
            source.add_media(name, data)
        source.make_due(source.cards()[0])
        source.answer(source.cards()[0])
        before = source.contents(as_it_lies=not legacy)
        package = source.export_package(tmp_path / "from.colpkg", legacy=legacy)
        done = server.command("import", account.user, str(package))
        assert "9 notes" in done.stdout
        assert "4 media files" in done.stdout
        for downloading in ("26.9.3", "2.1.54"):
            device = account.device(downloading)
            assert device.asks_for() == "download"
            device.download()
            device.sync_media()
            assert_same(before, device)
            assert device.media() == sums(MEDIA)
            assert device.asks_for() == "none"
        account.assert_converged(*account.devices[1:])


@pytest.mark.parametrize("release", ["26.9.3", "2.1.54"])
def test_devices_ask_for_the_direction_after_an_import(
    account: Account, tmp_path: Path, release: str
) -> None:
    """One that was in sync, and one with changes of its own; what was there is kept as a copy."""
    device = worked(account, release)
    device.add_note("for a sync", "on which the server brings buried cards back")
    device.sync()
    other = account.device("24.11").download()
    # What an old engine does not know, it uploads no more than it packs in its old form.
    package = device.export_package(tmp_path / "then.colpkg", legacy=release == "2.1.54")
    then = account.contents()
    device.add_note("later", "than the package")
    device.sync()
    other.sync()
    refused = account.server.command("import", account.user, str(package), check=False)
    assert refused.returncode == 1
    assert "--replace" in refused.stderr
    assert other.asks_for() == "none"

    done = account.server.command("import", account.user, str(package), "--replace")
    assert "kept as copy" in done.stdout
    other.add_note("own", "change")
    for each in (device, other):
        outcome = each.sync_outcome()
        assert outcome["action"] == "full"
        assert "imported" in outcome["message"]
        assert "Download" in outcome["message"]
        each.download()
        assert each.sync_outcome() == {"action": "none", "message": "", "new_endpoint": ""}
    holds = account.assert_converged()
    assert differences({**then, "col": None}, {**holds, "col": None}) == []

    listed = account.server.command("snapshot", "list", account.user, "--json")
    newest, *_ = json.loads(listed.stdout)
    assert (newest["reason"], newest["notes"]) == ("import", 11)


def test_a_profile_is_imported_as_it_lies_on_the_disk(
    server: Server, tmp_path: Path, loose_device: NewDevice
) -> None:
    """Not while Anki has it open; but with what a killed Anki left in its log."""
    with account_on(server, tmp_path / "devices") as account:
        home = loose_device("26.9.3")
        note = home.add_note("a", '<img src="picture.png">')
        home.add_media("picture.png", MEDIA["picture.png"])
        profile = str(home.folder)
        refused = server.command("import", account.user, profile, check=False)
        assert refused.returncode == 1
        assert "in use" in refused.stderr
        assert account.device("26.9.3").asks_for() == "none"

        home.kill()
        assert (home.folder / "collection.anki2-wal").stat().st_size > 0
        before = {file: file.stat().st_mtime_ns for file in home.folder.rglob("*")}
        server.command("import", account.user, profile)
        assert before == {file: file.stat().st_mtime_ns for file in home.folder.rglob("*")}
        device = account.device("26.9.3").download()
        device.sync_media()
        assert device.notes() == [note]
        assert device.media() == sums({"picture.png": MEDIA["picture.png"]})


def test_a_folder_of_the_official_server_is_imported(account: Account, tmp_path: Path) -> None:
    """`collection.anki2` and `media/`, as it was killed."""
    with (
        running("official") as official,
        account_on(official, tmp_path / "there") as there,
    ):
        worked(there, "24.11")
        official.kill()
        holds = there.contents()
        account.server.command("import", account.user, str(official.folder(there.user)))
        device = account.device("26.9.3").download()
        device.sync_media()
        assert differences({**holds, "col": None}, {**device.contents(), "col": None}) == []
        assert device.media() == sums(MEDIA)


def test_there_and_back_again(account: Account, tmp_path: Path) -> None:
    """An export of an import of an export is the same, in both forms, row by row."""
    worked(account)
    contents = [account.contents()]
    for n, flags in enumerate([(), ("--legacy",)]):
        package = tmp_path / f"{n}.colpkg"
        account.server.command("export", account.user, str(package), *flags)
        account.server.command("import", account.user, str(package), "--replace")
        contents.append(account.contents())
    for content in contents[1:]:
        assert differences({**contents[0], "col": None}, {**content, "col": None}) == []
    device = account.device("2.1.54").download()
    device.sync_media()
    assert device.media() == sums(MEDIA)
