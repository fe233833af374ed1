# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep snapshot`: the kept copies of a user, and the way back to one of them."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from cardkeep import app, settings
from cardkeep.backups import allowance
from cardkeep.backups.export import MediaListing
from cardkeep.backups.history import Kind
from cardkeep.backups.new_file import new_file
from cardkeep.backups.package_writer import write_package
from cardkeep.backups.restore import restore_collection, unpacked
from cardkeep.backups.scratch import scratch_folder
from cardkeep.backups.snapshot import Cause, Copy, Reason, Snapshots
from cardkeep.cli.options import options
from cardkeep.cli.progress import progress
from cardkeep.cli.recording import by_operator, record
from cardkeep.cli.user import existing
from cardkeep.cli.words import counted, in_words, show_table, tell_names, tell_replaced, when
from cardkeep.collection.whole import TemporaryFile
from cardkeep.errors import CopyError, NoSuchCopy
from cardkeep.records.package import Form
from cardkeep.settings import Settings


@click.group()
def snapshot() -> None:
    """List, take and put back kept copies. A running server goes on serving meanwhile."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A user's things, for one command."""

    settings: Settings
    stores: app.Stores
    user: str

    @property
    def snapshots(self) -> Snapshots:
        return self.stores.keeper.snapshots(self.user)

    def copy(self, identity: str) -> Copy:
        """The copy of that id; `latest` is the newest."""
        if identity != "latest":
            return self.snapshots.get(identity)
        newest = self.snapshots.newest()
        if newest is None:
            raise NoSuchCopy(f"there is no kept copy of {self.user} yet")
        return newest


@contextlib.contextmanager
def opened(user: str, config: str | None, folder: str | None) -> Iterator[Opened]:
    """The user's things in the folder that a server with the same settings would serve."""
    loaded = settings.load({"config": config, "folder": folder})
    name = existing(loaded, user)
    stores = app.open_stores(loaded)
    try:
        yield Opened(loaded, stores, name)
    finally:
        stores.close()


