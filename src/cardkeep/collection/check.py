# SPDX-License-Identifier: AGPL-3.0-or-later
"""Looks at everything in one user's collection, and mends what has one right answer.

Looking takes no lock, so no sync waits for it. Each look is a read transaction of its own, the
longest as long as SQLite's integrity check of the file (seconds for 500 MB). What it costs: while
one lasts, the write-ahead log cannot be written back beyond what it sees, and a download is
served from a copy instead of the file itself.

Mending waits for a running sync to end, then holds the user's lock for one transaction, a pass or
two over the tables concerned. It is a change of the server's own (`mending`).
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from cardkeep.collection import counts, database, faults, header, mending
from cardkeep.collection.faults import Trouble
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.note_texts import Texts
from cardkeep.collection.schema.tables import SCHEMA_18
from cardkeep.collection.session_file import SessionFile, between_syncs
from cardkeep.collection.structure import Structure, look_at_structure
from cardkeep.errors import CopyError, Unavailable
from cardkeep.messages import Counts, Finding

#: What `progress` is told adds up to this.
WHOLE = 1000
# Parts of it: the structure; then each look by the rows that it goes through.
_STRUCTURE = 250

# A sync that goes on for longer is left alone, and so is what would be mended.
PATIENCE = 120.0

# What looking at the texts of a note takes beside a row of another look.
_TEXTS_WEIGHT = 8


def check_collection(
    folder: UserFolder,
    *,
    now_ms: Callable[[], int],
    repair: bool = False,
    quick: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    keep_copy: Callable[[], object] = lambda: None,
    patience: float = PATIENCE,
) -> Iterator[Finding]:
    """What is wrong with a user's collection; nothing for a user who has none.

    `quick` leaves out what takes long: whether indexes agree with their tables, and the texts
    of notes. With `repair`, what can be mended is: after `keep_copy`, which keeps a copy of the
    collection as it was, and once no client of the user is in the middle of a sync, for which
    `patience` seconds are waited. `progress` is told how much was done since the last time, in
    parts of WHOLE.
    """
    if not folder.collection.exists():
        if folder.counts.exists():
            yield Finding("collection-missing", "The collection is gone. Restore a kept copy.")
        return
    if not _is_database(folder):
        yield Finding("damaged", f"{folder.collection} is no SQLite file. Restore a kept copy.")
        return
    try:
        # Not read-only: a file of another origin is turned to a write-ahead log, as the server
        # does when it meets it; with a rollback journal, readers would block it.
        db = database.connect(folder.collection)
    except Unavailable as error:
        yield Finding("in-use", f"{error}.")
        return
    except (sqlite3.Error, OSError) as error:
        # Only the first is about the file: a full disk and the like pass.
        passes = isinstance(error, sqlite3.OperationalError | OSError)
        kind = "unreadable" if passes else "damaged"
        yield Finding(kind, f"{folder.collection} cannot be opened: {error}.")
        return
    try:
        db.execute("PRAGMA query_only = ON")
        faults.prepare(db)
        told = _Progress(progress)
        yield from _Check(folder, db, now_ms, repair, quick, told, keep_copy, patience).findings()
    finally:
        database.close(db)


@dataclass(slots=True)
class _Check:
    """One check of one collection."""

    folder: UserFolder
    db: sqlite3.Connection
    now_ms: Callable[[], int]
    repair: bool
    quick: bool
    progress: "_Progress"
    keep_copy: Callable[[], object]
    patience: float
    structure: Structure = field(default_factory=lambda: Structure([]))

    def findings(self) -> Iterator[Finding]:
        """All of it."""
        found = self._look_at_structure()
        self.repair &= self.structure.is_ours
        if self.repair and any(each.mend for each in found):
            # Rows stay what they are: that needs no copy, and the kept counts hold.
            yield from self._mend(found, self._look_at_structure, changes_rows=False)
        else:
            yield from (each.finding for each in found)
        self.progress.add(_STRUCTURE)
        if self.structure.is_sound:
            yield from self._kept_counts()
            yield from self._content()
        self.progress.finish()

    def _look_at_structure(self) -> list[Trouble]:
        self.structure = look_at_structure(self.db, quick=self.quick)
        return self.structure.troubles

    def _content(self) -> Iterator[Finding]:
        looks = list(faults.looks())
        rows = _rows(self.db)
        works = [sum(rows[table] for table in tables.split()) for tables, _ in looks]
        of_texts = 0 if self.quick else _TEXTS_WEIGHT * rows["notes"]
        share = (WHOLE - _STRUCTURE) / max(sum(works) + of_texts, 1)
        waiting: list[Trouble] = []
        again: list[tuple[str, faults.Look]] = []
        for (tables, look), work in zip(looks, works, strict=True):
            found = self._safely(tables, look)
            if self.repair and any(each.mend for each in found):
                waiting += found
                again.append((tables, look))
            else:
                yield from (each.finding for each in found)
            self.progress.add(work * share)
        if not self.quick:
            yield from self._texts(share * _TEXTS_WEIGHT)
        if waiting:
            yield from self._mend(
                waiting,
                lambda: [found for look in again for found in self._safely(*look)],
                changes_rows=True,
            )

    def _safely(self, tables: str, look: faults.Look) -> list[Trouble]:
        """What a look finds, or why it could not look."""
        try:
            return list(look(self.db))
        except (sqlite3.Error, SystemError, UnicodeDecodeError) as error:
            words = f"“{tables}” could not be looked at: {error}."
            return [Trouble(Finding("unreadable", words), where=tables)]

    # --- mending ------------------------------------------------------------------------

    def _mend(
        self,
        troubles: Sequence[Trouble],
        look_again: Callable[[], Iterable[Trouble]],
        *,
        changes_rows: bool,
    ) -> Iterator[Finding]:
        """Mends, and tells by another look what became of each of the troubles."""
        try:
            if changes_rows:
                self.keep_copy()
            with (
                between_syncs(self.folder, self.now_ms, patience=self.patience),
                self._writing(),
            ):
                work = mending.begin(self.db, self.now_ms())
                for trouble in troubles:
                    if trouble.mend:
                        _apply(work, trouble.mend)
                mending.commit(work)
                if changes_rows:
                    counts.keep(self.folder, header.read(self.db), counts.count(self.db))
        except (Unavailable, CopyError, sqlite3.Error, OSError) as error:
            yield Finding("not-mended", f"Nothing was mended: {error}.", harmless=True)
            yield from (each.finding for each in troubles)
            return
        left = {each.key: each.finding for each in look_again()}
        for trouble in troubles:
            mended = msgspec.structs.replace(trouble.finding, repaired=True)
            yield left.pop(trouble.key, mended)
        yield from left.values()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self.db.execute("PRAGMA query_only = OFF")
        try:
            yield
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            self.db.execute("PRAGMA query_only = ON")

    # --- counts and notes ---------------------------------------------------------------

    def _kept_counts(self) -> Iterator[Finding]:
        """The numbers that each sync begins from instead of counting."""
        kept, counted = self._counts()
        if kept is None or kept == counted:
            return
        wrong = [
            f"{getattr(kept, name)} {name} instead of {getattr(counted, name)}"
            for name in Counts.__struct_fields__
            if getattr(kept, name) != getattr(counted, name)
        ]
        repaired = False
        if self.repair:
            with SessionFile(self.folder, wait=True):
                counts.keep(self.folder, header.read(self.db), counts.count(self.db))
                kept, counted = self._counts()
                repaired = kept == counted
        text = f"The kept counts are wrong: {', '.join(wrong)}."
        yield Finding("counts", text, repaired=repaired, repairable=True)

    def _counts(self) -> tuple[Counts | None, Counts]:
        self.db.execute("BEGIN")
        try:
            return counts.kept(self.folder, header.read(self.db)), counts.count(self.db)
        finally:
            self.db.execute("COMMIT")

    def _texts(self, share: float) -> Iterator[Finding]:
        """The texts of notes, and what was derived from them."""
        seen, derives = Texts(self.db), self.repair
        while batch := seen.next_batch():
            self.progress.add(batch * share)
            if derives and seen.underived:
                try:
                    with self._writing():
                        seen.derive()
                except sqlite3.OperationalError:  # a full disk, or another program's lock
                    derives = False
        yield from seen.findings(repaired=derives)


class _Progress:
    """Adds parts up to whole numbers."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report
        self._done = 0.0
        self._reported = 0

    def add(self, part: float) -> None:
        """Some more was done."""
        self._done = min(self._done + part, WHOLE)
        if int(self._done) > self._reported:
            self._report(int(self._done) - self._reported)
            self._reported = int(self._done)

    def finish(self) -> None:
        """Everything was done."""
        self.add(WHOLE)


def _is_database(folder: UserFolder) -> bool:
    """SQLite would make one of an empty file."""
    with database.raw_reader(folder.collection) as reader:
        return reader.read_at(0, 16) == b"SQLite format 3\0"


def _rows(db: sqlite3.Connection) -> dict[str, int]:
    """How many rows each table has."""
    return {
        table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in SCHEMA_18.tables
    }


def _apply(work: mending.Mending, mend: faults.Mend) -> None:
    """Mends one trouble; one that cannot be mended leaves the others as they are."""
    work.db.execute("SAVEPOINT mend")
    try:
        mend(work)
    except sqlite3.IntegrityError:
        work.db.execute("ROLLBACK TO mend")
    work.db.execute("RELEASE mend")
