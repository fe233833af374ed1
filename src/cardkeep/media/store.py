# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the media methods need of a user's media (docs/sync-protocol.md, section 9).

All methods block, and may be called from any thread and any number of processes over the
same base folder. Users never wait for each other; the uploads of one user take turns for the
moment in which files are moved in and the index commits. Only `last_usn` is certainly
short.
"""

import contextlib
import hashlib
import itertools
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from cardkeep.disk import Remembered, Stamp
from cardkeep.errors import BadRequest, MissingMedia, Unavailable
from cardkeep.media import index
from cardkeep.media.bringing import BroughtBack, Wish, bring_back
from cardkeep.media.connections import Connections, NoIndexError
from cardkeep.media.delivery import Delivery, Wishes, opened, settle_leftovers
from cardkeep.media.files import MediaFolder, pieces
from cardkeep.media.incoming import ByteStore, Incoming
from cardkeep.media.index import Entry, Fingerprint
from cardkeep.media.resting import RestingIndexes
from cardkeep.media.shared import SharedBytes
from cardkeep.media.trash import CHECKSUM, DEFAULT_DAYS, Swept, Trash
from cardkeep.messages import (
    ByteSource,
    MediaChange,
    MediaEntry,
    MediaUploaded,
)
from cardkeep.records.media_name import check_media_name, is_odd

log = logging.getLogger(__name__)

#: A file that is not deleted: name, checksum (hexadecimal), size.
ListedFile = tuple[str, str, int]

#: Elements of an upload, and names in a request for files (9.3, 9.4).
MAX_FILES = 25

#: An answer to `downloadFiles` ends with the file that brings it over this many bytes (9.4).
DOWNLOAD_TARGET = 2_621_440

# Files up to this size are read, hashed and written in one piece.
_PIECE = 1024 * 1024


class Listing:
    """All files of a user as of one moment, one by one, and the usn of that moment.

    Whoever takes it reads it to its end or closes it: until then the index's log only grows.
    Nobody is held up.
    """

    def __init__(
        self, last_usn: int, files: Iterator[ListedFile], stack: contextlib.ExitStack
    ) -> None:
        self.last_usn = last_usn
        self._files = files
        self._stack = stack

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ListedFile:
        try:
            return next(self._files)
        except StopIteration:
            self.close()
            raise
        except sqlite3.DatabaseError:
            self._files = iter(())
            with self._stack:
                raise

    def close(self) -> None:
        """Ends the reading; further calls do nothing."""
        self._files = iter(())
        self._stack.close()

    # A list that nobody came to read must not keep its index in the past.
    __del__ = close


class MediaStore:
    """The media of all users under `base`."""

    def __init__(
        self,
        base: Path,
        *,
        share: bool = False,
        trash_days: int = DEFAULT_DAYS,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`trash_days`: how long bytes of deleted files are kept, 0 for not at all.

        `share`: the same bytes of several users are stored once; see `shared` for the price.
        """
        self.base = base
        self._trash_days = trash_days
        self.now = now
        self.connections = Connections(base)
        self._resting = RestingIndexes(base)
        self._last_usns = Remembered[int]()
        self._shared = SharedBytes(base) if share else None

    def close(self) -> None:
        """Closes what is open."""
        self.connections.close()

    # --- reading ------------------------------------------------------------------------

    def last_usn(self, user: str, stamp: Stamp | None = None) -> int:
        """The number of the user's last media change. Short enough for the event loop.

        `stamp` is that of the user's folder as of now, if the caller has it: it saves looks.
        """
        try:
            if not self.connections.has_idle(user):
                usn = self._resting.last_usn(user, stamp)
                if usn is not None:
                    return usn
            path = f"{self.base}/{user}/media.db"
            return self._last_usns.read(path, stamp, partial(self._read_last_usn, user))
        except (NoIndexError, FileNotFoundError):
            return 0

    def _read_last_usn(self, user: str) -> int:
        with self.connections.lend(user, hasty=True) as connection:
            return index.last_usn(connection)

    def changes(self, user: str, after_usn: int) -> list[MediaChange]:
        """What changed after `after_usn`, ascending by usn, at most 1000 (9.2)."""
        try:
            with self.connections.lend(user) as connection:
                return index.changes(connection, after_usn)
        except NoIndexError:
            return []

    def sanity(self, user: str, count: int) -> bool:
        """Whether the client has as many files as the index lists (9.5).

        Where it has not, the number is compared with the rows first: if it is the
        server that cannot count, all the user's clients would fail for ever.
        """
        try:
            with self.connections.lend(user) as connection:
                listed = index.totals(connection).files
                if listed != count and listed != index.count_files(connection):
                    with index.writing(connection):
                        listed = index.recount(connection).files
                    log.warning("media of %s: number of files in the index put right", user)
                return listed == count
        except NoIndexError:
            return count == 0

    def listing(self, user: str) -> Listing:
        """Name, SHA-1 in hex and bytes of every file that is not deleted, by name."""
        try:
            with contextlib.ExitStack() as stack:
                connection = stack.enter_context(self.connections.lend(user))
                stack.enter_context(index.reading(connection))
                last_usn = index.last_usn(connection)
                return Listing(last_usn, index.listed(connection), stack.pop_all())
        except NoIndexError:
            return Listing(0, iter(()), contextlib.ExitStack())

    def download(self, user: str, names: Sequence[str]) -> Sequence[tuple[str, ByteSource]]:
        """The first of the files asked for: up to the one that passes 2.5 MiB (9.4).

        Their bytes are open; whoever takes them closes them. Raises BadRequest for too
        many names, MissingMedia if one has no file. See `_forget_missing` for a file
        that the index lists and the folder has not.
        """
        if len(names) > MAX_FILES:
            raise BadRequest(f"{len(names)} media files asked for, at most {MAX_FILES} do")
        if not names:
            return ()
        try:
            with (
                self.connections.lend(user) as connection,
                self.folder(user) as (folder, trash),
            ):
                with Incoming(folder, trash) as incoming:
                    if incoming.uploads():
                        with index.writing(connection):
                            settle_leftovers(connection, incoming, user)
                files = _open(connection, folder, names)
                if files is None:
                    # An upload may be between moving its files in and its commit.
                    with index.writing(connection):
                        files = _open(connection, folder, names)
                        missing = [] if files else _forget_missing(connection, folder)
                if files is None:
                    log.warning("media of %s: %d listed files are not there", user, len(missing))
                    raise MissingMedia(f"{len(missing)} media files of {user} are not there")
                return files
        except NoIndexError:
            raise MissingMedia(f"{user} has no media") from None
        except OSError as error:
            raise Unavailable(f"the media of {user} cannot be read: {error}") from error

    @contextlib.contextmanager
    def earlier(self, user: str) -> Iterator[Callable[[str, str, int], ByteSource | None]]:
        """Opens files as an earlier `listing` has them: from the folder, or out of the trash.

        What it gives takes an element of a listing, and returns None for bytes that are gone.
        """
        if not (self.base / user / "media").is_dir():
            yield lambda *_: None
            return
        with (
            self.folder(user) as (folder, trash),
            self.connections.lend(user, create=True) as connection,
        ):

            def opened(name: str, sha1: str, size: int) -> ByteSource | None:
                wanted = Fingerprint(bytes.fromhex(sha1), size)
                entry = index.entries(connection, [name]).get(name)
                if entry is not None and (entry.sha1, entry.size) == wanted:
                    return folder.open(name)
                return trash.open(wanted)

            yield opened

    # --- changing -----------------------------------------------------------------------

    def upload(self, user: str, entries: Sequence[MediaEntry]) -> MediaUploaded:
        """Stores and deletes files by the table of 9.3, all or nothing.

        On return it is on disk. Raises BadRequest for too many elements, a name that cannot be
        taken, an empty file, and whatever is wrong with the bytes as they are read;
        Unavailable if the disk or the index cannot take it now.
        """
        if len(entries) > MAX_FILES:
            raise BadRequest(f"{len(entries)} media files in one upload, at most {MAX_FILES} do")
        for entry in entries:
            check_media_name(entry.name)
        with self.delivery(user) as delivery:
            reception = _Reception(entries, delivery, self._shared)
            wishes = reception.take()
            return delivery.commit(wishes, int(self.now()), reception.take_again)

    def bring_back(
        self,
        user: str,
        wanted: Iterable[tuple[str, str, int]],
        progress: Callable[[int], object] = lambda names: None,
    ) -> BroughtBack:
        """Gives files the bytes of an earlier `listing`, under new usns.

        Whatever else a user has stays; present bytes of a file that had others go to the
        trash. On return it is on disk. `progress` hears of each few names that are done.

        Raises Unavailable if the disk or the index cannot take it now; some files may be back
        then, and calling it again brings the others.
        """
        results = []
        files = iter(wanted)
        while some := list(itertools.islice(files, MAX_FILES)):
            results += self._bring_back(user, [_wish(*file) for file in some])
            progress(len(some))
        return BroughtBack.of(results)

    def _bring_back(self, user: str, wishes: Sequence[Wish]) -> list[BroughtBack]:
        try:
            with self.delivery(user) as delivery:
                return [bring_back(delivery, wishes, self.stores(delivery), int(self.now()))]
        except BadRequest:
            # One of the names cannot be a file's here, on another file system than before.
            if len(wishes) == 1:
                return [BroughtBack(refused=[wishes[0][0]])]
        return [each for wish in wishes for each in self._bring_back(user, [wish])]

    def sweep_trash(self, user: str, now: float | None = None) -> Swept:
        """Removes for good what a user deleted longer ago than the trash keeps it.

        `now` in seconds. Looks at each file of the trash once; makes nothing.
        """
        if not (self.base / user / "media").is_dir():
            return Swept(0, 0)
        try:
            with self.folder(user) as (_, trash):
                return trash.sweep(self.now() if now is None else now)
        except OSError as error:
            raise Unavailable(f"the trash of {user} cannot be swept: {error}") from error

    # --- for this room ------------------------------------------------------------------

    @contextlib.contextmanager
    def folder(self, user: str) -> Iterator[tuple[MediaFolder, Trash]]:
        """A user's files and trash, for as long as the block runs."""
        with (
            MediaFolder(self.base / user) as folder,
            Trash(folder, days=self._trash_days, shared=self._shared, now=self.now) as trash,
        ):
            yield folder, trash

    @contextlib.contextmanager
    def delivery(self, user: str) -> Iterator[Delivery]:
        """A change of a user's media. Raises Unavailable if the disk cannot take it now."""
        try:
            with (
                self.folder(user) as (folder, trash),
                opened(user, folder, trash, self.connections) as delivery,
            ):
                yield delivery
        except OSError as error:
            raise Unavailable(f"the media of {user} cannot be stored: {error}") from error

    def stores(self, delivery: Delivery) -> Sequence[ByteStore]:
        """Where bytes may be had by their checksum."""
        return [delivery.trash, *([self._shared] if self._shared else [])]


