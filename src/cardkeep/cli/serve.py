# SPDX-License-Identifier: AGPL-3.0-or-later
"""`cardkeep serve`: listens, says where, and serves until it is told to end."""

import functools
import logging
import time

import click

from cardkeep import settings as table
from cardkeep.cli.ending import Ending
from cardkeep.cli.options import options
from cardkeep.errors import SettingsError
from cardkeep.settings import Settings

log = logging.getLogger("cardkeep")


@click.command()
@options()
def serve(**flags: str | None) -> None:
    """Run the server.

    Every setting can be given as a flag, an environment variable or a line of the TOML file; the
    first of these that has it counts. Users are made with `cardkeep user add`, or given as
    SYNC_USER1=name:password, SYNC_USER2=… in the environment, where each variable may also be
    the name of a file (SYNC_USER1_FILE). With PASSWORDS_HASHED set, these passwords are PBKDF2
    hashes in the PHC form.
    """
    ending = Ending()
    run(table.load(flags), ending)


def run(settings: Settings, ending: Ending) -> None:
    """Serves with these settings; does not return."""
    # Only now: the command line must be checked, and signals heard, before the slow imports.
    from cardkeep import app
    from cardkeep.backups import base_lock
    from cardkeep.cli import addresses, announcement, processes
    from cardkeep.cli.log import set_up
    from cardkeep.http import spool

    set_up(settings.log_level)
    processes.spare_memory()
    processes.allow_many_connections()
    _prepare_folder(settings)
    base_lock.share(settings.folder)  # until this process ends
    accounts = app.open_accounts(settings)  # an unusable folder is told before anything listens
    has_users = accounts.has_users()
    accounts.close()

    spool.sweep(app.spool_folder(settings), before=time.time() - 3600)

    hosts = settings.host or (addresses.LOOPBACK if settings.open else addresses.ALL)
    sockets = addresses.listen(hosts, settings.port, required=settings.host is not None)
    text = announcement.text(settings, addresses.reachable(sockets), has_users=has_users)

    def ready() -> None:
        click.echo(text)  # flushes
        for warning in settings.warnings:
            log.warning("%s", warning)

    build = functools.partial(app.build, settings)
    if settings.workers == 1:
        processes.serve(build, sockets, ending, ready)
    else:
        processes.supervise(build, sockets, settings.workers, ready)


def _prepare_folder(settings: Settings) -> None:
    try:
        settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"folder: {str(settings.folder)!r} cannot be made or is no folder "
            f"({error.strerror}); expected a folder that this user may write to"
        ) from None
