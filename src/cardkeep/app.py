# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ties it together: settings in, application out.

Reading `build` tells what the program is made of. It is called once in each process.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cardkeep.accounts.store import AccountStore
from cardkeep.backups import retention, shrink
from cardkeep.backups.history import History
from cardkeep.backups.keeper import Keeper
from cardkeep.backups.restore import Place
from cardkeep.collection.library import Library
from cardkeep.disk import give_to_owner
from cardkeep.media.store import MediaStore
from cardkeep.settings import Settings

if TYPE_CHECKING:
    from cardkeep.http import asgi
    from cardkeep.http.limits import Limits

# Each kind of work has threads of its own, so that none can fill up another's. Most steps of a
# sync are milliseconds, but the commit of a large one is a second; whole collections are several;
# hashing is slow on purpose and bounded by the accounts themselves too.
_SHORT_THREADS = 12
_LONG_THREADS = 6
_HASHING_THREADS = 2


@dataclass(frozen=True, slots=True)
class Application:
    """The ASGI application, and what gives back everything it holds."""

    asgi: "asgi.Application"
    close: Callable[[], None]


def open_accounts(settings: Settings) -> AccountStore:
    """The accounts as a server sees them: with the users of its environment."""
    return AccountStore(
        settings.folder,
        environment_users={user.name: user.password for user in settings.users},
        hashed=settings.passwords_hashed,
        open_mode=settings.open,
    )


def spool_folder(settings: Settings) -> Path:
    """The folder for bodies that do not belong in memory, on the collections' file system."""
    folder = settings.folder / ".cardkeep" / "spool"
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for made in (folder.parent, folder):
            give_to_owner(made, settings.folder)
    return folder


def history(settings: Settings) -> History:
    """Writes and reads the rows of what happened to the users."""
    return History(settings.history_size, settings.history_days)


@dataclass(frozen=True, slots=True)
class Stores:
    """What a data folder holds, opened for a server or a command."""

    library: Library
    media: MediaStore
    keeper: Keeper
    spool: Path

    def close(self) -> None:
        """Closes everything."""
        self.keeper.close()
        self.library.close()
        self.media.close()


def open_stores(settings: Settings) -> Stores:
    """The collections, media and kept copies below the data folder."""
    spool = spool_folder(settings)
    library = Library(settings.folder, now_ms=now_ms)
    media = MediaStore(settings.folder, share=settings.share_media, trash_days=settings.trash_days)
    keeper = Keeper(
        library,
        media,
        spool,
        retention.Rules(
            newest=settings.keep_newest,
            days=settings.keep_days,
            weeks=settings.keep_weeks,
            months=settings.keep_months,
            destructive_days=settings.keep_destructive_days,
            most_bytes=settings.keep_size or 0,
        ),
        now_ms=now_ms,
        daily=settings.daily_copy,
    )
    return Stores(library, media, keeper, spool)


def place(settings: Settings, stores: Stores, user: str) -> Place:
    """Where a collection is put in the place of what the user has."""
    return Place(stores.library, stores.keeper, history(settings), stores.spool, user, now_ms)


def build(settings: Settings) -> Application:
    """The whole server, but for sockets and processes."""
    # Only here: commands need none of it, and it takes most of their time to import.
    from cardkeep.http.application import Application as HttpApplication
    from cardkeep.http.peer import Peer
    from cardkeep.http.sync_routes import SyncRoutes
    from cardkeep.sync.context import Context
    from cardkeep.sync.steps import Steps
    from cardkeep.web.pages import pages

    accounts = open_accounts(settings)
    stores = open_stores(settings)
    context = Context(
        accounts=accounts,
        library=stores.library,
        media=stores.media,
        keeper=stores.keeper,
        losses=shrink.Rules(
            guard=shrink.Guard(settings.shrink_guard),
            upload_percent=settings.shrink_percent,
            upload_least=settings.shrink_least,
            deletion_percent=settings.deletion_percent,
            deletion_least=settings.deletion_least,
        ),
        spool=stores.spool,
        now_ms=now_ms,
        short=ThreadPoolExecutor(_SHORT_THREADS, thread_name_prefix="sync"),
        long=ThreadPoolExecutor(_LONG_THREADS, thread_name_prefix="long"),
        hashing=ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="login"),
        history=history(settings),
    )
    routes = SyncRoutes(Steps(context), _limits(settings), Peer(settings.ip_header or ""))

    def close() -> None:
        routes.close()
        for threads in (context.short, context.long, context.hashing):
            threads.shutdown(wait=False, cancel_futures=True)
        stores.close()
        accounts.close()

    application = HttpApplication(
        routes, pages(public_url=settings.public_url, open_mode=settings.open)
    )
    return Application(application, close)


def now_ms() -> int:
    """The clock, in ms since 1970."""
    return time.time_ns() // 1_000_000


def _limits(settings: Settings) -> "Limits":
    from cardkeep.http.limits import Limit, Limits

    return Limits(
        packed_body=Limit(settings.max_body, "max_body"),
        collection=Limit(settings.max_collection, "max_collection"),
        json=Limit(settings.max_json, "max_json"),
        media_file=Limit(settings.max_media_file, "max_media_file"),
        media_zip=Limit(settings.max_media_zip, "max_media_zip"),
    )