class _Reception:
    """Takes in the bytes of one upload, and knows of each element what they are."""

    def __init__(
        self, entries: Sequence[MediaEntry], delivery: Delivery, shared: SharedBytes | None
    ) -> None:
        self._entries = entries
        self._delivery = delivery
        self._upload = delivery.upload
        self._shared = shared

    def take(self) -> Wishes:
        """Writes what is new aside, and flushes it."""
        # Read, hash and flush first, lock after: a large file holds up nobody.
        names = list(dict.fromkeys(entry.name for entry in self._entries))
        known = index.entries(self._delivery.connection, names)
        self._check_odd_names(known)
        wishes = [
            (entry.name, self._receive(position, known))
            for position, entry in enumerate(self._entries)
        ]
        self._upload.flush()
        if self._shared:
            for position in self._upload.aside:
                if bytes_ := wishes[position][1]:
                    self._upload.keep(position, bytes_, self._shared)
        return wishes

    def take_again(self, position: int) -> None:
        """Writes the bytes of one element aside, whatever is stored already."""
        self._receive(position, {})

    def _check_odd_names(self, known: Mapping[str, Entry]) -> None:
        """Odd names may be deleted where the official server has let them in; no more."""
        for entry in self._entries:
            if is_odd(entry.name) and (entry.data is not None or entry.name not in known):
                raise BadRequest(f"a media name that some systems cannot have: {entry.name!r}")

    def _receive(self, position: int, known: Mapping[str, Entry]) -> Fingerprint | None:
        """Writes an element's bytes aside, unless they are stored already."""
        entry = self._entries[position]
        if entry.data is None:
            return None
        source = entry.data()
        try:
            if source.size > _PIECE:
                fingerprint = self._upload.copy(position, source)
                if self._shared:
                    self._upload.link(position, fingerprint, self._shared)
            else:
                data = b"".join(pieces(source))
                fingerprint = Fingerprint(hashlib.sha1(data).digest(), len(data))
                if not self._has(position, entry.name, fingerprint, known):
                    listed = known.get(entry.name)
                    is_new = self._shared is None and (listed is None or not listed.size)
                    self._upload.write(position, (data,), is_new=is_new)
        finally:
            source.close()
        if not fingerprint.size:
            raise BadRequest(f"the media file {entry.name!r} is empty")
        return fingerprint

    def _has(
        self, position: int, name: str, bytes_: Fingerprint, known: Mapping[str, Entry]
    ) -> bool:
        """Whether the bytes are under that name already, or could be linked from the store."""
        if self._delivery.is_stored(name, bytes_, known):
            return True
        return self._shared is not None and self._upload.link(position, bytes_, self._shared)


