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
from typing import Any

import msgspec

from cardkeep.collection import counts, database, faults, header, mending, notetypes, structure
from cardkeep.collection.faults import Trouble
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.schema.tables import SCHEMA_18
from cardkeep.collection.session_file import SessionFile, between_syncs
from cardkeep.errors import BadRequest, CopyError, Unavailable
from cardkeep.messages import Counts, Finding
from cardkeep.records import notetype
from cardkeep.records.note import FIELD_SEPARATOR, note_fields, sort_field_and_checksum

#: What `progress` is told adds up to this.
WHOLE = 1000
# Parts of it: the structure; then each look by the rows that it goes through.
_STRUCTURE = 250

# A sync that goes on for longer is left alone, and so is what would be mended.
PATIENCE = 120.0

# Notes in a transaction, and what looking at one takes beside a row of another look.
_NOTES = 2000
_NOTES_WEIGHT = 8


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
        yield from _Check(
            folder, db, now_ms, repair, quick, progress, keep_copy, patience
        ).findings()
    finally:
        database.close(db)


class _Check:
    """One check of one collection."""

    def __init__(
        self,
        folder: UserFolder,
        db: sqlite3.Connection,
        now_ms: Callable[[], int],
        repair: bool,
        quick: bool,
        progress: Callable[[int], None],
        keep_copy: Callable[[], object],
        patience: float,
    ) -> None:
        self._folder = folder
        self._db = db
        self._now_ms = now_ms
        self._repair = repair
        self._quick = quick
        self._progress = _Progress(progress)
        self._keep_copy = keep_copy
        self._patience = patience

    def findings(self) -> Iterator[Finding]:
        """All of it."""
        found = self._look_at_structure()
        self._repair &= self._structure.is_ours
        if self._repair and any(each.mend for each in found):
            # Rows stay what they are: that needs no copy, and the kept counts hold.
            yield from self._mend(found, self._look_at_structure, changes_rows=False)
        else:
            yield from (each.finding for each in found)
        self._progress.add(_STRUCTURE)
        if self._structure.is_sound:
            yield from self._kept_counts()
            yield from self._content()
        self._progress.finish()

    def _look_at_structure(self) -> list[Trouble]:
        self._structure = structure.look(self._db, quick=self._quick)
        return self._structure.troubles

    def _content(self) -> Iterator[Finding]:
        looks = list(faults.looks())
        rows = _rows(self._db)
        works = [sum(rows[table] for table in tables.split()) for tables, _ in looks]
        of_notes = 0 if self._quick else _NOTES_WEIGHT * rows["notes"]
        share = (WHOLE - _STRUCTURE) / max(sum(works) + of_notes, 1)
        waiting: list[Trouble] = []
        again: list[tuple[str, faults.Look]] = []
        for (tables, look), work in zip(looks, works, strict=True):
            found = self._safely(tables, look)
            if self._repair and any(each.mend for each in found):
                waiting += found
                again.append((tables, look))
            else:
                yield from (each.finding for each in found)
            self._progress.add(work * share)
        if not self._quick:
            yield from self._notes(share * _NOTES_WEIGHT)
        if waiting:
            yield from self._mend(
                waiting,
                lambda: [found for look in again for found in self._safely(*look)],
                changes_rows=True,
            )

    def _safely(self, tables: str, look: faults.Look) -> list[Trouble]:
        """What a look finds, or why it could not look."""
        try:
            return list(look(self._db))
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
                self._keep_copy()
            with (
                between_syncs(self._folder, self._now_ms, patience=self._patience),
                self._writing(),
            ):
                work = mending.begin(self._db, self._now_ms())
                for trouble in troubles:
                    if trouble.mend:
                        _apply(work, trouble.mend)
                mending.commit(work)
                if changes_rows:
                    counts.keep(self._folder, header.read(self._db), counts.count(self._db))
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
        self._db.execute("PRAGMA query_only = OFF")
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._db.execute("PRAGMA query_only = ON")

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
        if self._repair:
            with SessionFile(self._folder, wait=True):
                counts.keep(self._folder, header.read(self._db), counts.count(self._db))
                kept, counted = self._counts()
                repaired = kept == counted
        text = f"The kept counts are wrong: {', '.join(wrong)}."
        yield Finding("counts", text, repaired=repaired, repairable=True)

    def _counts(self) -> tuple[Counts | None, Counts]:
        self._db.execute("BEGIN")
        try:
            return counts.kept(self._folder, header.read(self._db)), counts.count(self._db)
        finally:
            self._db.execute("COMMIT")

    def _notes(self, share: float) -> Iterator[Finding]:
        """The texts of notes, and what was derived from them."""
        seen, derives = _Notes(self._db), self._repair
        while batch := seen.next_batch():
            self._progress.add(batch * share)
            if derives and seen.underived:
                try:
                    with self._writing():
                        seen.derive()
                except sqlite3.OperationalError:  # a full disk, or another program's lock
                    derives = False
        yield from seen.findings(repaired=derives)


