# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep migrate`: takes over the users of another server, with everything that they have."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from cardkeep import settings
from cardkeep.accounts.database import FILE as ACCOUNTS
from cardkeep.accounts.store import AccountStore
from cardkeep.backups.migrate import ankisyncd
from cardkeep.backups.migrate.migration import (
    Migration,
    Progress,
    Prospect,
    Taken,
    passing_staging,
    staging,
)
from cardkeep.backups.migrate.recognise import recognise
from cardkeep.backups.migrate.source import Secret, SecretKind, Source
from cardkeep.cli.options import options
from cardkeep.cli.words import show_table
from cardkeep.errors import CardkeepError, MigrationError, SettingsError

# Names of left-out media files that are told for one user.
_TOLD = 10


@click.command()
@click.argument("source", metavar="FOLDER")
@click.option("--dry-run", is_flag=True, help="Look at everything and tell; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask: for scripts.")
@click.option(
    "--passwords",
    metavar="FILE",
    help="Passwords of the official server's users: lines of the form name:password.",
)
@click.option(
    "--log-out",
    is_flag=True,
    help="Let all devices log in again, also where they could stay logged in.",
)
@options("folder")
def migrate(
    source: str,
    dry_run: bool,
    yes: bool,
    passwords: str | None,
    log_out: bool,
    config: str | None,
    folder: str | None,
) -> None:
    """Take over the users of another server from its data folder, which stays as it is.

    FOLDER is the base folder of the official server; of ankisyncd and anki-sync-server-rs it is the
    one that has `collections` and auth.db in it. Stop that server first.

    Each user's collection and media are checked and copied, and are there whole or not at all; a
    run that was cut off goes on where it was. Nobody who is here already is changed.

    Passwords of ankisyncd and anki-sync-server-rs go on to be right. Those of the official server
    are taken from the same SYNC_USERn variables that it was given, from --passwords, or asked for.
    """
    loaded = settings.load({"config": config, "folder": folder})
    root, base = Path(source).expanduser().resolve(), loaded.folder
    _check_apart(root, base)
    given = _from_environment(loaded) | _from_file(passwords)
    with tempfile.TemporaryDirectory(prefix="cardkeep-") as work:
        found = recognise(root, given, Path(work))
    if log_out:
        found = _without_keys(found)
    click.echo(f"{root} is the folder of {found.kind}; its users go to {base}\n")
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(passing_staging(base) if dry_run else staging(base))
        migration = Migration(found, base, None, place)
        if (base / ACCOUNTS).is_file():
            migration.accounts = stack.enter_context(contextlib.closing(AccountStore(base)))
        prospects, failed = _look(migration, dry_run=dry_run)
        waiting = [each for each in prospects if each.waits]
        if dry_run or not waiting:
            click.echo("Nothing was changed." if dry_run else "There is nothing to be done.")
        else:
            _confirm(migration, waiting, yes=yes)
            if migration.accounts is None:
                migration.accounts = stack.enter_context(contextlib.closing(AccountStore(base)))
            failed |= _take_all(migration, waiting, found)
    if failed:
        sys.exit(1)


def _look(migration: Migration, *, dry_run: bool) -> tuple[list[Prospect], bool]:
    """All users, and whether one of them is refused; shows them."""
    if opened := migration.open_files():
        words = f"{opened[0]} is open in another program: stop the server that it belongs to"
        if not dry_run:
            raise MigrationError(words)
        click.echo(f"Now it cannot be done: {words}.\n")
    migration.check_room(migration.room_for_collections())
    with _progress() as progress:
        prospects = migration.look(progress, keep=not dry_run)
    _show(prospects)
    try:
        migration.check_room(migration.room_for_media(prospects))
    except MigrationError:
        migration.give_up(prospects)
        raise
    return prospects, any(each.state == "refused" for each in prospects)


def _confirm(migration: Migration, waiting: Sequence[Prospect], *, yes: bool) -> None:
    """Asks; raises click.Abort if it is not to be done."""
    if yes:
        return
    if sys.stdin.isatty():
        _ask_passwords(waiting)
    if not click.confirm("Take them over?"):
        migration.give_up(waiting)
        raise click.Abort


def _take_all(migration: Migration, waiting: Sequence[Prospect], found: Source) -> bool:
    failed, logins = False, False
    for prospect in waiting:
        try:
            with _progress() as progress:
                taken = migration.take(prospect, progress)
        except (CardkeepError, OSError) as error:
            click.echo(f"{prospect.name}: not taken over: {error}", err=True)
            failed = True
            continue
        _tell(prospect, taken)
        logins = logins or taken.can_log_in
    if logins:
        click.echo(f"\nOf {found.kind}: {found.logins}.")
    return failed


