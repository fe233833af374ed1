# SPDX-License-Identifier: AGPL-3.0-or-later
"""How uploaded bytes get among the media files without anything being lost to a crash.

Theory of operation. The index (media.db) is the authority on which files there are; the
folder is kept in step with it. An upload goes through these states, and may be killed in
any of them:

1. It takes a journal in `.cardkeep/incoming/` (a file whose name is a number) and holds
   its lock (flock) for as long as it lives. It writes the files aside, beside the journal, and
   flushes them. A short file whose name is new has no name at all meanwhile, where the system
   can have such files: it is gone with its process, and one more name costs as much as its bytes.
2. From here on it holds the user's write lock (the transaction on the index). It writes
   into the journal what it is about to do: for each name, which file goes in, or none; and
   gives what will be replaced a second name in `incoming/` (also a file that the index does
   not list: somebody has put it there). Both are flushed.
3. It moves the files in. The folder is flushed.
4. The index commits. (The answer goes out only when `upload` has returned.)
5. Deleted files leave the folder, what was replaced leaves `incoming/`, both for the trash
   (see `trash`), and the journal is blank again. It stays for the next upload: making and
   removing a file each time costs more than all else in this list.

A journal that is not blank, or has files beside it, and that nobody has locked is what a killed
upload left behind. `settle` then makes the folder agree with the index, whichever of the two
the kill came first to. Before the commit: the new files go and the replaced ones come back, so
that a client that was told nothing finds the server as it was. (Finishing the upload
instead would be wrong: by now the client may have yet another version of the file, and
takes whatever is new on the server for newer.) After the commit: step 5 is done. `settle`
looks at bytes and index, not at a state that somebody wrote down; so it may be killed and run
again, and another server may have worked on the folder in between. What was among the media,
even for a moment, and is not listed goes to the trash. A second name in `incoming/` is only that
while the file that is to replace it still waits there; from then on it has the last of the bytes.

The official server knows nothing of all this and need not: at every moment each file that
the index lists is there under its own name, and whole.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, Self

import msgspec

from cardkeep.errors import BadRequest
from cardkeep.media.files import (
    BAD_NAME,
    FOLDER,
    NEW_FILE,
    NOT_THERE,
    MediaFolder,
    begin_flush,
    copy_file,
    names_in,
    open_folder,
    pieces,
    sha1_of,
    write_all,
)
from cardkeep.media.index import Entry, Fingerprint
from cardkeep.media.shared import SharedBytes
from cardkeep.media.trash import Trash
from cardkeep.messages import ByteSource
from cardkeep.records.media_name import leaves_folder

#: For each name the position of the uploaded element whose bytes it gets; None for no file.
Places = Mapping[str, int | None]

_KEY = re.compile("[0-9]{1,4}")
_BLANK = b"[]"
_REPLACED = ".replaced"
# How a file without a name is opened, on Linux.
_NAMELESS: int | None = os.O_TMPFILE | os.O_RDWR if hasattr(os, "O_TMPFILE") else None
# What file systems say that have no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class ByteStore(Protocol):
    """Where bytes may be had by their checksum."""

    def link(self, bytes_: Fingerprint, name: str, folder: int) -> bool:
        """Makes the new file `name` in `folder` out of stored bytes; false if it cannot be."""


class Incoming:
    """The folder in which bytes wait, open for the time of one request."""

    def __init__(self, folder: MediaFolder, trash: Trash) -> None:
        self.folder = folder
        self.trash = trash
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def descriptor(self, *, create: bool = True) -> int:
        """The folder's descriptor; -1 if it is missing and `create` is false."""
        if self._descriptor < 0:
            self._descriptor = self._open(create=create)
        return self._descriptor

    def uploads(self) -> set[str]:
        """The keys of uploads that are under way or were killed."""
        descriptor = self.descriptor(create=False)
        if descriptor < 0:
            return set()
        names = names_in(descriptor)
        journals = {name for name in names if _KEY.fullmatch(name)}
        keys = {name.partition(".")[0] for name in names - journals}
        keys = {key for key in keys if _KEY.fullmatch(key)}
        return keys | {key for key in journals - keys if not _is_blank_file(key, descriptor)}

    def leftovers(self, besides: "Upload | None" = None) -> "Iterator[Upload]":
        """The uploads that were killed. The caller holds the user's write lock."""
        for key in self.uploads() - {besides.key if besides else ""}:
            with Upload(self, key) as upload:
                if upload.claim():
                    yield upload

    def killed(self) -> list[list[str]]:
        """The names that each upload was about to change when it was killed; only looks."""
        found = []
        for key in self.uploads():
            with Upload(self, key) as upload:
                if upload.claim() and upload.is_left():
                    found.append(list(upload.places))
        return found

    def announced(self) -> set[str]:
        """The names that uploads are changing, or were when they were killed.

        What is not among them does not change while the caller holds the user's write lock.
        """
        names: set[str] = set()
        for key in self.uploads():
            with contextlib.suppress(FileNotFoundError):
                journal = os.open(key, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.descriptor())
                try:
                    names.update(_announced(journal))
                finally:
                    os.close(journal)
        return names

    def _open(self, *, create: bool) -> int:
        path, _ = self.folder.beside("incoming")
        try:
            return open_folder(path) if create else os.open(path, FOLDER)
        except FileNotFoundError:
            return -1


