# SPDX-License-Identifier: AGPL-3.0-or-later
"""A user's collection, and devices that sync it in the protocol's own verbs.

Everything below is the real thing (files, SQLite, threads); only HTTP is left out.
"""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from cardkeep.accounts.store import AccountStore
from cardkeep.backups import retention, shrink
from cardkeep.backups.keeper import Keeper
from cardkeep.collection import counts, database, notetypes
from cardkeep.collection.library import Library
from cardkeep.media.store import MediaStore
from cardkeep.messages import (
    Answer,
    ApplyChanges,
    ApplyChunk,
    ApplyGraves,
    Caller,
    Changes,
    Chunk,
    ClientMessage,
    Counts,
    Finish,
    Finished,
    Graves,
    Meta,
    MetaAnswer,
    NextChunk,
    SanityAnswer,
    SanityCheck,
    Start,
)
from cardkeep.records.deck import Deck
from cardkeep.sync.context import Context
from cardkeep.sync.steps import STEPS

USER = "ana"
_keys = itertools.count(1)


@dataclass
class Clock:
    """A clock that a test moves."""

    ms: int = 1_700_000_000_000

    def __call__(self) -> int:
        self.ms += 1
        return self.ms


@dataclass
class World:
    """One server and its clock."""

    context: Context
    clock: Clock

    def device(self, name: str, *, protocol: int = 11, usn: int = 0) -> "Device":
        return Device(self, name, protocol, usn)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows straight from the stored collection."""
        db = database.connect(self.context.library.folder(USER).collection)
        try:
            return db.execute(statement, values).fetchall()
        finally:
            database.close(db)

    def counts(self) -> Counts:
        db = database.connect(self.context.library.folder(USER).collection)
        try:
            return counts.count(db)
        finally:
            database.close(db)

    def basic(self) -> tuple[int, int]:
        """Id and number of fields of a notetype."""
        db = database.connect(self.context.library.folder(USER).collection)
        try:
            ntid, layout = next(iter(notetypes.layouts(db).items()))
            return ntid, layout.fields
        finally:
            database.close(db)


@dataclass
class Device:
    """A client that sends what a test says; it has no collection of its own."""

    world: World
    name: str
    protocol: int
    usn: int
    session: str = ""
    known: MetaAnswer | None = field(default=None)
    shares_key: bool = False

    def say(self, message: ClientMessage) -> Answer:
        caller = Caller(
            USER,
            self.name,
            self.protocol,
            self.session,
            "",
            "127.0.0.1",
            shares_key=self.shares_key,
        )
        return asyncio.run(cast("Any", STEPS[type(message)](self.world.context, caller, message)))

    def meta(self) -> MetaAnswer:
        self.session = f"s{next(_keys)}"
        self.known = cast("MetaAnswer", self.say(Meta(self.protocol, "test")))
        return self.known

    def start(self, *, local_newer: bool = True, graves: Graves | None = None) -> Graves:
        return cast("Graves", self.say(Start(self.usn, local_newer, graves)))

    def bury(self, graves: Graves) -> None:
        self.say(ApplyGraves(graves))

    def change(self, changes: Changes | None = None) -> Changes:
        return cast("Changes", self.say(ApplyChanges(changes or Changes())))

    def fetch(self) -> list[Chunk]:
        chunks = [cast("Chunk", self.say(NextChunk()))]
        while not chunks[-1].done:
            chunks.append(cast("Chunk", self.say(NextChunk())))
        return chunks

    def push(self, **rows: Sequence[Sequence[Any]]) -> None:
        self.say(ApplyChunk(Chunk(done=True, **rows)))

    def check(self, expected: Counts) -> SanityAnswer:
        return cast("SanityAnswer", self.say(SanityCheck(expected)))

    def finish(self) -> int:
        """Ends the sync as a client does: the new usn follows from what `meta` said."""
        told = cast("Finished", self.say(Finish())).mod
        assert self.known is not None
        self.usn = self.known.usn + 1
        return told

    def sync(
        self,
        *,
        graves: Graves | None = None,
        changes: Changes | None = None,
        counts: Counts | None = None,
        **rows: Sequence[Sequence[Any]],
    ) -> "Received":
        """A whole sync; without `counts` it leaves the comparison out."""
        self.meta()
        received = Received(self.start())
        if graves:
            self.bury(graves)
        received.changes = self.change(changes)
        received.chunks = self.fetch()
        self.push(**rows)
        if counts is not None:
            answer = self.check(counts)
            assert answer.ok, answer
        self.finish()
        return received


@dataclass
class Received:
    """What a device was told in a sync."""

    graves: Graves
    changes: Changes = field(default_factory=Changes)
    chunks: list[Chunk] = field(default_factory=list)

    def ids(self, kind: str) -> set[int]:
        return {row[0] for chunk in self.chunks for row in getattr(chunk, kind)}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock = Clock()
    with ThreadPoolExecutor(4) as threads:
        base = tmp_path / "base"
        spool = base / ".cardkeep" / "spool"
        spool.mkdir(parents=True)
        library = Library(base, now_ms=clock)
        media = MediaStore(base)
        accounts = AccountStore(base)
        keeper = Keeper(library, media, spool, retention.Rules(), now_ms=clock)
        context = Context(
            accounts=accounts,
            library=library,
            media=media,
            keeper=keeper,
            losses=shrink.Rules(),
            spool=spool,
            now_ms=clock,
            short=threads,
            long=threads,
            hashing=threads,
        )
        with library.lend(USER):
            pass
        yield World(context, clock)
        keeper.close()
        library.close()
        media.close()
        accounts.close()


# --- things to sync ---------------------------------------------------------------------


def card(cid: int, nid: int, *, did: int = 1, ord: int = 0, mod: int = 0, **more: int) -> list[Any]:
    """A card row."""
    values = {"type": 0, "queue": 0, "due": 0, "reps": 0, "odue": 0, "odid": 0, "flags": 0, **more}
    return [
        cid,
        nid,
        did,
        ord,
        mod,
        99,
        values["type"],
        values["queue"],
        values["due"],
        0,
        0,
        values["reps"],
        0,
        0,
        values["odue"],
        values["odid"],
        values["flags"],
        "{}",
    ]


def note(nid: int, mid: int, fields: int, *, mod: int = 0, text: str = "x") -> list[Any]:
    """A note row."""
    return [nid, f"g{nid}", mid, mod, 99, "", "\x1f".join([text] * fields)]


def review(rid: int, cid: int) -> list[Any]:
    """A revlog row."""
    return [rid, cid, 99, 3, 1, 1, 2500, 1000, 1]


def deck(did: int, name: str, *, mod: int = 0) -> Deck:
    """A normal deck."""
    return Deck(did, name, mod, 99, b"\x08\x01\x10\x01", b"\x0a\x02\x08\x01")
