# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ties it together: settings in, application out.

Reading `build` tells what the program is made of. It is called once in each process.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cardkeep.accounts.store import AccountStore
from cardkeep.backups.history import History
from cardkeep.collection.library import Library
from cardkeep.http import asgi
from cardkeep.http.application import Application as HttpApplication
from cardkeep.http.limits import Limit, Limits
from cardkeep.http.peer import Peer
from cardkeep.http.sync_routes import SyncRoutes
from cardkeep.media.store import MediaStore
from cardkeep.settings import Settings
from cardkeep.sync.context import Context
from cardkeep.sync.steps import Steps
from cardkeep.web.pages import pages

# Each kind of work has threads of its own, so that none can fill up another's. Most steps of a
# sync are milliseconds, but the commit of a large one is a second; whole collections are several;
# hashing is slow on purpose and bounded by the accounts themselves too.
_SHORT_THREADS = 12
_LONG_THREADS = 6
_HASHING_THREADS = 2


@dataclass(frozen=True, slots=True)
class Application:
    """The ASGI application, and what gives back everything it holds."""

    asgi: asgi.Application
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
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def build(settings: Settings) -> Application:
    """The whole server, but for sockets and processes."""
    accounts = open_accounts(settings)
    spool = spool_folder(settings)
    library = Library(settings.folder, now_ms=_now_ms)
    media = MediaStore(settings.folder)
    context = Context(
        accounts=accounts,
        library=library,
        media=media,
        spool=spool,
        now_ms=_now_ms,
        short=ThreadPoolExecutor(_SHORT_THREADS, thread_name_prefix="sync"),
        long=ThreadPoolExecutor(_LONG_THREADS, thread_name_prefix="long"),
        hashing=ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="login"),
        history=History(settings.history_size, settings.history_days),
    )
    routes = SyncRoutes(Steps(context), _limits(settings), Peer(settings.ip_header or ""))

    def close() -> None:
        routes.close()
        for threads in (context.short, context.long, context.hashing):
            threads.shutdown(wait=False, cancel_futures=True)
        library.close()
        media.close()
        accounts.close()

    application = HttpApplication(
        routes, pages(public_url=settings.public_url, open_mode=settings.open)
    )
    return Application(application, close)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _limits(settings: Settings) -> Limits:
    return Limits(
        packed_body=Limit(settings.max_body, "max_body"),
        collection=Limit(settings.max_collection, "max_collection"),
        json=Limit(settings.max_json, "max_json"),
        media_file=Limit(settings.max_media_file, "max_media_file"),
        media_zip=Limit(settings.max_media_zip, "max_media_zip"),
    )