class Upload:
    """One upload's bytes on their way in: by whom it was begun, or who found it left over.

    Use it in a `with`. At the end, what was written aside goes away, unless files have been
    moved in and `clear` was not reached: then it is left for the next request.
    """

    def __init__(self, incoming: Incoming, key: str = "") -> None:
        self._incoming = incoming
        self._folder = incoming.folder
        self._trash = incoming.trash
        self._journal = -1
        self._unflushed: dict[int, int] = {}
        self._nameless: dict[int, int] = {}
        self._nameless_mode = _NAMELESS
        self._used = False
        self._is_new = False
        self.key = key
        self.aside: set[int] = set()
        self.places: Places = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_unflushed()
        self._close_nameless()
        if self._journal >= 0:
            if self._used and not self.places:
                self.clear()
            os.close(self._journal)

    # --- states 1 to 3 ------------------------------------------------------------------

    def write(self, position: int, data: Iterable[bytes], *, is_new: bool = False) -> None:
        """Writes the bytes of an element aside; `is_new`: most likely nothing has its name."""
        self._begin()
        self._used = True
        descriptor = self._open_nameless(position) if is_new else None
        if descriptor is None:
            descriptor = os.open(
                self._aside(position), NEW_FILE, 0o666, dir_fd=self._incoming.descriptor()
            )
        self._unflushed[position] = descriptor
        for piece in data:
            write_all(descriptor, piece)
        self.aside.add(position)

    def copy(self, position: int, source: ByteSource) -> Fingerprint:
        """Writes the bytes of a source aside, however many; tells what they were."""
        checksum, size = hashlib.sha1(), 0

        def hashed() -> Iterator[bytes]:
            nonlocal size
            for piece in pieces(source):
                checksum.update(piece)
                size += len(piece)
                yield piece

        self.write(position, hashed())
        return Fingerprint(checksum.digest(), size)

    def link(self, position: int, bytes_: Fingerprint, store: ByteStore) -> bool:
        """Puts stored bytes aside, in place of written ones; false if they are not stored."""
        self._begin()
        self._used = True
        aside, incoming = self._aside(position), self._incoming.descriptor()
        if not store.link(bytes_, f"{aside}.stored", incoming):
            return False
        os.replace(f"{aside}.stored", aside, src_dir_fd=incoming, dst_dir_fd=incoming)
        self.aside.add(position)
        return True

    def keep(self, position: int, bytes_: Fingerprint, shared: SharedBytes) -> None:
        """Stores what was written aside, and flushed, for others to link."""
        shared.keep(bytes_, self._aside(position), self._incoming.descriptor())

    def flush(self) -> None:
        """Returns when all that was written aside is on disk."""
        # All are on their way to the disk before the first is waited for, so they go together.
        for descriptor in self._unflushed.values():
            begin_flush(descriptor)
        for descriptor in self._unflushed.values():
            os.fsync(descriptor)
        self._close_unflushed()

    def _open_nameless(self, position: int) -> int | None:
        if self._nameless_mode is None:
            return None
        try:
            descriptor = os.open(".", self._nameless_mode, 0o666, dir_fd=self._folder.descriptor)
        except OSError:  # this file system has none, or it is a reason that `write` will tell
            self._nameless_mode = None
            return None
        self._nameless[position] = descriptor
        return descriptor

    def drop(self, position: int) -> None:
        """Removes what was written aside for an element; it was not what it should be."""
        os.close(self._unflushed.pop(position))
        if self._nameless.pop(position, None) is None:
            os.unlink(self._aside(position), dir_fd=self._incoming.descriptor())
        self.aside.discard(position)

    def announce(self, places: Places) -> None:
        """Puts on disk what `move_in` is about to do, and keeps what it will replace."""
        self._begin()
        self._used = True
        incoming = self._incoming.descriptor()
        self._write_journal(msgspec.json.encode(list(places.items())))
        self.places = places
        new_names = self._is_new
        for name, position in places.items():
            if position is not None and position not in self._nameless:
                kept = _keep(name, self._folder.descriptor, self._replaced(position), incoming)
                new_names = new_names or kept
        os.fsync(self._journal)
        if new_names:
            os.fsync(incoming)

    def move_in(self) -> None:
        """Puts the files in their places. Raises BadRequest for a name that cannot be."""
        for name, position in self.places.items():
            if position is None:
                continue
            try:
                self._move_in(name, position)
            except OSError as error:
                if error.errno in BAD_NAME:
                    raise BadRequest(f"no file can have this name here: {name!r}") from error
                raise
        self._folder.flush()

    def _move_in(self, name: str, position: int) -> None:
        incoming, media = self._incoming.descriptor(), self._folder.descriptor
        descriptor = self._nameless.get(position)
        if descriptor is not None:
            try:
                _link_nameless(descriptor, name, media)
            except OSError:
                # Mostly since there is something after all.
                self._name(position)
                _keep(name, media, self._replaced(position), incoming)
                os.fsync(incoming)
            else:
                return
        os.replace(self._aside(position), name, src_dir_fd=incoming, dst_dir_fd=media)

    def _name(self, position: int) -> None:
        """Gives a nameless file its name aside, or writes it there anew where that cannot be."""
        descriptor = self._nameless.pop(position)
        try:
            _link_nameless(descriptor, self._aside(position), self._incoming.descriptor())
        except OSError:
            self.write(position, (os.pread(descriptor, os.fstat(descriptor).st_size, 0),))
            self.flush()
        finally:
            os.close(descriptor)

    # --- state 5, and after a crash -----------------------------------------------------

    def claim(self) -> bool:
        """Takes over an upload whose process is gone; false if it is under way."""
        # A journal that is missing is made: bytes may survive a power cut that it did not.
        if not self._lock_journal(self.key):
            return False
        self.places = _announced(self._journal)
        return True

    def is_left(self) -> bool:
        """Whether there is anything to settle or to clear; not so if it has ended meanwhile."""
        return not _is_blank(self._journal) or bool(self._beside())

    def settle(self, entries: Mapping[str, Entry]) -> None:
        """Makes the folder agree with the index; `entries` are its rows for `places`.

        The caller holds the user's write lock, and calls `clear` then.
        """
        incoming, media = self._incoming.descriptor(), self._folder.descriptor
        waiting = names_in(incoming)
        placed = [name for name, position in self.places.items() if position is not None]
        for name, position in self.places.items():
            entry = entries.get(name)
            listed = entry.sha1 if entry is not None and entry.size else None
            if position is not None and self._aside(position) in waiting:
                continue  # never moved in
            if listed is None:
                if not any(self._folder.is_one_file(name, other) for other in placed):
                    self._trash.dispose(name, media)
                continue
            replaced = "" if position is None else self._replaced(position)
            if replaced in waiting and sha1_of(replaced, incoming) == listed != sha1_of(
                name, media
            ):
                os.replace(replaced, name, src_dir_fd=incoming, dst_dir_fd=media)
        self._trash.flush()
        self._folder.flush()

    def clear(self) -> None:
        """Removes what is left beside the journal: replaced bytes, and those never moved in."""
        if self._journal < 0:
            return  # nothing was begun: all of the upload was stored already
        incoming = self._incoming.descriptor()
        left = self._beside()
        second = {name for name in left if name.endswith(_REPLACED)}
        for name in second:
            if name.removesuffix(_REPLACED) in left:
                os.unlink(name, dir_fd=incoming)
            else:
                self._trash.dispose(name, incoming)
        # First the journal: a file that is listed in it and gone from here counts as moved in.
        if not _is_blank(self._journal):
            self._write_journal(_BLANK)
        self.places = {}
        for file in left - second:
            os.unlink(file, dir_fd=incoming)
        self._used = False

    # --- details ------------------------------------------------------------------------

    def _begin(self) -> None:
        """Takes the first journal that is free."""
        if self._journal >= 0:
            return
        for number in itertools.count():
            self.key = str(number)
            if not self._lock_journal(self.key):
                continue
            if _is_blank(self._journal):
                # Beside it may be bytes of an upload that was killed before it wrote its journal.
                with contextlib.suppress(OSError):
                    self.clear()
                    break
            # A leftover that only somebody with the write lock can settle.
            os.close(self._journal)
            self._journal = -1
        self._is_new = os.fstat(self._journal).st_size == 0

    def _lock_journal(self, key: str) -> bool:
        descriptor = self._incoming.descriptor()
        journal = os.open(key, os.O_RDWR | os.O_CREAT, 0o666, dir_fd=descriptor)
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(journal)
            return False
        self._journal = journal
        return True

    def _write_journal(self, text: bytes) -> None:
        # Overwritten and never cut: some file systems take a flush's time to give blocks back.
        os.lseek(self._journal, 0, os.SEEK_SET)
        write_all(self._journal, text.ljust(os.fstat(self._journal).st_size))

    def _beside(self) -> set[str]:
        names = names_in(self._incoming.descriptor())
        return {name for name in names if name.startswith(f"{self.key}.")}

    def _aside(self, position: int) -> str:
        return f"{self.key}.{position}"

    def _replaced(self, position: int) -> str:
        return f"{self._aside(position)}{_REPLACED}"

    def _close_unflushed(self) -> None:
        for position, descriptor in self._unflushed.items():
            if position not in self._nameless:
                os.close(descriptor)
        self._unflushed.clear()

    def _close_nameless(self) -> None:
        for descriptor in self._nameless.values():
            os.close(descriptor)
        self._nameless.clear()