@snapshot.command("list")
@click.argument("user")
@click.option("--json", "as_json", is_flag=True, help="For programs: times in ms since 1970.")
@options("folder")
def list_copies(user: str, as_json: bool, config: str | None, folder: str | None) -> None:
    """List the kept copies of a user, the newest first."""
    with opened(user, config, folder) as it:
        copies = it.snapshots.all()
        unreadable = it.snapshots.unreadable()
    for identity in unreadable:
        click.echo(f"cardkeep: copy {identity} cannot be read", err=True)
    if as_json:
        shown = [msgspec.to_builtins(copy) for copy in copies]
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))
        return
    rows = [
        (
            copy.id,
            when(copy.time // 1000),
            _REASONS[copy.reason],
            f"{copy.cards:,}",
            f"{copy.notes:,}",
            f"{copy.reviews:,}",
            in_words(copy.bytes),
            "pinned" if copy.pinned else "",
        )
        for copy in copies
    ]
    columns = ("id", "taken", "before", "cards", "notes", "reviews", "size", "")
    show_table(columns, rows)


_REASONS = {
    Reason.DAILY: "a day's first sync",
    Reason.UPLOAD: "an upload",
    Reason.DELETION: "a large deletion",
    Reason.RESTORE: "a restore",
    Reason.IMPORT: "an import",
    Reason.REPAIR: "a repair",
    Reason.MANUAL: "(by command)",
}


@snapshot.command()
@click.argument("user")
@options("folder")
def take(user: str, config: str | None, folder: str | None) -> None:
    """Keep a copy of a user's collection as it is now."""
    with opened(user, config, folder) as it:
        copy = it.stores.keeper.take(it.user, Cause(Reason.MANUAL))
    click.echo(f"copy {copy.id} holds {copy.cards:,} cards and {copy.reviews:,} reviews")


@snapshot.command()
@click.argument("user")
@click.argument("id")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the copy to FILE.anki2 or FILE.colpkg instead; the server keeps what it has.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@options("folder")
def restore(
    user: str,
    id: str,
    target: Path | None,
    force: bool,
    config: str | None,
    folder: str | None,
) -> None:
    """Put a kept copy in the place of what the server has; ID may be `latest`.

    A copy of what it replaces is kept first. Each device of the user then asks for the direction
    with its next sync: the user chooses Download.
    """
    with opened(user, config, folder) as it:
        copy = it.copy(id)
        if target is not None:
            _write_to(it, copy, target, force=force)
            click.echo(f"{target} holds copy {copy.id}: {copy.cards:,} cards")
            return
        _put_back(it, copy)


def _put_back(it: Opened, copy: Copy) -> None:
    place = app.place(it.settings, it.stores, it.user)
    with progress("putting the copy back", copy.size) as advance:
        put = restore_collection(place, copy, _words(copy), advance)
    click.echo(
        f"{it.user} has copy {copy.id} again: {put.counts.cards:,} cards, "
        f"{put.counts.revlog:,} reviews"
    )
    tell_replaced(put)
    _bring_media_back(it, copy)
    click.echo("On each device: sync, and choose Download when Anki asks for the direction.")


def _bring_media_back(it: Opened, copy: Copy) -> None:
    with progress("bringing media back", copy.media_files, unit="files") as advance:
        done = it.stores.media.bring_back(it.user, it.snapshots.media(copy), advance)
    if done.brought:
        click.echo(f"{counted(done.brought, 'media file')} came back")
    tell_names(done.missing, "gone for good; a device that has them still can send them again")


def _words(copy: Copy) -> str:
    """What clients show until their user has chosen."""
    return (
        f"Your collection on the server was put back to its state of {when(copy.time // 1000)} "
        f"({copy.cards:,} cards, {copy.reviews:,} reviews). When Anki asks for the direction, "
        f"choose Download."
    )


def _write_to(it: Opened, copy: Copy, target: Path, *, force: bool) -> None:
    if target.exists() and not force:
        raise CopyError(f"{target} exists already; --force overwrites it")
    if target.suffix not in _WRITERS:
        raise CopyError(f"{target}: expected a name that ends in .anki2 or .colpkg")
    _WRITERS[target.suffix](it, copy, target)


def _write_anki2(it: Opened, copy: Copy, target: Path) -> None:
    with (
        new_file(target, overwrite=True) as descriptor,
        os.fdopen(os.dup(descriptor), "wb") as file,
        progress("writing", copy.size) as advance,
    ):
        it.snapshots.write_collection(copy, file, advance)


def _write_colpkg(it: Opened, copy: Copy, target: Path) -> None:
    media = it.stores.media
    with (
        scratch_folder(it.stores.spool) as scratch,
        unpacked(it.snapshots, copy, scratch) as collection,
        media.earlier(it.user) as opener,
        MediaListing(it.snapshots.media(copy), opener, scratch) as listing,
        progress("writing", copy.size + listing.bytes) as advance,
    ):
        written = write_package(
            target,
            TemporaryFile(collection),
            listing,
            form=Form.CURRENT,
            scratch=scratch,
            overwrite=True,
            progress=advance,
        )
    tell_names(written.missing, "gone for good, and left out")


_WRITERS: dict[str, Callable[[Opened, Copy, Path], None]] = {
    ".anki2": _write_anki2,
    ".colpkg": _write_colpkg,
}


@snapshot.command()
@click.argument("user")
@click.argument("id")
@click.option("--off", is_flag=True, help="Take the pin out again.")
@options("folder")
def pin(user: str, id: str, off: bool, config: str | None, folder: str | None) -> None:
    """Keep a copy for good: no rule removes it."""
    with opened(user, config, folder) as it:
        copy = it.copy(id)
        if off:
            it.snapshots.unpin(copy)
        else:
            it.snapshots.pin(copy)
    click.echo(f"copy {copy.id} is {'not pinned any more' if off else 'pinned'}")


@snapshot.command()
@click.argument("user")
@click.argument("id")
@options("folder")
def delete(user: str, id: str, config: str | None, folder: str | None) -> None:
    """Delete a copy for good. A pinned one must lose its pin first."""
    with opened(user, config, folder) as it:
        copy = it.snapshots.get(id)
        if copy.pinned:
            raise CopyError(f"copy {id} is pinned; `cardkeep snapshot pin --off` takes the pin out")
        it.snapshots.delete(copy)
    record(config, folder, it.user, [by_operator(Kind.COPY_DELETED, note=copy.id)])
    click.echo(f"copy {copy.id} is deleted")


@snapshot.command()
@click.argument("user")
@options("folder")
def allow(user: str, config: str | None, folder: str | None) -> None:
    """Allow one upload that loses much, where such uploads are refused; good for a day."""
    with opened(user, config, folder) as it:
        allowance.give(it.stores.library.folder(it.user))
    click.echo(f"{user} may replace the collection by a much smaller one, once, within a day")
