# SPDX-License-Identifier: AGPL-3.0-or-later
"""An account on a server and its devices, for the length of one test."""

from pathlib import Path

from tests.clients.device import Device, Json, dump
from tests.servers import Server


class Account:
    """One user; every device of it is closed at the end of the test."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.user = server.next_user()
        self._folder = folder
        self.devices: list[Device] = []

    def device(self, release: str) -> Device:
        """A fresh client that has logged in and not synced yet."""
        name = f"{len(self.devices) + 1}-{release}"
        device = Device(release, self._folder / name, name)
        self.devices.append(device)
        device.log_in(self.server, self.user)
        return device

    def in_sync(self, *releases: str) -> list[Device]:
        """Fresh devices that share what the first one uploaded."""
        uploader, *others = [self.device(release) for release in releases]
        uploader.upload()
        for other in others:
            other.download()
        return [uploader, *others]

    def contents(self) -> Json:
        """What the server holds, in the canonical form."""
        copies = self._folder / "server-copies"
        copy = self.server.copy_of_collection(
            self.user, copies / str(sum(1 for _ in copies.glob("*")))
        )
        return dump(copy)

    def settle(self, *devices: Device, rounds: int = 3) -> None:
        """Syncs all devices, round after round, as they would be over a day."""
        for _ in range(rounds):
            for device in devices or self.devices:
                device.sync()

    def close(self) -> None:
        for device in self.devices:
            device.close()
