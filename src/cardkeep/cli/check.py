# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep check`: whether everything that is stored is sound."""

import abc
import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import click
import msgspec

from cardkeep import app, settings
from cardkeep.accounts.check import user_names
from cardkeep.accounts.names import check_name
from cardkeep.backups.check import check_copies
from cardkeep.backups.check import size as size_of_copies
from cardkeep.backups.history import Kind
from cardkeep.backups.keeper import Keeper
from cardkeep.backups.snapshot import Cause, Reason, Snapshots
from cardkeep.cli.data_folder import check_data_folder, folders_of_users
from cardkeep.cli.options import options
from cardkeep.cli.recording import by_operator
from cardkeep.collection.check import WHOLE, check_collection
from cardkeep.collection.folder import UserFolder
from cardkeep.errors import AccountError, CardkeepError, SettingsError
from cardkeep.media.check import bytes_to_check, check_media
from cardkeep.media.store import MediaStore
from cardkeep.messages import Finding
from cardkeep.settings import Settings

Advance = Callable[[int], None]
Bar = Callable[[str, int], Advance]


@click.command()
@click.argument("users", nargs=-1, metavar="[USER]...")
@click.option("--repair", is_flag=True, help="Mend what has one right answer.")
@click.option("--json", "as_json", is_flag=True, help="For programs: an array of findings.")
@click.option("--no-media", is_flag=True, help="Leave media files out.")
@click.option(
    "--quick",
    is_flag=True,
    help="Leave out what reads every byte: media files, kept copies, the texts of notes.",
)
@options("folder")
def check(
    users: tuple[str, ...],
    repair: bool,
    as_json: bool,
    no_media: bool,
    quick: bool,
    config: str | None,
    folder: str | None,
) -> None:
    """Check the data folder and what it holds of all users, or of those named.

    A running server goes on serving, and no sync waits for the check. With --repair, a copy of a
    collection is kept before it is mended, a running sync is waited for, and each device gets
    what was mended with its next sync.

    The exit status is 0 if all is well or was mended, 1 if something is wrong, 2 for a wrong flag
    or setting. What is only told as a note does not count.
    """
    loaded = settings.load({"config": config, "folder": folder})
    if not loaded.folder.is_dir():
        raise SettingsError(f"folder: {str(loaded.folder)!r} is no folder; expected the server's")
    names = _named(loaded, users)
    report = _Json() if as_json else _Lines()
    with _bars(as_json) as bar, contextlib.ExitStack() as stack:
        media = MediaStore(loaded.folder, trash_days=loaded.trash_days)
        stack.enter_context(contextlib.closing(media))
        keeper = None
        if repair:  # all stores make folders when they are opened
            keeper = stack.enter_context(contextlib.closing(app.open_stores(loaded))).keeper
        chosen = _Chosen(media, keeper, quick=quick, no_media=no_media or quick)
        if not users:
            report.about("", _safely(check_data_folder(loaded.folder, repair=repair)))
        for name in names:
            folder_of_user = UserFolder(loaded.folder / name)
            found = _safely(_of_user(folder_of_user, name, chosen, bar))
            report.about(name, _recorded(loaded, folder_of_user, found))
    report.end()
    sys.exit(report.status)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is to be done; there is a keeper for a repair."""

    media: MediaStore
    keeper: Keeper | None
    quick: bool
    no_media: bool


def _named(loaded: Settings, users: Sequence[str]) -> list[str]:
    """Those of the users who have a folder; of all, if none is named."""
    folders = folders_of_users(loaded.folder)
    if not users:
        return folders
    known = {*folders, *user_names(loaded.folder)}
    for user in users:
        try:
            name = check_name(user)
        except AccountError as error:
            raise click.UsageError(str(error)) from None
        if name not in known:
            raise click.UsageError(f"there is no user {name}")
    return [name for name in map(check_name, users) if name in folders]


def _of_user(folder: UserFolder, name: str, chosen: _Chosen, bar: Bar) -> Iterator[Finding]:
    keeper = chosen.keeper
    repair = keeper is not None
    yield from check_collection(
        folder,
        now_ms=app.now_ms,
        repair=repair,
        quick=chosen.quick,
        progress=bar(f"{name}: collection", WHOLE),
        keep_copy=lambda: keeper and keeper.take(name, Cause(Reason.REPAIR)),
    )
    if not chosen.no_media:
        yield from _of_media(chosen.media, name, repair, bar)
    snapshots = Snapshots(folder)
    total = size_of_copies(snapshots)
    progress = bar(f"{name}: kept copies", total) if total and not chosen.quick else _unseen
    yield from check_copies(snapshots, repair=repair, quick=chosen.quick, progress=progress)


def _of_media(media: MediaStore, name: str, repair: bool, bar: Bar) -> Iterator[Finding]:
    progress = bar(f"{name}: media", bytes_to_check(media, name))
    yield from check_media(media, name, repair=repair, progress=progress)


def _recorded(
    loaded: Settings, folder: UserFolder, findings: Iterator[Finding]
) -> Iterator[Finding]:
    """What was mended is a row of the user's history."""
    mended: dict[str, None] = {}
    for finding in findings:
        if finding.repaired:
            mended[finding.kind] = None
        yield finding
    if mended:
        row = by_operator(Kind.REPAIR, note=", ".join(mended))
        app.history(loaded).add(folder, row)


