# SPDX-License-Identifier: AGPL-3.0-or-later
"""SIGKILL during a command leaves the old state or the new one, and whole copies."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.device import Device, Json
from tests.clients.story import Account, account_on, differences
from tests.servers import running

MOMENTS = 14


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """One that a device has uploaded a collection of a few megabytes to."""
    with (
        running("cardkeep") as server,
        account_on(server, tmp_path_factory.mktemp("devices")) as made,
    ):
        device = made.device("26.9.3")
        for n in range(400):
            device.add_note(f"{n}", f"{n}" * 2000)
        device.upload()
        yield made


def without_header(content: Json) -> Json:
    return {**content, "col": None}


def killed_at(account: Account, moment: float, *arguments: str) -> bool:
    """Runs a command and kills it after so many seconds; whether it had ended by then."""
    process = account.server.begin_command(*arguments)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    ended = process.poll() is not None
    process.kill()
    process.wait()
    return ended


def moments(account: Account, *arguments: str) -> list[float]:
    """Moments spread over the time that the command takes, but for its imports.

    The first is before it does anything, and the last long after it has ended, on any machine.
    """
    began = time.monotonic()
    account.server.command(*arguments)
    took = time.monotonic() - began
    return [0.0, *(took * (0.4 + 0.7 * n / MOMENTS) for n in range(MOMENTS)), 20 * took]


def assert_copies_are_whole(account: Account, tmp_path: Path) -> None:
    """Each that is listed can be written to a file."""
    listed = account.server.command("snapshot", "list", account.user, "--json")
    for copy in json.loads(listed.stdout):
        target = str(tmp_path / "copy.anki2")
        account.server.command(
            "snapshot", "restore", account.user, copy["id"], "--to", target, "--force"
        )


def test_a_killed_restore(account: Account, tmp_path: Path) -> None:
    """The server has one of the two collections, and devices get along with it."""
    (device,) = account.devices
    command = account.server.command
    command("snapshot", "take", account.user)
    old = json.loads(command("snapshot", "list", account.user, "--json").stdout)[0]["id"]
    before = without_header(account.contents())
    reached = set()
    arguments = ("snapshot", "restore", account.user, old)
    for moment in moments(account, *arguments):
        _go_on(device)
        changed = without_header(account.contents())
        killed_at(account, moment, *arguments)
        now = without_header(account.contents())
        which = [name for name, state in (("old", before), ("new", changed)) if state == now]
        assert which, differences(now, changed)
        reached.add(which[0])
        assert account.server.answers()
    assert reached == {"old", "new"}
    assert_copies_are_whole(account, tmp_path)
    _go_on(device)
    account.assert_converged()


def _go_on(device: Device) -> None:
    """Whatever the server has now, the device takes it over, and adds a note."""
    if device.asks_for() != "none":
        device.download()
    device.add_note("one more", f"{time.time()}")
    device.sync()


def test_a_killed_copy(account: Account, tmp_path: Path) -> None:
    """A copy is whole or not there, and the next command tidies up."""
    (device,) = account.devices
    folder = account.server.folder(account.user) / ".cardkeep" / "snapshots"
    arguments = ("snapshot", "take", account.user)
    _go_on(device)
    ended = set()
    for moment in moments(account, *arguments):
        _go_on(device)
        ended.add(killed_at(account, moment, *arguments))
    assert ended == {True, False}
    assert_copies_are_whole(account, tmp_path)
    _go_on(device)
    account.server.command(*arguments)
    assert list(folder.glob(".making-*")) == []
