# SPDX-License-Identifier: AGPL-3.0-or-later
"""A change of a user's media, once its bytes are aside: into their places, then into the index.

These are the states 2 to 5 of `incoming`. Who writes the bytes aside, and from where, is
told in `store` (what a client sends) and `bringing` (what is kept or found elsewhere).
"""

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence

from cardkeep.media import index
from cardkeep.media.connections import Connections
from cardkeep.media.files import MediaFolder
from cardkeep.media.incoming import Incoming, Places, Upload
from cardkeep.media.index import Entry, Fingerprint, Merged
from cardkeep.media.trash import Trash
from cardkeep.messages import MediaUploaded

log = logging.getLogger(__name__)

#: Names, in order, and the bytes that each is to have; None for a deletion. A position in
#: it is also that of the bytes in `Upload.aside`.
Wishes = Sequence[tuple[str, Fingerprint | None]]


class Delivery:
    """One change, open for the time of one request. Take it from `opened`."""

    def __init__(
        self, user: str, incoming: Incoming, upload: Upload, connection: sqlite3.Connection
    ) -> None:
        self.user = user
        self.folder = incoming.folder
        self.trash = incoming.trash
        self.upload = upload
        self.connection = connection
        self._incoming = incoming

    def commit(
        self, wishes: Wishes, now: int, fetch: Callable[[int], object] | None = None
    ) -> MediaUploaded:
        """Changes folder and index by the table of 9.3, all or nothing; `now` in seconds.

        `fetch` writes the bytes of one position aside, where they were not since the file was
        stored already, and then is not any more. On return all is on disk.
        """
        names = list(dict.fromkeys(name for name, _ in wishes))
        with self._turn():
            stored = index.entries(self.connection, names)
            merged = index.merge(index.totals(self.connection), stored, wishes)
            places = {**self._lost(stored, merged, wishes), **merged.places}
            if places:
                if fetch is not None:
                    self._fetch_absent(places, fetch)
                self._move_in(places)
                index.write(self.connection, merged, now)
        self._tidy()
        changes = index.difference(stored, merged)
        return MediaUploaded(len(wishes), merged.totals.last_usn, *changes)

    def settle_leftovers(self) -> None:
        """Brings folder and index into step after changes that were killed, if there are any."""
        if self._incoming.uploads():
            with index.writing(self.connection):
                settle_leftovers(self.connection, self._incoming, self.user, besides=self.upload)

    def put_back(self, wishes: Sequence[tuple[str, Fingerprint]]) -> set[str]:
        """Gives files the bytes that the index has listed all along; nothing else changes.

        Their bytes are aside. What lies in their places goes to the trash. Returns the names:
        those that are still listed with just these bytes.
        """
        with self._turn():
            stored = index.entries(self.connection, [name for name, _ in wishes])
            places = {
                name: position
                for position, (name, bytes_) in enumerate(wishes)
                if name in stored and stored[name][:2] == bytes_
            }
            if places:
                self._move_in(places)
        self._tidy()
        return set(places)

    def is_stored(self, name: str, bytes_: Fingerprint, entries: Mapping[str, Entry]) -> bool:
        """Whether the index lists just these bytes, and there is a file of their size."""
        entry = entries.get(name)
        return entry is not None and entry[:2] == bytes_ and self.folder.size(name) == bytes_.size

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """The moment in which nobody else changes this user's media."""
        try:
            with index.writing(self.connection):
                settle_leftovers(self.connection, self._incoming, self.user, besides=self.upload)
                yield
        except BaseException:
            self._settle()
            raise

    def _lost(self, stored: Mapping[str, Entry], merged: Merged, wishes: Wishes) -> dict[str, int]:
        """Files that the index has just as they were sent, but the folder has not.

        Nothing changes for the clients; the bytes are simply put back.
        """
        return {
            name: position
            for position, (name, bytes_) in enumerate(wishes)
            if bytes_ is not None
            and name not in merged.entries
            and not self.is_stored(name, bytes_, stored)
        }

    def _fetch_absent(self, places: Places, fetch: Callable[[int], object]) -> None:
        needed = {position for position in places.values() if position is not None}
        if absent := needed - self.upload.aside:
            for position in absent:
                fetch(position)
            self.upload.flush()

    def _move_in(self, places: Places) -> None:
        self.upload.announce(places)
        self.upload.move_in()

    def _settle(self) -> None:
        """Takes back, or completes, what this change did to the folder."""
        if self.upload.places:
            with index.writing(self.connection):
                self.upload.settle(index.entries(self.connection, list(self.upload.places)))
            self.upload.clear()

    def _tidy(self) -> None:
        """Deleted and replaced files go to the trash; what fails here, the next request does."""
        deleted = [name for name, position in self.upload.places.items() if position is None]
        try:
            if deleted:
                self.trash.weigh(deleted)
                self._settle()
            else:
                self.upload.clear()
        except (OSError, sqlite3.Error) as error:
            log.warning("media of %s: tidying up is left for later: %s", self.user, error)


@contextlib.contextmanager
def opened(
    user: str, folder: MediaFolder, trash: Trash, connections: Connections
) -> Iterator[Delivery]:
    """A change that is about to begin; what it has not moved in at the end goes away."""
    with (
        Incoming(folder, trash) as incoming,
        connections.lend(user, create=True) as connection,
        Upload(incoming) as upload,
    ):
        yield Delivery(user, incoming, upload, connection)


def settle_leftovers(
    connection: sqlite3.Connection, incoming: Incoming, user: str, besides: Upload | None = None
) -> int:
    """Brings folder and index into step after changes that were killed; how many they were.

    The caller is within `index.writing`. Where it cannot be done (somebody has put a
    folder in a file's place, say), the next request tries again, and nobody is kept from
    going on.
    """
    settled = 0
    for upload in incoming.leftovers(besides):
        log.info("media of %s: an upload was cut off, putting the folder right", user)
        try:
            upload.settle(index.entries(connection, list(upload.places)))
            upload.clear()
            settled += 1
        except OSError as error:
            log.warning("media of %s: it is left for later: %s", user, error)
    return settled
