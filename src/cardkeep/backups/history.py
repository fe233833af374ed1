# SPDX-License-Identifier: AGPL-3.0-or-later
"""What happened to a user, one row each: `.cardkeep/history`, as JSON lines.

A row is one write to a file opened for appending, so rows of several processes never mix. It is
not flushed: the rows of the last seconds before a power cut are worth less than a disk's turn
in each sync, and what the clients were told is stored is on disk without them. Nor does a row that
cannot be written keep anybody from syncing.

Once the file holds half of what may be kept, or begins with a row that is too old, it becomes
`history.old` in the place of the one before. A line that a crash has torn is skipped.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from enum import StrEnum
from typing import Annotated

import msgspec

from cardkeep.collection.folder import UserFolder
from cardkeep.messages import Counts

log = logging.getLogger(__name__)

_DAY_MS = 86_400_000
# How far apart uploads of media may be that are shown as one.
_PAUSE_MS = 10 * 60 * 1000
_LONGEST_NOTE = 1000
# Longer lines are damage: a row has some hundred bytes.
_LONGEST_LINE = 64 * 1024
_BLOCK = 64 * 1024
_PAGE = 4096
_NEWLINE = b"\n"


class Kind(StrEnum):
    """What happened. Rows may hold other words, of a newer cardkeep."""

    SYNC = "sync"
    UPLOAD = "upload"
    DOWNLOAD = "download"
    MEDIA = "media"
    LOGIN = "login"
    REVOKE = "revoke"
    PASSWORD = "passwd"  # noqa: S105 (the command)
    DISABLE = "disable"
    ENABLE = "enable"
    REMOVE = "remove"
    RESTORE = "restore"
    IMPORT = "import"
    REPAIR = "repair"
    COPY_DELETED = "copy deleted"


class Numbers(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many objects of a kind."""

    added: int = 0
    changed: int = 0
    deleted: int = 0


