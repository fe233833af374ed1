# SPDX-License-Identifier: AGPL-3.0-or-later
"""An account on a server and its devices, for the length of one test."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.clients.device import Device, Json, dump, version
from tests.clients.environments import NEWEST
from tests.servers import Server

# One release of each kind of engine, oldest and newest at the ends.
FAMILY = ("26.9.3", "25.9.2", "24.11", "23.12", "2.1.60", "2.1.54", "2.1.39")
# An old and a new protocol side by side, where one pair tells enough.
PAIR = ("26.9.3", "2.1.54")

# What older engines drop from a card's data when they store it, and who first keeps it.
LATE_CARD_DATA: Sequence[tuple[str, tuple[int, ...]]] = (
    ("cd", (2, 1, 55)),
    ("decay", (25, 5)),
    ("lrt", (25, 5)),
)


# What engines write for themselves, without marking the configuration as changed.
OWN_CONFIG = {"rollover", "lastUnburied"}


class Account:
    """One user; every device of it is closed at the end of the test."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.user = server.next_user()
        self._folder = folder
        self._copies = 0
        self.devices: list[Device] = []

    def device(self, release: str, collection: Path | None = None) -> Device:
        """A client that has logged in and not synced yet; fresh unless given a collection."""
        name = f"{len(self.devices) + 1}-{release}"
        device = Device(release, self._folder / name, name, collection)
        self.devices.append(device)
        device.log_in(self.server, self.user)
        return device

    def in_sync(self, *releases: str) -> list[Device]:
        """Fresh devices that share one collection.

        The newest of them made it: from 23.12 on a client cannot study a collection that was
        made with the schedulers of 2.1.39.
        """
        devices = [self.device(release) for release in releases]
        uploader = max(devices, key=lambda device: version(device.release))
        uploader.upload()
        for device in devices:
            if device is not uploader:
                device.download()
        return devices

    def contents(self) -> Json:
        """What the server holds, in the canonical form."""
        self._copies += 1
        folder = self._folder / f"server-{self._copies}"
        return dump(self.server.copy_of_collection(self.user, folder))

    def settle(self, *devices: Device, rounds: int = 3) -> None:
        """Syncs all devices, round after round, as they would be over a day."""
        for _ in range(rounds):
            for device in devices or self.devices:
                device.sync()

    def assert_converged(self, *devices: Device) -> Json:
        """After a few more syncs all hold the same and none finds damage; what they hold."""
        chosen = devices or tuple(self.devices)
        self.settle(*chosen)
        holds = self.contents()
        for device in chosen:
            problems = disagreements(holds, device)
            assert not problems, f"{device} differs from the server:\n" + "\n".join(problems)
            damage = device.damage()
            assert not damage, f"the database check of {device} finds {damage}"
        return holds

    def close(self) -> None:
        for device in self.devices:
            device.close()


@contextlib.contextmanager
def account_on(server: Server, folder: Path) -> Iterator[Account]:
    """An account whose devices end with the block."""
    account = Account(server, folder)
    try:
        yield account
    finally:
        account.close()


def disagreements(server: Json, device: Device) -> list[str]:
    """Each value in which a device differs from the server, one a line.

    An engine that does not know a setting keeps it: in a downloaded row unseen, so that only
    its file shows it; in a row that came as JSON beside its own settings, so that only its own
    schema-11 form shows it. A value that is right in either is right.
    """
    exported = differences(server, device.contents(), device.release)
    if not exported:
        return []
    lying = {
        line.partition(": ")[0]
        for line in differences(server, device.contents(as_it_lies=True), device.release)
    }
    return [line for line in exported if line.partition(": ")[0] in lying]


def differences(server: Json, device: Json, release: str = NEWEST) -> list[str]:
    """Each value that differs, one a line."""
    # Deleted tags live on where they were; a sync only adds.
    used = {tag for note in server["notes"].values() for tag in note["tags"].split()}
    # Worked out by each engine for itself; this one puts its error's text there for a bare "&".
    derived = {"sfld", "csum"} if version(release) < (2, 1, 49) else set()
    dropped = {key for key, since in LATE_CARD_DATA if since > version(release) >= (2, 1, 50)}
    one, other = (
        {
            **content,
            "tags": [tag for tag in content["tags"] if tag in used],
            "config": {
                key: value for key, value in content["config"].items() if key not in OWN_CONFIG
            },
            "notes": {
                identity: {key: value for key, value in note.items() if key not in derived}
                for identity, note in content["notes"].items()
            },
            "cards": {
                identity: {
                    **card,
                    "data": {
                        key: value for key, value in card["data"].items() if key not in dropped
                    },
                }
                for identity, card in content["cards"].items()
            },
        }
        for content in (server, device)
    )
    return list(_differing("", one, other))


def _differing(path: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _differing(f"{path}/{key}", one.get(key), other.get(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (mine, yours) in enumerate(zip(one, other, strict=True)):
            yield from _differing(f"{path}/{place}", mine, yours)
    elif one != other:
        yield f"{path}: {one!r} on the server, {other!r} here"