class _Notes:
    """Goes through the notes, some thousands in a transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._last = -(2**63)
        self._version = 0
        self._layouts: dict[int, tuple[int, int | None]] = {}
        self._found: dict[str, list[int]] = {"text": [], "note-fields": [], "derived": []}
        self._counts = dict.fromkeys(self._found, 0)
        #: What is wrong of the last batch: sort field, checksum, id, and the text they are from.
        self.underived: list[tuple[str, int, int, bytes]] = []

    def next_batch(self) -> int:
        """Looks at the next notes; how many there were."""
        self._db.execute("BEGIN")
        try:
            rows = self._db.execute(
                """
                SELECT id, mid, CAST(guid AS blob), CAST(tags AS blob), CAST(flds AS blob),
                    CASE typeof(sfld) WHEN 'text' THEN CAST(sfld AS blob) ELSE sfld END, csum
                FROM notes NOT INDEXED
                WHERE id > ? AND typeof(flds) = 'text'
                ORDER BY id
                LIMIT ?
                """,
                (self._last, _NOTES),
            ).fetchall()
            self._see_layouts()
            self.underived.clear()
            for row in rows:
                self._look(*row)
        finally:
            self._db.execute("COMMIT")
        if rows:
            self._last = rows[-1][0]
        return len(rows)

    def _see_layouts(self) -> None:
        """Notetypes may have been replaced by an upload since the last batch."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return
        self._version = version
        configs = notetypes.configs(self._db)
        self._layouts = {
            ntid: (layout.fields, _sort_index(configs[ntid]))
            for ntid, layout in notetypes.layouts(self._db).items()
        }

    def _look(
        self, nid: int, mid: int, guid: bytes, tags: bytes, flds: bytes, sfld: Any, csum: Any
    ) -> None:
        texts = (guid, tags, flds, sfld if isinstance(sfld, bytes) else b"")
        if not all(map(faults.is_utf8, texts)):
            self._note("text", nid)
            return
        fields, sort_index = self._layouts.get(mid, (0, None))
        if fields and flds.count(FIELD_SEPARATOR.encode()) + 1 != fields:
            self._note("note-fields", nid)
        if sort_index is None:
            return
        sort_field, checksum = sort_field_and_checksum(note_fields(flds.decode()), sort_index)
        if csum != checksum or not self._is_stored_as(nid, sort_field, sfld):
            self._note("derived", nid)
            self.underived.append((sort_field, checksum, nid, flds))

    def _is_stored_as(self, nid: int, sort_field: str, stored: Any) -> bool:
        if isinstance(stored, bytes):
            return stored == sort_field.encode()
        # A number where the text looks like one: SQLite compares as it stores.
        found = self._db.execute("SELECT sfld IS ? FROM notes WHERE id = ?", (sort_field, nid))
        return bool(found.fetchone()[0])

    def _note(self, kind: str, nid: int) -> None:
        self._counts[kind] += 1
        if len(self._found[kind]) < faults.NAMED:
            self._found[kind].append(nid)

    def derive(self) -> None:
        """Stores what the last batch lacks. It is never sent, so no device hears of it."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "UPDATE notes SET sfld = ?, csum = ? WHERE id = ? AND CAST(flds AS blob) = ?",
            self.underived,
        )
        self._db.execute("COMMIT")

    def findings(self, *, repaired: bool) -> Iterator[Finding]:
        """What was wrong with all of them."""
        words = {
            "text": "{n} note{s} with text that clients cannot read",
            "note-fields": "{n} note{s} with more or fewer fields than the notetype",
            "derived": "{n} note{s} whose sort field or checksum is not that of the text",
        }
        for kind, count in self._counts.items():
            if count:
                derived = kind == "derived"
                advice = "" if derived else faults.CHECK_DATABASE
                yield Finding(
                    kind,
                    faults.told(words[kind], self._found[kind], count, advice),
                    repaired=derived and repaired,
                    repairable=derived,
                    harmless=derived,
                )


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


def _sort_index(config: bytes) -> int | None:
    try:
        return notetype.sort_index(config)
    except (BadRequest, TypeError):
        return None
