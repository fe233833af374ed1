# SPDX-License-Identifier: AGPL-3.0-or-later
"""How uploaded bytes get among the media files without anything being lost to a crash.

Theory of operation. The index (media.db) is the authority on which files there are; the
folder is kept in step with it. An upload goes through these states, and may be killed in
any of them:

1. It writes the files aside, in `.cardkeep/incoming/`, and flushes them. Before the first one
   it makes a journal there, locked (flock) for as long as its process lives.
2. From here on it holds the user's write lock (the transaction on the index). It writes
   into the journal what it is about to do: for each name, which file goes in, or none; and
   gives what will be replaced a second name in `incoming/`. Both are flushed.
3. It moves the files in. The folder is flushed.
4. The index commits. (The answer goes out only when `upload` has returned.)
5. Deleted files leave the folder, what was replaced leaves `incoming/`, last goes the journal.

A journal that nobody has locked is what a killed upload left behind. `settle` then makes the
folder agree with the index, whichever of the two the kill came first to. Before the commit:
the new files go and the replaced ones come back, so that a client that was told nothing finds
the server as it was. (Finishing the upload instead would be wrong: by now the client may
have yet another version of the file, and takes whatever is new on the server for newer.)
After the commit: step 5 is done. `settle` looks at bytes and index, not at a state that
somebody wrote down; so it may be killed and run again, and another server may have worked on
the folder in between.

The official server knows nothing of all this and need not: at every moment each file that
the index lists is there under its own name, and whole.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Self

import msgspec

from cardkeep.errors import BadRequest
from cardkeep.media.files import FOLDER, MediaFolder, dispose, open_file, open_folder, sha1_of
from cardkeep.media.index import Entry
from cardkeep.records.media_name import leaves_folder

#: For each name the position of the uploaded element whose bytes it gets; None for no file.
Places = Mapping[str, int | None]

# Where `media/` lies on another file system than the user's folder, nothing can be moved into
# it from there, so bytes are written aside within it. (The official server does not
# look at files that its index does not list.)
_WITHIN_MEDIA = ".cardkeep-incoming"
_PIECE = 1024 * 1024
_KEY_BYTES = 8
_KEY = re.compile(f"[0-9a-f]{{{2 * _KEY_BYTES}}}")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
# What file systems say to names that they cannot have.
_BAD_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
# What file systems say that have no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class Incoming:
    """The folder in which bytes wait, open for the time of one request."""

    def __init__(self, folder: MediaFolder) -> None:
        self.folder = folder
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
        """The uploads that are under way or were killed."""
        descriptor = self.descriptor(create=False)
        if descriptor < 0:
            return set()
        keys = {name.partition(".")[0] for name in _names(descriptor)}
        return {key for key in keys if _KEY.fullmatch(key)}

    def leftovers(self, besides: "Upload | None" = None) -> "Iterator[Upload]":
        """The uploads that were killed. The caller holds the user's write lock."""
        for key in self.uploads() - {besides.key if besides else ""}:
            with Upload(self, key) as upload:
                if upload.claim():
                    yield upload

    def _open(self, *, create: bool) -> int:
        own = self.folder.user_folder / ".cardkeep"
        if create:
            os.close(open_folder(own))
        try:
            same = own.stat().st_dev == os.fstat(self.folder.descriptor).st_dev
            path = own / "incoming" if same else self.folder.path / _WITHIN_MEDIA
            return open_folder(path) if create else os.open(path, FOLDER)
        except FileNotFoundError:
            return -1