def _link_nameless(descriptor: int, name: str, folder: int) -> None:
    """Gives a nameless file a name; OSError if something has it, or it cannot be."""
    os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder)


def _announced(journal: int) -> Places:
    """What a journal says; nothing if it is not whole, so not flushed, so nothing was moved in."""
    text = os.pread(journal, os.fstat(journal).st_size, 0)
    try:
        places = dict(msgspec.json.decode(text, type=list[tuple[str, int | None]]))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return {} if any(leaves_folder(name) for name in places) else places


def _is_blank(journal: int) -> bool:
    return os.pread(journal, len(_BLANK), 0) in (b"", _BLANK)


def _is_blank_file(name: str, incoming: int) -> bool:
    journal = os.open(name, os.O_RDONLY, dir_fd=incoming)
    try:
        return _is_blank(journal)
    finally:
        os.close(journal)


def _keep(name: str, media: int, kept: str, incoming: int) -> bool:
    """Gives a file a second name, or a copy where there are no hard links; false if it is gone."""
    # Most names are new; to be told so by an exception takes longer.
    if not os.access(name, os.F_OK, dir_fd=media, follow_symlinks=False):
        return False
    try:
        os.link(name, kept, src_dir_fd=media, dst_dir_fd=incoming, follow_symlinks=False)
    except OSError as error:
        if error.errno in NOT_THERE:
            return False
        if error.errno not in _NO_LINKS:
            raise
        copy_file(name, media, kept, incoming)
    return True