def _wish(name: str, sha1: str, size: int) -> Wish:
    if not CHECKSUM.fullmatch(sha1):
        raise BadRequest(f"the checksum of {name!r} is none: {sha1!r}")
    return name, Fingerprint(bytes.fromhex(sha1), size)


def _open(
    connection: sqlite3.Connection, folder: MediaFolder, names: Sequence[str]
) -> list[tuple[str, ByteSource]] | None:
    """The files for an answer; None if one is not as the index lists it.

    Raises MissingMedia for a name that the index does not list.
    """
    entries = index.entries(connection, names)
    files: list[tuple[str, ByteSource]] = []
    total = 0
    try:
        for name in names:
            entry = entries.get(name)
            if entry is None or not entry.size:
                raise MissingMedia(f"no media file {name!r}")
            source = folder.open(name)
            if source is not None:
                files.append((name, source))
            if source is None or source.size != entry.size:
                _close(files)
                return None
            total += entry.size
            if total > DOWNLOAD_TARGET:
                break
    except BaseException:
        _close(files)
        raise
    return files


def _close(files: Sequence[tuple[str, ByteSource]]) -> None:
    for _, source in files:
        source.close()


def _forget_missing(connection: sqlite3.Connection, folder: MediaFolder) -> list[str]:
    """Drops all entries whose files are not there (or of another size), and names them.

    The official server does so with the one file asked for, answers 409, and the client's
    next sync goes on without it. No deletion is recorded, so it reaches no other device;
    instead the count no longer fits those devices that have the file, and the first to notice
    sends it again (9.5). That heals everything; but a folder that has lost a thousand files
    would take a thousand failed syncs, so all are dropped at once.

    Raises Unavailable, and drops nothing, when the folder has no file at all but
    ought to have many: then it is not the folder, but a disk that is not mounted.
    """
    if index.totals(connection).files > MAX_FILES and folder.is_empty():
        raise Unavailable(f"{folder.path} is empty, though its index lists files: not mounted?")
    missing = []
    for page in index.stored_files(connection):
        found = [name for name, listed in page if folder.size(name) != listed.size]
        index.forget(connection, found)
        missing += found
    if missing:
        index.recount(connection)
    return missing