class Upload:
    """One upload's bytes on their way in: by whom it was begun, or who found it left over.

    Use it in a `with`. At the end, what was written aside goes away, unless files have been
    moved in and neither `clear` nor `settle` was reached: then it is left for the next request.
    """

    def __init__(self, incoming: Incoming, key: str | None = None) -> None:
        self._incoming = incoming
        self._folder = incoming.folder
        self.key = key or secrets.token_hex(_KEY_BYTES)
        self._journal = -1
        self._unflushed: list[int] = []
        self.aside: set[int] = set()
        self.places: Places = {}
        self._cleared = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_unflushed()
        if self._journal >= 0:
            if not self.places and not self._cleared:
                self.clear()
            os.close(self._journal)

    # --- states 1 to 3 ------------------------------------------------------------------

    def write(self, position: int, pieces: Iterable[bytes]) -> None:
        """Writes the bytes of an element aside."""
        self._begin()
        descriptor = os.open(
            self._aside(position), _NEW_FILE, 0o666, dir_fd=self._incoming.descriptor()
        )
        self._unflushed.append(descriptor)
        for piece in pieces:
            write_all(descriptor, piece)
        self.aside.add(position)

    def flush(self) -> None:
        """Returns when all that was written aside is on disk."""
        # All are written before the first is flushed: the file system then writes them together.
        for descriptor in self._unflushed:
            os.fsync(descriptor)
        self._close_unflushed()

    def announce(self, places: Places, listed: Iterable[str]) -> None:
        """Puts on disk what `move_in` is about to do, and keeps what it will replace.

        `listed` are the files that the index has, and that must be able to come back.
        """
        self._begin()
        incoming = self._incoming.descriptor()
        write_all(self._journal, msgspec.json.encode(list(places.items())))
        self.places = places
        for name in listed:
            position = places.get(name)
            if position is not None:
                _keep(name, self._folder.descriptor, self._replaced(position), incoming)
        os.fsync(self._journal)
        os.fsync(incoming)

    def move_in(self) -> None:
        """Puts the files in their places. Raises BadRequest for a name that cannot be."""
        incoming, media = self._incoming.descriptor(), self._folder.descriptor
        for name, position in self.places.items():
            if position is None:
                continue
            try:
                os.replace(self._aside(position), name, src_dir_fd=incoming, dst_dir_fd=media)
            except OSError as error:
                if error.errno in _BAD_NAME:
                    raise BadRequest(f"no file can have this name here: {name!r}") from error
                raise
        self._folder.flush()

    # --- state 5, and after a crash -----------------------------------------------------

    def claim(self) -> bool:
        """Takes over an upload whose process is gone; false if it is under way or over."""
        # A missing journal is made: bytes may survive a power cut that it did not survive.
        descriptor = self._incoming.descriptor()
        journal = os.open(self.key, os.O_RDWR | os.O_CREAT, 0o666, dir_fd=descriptor)
        if not _lock(journal):
            os.close(journal)
            return False
        self._journal = journal
        try:
            text = os.pread(journal, os.fstat(journal).st_size, 0)
            places = dict(msgspec.json.decode(text, type=list[tuple[str, int | None]]))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # Not whole, so not flushed, so nothing was moved in yet.
            return True
        if not any(leaves_folder(name) for name in places):
            self.places = places
        return True

    def settle(self, entries: Mapping[str, Entry]) -> None:
        """Makes the folder agree with the index; `entries` are its rows for `places`.

        The caller holds the user's write lock.
        """
        incoming, media = self._incoming.descriptor(), self._folder.descriptor
        waiting = _names(incoming)
        for name, position in self.places.items():
            entry = entries.get(name)
            listed = entry.sha1 if entry is not None and entry.size else None
            if position is not None and self._aside(position) in waiting:
                continue  # never moved in
            if listed is None:
                dispose(name, media)
                continue
            replaced = "" if position is None else self._replaced(position)
            if replaced in waiting and sha1_of(replaced, incoming) == listed != sha1_of(
                name, media
            ):
                os.replace(replaced, name, src_dir_fd=incoming, dst_dir_fd=media)
        self._folder.flush()
        self.clear()

    def clear(self) -> None:
        """Removes what is left in `incoming/`: bytes never moved in, or replaced ones."""
        incoming = self._incoming.descriptor()
        replaced = {
            self._replaced(position): name
            for name, position in self.places.items()
            if position is not None
        }
        left = {file for file in _names(incoming) if file.startswith(f"{self.key}.")}
        for file in left & replaced.keys():
            dispose(replaced[file], incoming, file)
        if left := left - replaced.keys():
            # From here on the journal says nothing; else a file that is now gone from here
            # would count as moved in, if we are killed before the end.
            os.ftruncate(self._journal, 0)
            for file in left:
                os.unlink(file, dir_fd=incoming)
        self.places = {}
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.key, dir_fd=incoming)
        self._cleared = True

    # --- details ------------------------------------------------------------------------

    def _begin(self) -> None:
        """Makes the journal, whose lock says that this upload is under way."""
        while self._journal < 0:
            descriptor = self._incoming.descriptor()
            journal = os.open(
                self.key, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=descriptor
            )
            # Whoever looks for leftovers may have come between the two calls and taken it for one.
            if _lock(journal) and os.fstat(journal).st_nlink:
                self._journal = journal
            else:
                os.close(journal)
                self.key = secrets.token_hex(_KEY_BYTES)

    def _aside(self, position: int) -> str:
        return f"{self.key}.{position}"

    def _replaced(self, position: int) -> str:
        return f"{self.key}.{position}.replaced"

    def _close_unflushed(self) -> None:
        for descriptor in self._unflushed:
            os.close(descriptor)
        self._unflushed.clear()


def _lock(journal: int) -> bool:
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _keep(name: str, media: int, kept: str, incoming: int) -> None:
    """Gives a file a second name, or a copy where there are no hard links."""
    try:
        os.link(name, kept, src_dir_fd=media, dst_dir_fd=incoming, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _copy(name, media, kept, incoming)


def _copy(name: str, media: int, kept: str, incoming: int) -> None:
    source = open_file(name, media)
    if source is None:
        return
    target = os.open(kept, _NEW_FILE, 0o666, dir_fd=incoming)
    try:
        while piece := source.read(_PIECE):
            write_all(target, piece)
        os.fsync(target)
    finally:
        source.close()
        os.close(target)


def _names(folder: int) -> set[str]:
    with os.scandir(folder) as found:
        return {entry.name for entry in found}


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`, in one call if the system takes it in one."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])