NONE = Numbers()


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row.

    `time` is ms since 1970, `took` ms. `device` is the login's id, `client` what it said of
    itself; both are empty for what the server's operator did. `received` and `sent` are
    bytes of bodies as they travelled, packed: of a sync those before the request that
    commits, of an upload its own, of a download the collection's. `copy` is the id of the
    kept copy that it caused. What replaced a whole collection has added and deleted all of it.
    """

    # First, so that the age of a file can be seen from its first bytes.
    time: Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
    kind: str
    device: str = ""
    client: str = ""
    address: str = ""
    cards: Numbers = NONE
    notes: Numbers = NONE
    reviews: Numbers = NONE
    decks: Numbers = NONE
    notetypes: Numbers = NONE
    deck_configs: Numbers = NONE
    tags: Numbers = NONE
    media: Numbers = NONE
    received: int = 0
    sent: int = 0
    took: int = 0
    copy: str = ""
    note: str = ""


#: The fields of a row that are numbers of objects, as people want to read them.
COUNTED = ("notes", "cards", "reviews", "media", "decks", "notetypes", "deck_configs", "tags")

_BEGINNING = b'{"time":'
_decode = msgspec.json.Decoder(Row).decode
_encode = msgspec.json.Encoder().encode


def numbers(added: int, changed: int = 0, deleted: int = 0) -> Numbers:
    """Numbers for a row; zeros take no room in it."""
    return Numbers(added, changed, deleted) if added or changed or deleted else NONE


def replaced(row: Row, before: Counts, after: Counts) -> Row:
    """The row with the numbers of a whole collection that took the place of another."""
    return msgspec.structs.replace(
        row,
        cards=numbers(after.cards, 0, before.cards),
        notes=numbers(after.notes, 0, before.notes),
        reviews=numbers(after.revlog, 0, before.revlog),
        decks=numbers(after.decks, 0, before.decks),
        notetypes=numbers(after.notetypes, 0, before.notetypes),
        deck_configs=numbers(after.deck_configs, 0, before.deck_configs),
    )


class History(msgspec.Struct, frozen=True):
    """Writes and reads rows, in any number of threads and processes.

    `most_bytes` is for both files of a user together; rows older than `days` are not shown.
    """

    most_bytes: int = 4 * 1024 * 1024
    days: int = 400

    def add(self, folder: UserFolder, row: Row, *, make: bool = False) -> None:
        """Appends a row. Where that fails, the log says so and that is all.

        Does nothing for a user who has no folder yet, unless it is to `make` one.
        """
        if len(row.note) > _LONGEST_NOTE:
            row = msgspec.structs.replace(row, note=row.note[:_LONGEST_NOTE] + "…")
        try:
            while not self._append(folder, row, make=make):
                pass  # the file was set aside just now
        except OSError as error:
            log.warning("%s: a row could not be written: %s", folder.history, error)

    def rows(self, folder: UserFolder, now: int) -> Iterator[Row]:
        """All rows, newest first, read as they are asked for; `now` in ms."""
        oldest = now - self.days * _DAY_MS
        for line in _lines(folder):
            row = _row(line)
            if row is not None and row.time >= oldest:
                yield row

    def _append(self, folder: UserFolder, row: Row, *, make: bool) -> bool:
        """False if the file had to be set aside first."""
        fd = _open(folder, make=make)
        if fd is None:
            return True
        try:
            size = os.fstat(fd).st_size
            line = _encode(row) + _NEWLINE
            if size:
                if self._is_full(fd, row, size, size + len(line)):
                    _set_aside(folder, fd)
                    return False
                if os.pread(fd, 1, size - 1) != _NEWLINE:
                    line = _NEWLINE + line  # what a crash has torn shall not spoil this row
            if os.write(fd, line) < len(line):
                raise OSError("the disk took a part of it only")
        finally:
            os.close(fd)
        return True

    def _is_full(self, fd: int, row: Row, size: int, after: int) -> bool:
        """Whether a row shall not be added to the file, which is to grow from `size` to `after`.

        Its age is looked at once in a dozen rows.
        """
        if after > self.most_bytes // 2:
            return True
        if size // _PAGE == after // _PAGE:
            return False
        return _first_time(fd) < row.time - self.days * _DAY_MS


def gathered(rows: Iterable[Row]) -> Iterator[Row]:
    """The same rows, newest first, with a device's uploads of media in a row as one.

    A client sends media in requests of 25 files.
    """
    newest: Row | None = None
    reached = 0
    for row in rows:
        if newest is not None and _goes_on(newest, reached, row):
            newest = _together(newest, row)
        else:
            if newest is not None:
                yield newest
            newest = row
        reached = row.time
    if newest is not None:
        yield newest


def _goes_on(newer: Row, reached: int, row: Row) -> bool:
    same = (newer.kind, newer.device, newer.address) == (row.kind, row.device, row.address)
    return same and row.kind == Kind.MEDIA and reached - row.time <= _PAUSE_MS


def _together(newer: Row, row: Row) -> Row:
    ours, theirs = newer.media, row.media
    return msgspec.structs.replace(
        newer,
        client=newer.client or row.client,
        media=numbers(
            ours.added + theirs.added,
            ours.changed + theirs.changed,
            ours.deleted + theirs.deleted,
        ),
        received=newer.received + row.received,
        sent=newer.sent + row.sent,
        took=newer.took + row.took,
    )


# --- writing ----------------------------------------------------------------------------


def _open(folder: UserFolder, *, make: bool) -> int | None:
    """The file for appending; None if the user has no folder and is to get none."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(folder.history, flags)
    except FileNotFoundError:
        pass
    if not (make or folder.root.is_dir()):
        return None
    folder.make()
    return folder.open_own(folder.history, flags)


def _first_time(fd: int) -> int:
    """The time of the first row; that of a far future if it is damaged."""
    beginning, _, _ = os.pread(fd, 32, 0).partition(b",")
    try:
        return int(beginning.removeprefix(_BEGINNING))
    except ValueError:
        return 2**63


def _set_aside(folder: UserFolder, fd: int) -> None:
    """Makes the open file the older one, unless another process just did.

    Who looks and renames holds a lock on the file that has the name. Rows that others
    append meanwhile stay in the file that they opened.
    """
    fcntl.flock(fd, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), folder.history.stat()):
            folder.history.rename(folder.old_history)


# --- reading ----------------------------------------------------------------------------


def _row(line: bytes) -> Row | None:
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _lines(folder: UserFolder) -> Iterator[bytes]:
    """The lines of both files, the last first."""
    with ExitStack() as stack:
        opened: list[int] = []
        # The newer one first: what is set aside in between is then seen twice, and not never.
        for path in (folder.history, folder.old_history):
            with suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                if not any(os.path.sameopenfile(fd, other) for other in opened):
                    opened.append(fd)
        for fd in opened:
            yield from _lines_of(fd)


def _lines_of(fd: int) -> Iterator[bytes]:
    """The lines of a file, the last first; about a block of it is in memory."""
    at = os.fstat(fd).st_size
    rest = b""
    while at > 0:
        start = max(at - _BLOCK, 0)
        rest, *lines = (os.pread(fd, at - start, start) + rest).split(_NEWLINE)
        at = start
        yield from reversed(lines)
        if len(rest) > _LONGEST_LINE:
            rest = b""
    yield rest
