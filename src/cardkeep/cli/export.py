# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep export`: a user's collection and media as a file that Anki imports."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click

from cardkeep import app, settings
from cardkeep.backups.export import MediaListing, pin_collection
from cardkeep.backups.package_writer import Written, write_package
from cardkeep.backups.scratch import scratch_folder
from cardkeep.cli.options import options
from cardkeep.cli.progress import progress
from cardkeep.cli.snapshot import in_words
from cardkeep.cli.user import existing
from cardkeep.errors import PackageError, Refused
from cardkeep.records.package import Form

# What Anki recognises a collection package by.
_SUFFIX = ".colpkg"
# Names that are told of a kind; more than this help nobody.
_MOST_NAMES = 20


@click.command()
@click.argument("user")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--legacy", is_flag=True, help="For Anki up to 2.1.49, and its contemporaries.")
@click.option("--no-media", is_flag=True, help="The collection alone.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@options("folder")
def export(
    user: str,
    file: Path,
    legacy: bool,
    no_media: bool,
    force: bool,
    config: str | None,
    folder: str | None,
) -> None:
    """Write a user's collection and media to FILE.colpkg, which Anki imports.

    A running server goes on serving, and devices sync meanwhile; what they bring after the
    beginning is not in the file.
    """
    if file.suffix.lower() != _SUFFIX:
        raise PackageError(f"{file}: expected a name that ends in {_SUFFIX}, as Anki does")
    loaded = settings.load({"config": config, "folder": folder})
    name = existing(loaded, user)
    with closing(app.open_stores(loaded)) as stores:
        form = Form.OLD if legacy else Form.CURRENT
        written = _export(stores, name, file, form=form, media=not no_media, overwrite=force)
    tell(written)
    files = "" if no_media else f" and {counted(written.media, 'media file')}"
    click.echo(f"{file} holds the collection of {name}{files} ({in_words(written.size)})")


def _export(
    stores: app.Stores, user: str, target: Path, *, form: Form, media: bool, overwrite: bool
) -> Written:
    with scratch_folder(stores.spool) as scratch:
        collection = pin_collection(stores.library, user, scratch)
        try:
            root = stores.library.folder(user).root
            with MediaListing(stores.media if media else None, user, root, scratch) as listing:
                with progress("exporting", collection.size + listing.bytes) as advance:
                    return write_package(
                        target,
                        collection,
                        listing,
                        form=form,
                        scratch=scratch,
                        overwrite=overwrite,
                        progress=advance,
                    )
        except FileExistsError:
            raise PackageError(f"{target} exists already; --force overwrites it") from None
        except Refused as error:
            raise PackageError(f"the collection of {user} cannot be exported: {error}") from error
        finally:
            collection.close()


def tell(written: Written) -> None:
    """Says on standard error which media files are not in the package as they should be."""
    for names, what in (
        (written.missing, "not there any more, and left out"),
        (written.unfit, "named as no Anki could have them, and left out"),
        (written.changed, "not what the server's list of media says, but exported as found"),
    ):
        tell_names(names, what)


def tell_names(names: Sequence[str], what: str) -> None:
    """Lists names on standard error, as many as help somebody."""
    if not names:
        return
    are = "file is" if len(names) == 1 else "files are"
    click.echo(f"cardkeep: {len(names):,} media {are} {what}:", err=True)
    for name in names[:_MOST_NAMES]:
        click.echo(f"  {name!r}", err=True)
    if len(names) > _MOST_NAMES:
        click.echo(f"  and {len(names) - _MOST_NAMES:,} more", err=True)


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
