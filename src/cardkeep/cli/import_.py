# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep import`: a package, collection file or folder becomes what a user has here.

The order matters. All that can be wrong with what is imported is found before anything changes:
the collection is inspected as an upload is, the media are read once. Then come the account, the
media, and last the collection, in one transaction. Killed in between, the user has what was
there before, with more media perhaps, and the command can be given again.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from cardkeep import app, settings
from cardkeep.accounts.names import check_name
from cardkeep.accounts.store import AccountStore
from cardkeep.backups.arrival import LeftOut, store_media
from cardkeep.backups.origin import Origin, open_origin
from cardkeep.backups.package_reader import Limits
from cardkeep.backups.restore import Put, put_collection
from cardkeep.backups.scratch import scratch_folder
from cardkeep.backups.snapshot import Reason
from cardkeep.cli.options import options
from cardkeep.cli.progress import progress
from cardkeep.cli.user import password_file, read_password
from cardkeep.cli.words import counted, in_words, tell_names, tell_replaced, when
from cardkeep.collection import counts
from cardkeep.collection.schema.inspect import inspect
from cardkeep.disk import give_all_to_owner
from cardkeep.errors import AccountError, NotAccepted, PackageError, Refused
from cardkeep.settings import Settings


@click.command("import")
@click.argument("user")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Also where the user has cards already.")
@click.option("--no-media", is_flag=True, help="The collection alone.")
@password_file
@options("folder", "max_collection", "max_media_file")
def import_(
    user: str,
    path: Path,
    replace: bool,
    no_media: bool,
    password_file: str | None,
    config: str | None,
    folder: str | None,
    max_collection: str | None,
    max_media_file: str | None,
) -> None:
    """Give a user the collection and media of FILE.

    FILE is a collection package (.colpkg), a collection (.anki2), or a folder with a collection
    and its media, such as a profile's. A user who does not exist yet is made, with a password as
    for `cardkeep user add`. What a collection replaces is kept as a copy; media that the user has
    already stay. Every device then asks for the direction: the user chooses Download.
    """
    loaded = settings.load(
        {
            "config": config,
            "folder": folder,
            "max_collection": max_collection,
            "max_media_file": max_media_file,
        }
    )
    name = check_name(user)
    _check_is_outside(path, loaded)
    loaded.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    has_account = _has_account(loaded, name)
    # A server that is told its users by the environment would serve the folder.
    is_new = not has_account and not (loaded.folder / name).is_dir()
    password = _password(loaded, name, password_file) if is_new else ""
    with closing(app.open_stores(loaded)) as stores:
        _check_may_replace(stores, name, replace=replace)
        arrival = _Import(loaded, stores, name, path)
        with arrival.checked(media=not no_media) as checked:
            if is_new:
                with closing(AccountStore(loaded.folder)) as accounts:
                    accounts.add_user(name, password)
            media, left_out = arrival.store_media(checked)
            put = arrival.put(checked)
        give_all_to_owner(loaded.folder / name, loaded.folder)
    for why in dict.fromkeys(file.why for file in left_out):
        tell_names([file.name for file in left_out if file.why == why], f"{why}, and left out")
    click.echo(
        f"{name} has {counted(put.counts.cards, 'card')}, {counted(put.counts.notes, 'note')}, "
        f"{counted(put.counts.revlog, 'review')} and {counted(media, 'media file')} of {path.name}"
    )
    tell_replaced(put)
    if is_new:
        click.echo(f"{name} can log in now")
    elif not has_account:
        click.echo(f"{name} has no account yet; `cardkeep user add {name}` makes one")
    click.echo("On each device: sync, and choose Download if Anki asks for the direction.")


# --- who, and where ---------------------------------------------------------------------


def _check_is_outside(path: Path, loaded: Settings) -> None:
    """What is the server's own is in use, whoever does not see it."""
    base = loaded.folder.resolve()
    found = path.resolve()
    if not found.is_relative_to(base):
        return
    owner = found.relative_to(base).parts[:1]
    raise PackageError(
        f"{path} lies in the server's own folder. To give one user what another has: "
        f"`cardkeep export {owner[0] if owner else 'USER'} FILE.colpkg`, then import that file"
    )


def _has_account(loaded: Settings, name: str) -> bool:
    if any(user.name == name for user in loaded.users):
        return True
    with closing(AccountStore(loaded.folder)) as store:
        return any(entry.name == name for entry in store.users())


def _password(loaded: Settings, name: str, file: str | None) -> str:
    """The password of a user who is to be made."""
    with closing(AccountStore(loaded.folder)) as store:
        store.check_free(name)  # before anybody thinks of a password
    password = read_password(file)
    if not password:
        raise AccountError(
            f"there is no user {name}, and no password was given to make one with; "
            f"`cardkeep user add {name}` makes one"
        )
    return password


def _check_may_replace(stores: app.Stores, user: str, *, replace: bool) -> None:
    if replace or not stores.library.folder(user).collection.exists():
        return
    with stores.library.lend(user) as db:
        cards = counts.count(db).cards
    if cards:
        raise PackageError(
            f"{user} has {counted(cards, 'card')} already; --replace puts the import in their "
            "place, after keeping a copy"
        )


# --- what -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Checked:
    """An import of which nothing is wrong: its inspected collection, and its open origin."""

    collection: Path
    origin: Origin
    media: bool


@dataclass(frozen=True, slots=True)
class _Import:
    settings: Settings
    stores: app.Stores
    user: str
    path: Path

    @contextmanager
    def checked(self, *, media: bool) -> Iterator[_Checked]:
        """Everything is looked at; nothing is changed. Raises PackageError."""
        limits = Limits(collection=self.settings.max_collection)
        with scratch_folder(self.stores.spool) as scratch, self._in_words():
            with open_origin(self.path, limits) as origin:
                collection = scratch / "import.anki2"
                origin.extract_collection(collection)
                inspect(collection)
                if media:
                    self._check_media(origin)
                yield _Checked(collection, origin, media)

    def store_media(self, checked: _Checked) -> tuple[int, list[LeftOut]]:
        """Number of files that were stored, and those that were left out."""
        if not checked.media:
            return 0, []
        origin = checked.origin
        with progress("storing media", origin.media_bytes) as advance:
            return store_media(
                self.stores.media,
                self.user,
                origin.media(),
                most=self.settings.max_media_file,
                progress=advance,
            )

    def put(self, checked: _Checked) -> Put:
        """The collection takes the place of what the user has."""
        place = app.place(self.settings, self.stores, self.user)
        words = (
            f"Your collection on the server was imported on {when(app.now_ms() // 1000)}. When "
            "Anki asks for the direction, choose Download."
        )
        return put_collection(place, checked.collection, Reason.IMPORT, words, self.path.name)

    def _check_media(self, origin: Origin) -> None:
        free = shutil.disk_usage(self.settings.folder).free
        if origin.media_bytes > free:
            raise PackageError(
                f"its media need {in_words(origin.media_bytes)}, and {in_words(free)} are free in "
                f"{self.settings.folder}"
            )
        with progress("checking media", origin.media_bytes) as advance:
            origin.verify(advance)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except NotAccepted as error:
            exact = "" if error.reason == error.words else f" ({error.reason})"
            raise PackageError(f"{self.path}: {error.words}{exact}") from error
        except Refused as error:
            raise PackageError(f"{self.path} cannot be imported: {error}") from error
