# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checks a user's media while the server runs: index, files, what changes left behind, trash.

Files are hashed outside every lock, so what is found may be a change that was under way.
Therefore nothing is told, and nothing mended, before it was looked at again in the user's turn
(a transaction on the index, without which nobody moves files): is the row still that, and the
file still the one that was hashed? Those turns last a few milliseconds each.

Mended is what has one right answer. A file whose bytes are gone, or are not those that the
index lists, has none unless the right bytes are kept somewhere: the user's devices may have
them, and what a device sends is right.
"""

import contextlib
import hashlib
import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from cardkeep.disk import is_damage
from cardkeep.errors import BadRequest, Unavailable
from cardkeep.media import index
from cardkeep.media.bringing import Wish, put_back
from cardkeep.media.connections import NoIndexError
from cardkeep.media.delivery import settle_leftovers
from cardkeep.media.files import (
    FileSource,
    Identity,
    MediaFolder,
    open_file,
    pieces,
    sha1_of_source,
)
from cardkeep.media.incoming import Incoming
from cardkeep.media.index import MAX_NAMES, Fingerprint
from cardkeep.media.renewal import renew
from cardkeep.media.store import MediaStore
from cardkeep.media.trash import Trash
from cardkeep.messages import Finding
from cardkeep.records.media_name import check_new_media_name

#: Clients send no larger file (docs/sync-protocol.md, 9.3).
LARGEST_FILE = 100 * 1024 * 1024

_MISSING = (
    "the first device that asks for it makes the server forget it, and a device that has it "
    "sends it again"
)
_CHANGED = (
    "once it is moved out of the media folder, a device that has the right one sends it again"
)


_Item = TypeVar("_Item")


class _Suspect(NamedTuple):
    """A file that is not as the index lists it; `seen` is None if there is no file.

    `advice` is for who must help without the right bytes.
    """

    name: str
    listed: Fingerprint
    seen: Identity | None
    kind: str
    what: str
    advice: str


class _Unlisted(NamedTuple):
    """A file that the index does not list; `obstacle` says why it never can be."""

    name: str
    seen: Identity
    bytes_: Fingerprint | None
    obstacle: str


def check_media(
    store: MediaStore,
    user: str,
    *,
    repair: bool = False,
    progress: Callable[[int], object] = lambda more: None,
) -> Iterator[Finding]:
    """Yields what is wrong with a user's media, and mends it if `repair` is true.

    `progress` hears of bytes as they are checked, in all as many as `bytes_to_check` says.
    Raises Unavailable if the disk, or another program that holds the index, stands in the way.
    """
    try:
        yield from _Check(store, user, repair, progress).findings()
    except OSError as error:
        raise Unavailable(f"the media of {user} cannot be checked: {error}") from error


def bytes_to_check(store: MediaStore, user: str) -> int:
    """How much `check_media` will read, as far as the index and the trash tell."""
    size = 0
    with contextlib.suppress(NoIndexError, Unavailable, OSError):
        with store.connections.lend(user) as connection:
            size = index.count_bytes(connection)
        if (store.base / user / "media").is_dir():
            with store.folder(user) as (_, trash):
                size += trash.size()
    return size


class _Check:
    def __init__(
        self, store: MediaStore, user: str, repair: bool, progress: Callable[[int], object]
    ) -> None:
        self._store = store
        self._user = user
        self._repair = repair
        self._progress = progress
        # Of these files nothing can be told: their rows are broken, or a change was cut off.
        self._broken: set[object] = set()
        self._unsettled: set[str] = set()

    def findings(self) -> Iterator[Finding]:
        if not (self._store.base / self._user / "media").is_dir():
            self._repair = False
            yield from self._without_folder()
            return
        with self._store.folder(self._user) as (folder, trash):
            yield from self._trash(trash)  # first, since the others look for bytes there
            damage, may_be_renewed = self._damage()
            if damage and may_be_renewed and self._repair:
                yield from self._renewed(folder, trash, damage)
            elif damage:
                yield from _damaged(damage, repairable=may_be_renewed)
                return
            with self._index() as connection:
                yield from self._leftovers(connection, folder, trash)
                yield from self._index_rows(connection)
                yield from self._listed_files(connection, folder, trash)
                yield from self._unlisted_files(connection, folder, trash)

    @contextlib.contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        """The user's index; for who has none an empty one, which a repair makes."""
        with contextlib.ExitStack() as stack:
            try:
                lent = self._store.connections.lend(self._user, create=self._repair)
                connection = stack.enter_context(lent)
            except NoIndexError:
                connection = stack.enter_context(contextlib.closing(index.empty()))
            yield connection

    # --- the index ----------------------------------------------------------------------

    def _without_folder(self) -> Iterator[Finding]:
        damage, _ = self._damage()
        yield from _damaged(damage, repairable=False)
        if not damage:
            with self._index() as connection:
                if files := index.count_files(connection):
                    yield _no_folder(files)

    def _damage(self) -> tuple[list[str], bool]:
        """What makes the index useless as a whole, and whether a new one would be better.

        Not better than one of a version that is strange to us.
        """
        try:
            with self._index() as connection:
                return index.damage(connection), True
        except Unavailable as error:
            if not _is_damage(error):
                raise
            return [str(error)], error.__cause__ is not None

    def _renewed(
        self, folder: MediaFolder, trash: Trash, damage: Sequence[str]
    ) -> Iterator[Finding]:
        """Puts all files into a new index."""
        aside = renew(folder.user_folder, self._store.now())
        listed = 0
        with self._index() as connection:
            for finding in self._unlisted_files(connection, folder, trash):
                if finding.repaired:
                    listed += 1
                else:
                    yield finding
        yield Finding(
            "media-index",
            f"The media index was damaged: {damage[0]}. There is a new one of {listed} files; the "
            f"old one lies in {aside}.",
            repaired=True,
            repairable=True,
        )

    def _index_rows(self, connection: sqlite3.Connection) -> Iterator[Finding]:
        with index.reading(connection):
            broken = index.broken_rows(connection)
            wrong = [] if broken else index.disagreements(connection)
        if self._repair and (broken or wrong):
            with index.writing(connection):
                broken = index.broken_rows(connection)
                index.forget_broken(connection)
                wrong = index.disagreements(connection)
                index.mend(connection)
        self._broken.update(broken)
        for name in broken:
            yield self._mendable("media-row", f"The media index has a row without sense: {name!r}.")
        for kind, what in wrong:
            yield self._mendable(f"media-{kind}", what)

    def _mendable(self, kind: str, what: str) -> Finding:
        return Finding(kind, what, repaired=self._repair, repairable=True)

    # --- what killed changes left -------------------------------------------------------

    def _leftovers(
        self, connection: sqlite3.Connection, folder: MediaFolder, trash: Trash
    ) -> Iterator[Finding]:
        with Incoming(folder, trash) as incoming:
            left = incoming.killed()
            if self._repair and left:
                with index.writing(connection):
                    settle_leftovers(connection, incoming, self._user)
            still = incoming.killed() if self._repair and left else left
        self._unsettled = {name for names in still for name in names}
        for number in range(len(left)):
            repaired = number < len(left) - len(still)
            yield Finding(
                "media-leftover",
                "A change of media was cut off; the next media sync, or a repair, settles it.",
                repaired=repaired,
                repairable=True,
                harmless=True,
            )

    # --- listed files -------------------------------------------------------------------

    def _listed_files(
        self, connection: sqlite3.Connection, folder: MediaFolder, trash: Trash
    ) -> Iterator[Finding]:
        files = index.count_files(connection)
        if files > MAX_NAMES and folder.is_empty():
            yield _no_folder(files)
            return
        for page in index.stored_files(connection):
            suspects = []
            for name, listed in page:
                if name in self._broken:
                    continue
                suspect = self._look(folder, name, listed)
                if suspect is not None and name not in self._unsettled:
                    suspects.append(suspect)
            for some in _batches(suspects):
                yield from self._tell(connection, folder, trash, some)

    def _look(self, folder: MediaFolder, name: str, listed: Fingerprint) -> _Suspect | None:
        source = folder.open(name)
        if source is None:
            self._progress(listed.size)
            fault = "no plain file" if folder.has_something(name) else "not there"
            what = f"The media file {name!r} is {fault}"
            return _Suspect(name, listed, None, "media-missing", what, _MISSING)
        seen = source.identity()
        if source.size != listed.size:
            source.close()
            self._progress(listed.size)
            what, advice = f"{source.size} bytes, not the {listed.size} of the index", _MISSING
        elif self._sha1(source) != listed.sha1:
            what, advice = "other bytes than the index lists", _CHANGED
        else:
            return None
        what = f"The media file {name!r} has {what}"
        return _Suspect(name, listed, seen, "media-changed", what, advice)

    def _tell(
        self,
        connection: sqlite3.Connection,
        folder: MediaFolder,
        trash: Trash,
        suspects: Sequence[_Suspect],
    ) -> Iterator[Finding]:
        with index.writing(connection):
            entries = index.entries(connection, [suspect.name for suspect in suspects])
            certain = [
                suspect
                for suspect in suspects
                if suspect.name in entries
                and entries[suspect.name][:2] == suspect.listed
                and folder.identity(suspect.name) == suspect.seen
            ]
        wishes = [(suspect.name, suspect.listed) for suspect in certain]
        put = set(self._put_back(wishes)) if self._repair and wishes else set()
        left = [suspect for suspect in certain if suspect.name not in put]
        repairable = put | _whose_bytes_are_kept(connection, folder, trash, left)
        for suspect in certain:
            may_be_mended = suspect.name in repairable
            yield Finding(
                suspect.kind,
                f"{suspect.what}." if may_be_mended else f"{suspect.what}; {suspect.advice}.",
                repaired=suspect.name in put,
                repairable=may_be_mended,
            )

    def _put_back(self, wishes: Sequence[Wish]) -> Iterator[str]:
        """The names of those that have their bytes again."""
        try:
            with self._store.delivery(self._user) as delivery:
                yield from put_back(delivery, wishes, self._store.stores(delivery))
        except (Unavailable, BadRequest):
            # Something is in the way of one of them; no reason to give up the others.
            if len(wishes) > 1:
                for wish in wishes:
                    yield from self._put_back([wish])

    # --- files that are not listed ------------------------------------------------------

    def _unlisted_files(
        self, connection: sqlite3.Connection, folder: MediaFolder, trash: Trash
    ) -> Iterator[Finding]:
        with os.scandir(folder.descriptor) as found:
            for some in _batches(found):
                plain = [entry for entry in some if entry.is_file(follow_symlinks=False)]
                links = [entry.name for entry in some if entry.is_symlink()]
                names = [entry.name for entry in plain if entry.name not in self._unsettled]
                for name in self._not_listed(connection, links):
                    what = f"{name!r} among the media is a link, and links are not followed."
                    yield Finding("media-link", what, harmless=True)
                unlisted = self._look_unlisted(folder, self._not_listed(connection, names))
                if unlisted:
                    yield from self._tell_unlisted(connection, folder, trash, unlisted)

    def _not_listed(self, connection: sqlite3.Connection, names: Sequence[str]) -> list[str]:
        entries = index.entries(connection, [name for name in names if _is_text(name)])
        return [name for name in names if name not in entries or not entries[name].size]

    def _look_unlisted(self, folder: MediaFolder, names: Sequence[str]) -> list[_Unlisted]:
        unlisted = []
        for name in names:
            seen = folder.identity(name)
            if seen is not None:
                obstacle = _obstacle(folder, name)
                bytes_ = None if obstacle or not self._repair else _flushed(folder, name)
                unlisted.append(_Unlisted(name, seen, bytes_, obstacle))
        return unlisted

    def _tell_unlisted(
        self,
        connection: sqlite3.Connection,
        folder: MediaFolder,
        trash: Trash,
        unlisted: Sequence[_Unlisted],
    ) -> Iterator[Finding]:
        with index.writing(connection), Incoming(folder, trash) as incoming:
            # A deleted file leaves the folder a moment after the index.
            leaving = incoming.announced()
            left = [file.name for file in unlisted if file.name not in leaving]
            names = self._not_listed(connection, left)
            certain = [
                file
                for file in unlisted
                if file.name in names and folder.identity(file.name) == file.seen
            ]
            listable = [(file.name, file.bytes_) for file in certain if file.bytes_ is not None]
            if listable:
                folder.flush()
                stored = index.entries(connection, [name for name, _ in listable])
                merged = index.merge(index.totals(connection), stored, listable)
                index.write(connection, merged, int(self._store.now()))
        for file in certain:
            what = f"The media file {file.name!r} is not in the index, so no device hears of it"
            if file.obstacle:
                what = f"{what}, and it cannot be: {file.obstacle}"
            yield Finding(
                "media-unlisted",
                f"{what}.",
                repaired=file.bytes_ is not None,
                repairable=not file.obstacle,
                harmless=bool(file.obstacle),
            )

    # --- the trash ----------------------------------------------------------------------

    def _trash(self, trash: Trash) -> Iterator[Finding]:
        for name, folder in trash.names():
            source = open_file(name, folder)
            if source is None:
                continue
            seen = source.identity()
            checksum = self._sha1(source)
            if checksum.hex() == name:
                continue
            repaired = self._repair and trash.rename(name, seen, checksum, folder)
            what = f"{name!r} in the media trash is not named by its checksum."
            yield Finding("media-trash", what, repaired=repaired, repairable=True)

    def _sha1(self, source: FileSource) -> bytes:
        checksum = hashlib.sha1()
        with contextlib.closing(source):
            for piece in pieces(source):
                checksum.update(piece)
                self._progress(len(piece))
        return checksum.digest()


