# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the media methods need of a user's media (docs/sync-protocol.md, section 9).

All methods block, and may be called from any thread and any number of processes over the
same base folder. Users never wait for each other; the uploads of one user take turns for the
moment in which files are moved in and the index commits. Only `last_usn` is certainly
short.
"""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cardkeep.errors import BadRequest, MissingMedia, Unavailable
from cardkeep.media import index
from cardkeep.media.connections import Connections, NoIndexError
from cardkeep.media.files import MediaFolder
from cardkeep.media.incoming import Incoming, Upload
from cardkeep.media.index import Entry, Fingerprint, Merged
from cardkeep.media.resting import RestingIndexes
from cardkeep.media.shared import SharedBytes
from cardkeep.messages import (
    ByteSource,
    MediaChange,
    MediaEntry,
    MediaFiles,
    MediaUploaded,
)
from cardkeep.records.media_name import check_media_name, is_odd

log = logging.getLogger(__name__)

#: Elements of an upload, and names in a request for files (9.3, 9.4).
MAX_FILES = 25

#: An answer to `downloadFiles` ends with the file that brings it over this many bytes (9.4).
DOWNLOAD_TARGET = 2_621_440

# Files up to this size are read, hashed and written in one piece.
_PIECE = 1024 * 1024


class MediaStore:
    """The media of all users under `base`."""

    def __init__(
        self, base: Path, *, share: bool = False, now: Callable[[], float] = time.time
    ) -> None:
        """`share`: the same bytes of several users are stored once; see `shared` for the price."""
        self._base = base
        self._now = now
        self._connections = Connections(base)
        self._resting = RestingIndexes(base)
        self._shared = SharedBytes(base) if share else None

    def close(self) -> None:
        """Closes what is open."""
        self._connections.close()

    # --- reading ------------------------------------------------------------------------

    def last_usn(self, user: str) -> int:
        """The number of the user's last media change. Short enough for the event loop."""
        try:
            if not self._connections.has_idle(user):
                usn = self._resting.last_usn(user)
                if usn is not None:
                    return usn
            with self._connections.lend(user, hasty=True) as connection:
                return index.last_usn(connection)
        except (NoIndexError, FileNotFoundError):
            return 0

    def changes(self, user: str, after_usn: int) -> list[MediaChange]:
        """What changed after `after_usn`, ascending by usn, at most 1000 (9.2)."""
        try:
            with self._connections.lend(user) as connection:
                return index.changes(connection, after_usn)
        except NoIndexError:
            return []

    def listing(self, user: str) -> Iterator[tuple[str, str, int]]:
        """Name, SHA-1 in hex and bytes of every file that is not deleted, in one state."""
        try:
            with self._connections.lend(user) as connection:
                for name, bytes_ in index.listing(connection):
                    yield name, bytes_.sha1.hex(), bytes_.size
        except NoIndexError:
            return

    def sanity(self, user: str, count: int) -> bool:
        """Whether the client has as many files as the index lists (9.5).

        Where it has not, the number is compared with the rows first: if it is the
        server that cannot count, all the user's clients would fail for ever.
        """
        try:
            with self._connections.lend(user) as connection:
                listed = index.totals(connection).files
                if listed != count and listed != index.count_files(connection):
                    with index.writing(connection):
                        listed = index.recount(connection).files
                    log.warning("media of %s: number of files in the index put right", user)
                return listed == count
        except NoIndexError:
            return count == 0

    def download(self, user: str, names: Sequence[str]) -> MediaFiles:
        """The first of the files asked for: up to the one that passes 2.5 MiB (9.4).

        Their bytes are open; whoever takes them closes them. Raises BadRequest for too
        many names, MissingMedia if one has no file. See `_forget_missing` for a file
        that the index lists and the folder has not.
        """
        if len(names) > MAX_FILES:
            raise BadRequest(f"{len(names)} media files asked for, at most {MAX_FILES} do")
        if not names:
            return MediaFiles(())
        try:
            with (
                self._connections.lend(user) as connection,
                MediaFolder(self._base / user) as folder,
            ):
                with Incoming(folder) as incoming:
                    if incoming.uploads():
                        with index.writing(connection):
                            _settle_leftovers(connection, incoming, user)
                files = _open(connection, folder, names)
                if files is None:
                    # An upload may be between moving its files in and its commit.
                    with index.writing(connection):
                        files = _open(connection, folder, names)
                        missing = [] if files else _forget_missing(connection, folder)
                if files is None:
                    log.warning("media of %s: %d listed files are not there", user, len(missing))
                    raise MissingMedia(f"{len(missing)} media files of {user} are not there")
                return MediaFiles(files)
        except NoIndexError:
            raise MissingMedia(f"{user} has no media") from None
        except OSError as error:
            raise Unavailable(f"the media of {user} cannot be read: {error}") from error

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
        try:
            with (
                MediaFolder(self._base / user) as folder,
                Incoming(folder) as incoming,
                self._connections.lend(user, create=True) as connection,
                Upload(incoming) as upload,
            ):
                delivery = _Delivery(user, entries, folder, upload, connection, self._shared)
                return delivery.store(incoming, int(self._now()))
        except OSError as error:
            raise Unavailable(f"the media of {user} cannot be stored: {error}") from error


