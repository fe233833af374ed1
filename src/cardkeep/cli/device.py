# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep device`: which devices of a user are logged in, and how to log one out."""

import json
from dataclasses import asdict

import click

from cardkeep.backups.history import Kind
from cardkeep.cli.options import options
from cardkeep.cli.recording import by_operator, record
from cardkeep.cli.user import opened
from cardkeep.cli.words import show_table, when


@click.group()
def device() -> None:
    """List devices and log them out. A running server knows at its next request."""


@device.command("list")
@click.argument("user")
@click.option("--json", "as_json", is_flag=True, help="For programs: times in seconds since 1970.")
@options("folder")
def list_devices(user: str, as_json: bool, config: str | None, folder: str | None) -> None:
    """List the devices of a user, the last used first.

    A device of kind `official` stands for all that logged in to the official server before.
    """
    with opened(config, folder) as store:
        devices = store.devices(user)
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in devices], ensure_ascii=False, indent=2))
        return
    rows = [
        (
            entry.id,
            entry.kind,
            entry.client,
            entry.address,
            when(entry.created),
            when(entry.last_used),
        )
        for entry in devices
    ]
    show_table(("id", "kind", "client", "address", "logged in", "last sync"), rows)


@device.command()
@click.argument("user")
@click.argument("id", required=False)
@options("folder")
def revoke(user: str, id: str | None, config: str | None, folder: str | None) -> None:
    """Log one device out, or all devices of a user. They can log in again."""
    with opened(config, folder) as store:
        known = [entry for entry in store.devices(user) if id in (None, entry.id)]
        ended = store.revoke(user, id)
    rows = [by_operator(Kind.REVOKE, device=one.id, client=one.client) for one in known]
    record(config, folder, user, rows)
    click.echo(f"{ended} {'device is' if ended == 1 else 'devices are'} logged out")