def _tell(prospect: Prospect, taken: Taken) -> None:
    click.echo(f"{prospect.name} is taken over")
    if not taken.can_log_in:
        click.echo(
            f"  without a password: nobody can log in until `cardkeep user add {prospect.name}` "
            "gives it one"
        )
    if taken.logins:
        click.echo(f"  logins that stay: {taken.logins}")
    left_out = taken.media
    if left_out.left_out_in_all:
        click.echo(
            f"  media files left out: {left_out.left_out_in_all}; a device that has one says once "
            "that its media do not fit, and sends it with the next sync"
        )
    for name, why in left_out.left_out[:_TOLD]:
        click.echo(f"    {name!r}: {why}")
    if left_out.left_out_in_all > _TOLD:
        click.echo(f"    and more, listed in {prospect.name}/.cardkeep/migrated")


_STATES = {
    "new": "to be taken over",
    "half": "its data are here, its account is to be made",
    "here": "{reason}",
    "refused": "refused: {reason}",
}


def _show(prospects: Sequence[Prospect]) -> None:
    rows = [
        (
            each.name,
            *(f"{n:,}" if n else "" for n in (each.notes, each.cards, each.reviews, each.media)),
            f"{each.bytes / 1_000_000:,.1f} MB" if each.bytes else "",
            each.password if each.waits else "",
            _STATES[each.state].format(reason=each.reason),
        )
        for each in prospects
    ]
    show_table(("user", "notes", "cards", "reviews", "media", "size", "password", ""), rows)
    new = [each for each in prospects if each.waits]
    click.echo(
        f"\n{len(new)} of {len(prospects)} users to be taken over, with "
        f"{sum(each.cards for each in new):,} cards, {sum(each.media for each in new):,} media "
        f"files, {sum(each.bytes for each in new) / 1_000_000:,.1f} MB"
    )
    if nameless := [each.name for each in new if not each.secret and each.password == "none"]:  # noqa: S105
        click.echo(f"No password is known of: {', '.join(nameless)}")


def _ask_passwords(waiting: Sequence[Prospect]) -> None:
    for prospect in waiting:
        if prospect.secret is None and prospect.password.startswith("none"):
            text = click.prompt(
                f"Password of {prospect.name} (empty: none for now)",
                hide_input=True,
                default="",
                show_default=False,
            )
            if text:
                prospect.secret = Secret("plain", text, "asked for")


# --- passwords that are given -----------------------------------------------------------


def _from_environment(loaded: settings.Settings) -> dict[str, Secret]:
    kind: SecretKind = "phc" if loaded.passwords_hashed else "plain"
    return {user.name: Secret(kind, user.password, user.source) for user in loaded.users}


def _from_file(path: str | None) -> dict[str, Secret]:
    if path is None:
        return {}
    given = {}
    for number, line in enumerate(settings.read_secret("--passwords", path).splitlines(), 1):
        name, colon, password = line.partition(":")
        if line and not (name and colon and password):
            raise SettingsError(f"--passwords: line {number} of {path}: expected name:password")
        if line:
            given[name] = Secret("plain", password, "--passwords")
    return given


def _without_keys(found: Source) -> Source:
    users = tuple(msgspec.structs.replace(user, keys=()) for user in found.users)
    logins = found.logins if found.kind == "the official server" else ankisyncd.NO_LOGINS
    return msgspec.structs.replace(found, users=users, logins=logins)


# --- surroundings -----------------------------------------------------------------------


def _check_apart(root: Path, base: Path) -> None:
    target = base.resolve()
    if root == target:
        raise MigrationError(
            f"{root} is the folder of this server itself. The official server's is served as it "
            "is: start `cardkeep serve`; or give another folder with --folder"
        )
    if root in target.parents or target in root.parents:
        raise MigrationError(f"{root} and {base} lie within each other; give another --folder")


class _Bars:
    """Progress bars on a terminal."""

    def __init__(self) -> None:
        from rich import console, progress

        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TimeRemainingColumn(),
            console=console.Console(stderr=True),
            transient=True,
        )
        self._task: progress.TaskID | None = None

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total or None)

    def advance(self, done: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, done)


class _Silence:
    """Progress that nobody looks at."""

    def begin(self, what: str, total: int) -> None:
        """Says nothing."""

    def advance(self, done: int) -> None:
        """Says nothing."""


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    if os.isatty(sys.stderr.fileno()):
        with _Bars() as bars:
            yield bars
    else:
        yield _Silence()