class _Delivery:
    """One call of `MediaStore.upload`."""

    def __init__(
        self,
        user: str,
        entries: Sequence[MediaEntry],
        folder: MediaFolder,
        upload: Upload,
        connection: sqlite3.Connection,
        shared: SharedBytes | None,
    ) -> None:
        self._user = user
        self._entries = entries
        self._names = list(dict.fromkeys(entry.name for entry in entries))
        self._folder = folder
        self._upload = upload
        self._connection = connection
        self._shared = shared

    def store(self, incoming: Incoming, now: int) -> MediaUploaded:
        # Read, hash and flush first, lock after: a large file holds up nobody.
        known = index.entries(self._connection, self._names)
        self._check_odd_names(known)
        uploaded = [
            (entry.name, self._receive(position, entry, known))
            for position, entry in enumerate(self._entries)
        ]
        self._flush(uploaded)
        try:
            with index.writing(self._connection):
                _settle_leftovers(self._connection, incoming, self._user, besides=self._upload)
                stored = index.entries(self._connection, self._names)
                merged = index.merge(index.totals(self._connection), stored, uploaded)
                places = {**self._lost(stored, merged, uploaded), **merged.places}
                if places:
                    self._move_in(places, stored)
                    index.write(self._connection, merged, now)
        except BaseException:
            self._settle()
            raise
        self._tidy()
        return MediaUploaded(
            len(self._entries), merged.totals.last_usn, *index.difference(stored, merged)
        )

    def _check_odd_names(self, known: Mapping[str, Entry]) -> None:
        """Odd names may be deleted where the official server has let them in; no more."""
        for entry in self._entries:
            if is_odd(entry.name) and (entry.data is not None or entry.name not in known):
                raise BadRequest(f"a media name that some systems cannot have: {entry.name!r}")

    def _receive(
        self, position: int, entry: MediaEntry, known: Mapping[str, Entry]
    ) -> Fingerprint | None:
        """Writes an element's bytes aside, unless they are stored already."""
        if entry.data is None:
            return None
        source = entry.data()
        try:
            if source.size > _PIECE:
                hashing = _Hashing(source)
                self._upload.write(position, hashing)
                fingerprint = hashing.fingerprint()
                if self._shared:
                    self._upload.link(position, fingerprint, self._shared)
            else:
                data = b"".join(_pieces(source))
                fingerprint = Fingerprint(hashlib.sha1(data).digest(), len(data))
                if not self._has(position, entry.name, fingerprint, known):
                    self._upload.write(position, (data,))
        finally:
            source.close()
        if not fingerprint.size:
            raise BadRequest(f"the media file {entry.name!r} is empty")
        return fingerprint

    def _has(
        self, position: int, name: str, bytes_: Fingerprint, known: Mapping[str, Entry]
    ) -> bool:
        """Whether the bytes are under that name already, or could be linked from the store."""
        if self._is_stored(name, bytes_, known):
            return True
        return self._shared is not None and self._upload.link(position, bytes_, self._shared)

    def _flush(self, uploaded: Sequence[tuple[str, Fingerprint | None]]) -> None:
        self._upload.flush()
        if self._shared:
            for position in self._upload.aside:
                if bytes_ := uploaded[position][1]:
                    self._upload.keep(position, bytes_, self._shared)

    def _is_stored(self, name: str, bytes_: Fingerprint, entries: Mapping[str, Entry]) -> bool:
        entry = entries.get(name)
        return (
            entry is not None
            and (entry.sha1, entry.size) == bytes_
            and self._folder.size(name) == bytes_.size
        )

    def _lost(
        self,
        stored: Mapping[str, Entry],
        merged: Merged,
        uploaded: Sequence[tuple[str, Fingerprint | None]],
    ) -> dict[str, int]:
        """Files that the index has just as they were sent, but the folder has not.

        Nothing changes for the clients; the bytes are simply put back.
        """
        return {
            name: position
            for position, (name, bytes_) in enumerate(uploaded)
            if bytes_ is not None
            and name not in merged.entries
            and not self._is_stored(name, bytes_, stored)
        }

    def _move_in(self, places: Mapping[str, int | None], stored: Mapping[str, Entry]) -> None:
        needed = {position for position in places.values() if position is not None}
        if absent := needed - self._upload.aside:
            # Stored when we looked, gone when it was our turn.
            for position in absent:
                self._receive(position, self._entries[position], {})
            self._upload.flush()
        self._upload.announce(places, [name for name, entry in stored.items() if entry.size])
        self._upload.move_in()

    def _settle(self) -> None:
        """Takes back, or completes, what this upload did to the folder."""
        if self._upload.places:
            with index.writing(self._connection):
                self._upload.settle(index.entries(self._connection, list(self._upload.places)))

    def _tidy(self) -> None:
        """Removes deleted and replaced files; what fails here, the next request does."""
        try:
            if None in self._upload.places.values():
                self._settle()
            else:
                self._upload.clear()
        except (OSError, sqlite3.Error) as error:
            log.warning("media of %s: tidying up is left for later: %s", self._user, error)


class _Hashing:
    """Hands on the bytes of a large file, and knows afterwards what they were."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._sha1 = hashlib.sha1()
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in _pieces(self._source):
            self._sha1.update(piece)
            self._size += len(piece)
            yield piece

    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self._sha1.digest(), self._size)


def _pieces(source: ByteSource) -> Iterator[bytes]:
    while piece := source.read(_PIECE):
        yield piece


def _settle_leftovers(
    connection: sqlite3.Connection, incoming: Incoming, user: str, besides: Upload | None = None
) -> None:
    """Brings folder and index into step after uploads that were killed.

    Where that cannot be done (somebody has put a folder in a file's place, say), the next
    request tries again, and nobody is kept from going on.
    """
    for upload in incoming.leftovers(besides):
        log.info("media of %s: an upload was cut off, putting the folder right", user)
        try:
            upload.settle(index.entries(connection, list(upload.places)))
        except OSError as error:
            log.warning("media of %s: it is left for later: %s", user, error)


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
