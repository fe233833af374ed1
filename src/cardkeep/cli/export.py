# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep export`: a user's collection and media as a file that Anki imports."""

from contextlib import closing
from pathlib import Path

import click

from cardkeep import app, settings
from cardkeep.backups.export import MediaListing, pin_collection
from cardkeep.backups.package_writer import Written, write_package
from cardkeep.backups.scratch import scratch_folder
from cardkeep.cli.options import options
from cardkeep.cli.progress import progress
from cardkeep.cli.user import existing
from cardkeep.cli.words import counted, in_words, tell_names
from cardkeep.errors import PackageError, Refused
from cardkeep.records.package import Form

# What Anki recognises a collection package by.
_SUFFIX = ".colpkg"


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
            files = stores.media.listing(user) if media else ()
            with (
                stores.media.earlier(user) as opener,
                MediaListing(files, opener, scratch) as listing,
            ):
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