def _damaged(lines: Sequence[str], *, repairable: bool) -> Iterator[Finding]:
    for line in lines:
        what = f"The media index is damaged: {line}."
        yield Finding("media-index", what, repairable=repairable)


def _no_folder(files: int) -> Finding:
    what = f"The media folder is empty, though the index lists {files} files; is it not mounted?"
    return Finding("media-folder", what)


def _is_damage(error: Unavailable) -> bool:
    cause = error.__cause__
    if not isinstance(cause, sqlite3.DatabaseError):
        return cause is None  # a version that no server writes
    return is_damage(cause)


def _whose_bytes_are_kept(
    connection: sqlite3.Connection,
    folder: MediaFolder,
    trash: Trash,
    suspects: Sequence[_Suspect],
) -> set[str]:
    """Names of those whose bytes seem to be in the trash, or under another name."""
    if not suspects:
        return set()
    others = index.names_with(connection, {suspect.listed.sha1 for suspect in suspects})
    kept = set()
    for name, listed, *_ in suspects:
        sizes = [folder.size(other) for other in others.get(listed.sha1, ()) if other != name]
        source = trash.open(listed)
        if source is not None:
            sizes.append(source.size)
            source.close()
        if listed.size in sizes:
            kept.add(name)
    return kept


def _obstacle(folder: MediaFolder, name: str) -> str:
    """Why a file can never be listed; empty if it can."""
    try:
        check_new_media_name(name)
    except BadRequest as error:
        return error.reason
    size = folder.size(name) or 0
    if not size:
        return "it is empty"
    if size > LARGEST_FILE:
        return f"it has {size} bytes, and clients take {LARGEST_FILE}"
    if folder.is_one_file(name, name.swapcase()):
        return "this file system does not tell cases apart, and it may be listed in another"
    return ""


def _flushed(folder: MediaFolder, name: str) -> Fingerprint | None:
    """What a file's bytes are, and they are on disk; None if it is gone."""
    source = folder.open(name)
    if source is None:
        return None
    source.flush()
    return Fingerprint(sha1_of_source(source), source.size)


def _is_text(name: str) -> bool:
    """Whether it is a text at all: a file system may have any bytes for a name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _batches(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """As many at a time as one look-up takes."""
    remaining = iter(items)
    while some := list(itertools.islice(remaining, MAX_NAMES)):
        yield some
