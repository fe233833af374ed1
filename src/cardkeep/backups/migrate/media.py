# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes the media of another server's user ready to be a user's of ours.

What goes into the new index is what the files are, once each was read and compared with its
checksum. A file that does not fit it is not taken over: devices that have the right one
would get this one instead. So they notice that the numbers of files differ, and send it again.
"""

import contextlib
import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from cardkeep.backups.migrate import copying
from cardkeep.backups.migrate.copying import Tick
from cardkeep.backups.migrate.source import MediaPlace
from cardkeep.errors import MigrationError, Unavailable
from cardkeep.media.files import BAD_NAME, open_file, open_folder, sha1_of
from cardkeep.media.foreign import ForeignIndex, Listed, NewIndex, is_fit, unlisted
from cardkeep.media.index import Fingerprint
from cardkeep.records.media_name import leaves_folder

_PIECE = 1024 * 1024
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
# Names of files left out that are told; of the rest, their number.
_TOLD = 1000


class Amount(msgspec.Struct, frozen=True):
    """How many files there are, and their bytes."""

    files: int
    bytes: int


class Outcome(msgspec.Struct):
    """What was taken over, and for each file that was not, why."""

    files: int = 0
    bytes: int = 0
    left_out: list[tuple[str, str]] = []
    left_out_in_all: int = 0

    def leave_out(self, name: str, why: str) -> None:
        """Notes a file that is not taken over."""
        self.left_out_in_all += 1
        if len(self.left_out) < _TOLD:
            self.left_out.append((copying.printable(name), why))


def amount(place: MediaPlace, work: Path) -> Amount:
    """How much there is to be taken over. Raises MigrationError for an unreadable index."""
    if not place.folder.is_dir():
        return Amount(0, 0)
    folder = os.open(place.folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.ExitStack() as stack:
            names: Iterable[str] = (
                stack.enter_context(_index(place.index, work)).names()
                if place.index
                else _plain_files(place.folder)
            )
            sizes = [size for name in names if (size := _size(name, folder))]
    finally:
        os.close(folder)
    return Amount(len(sizes), sum(sizes))


def make_ready(place: MediaPlace, user: Path, work: Path, tick: Tick) -> Outcome:
    """Fills `media/` and makes `media.db` in the folder `user`.

    Files that a run before has copied, and that are right, are kept. Raises MigrationError for an
    unreadable index.
    """
    outcome = Outcome()
    target = user / "media.db"
    target.unlink(missing_ok=True)
    making = work / "media.db"
    copying.discard(making)
    with contextlib.ExitStack() as stack:
        to = open_folder(user / "media")
        stack.callback(os.close, to)
        source = None
        if place.folder.is_dir():
            source = os.open(place.folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, source)
        new = stack.enter_context(NewIndex(making))
        if place.index:
            index = stack.enter_context(_index(place.index, work))
            _take_all(index.entries(), source, to, new, outcome, tick)
            last_usn = index.last_usn
        else:
            listed = list(unlisted(_plain_files(place.folder)))
            _take_all(listed, source, to, new, outcome, tick)
            last_usn = len(listed)
        _drop_others(user / "media", new)
        totals = new.finish(last_usn, is_whole=not outcome.left_out_in_all)
    outcome.files, outcome.bytes = totals.files, totals.total_bytes
    making.rename(target)
    return outcome


def _take_all(
    entries: Iterable[Listed],
    source: int | None,
    to: int,
    new: NewIndex,
    outcome: Outcome,
    tick: Tick,
) -> None:
    for listed in entries:
        if listed.deleted:
            if is_fit(listed.name):
                new.add(listed, None)
            continue
        bytes_ = _take(listed, source, to, tick)
        if isinstance(bytes_, str):
            outcome.leave_out(listed.file, bytes_)
        elif not new.add(listed, bytes_):
            outcome.leave_out(listed.file, "there are two of that name")


def _take(listed: Listed, source: int | None, to: int, tick: Tick) -> Fingerprint | str:
    """Copies a file, unless the copy is there already; what it is, or why it is left out."""
    if not is_fit(listed.name):
        return "clients cannot have a file of that name"
    size = _size(listed.file, source) if source is not None else None
    if source is None or size is None:
        return "the file is not there"
    if size == 0:
        return "the file is empty"
    if listed.sha1 and _size(listed.name, to) == size and sha1_of(listed.name, to) == listed.sha1:
        tick(size)
        return Fingerprint(listed.sha1, size)
    try:
        bytes_ = _copy(listed, source, to, tick)
    except OSError as error:
        if error.errno not in BAD_NAME:
            raise
        return "no file can have that name here"
    if bytes_ is None:
        return "the file is not there"
    if listed.sha1 and listed.sha1 != bytes_.sha1:
        os.unlink(listed.name, dir_fd=to)
        return "the file is not the one that was stored (its checksum differs)"
    return bytes_


def _copy(listed: Listed, source: int, to: int, tick: Tick) -> Fingerprint | None:
    opened = open_file(listed.file, source)
    if opened is None:
        return None
    sha1, size = hashlib.sha1(), 0
    try:
        target = os.open(listed.name, _NEW_FILE, 0o600, dir_fd=to)
        with os.fdopen(target, "wb") as file:
            while piece := opened.read(_PIECE):
                file.write(piece)
                sha1.update(piece)
                size += len(piece)
                tick(len(piece))
    finally:
        opened.close()
    return Fingerprint(sha1.digest(), size)


def _drop_others(folder: Path, new: NewIndex) -> None:
    """Removes what a run before has copied and what is not listed any more."""
    with os.scandir(folder) as found:
        names = [entry.name for entry in found]
    for name in names:
        if not new.lists(name):
            (folder / name).unlink()


@contextlib.contextmanager
def _index(path: Path, work: Path) -> Iterator[ForeignIndex]:
    copy = work / "index"
    try:
        copying.copy(path, copy)
        copying.fold(copy)
        with ForeignIndex(copy) as index:
            yield index
    except (Unavailable, sqlite3.Error) as error:
        raise MigrationError(f"its media cannot be used: {error}") from error
    finally:
        copying.discard(copy)


def _plain_files(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as found:
        names = [entry.name for entry in found if entry.is_file(follow_symlinks=False)]
    yield from sorted(name for name in names if not name.startswith("."))


def _size(name: str, folder: int) -> int | None:
    """Bytes of a plain file; None if there is none."""
    if leaves_folder(name):
        return None
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
