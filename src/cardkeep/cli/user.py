# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep user`: makes, changes and lists users, also while the server runs."""

import contextlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from cardkeep import settings
from cardkeep.accounts.names import check_name
from cardkeep.accounts.store import AccountStore
from cardkeep.backups.history import Kind
from cardkeep.cli.options import options
from cardkeep.cli.recording import by_operator, record
from cardkeep.cli.words import show_table, when
from cardkeep.errors import AccountError, SettingsError, UserExists

_ALL_OUT = "all devices are logged out"
PASSWORD_ENVIRONMENT = "CARDKEEP_PASSWORD"  # noqa: S105 - the name of a variable


@click.group()
def user() -> None:
    """Make, change and list users. A running server knows at its next request."""


@contextlib.contextmanager
def opened(config: str | None, folder: str | None) -> Iterator[AccountStore]:
    """The accounts of the folder that a server with the same settings would serve."""
    with contextlib.closing(_store(settings.load({"config": config, "folder": folder}))) as store:
        yield store


def existing(loaded: settings.Settings, name: str) -> str:
    """The folder's name of a user who has an account, or at least a folder. Raises AccountError."""
    name = check_name(name)
    with contextlib.closing(_store(loaded)) as store:
        known = any(entry.name == name for entry in store.users())
    if not known and not (loaded.folder / name).is_dir():
        raise AccountError(f"there is no user {name}")
    return name


def _store(loaded: settings.Settings) -> AccountStore:
    base = loaded.folder
    if not base.is_dir():
        raise SettingsError(f"folder: {str(base)!r} is no folder; expected the server's")
    return AccountStore(base)


password_file = click.option(
    "--password-file", metavar="FILE", help="Read the password from this file; - for stdin."
)


def read_password(file: str | None) -> str:
    """The password from the file, the environment, the terminal or standard input."""
    if file is not None and file != "-":
        return settings.read_secret("--password-file", file)
    if file is None:
        if given := os.environ.get(PASSWORD_ENVIRONMENT):
            return given
        if given := os.environ.get(PASSWORD_ENVIRONMENT + "_FILE"):
            return settings.read_secret(PASSWORD_ENVIRONMENT + "_FILE", given)
        if sys.stdin.isatty():
            password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
            return password
    return sys.stdin.readline().removesuffix("\n").removesuffix("\r")


@user.command()
@click.argument("name")
@password_file
@click.option("--ignore-exists", is_flag=True, help="A user who is there already is no error.")
@options("folder")
def add(
    name: str,
    password_file: str | None,
    ignore_exists: bool,
    config: str | None,
    folder: str | None,
) -> None:
    """Make a user.

    The password is asked for on a terminal; else it is CARDKEEP_PASSWORD, the content of the file
    CARDKEEP_PASSWORD_FILE, or the first line of standard input.
    """
    base = settings.load({"config": config, "folder": folder}).folder
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    with opened(config, folder) as store:
        try:
            store.check_free(name)  # before anybody thinks of a password
            store.add_user(name, read_password(password_file))
        except UserExists:
            if not ignore_exists:
                raise
            click.echo(f"{name} is there already; nothing was changed")
        else:
            click.echo(f"{name} can log in now")


@user.command()
@click.argument("name")
@password_file
@options("folder")
def passwd(name: str, password_file: str | None, config: str | None, folder: str | None) -> None:
    """Give a user another password. All devices of the user must log in again."""
    with opened(config, folder) as store:
        store.check_changeable(name)
        store.set_password(name, read_password(password_file))
    record(config, folder, name, [by_operator(Kind.PASSWORD, note=_ALL_OUT)])
    click.echo(f"{name} has another password now; all devices must log in again")


@user.command()
@click.argument("name")
@options("folder")
def disable(name: str, config: str | None, folder: str | None) -> None:
    """Lock a user out. Nothing is deleted; all devices must log in again once enabled."""
    with opened(config, folder) as store:
        store.disable(name)
    record(config, folder, name, [by_operator(Kind.DISABLE, note=_ALL_OUT)])
    click.echo(f"{name} cannot sync any more")


@user.command()
@click.argument("name")
@options("folder")
def enable(name: str, config: str | None, folder: str | None) -> None:
    """Let a disabled user log in again."""
    with opened(config, folder) as store:
        store.enable(name)
    record(config, folder, name, [by_operator(Kind.ENABLE)])
    click.echo(f"{name} can log in again")


@user.command()
@click.argument("name")
@click.option("--delete-data", is_flag=True, help="Delete the collection and media too.")
@click.option("--yes", is_flag=True, help="Do not ask whether to delete the data.")
@options("folder")
def remove(name: str, delete_data: bool, yes: bool, config: str | None, folder: str | None) -> None:
    """Forget a user, whose devices are out at once. The user's folder stays."""
    with opened(config, folder) as store:
        store.check_changeable(name, of_any_source=True)
        path = store.base / check_name(name)
        if delete_data and not yes:
            click.confirm(f"Delete {path} with everything in it?", abort=True)
        store.remove_user(name)
    if delete_data:
        _delete(path)
        click.echo(f"{name} and {path} are deleted")
    else:
        record(config, folder, name, [by_operator(Kind.REMOVE, note=_ALL_OUT)])
        click.echo(f"{name} is removed" + (f"; {path} is kept" if path.exists() else ""))


def _delete(folder: Path) -> None:
    """Takes the folder out of the server's sight first, so that nobody meets half of it."""
    if not folder.exists():
        return
    aside = folder.parent / ".cardkeep" / f"removed-{secrets.token_hex(8)}"
    aside.parent.mkdir(mode=0o700, exist_ok=True)
    folder.rename(aside)
    shutil.rmtree(aside)


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs: times in seconds since 1970.")
@options("folder")
def list_users(as_json: bool, config: str | None, folder: str | None) -> None:
    """List all users."""
    with opened(config, folder) as store:
        users = store.users()
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in users], ensure_ascii=False, indent=2))
        return
    rows = [
        (
            entry.name,
            _SOURCES[entry.source],
            "disabled" if entry.disabled else "",
            str(entry.devices),
            when(entry.last_used),
        )
        for entry in users
    ]
    show_table(("name", "from", "state", "devices", "last sync"), rows)


_SOURCES = {
    "own": "user add",
    "environment": "SYNC_USERn",
    "former": "SYNC_USERn, earlier",
    "open": "--open",
}
