# SPDX-License-Identifier: AGPL-3.0-or-later
"""What every step needs: the stores, the clock, and threads for what takes long."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from cardkeep.accounts.store import AccountStore
from cardkeep.backups import shrink
from cardkeep.backups.history import History
from cardkeep.backups.keeper import Keeper
from cardkeep.collection.library import Library
from cardkeep.media.store import MediaStore

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """`short` threads do the steps of a sync, `long` ones whole collections and media."""

    accounts: AccountStore
    library: Library
    media: MediaStore
    keeper: Keeper
    losses: shrink.Rules
    spool: Path
    now_ms: Callable[[], int]
    short: Executor
    long: Executor
    hashing: Executor
    history: History = field(default_factory=History)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does a step's work off the event loop."""
        return await self._run_in(self.short, work, *args, **kwargs)

    async def run_long(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does work that takes as long as the data is large."""
        return await self._run_in(self.long, work, *args, **kwargs)

    async def run_hashing(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does work that is slow on purpose."""
        return await self._run_in(self.hashing, work, *args, **kwargs)

    async def _run_in(
        self, executor: Executor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, partial(work, *args, **kwargs))
