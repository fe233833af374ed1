# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep backup`: the whole server in one file, and the way back."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
import msgspec

from cardkeep import settings
from cardkeep.backups.archive import file as backup_file
from cardkeep.backups.archive import restore as backup_restore
from cardkeep.backups.archive.read import Read
from cardkeep.backups.archive.records import Contents
from cardkeep.backups.archive.stream import LEVEL
from cardkeep.cli.options import options
from cardkeep.cli.progress import progress
from cardkeep.cli.user import opened
from cardkeep.cli.words import in_words, show_table
from cardkeep.errors import BackupError, SettingsError

_PROBLEMS_SHOWN = 20
#: Exit status of a backup that lacks something which the server should have had.
INCOMPLETE = 1


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--restore", "mode", flag_value="restore", help="Make a data folder out of FILE.")
@click.option("--verify", "mode", flag_value="verify", help="Read FILE in full and check it.")
@click.option("--list", "mode", flag_value="list", help="Check FILE, and show whose data it holds.")
@click.option("--user", metavar="NAME", help="With --restore: only this user, who has no folder.")
@click.option("--json", "as_json", is_flag=True, help="With --list: for programs.")
@click.option(
    "--level",
    type=click.IntRange(1, 19),
    default=LEVEL,
    show_default=True,
    help="How hard to pack.",
)
@options("folder")
def backup(
    file: str,
    mode: str | None,
    user: str | None,
    as_json: bool,
    level: int,
    config: str | None,
    folder: str | None,
) -> None:
    """Back up the whole server to FILE, or restore it.

    Accounts, collections, media, kept copies, trash and history of all users, also while the server
    runs; nobody's sync waits. FILE is a tar within zstd: `tar --zstd -xf FILE` gets at
    everything, too. It is read again once it is written; with - it goes to standard output,
    and whoever keeps it should run --verify on it.

    --restore needs an empty data folder, and no running server. Devices then go on with it as with
    the old server, still logged in; a device that has synced since the backup was made asks for
    the direction.

    The exit status is 1 if it could not be done, or if something of the server's was missing or
    damaged when the backup was made.
    """
    if (user and mode != "restore") or (as_json and mode != "list"):
        raise click.UsageError("--user goes with --restore, --json with --list")
    signal.signal(signal.SIGTERM, _leave)
    base = settings.load({"config": config, "folder": folder}).folder
    if mode is None:
        _back_up(base, file, level)
    elif mode == "restore":
        _restore(base, Path(file), user)
    else:
        _look(Path(file), as_json=as_json, as_list=mode == "list")


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    """What is half done is taken away, as after Ctrl-C."""
    sys.exit(143)


def _back_up(base: Path, file: str, level: int) -> None:
    if not base.is_dir():
        raise SettingsError(f"folder: {str(base)!r} is no folder; expected the server's")
    if file == "-":
        if sys.stdout.isatty():
            raise BackupError("a backup is no text; send standard output somewhere")
        contents = backup_file.stream(base, sys.stdout.buffer, progress, level=level)
        say: Callable[[str], None] = _say_aside
        checked = "not verified"
    else:
        path = Path(file)
        contents = backup_file.save(base, path, progress, level=level).contents
        say = click.echo
        checked = f"{in_words(path.stat().st_size)} on disk, verified"
    say(f"{_in_short(contents)}; {checked}")
    _end(contents)


def _say_aside(text: str) -> None:
    click.echo(text, err=True)


def _restore(base: Path, file: Path, user: str | None) -> None:
    if user is None:
        found = backup_restore.restore(base, file, progress)
        click.echo(f"{base} holds the backup of {found.manifest.made}: {_in_short(found.contents)}")
        _tell_problems(found.contents)
        if found.manifest.users and not found.contents.accounts:
            click.echo("It has no accounts; users are those of SYNC_USERn, as on the old server.")
    else:
        backup_restore.restore_user(base, file, user, progress)
        click.echo(f"{user} is back in {base}")
        with opened(None, str(base)) as store:
            known = any(entry.name == user for entry in store.users())
        if not known:
            click.echo(f"There is no account of that name: `cardkeep user add {user}` makes one.")


def _look(file: Path, *, as_json: bool, as_list: bool) -> None:
    found = backup_file.check(file, progress)
    if as_json:
        shown = msgspec.to_builtins(found.manifest) | msgspec.to_builtins(found.contents)
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))
    else:
        click.echo(f"{file} is whole: the backup of {found.manifest.made}")
        if as_list:
            _show_users(found)
        else:
            click.echo(_in_short(found.contents))
    _end(found.contents)


def _show_users(found: Read) -> None:
    rows = [
        (
            user.name,
            f"{user.cards:,}",
            f"{user.notes:,}",
            f"{user.reviews:,}",
            f"{user.media_files:,}",
            in_words(user.media_bytes),
            f"{user.copies:,}",
            f"{user.trash:,}",
        )
        for user in found.contents.users
    ]
    columns = ("user", "cards", "notes", "reviews", "media", "size", "kept copies", "in the trash")
    show_table(columns, rows)


def _in_short(contents: Contents) -> str:
    users, media = len(contents.users), sum(user.media_files for user in contents.users)
    cards = sum(user.cards for user in contents.users)
    return (
        f"{users:,} user{'' if users == 1 else 's'}, {cards:,} cards, {media:,} media files, "
        f"{in_words(contents.bytes)}"
    )


def _tell_problems(contents: Contents) -> None:
    """Says what was missing or damaged when the backup was made."""
    shown = contents.problems[:_PROBLEMS_SHOWN]
    for problem in shown:
        click.echo(f"cardkeep: {problem}", err=True)
    if rest := contents.problem_count - len(shown):
        click.echo(f"cardkeep: and {rest:,} more", err=True)


def _end(contents: Contents) -> None:
    """With a status that a cron job notices, if something was."""
    _tell_problems(contents)
    if contents.problem_count:
        sys.exit(INCOMPLETE)