def _unseen(_: int) -> None:
    """Progress that nobody is shown."""


def _safely(findings: Iterator[Finding]) -> Iterator[Finding]:
    """What stops the check of one user does not stop that of the others."""
    try:
        yield from findings
    except (CardkeepError, OSError, sqlite3.Error) as error:
        yield Finding("stopped", f"The check could not go on: {error}.")


# --- telling ----------------------------------------------------------------------------


class _Report(abc.ABC):
    """Tells findings as they come, and what they come to."""

    def __init__(self) -> None:
        self.users = 0
        self.wrong = self.mendable = self.mended = self.notes = 0

    @property
    def status(self) -> int:
        """The exit status."""
        return 1 if self.wrong else 0

    def about(self, user: str, findings: Iterator[Finding]) -> None:
        """Tells what was found of a user; no name stands for the data folder."""
        self.users += bool(user)
        for finding in findings:
            if finding.repaired:
                self.mended += 1
            elif finding.harmless:
                self.notes += 1
            else:
                self.wrong += 1
                self.mendable += finding.repairable
            self.tell(user, finding)

    @abc.abstractmethod
    def tell(self, user: str, finding: Finding) -> None:
        """One finding."""

    @abc.abstractmethod
    def end(self) -> None:
        """That this was all."""


class _Lines(_Report):
    """For people, and for the mail of a cron job."""

    _heading: str | None = None

    def tell(self, user: str, finding: Finding) -> None:
        if user != self._heading:
            self._heading = user
            click.secho(user or "The data folder", bold=True)
        state, color = "wrong", "red"
        if finding.repaired:
            state, color = "mended", "green"
        elif finding.harmless:
            state, color = "note", "cyan"
        elif finding.repairable:
            state, color = "mendable", "yellow"
        click.echo(f"  {click.style(f'{state:8}', fg=color)}  {finding.what} [{finding.kind}]")

    def end(self) -> None:
        users = f"{self.users} user{'' if self.users == 1 else 's'} checked"
        parts = [f"{self.wrong} wrong" if self.wrong else "all is well"]
        if self.mendable:
            parts.append(f"{self.mendable} of it can be mended with --repair")
        if self.mended:
            parts.append(f"{self.mended} mended")
        if self.notes:
            parts.append(f"{self.notes} note{'' if self.notes == 1 else 's'}")
        click.echo(f"{users}: {', '.join(parts)}")


class _Json(_Report):
    """For programs: one array, written as it grows."""

    _separator = "["

    def tell(self, user: str, finding: Finding) -> None:
        shown = {"user": user or None, **msgspec.to_builtins(finding)}
        click.echo(f"{self._separator}\n  {json.dumps(shown, ensure_ascii=False)}", nl=False)
        self._separator = ","

    def end(self) -> None:
        click.echo("[]" if self._separator == "[" else "\n]")


@contextlib.contextmanager
def _bars(as_json: bool) -> Iterator[Bar]:
    """Progress bars for whoever watches; nothing where nobody does."""
    if as_json or not sys.stderr.isatty():
        yield lambda *_: _unseen
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        # What is told goes above the bars where both are seen, and else where it was sent.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:

        def bar(what: str, total: int) -> Advance:
            for finished in progress.task_ids:
                progress.remove_task(finished)
            task = progress.add_task(what, total=total)
            return lambda part: progress.advance(task, part)

        yield bar
