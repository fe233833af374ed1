# SPDX-License-Identifier: AGPL-3.0-or-later
"""Puts a collection in the place of another on the server's side, so that it reaches the devices.

Devices that synced before know of a state that is gone. They must not merge with the new one,
but ask their user for the direction: so `scm` becomes now, as after any change that cannot be
merged (docs/sync-protocol.md, section 7), and the words that `meta` carries say which direction it
is. A sync that is under way gets 409 at its end, since the collection is another one by then.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cardkeep.backups import damage, history, notice
from cardkeep.backups.history import History, Kind, Row
from cardkeep.backups.keeper import Keeper
from cardkeep.backups.snapshot import Cause, Copy, Reason, Snapshots
from cardkeep.collection import counts, database, header, whole
from cardkeep.collection.header import Header
from cardkeep.collection.library import Library
from cardkeep.collection.session_file import SessionFile
from cardkeep.errors import CopyError, DamagedCollection
from cardkeep.messages import Counts

_KINDS = {Reason.RESTORE: Kind.RESTORE, Reason.IMPORT: Kind.IMPORT}
# What a collection held that could not be read.
_UNKNOWN = Counts(cards=0, notes=0, revlog=0, notetypes=0, decks=0, deck_configs=0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a collection is put: a user, and what is needed to get at the user's things."""

    library: Library
    keeper: Keeper
    history: History
    spool: Path
    user: str
    now_ms: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Put:
    """What was put in place, and the copy that was kept of what it replaced, if any.

    `damaged` is the folder that has what could not be read, and so was no copy made of.
    """

    counts: Counts
    replaced: Copy | None = None
    damaged: Path | None = None


def put_collection(place: Place, file: Path, reason: Reason, words: str, note: str = "") -> Put:
    """Replaces the user's collection by the private `file` (schema 18, inspected), on disk.

    A copy of what it replaces is kept first. `words` is what the devices' users are told until
    they have chosen a direction, `note` what the history says. The file is changed and of no use
    afterwards. Raises Unavailable if no copy can be kept or another program holds the collection.
    """
    begun = place.now_ms()
    try:
        put, before = _put_over(place, file, reason, words)
    except DamagedCollection:
        put, before = _put_aside(place, file, words)
        note = f"{note}; the server's file was damaged"
    row = Row(
        time=place.now_ms(),
        kind=_KINDS[reason],
        took=max(place.now_ms() - begun, 0),
        copy=put.replaced.id if put.replaced else "",
        note=note,
    )
    folder = place.library.folder(place.user)
    place.history.add(folder, history.replaced(row, before, put.counts))
    place.library.settle(place.user)
    return put


def _put_over(place: Place, file: Path, reason: Reason, words: str) -> tuple[Put, Counts]:
    """Also gives what was there before. Raises DamagedCollection if that cannot be read."""
    folder = place.library.folder(place.user)
    with (
        place.library.lend(place.user, heavy=True) as db,
        SessionFile(folder, wait=True),
    ):
        replaced = place.keeper.before(place.user, db, Cause(reason))
        found = header.read(db)
        before = counts.kept(folder, found) or counts.count(db)
        after, total = _renew(place, file, found)
        whole.replace(db, file)
        counts.keep(folder, after, total)
        notice.put(folder, words, after.mod, stays=True)
    return Put(total, replaced), before


def _put_aside(place: Place, file: Path, words: str) -> tuple[Put, Counts]:
    """The same over a collection that cannot be read; it is kept as it lies."""
    folder = place.library.folder(place.user)
    with SessionFile(folder, wait=True):
        after, total = _renew(place, file, None)
        aside = whole.replace_damaged(folder, file, after.mod / 1000)
        counts.keep(folder, after, total)
        notice.put(folder, damage.told_after(words), after.mod, stays=True)
    return Put(total, damaged=aside), _UNKNOWN


def _renew(place: Place, file: Path, found: Header | None) -> tuple[Header, Counts]:
    """Makes the private file one that no device knows; `found` is what it is to follow."""
    with closing(database.connect_private(file)) as private:
        own = header.read(private)
        known = [own, found] if found else [own]
        now = max(place.now_ms(), *(each.mod + 1 for each in known))
        header.set_replaced(private, now=now, usn=max(each.usn for each in known) + 1)
        return header.read(private), counts.count(private)


def restore_collection(
    place: Place,
    copy: Copy,
    words: str,
    progress: Callable[[int], None] | None = None,
) -> Put:
    """Puts a kept copy in the place of what the server has. Raises CopyError if it is damaged."""
    snapshots = place.keeper.snapshots(place.user)
    with unpacked(snapshots, copy, place.spool, progress) as file:
        return put_collection(place, file, Reason.RESTORE, words, f"copy {copy.id}")


@contextmanager
def unpacked(
    snapshots: Snapshots, copy: Copy, folder: Path, progress: Callable[[int], None] | None = None
) -> Iterator[Path]:
    """The collection of a copy as a private file in `folder`, gone at the end."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="body-", suffix=".anki2")
    path = Path(name)
    try:
        try:
            with os.fdopen(descriptor, "wb") as file:
                snapshots.write_collection(copy, file, progress)
        except OSError as error:
            raise CopyError(f"copy {copy.id} cannot be unpacked: {error}") from error
        yield path
    finally:
        path.unlink(missing_ok=True)
