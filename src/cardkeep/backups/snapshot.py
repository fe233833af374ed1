# SPDX-License-Identifier: AGPL-3.0-or-later
"""One kept copy: a collection in one state, and the list of its media, with a manifest.

A copy is a folder below `USER/.cardkeep/snapshots`, named after the time (UTC) of its making:

    manifest.json           what it holds, and why it was taken (class `Copy`)
    collection.anki2.zst    the collection, schema 18, as one zstd frame
    media.zst               the media files there were: JSON lines `[name, sha1, size]`, zstd
    pinned                  empty; while it is there, the copy is not removed

All that a person without this program needs is `zstd -d`. The folder is made under another
name, flushed, and renamed: a copy is whole or not there. Afterwards only the reason in its
manifest and the pin ever change. The bytes of media files are not in it: a file that is deleted
goes to the trash (`media.trash`), where a restore finds it by its checksum.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO

import msgspec
import zstandard

from cardkeep.collection.folder import UserFolder
from cardkeep.collection.header import Header
from cardkeep.disk import flush, give_to_owner
from cardkeep.errors import CopyError, NoSuchCopy
from cardkeep.messages import ByteSource, Counts

#: Bytes read and written at once.
PIECE = 1024 * 1024
# Collections shrink to a third at any level; higher ones cost a multiple for some per cent.
_LEVEL = 1
_MAKING = ".making-"
_LOCK = ".lock"
_MANIFEST = "manifest.json"
_COLLECTION = "collection.anki2.zst"
_MEDIA = "media.zst"
_PINNED = "pinned"
_SCHEMA = 18
_JSON_LINES = 200

MediaFile = tuple[str, str, int]


class Reason(StrEnum):
    """Why a copy was taken: what was about to happen, or that a day began."""

    DAILY = "daily"
    UPLOAD = "upload"
    DELETION = "deletion"
    RESTORE = "restore"
    IMPORT = "import"
    REPAIR = "repair"
    MANUAL = "manual"


#: Copies taken before a step that replaces or deletes much.
DESTRUCTIVE = {Reason.UPLOAD, Reason.DELETION, Reason.RESTORE, Reason.IMPORT, Reason.REPAIR}


class Cause(msgspec.Struct, frozen=True):
    """Why a copy is taken, and which device caused it; the command line has no device."""

    reason: Reason
    device: str = ""
    client: str = ""
    address: str = ""


class Copy(msgspec.Struct, frozen=True):
    """The manifest. `time` in ms, `size` of the collection, `bytes` on disk.

    `checksum` is the SHA-256 of the collection file; `crt`, `mod`, `scm` and `usn` are the
    collection's own (docs/sync-protocol.md, beginning).
    """

    id: str
    time: int
    reason: Reason
    device: str
    client: str
    address: str
    cards: int
    notes: int
    reviews: int
    checksum: str
    size: int
    bytes: int
    schema: int
    crt: int
    mod: int
    scm: int
    usn: int
    media_usn: int
    media_files: int
    pinned: bool = False


class State(msgspec.Struct, frozen=True):
    """What is to be copied: open bytes of a collection, and what is known of them."""

    source: ByteSource
    header: Header
    counts: Counts
    media_usn: int = 0
    media: Iterable[MediaFile] = ()


_copy = msgspec.json.Decoder(Copy)
_media_file = msgspec.json.Decoder(MediaFile)


class Snapshots:
    """The kept copies of one user. All methods block; any process may call them at any time."""

    def __init__(self, folder: UserFolder) -> None:
        self._folder = folder
        self.path = folder.snapshots

    # --- reading ------------------------------------------------------------------------

    def all(self) -> list[Copy]:
        """The copies, newest first. One whose manifest cannot be read is left out."""
        found = []
        for identity in self._ids():
            with contextlib.suppress(CopyError):
                found.append(self.get(identity))
        return sorted(found, key=lambda copy: (copy.time, copy.id), reverse=True)

    def get(self, identity: str) -> Copy:
        """The copy of that id. Raises NoSuchCopy, and CopyError for an unreadable manifest."""
        if identity not in self._ids():
            raise NoSuchCopy(f"there is no kept copy {identity!r}")
        folder = self.path / identity
        try:
            copy = _copy.decode((folder / _MANIFEST).read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            raise CopyError(f"the manifest of copy {identity} cannot be read: {error}") from error
        pinned = (folder / _PINNED).exists()
        return msgspec.structs.replace(copy, id=identity, pinned=pinned)

    def unreadable(self) -> list[str]:
        """Ids of copies whose manifest cannot be read; nothing removes them by itself."""
        return sorted(set(self._ids()) - {copy.id for copy in self.all()})

    def newest(self) -> Copy | None:
        """The copy taken last."""
        copies = self.all()
        return copies[0] if copies else None

    def write_collection(
        self, copy: Copy, target: IO[bytes], progress: Callable[[int], None] | None = None
    ) -> None:
        """Writes the collection to an open file.

        `progress` is told the number of bytes of each piece. Raises CopyError if it is not,
        byte for byte, what was copied; the target is then of no use.
        """
        for piece in self.pieces(copy):
            target.write(piece)
            if progress:
                progress(len(piece))

    def pieces(self, copy: Copy) -> Iterator[bytes]:
        """The collection's bytes. Raises CopyError, at the latest after the last of them."""
        checksum, size = hashlib.sha256(), 0
        try:
            with (self.path / copy.id / _COLLECTION).open("rb") as packed:
                reader = zstandard.ZstdDecompressor().stream_reader(packed, read_size=PIECE)
                while piece := reader.read(PIECE):
                    checksum.update(piece)
                    size += len(piece)
                    if size > copy.size:
                        break
                    yield piece
        except (OSError, zstandard.ZstdError) as error:
            raise CopyError(f"copy {copy.id} cannot be read: {error}") from error
        if size != copy.size or checksum.hexdigest() != copy.checksum:
            raise CopyError(f"copy {copy.id} is damaged: it is not what was copied")

    def media(self, copy: Copy) -> Iterator[MediaFile]:
        """The media files there were: name, SHA-1 in hex, bytes. Raises CopyError."""
        try:
            with (self.path / copy.id / _MEDIA).open("rb") as packed:
                reader = zstandard.ZstdDecompressor().stream_reader(packed, read_size=PIECE)
                rest = b""
                while piece := reader.read(PIECE):
                    *lines, rest = (rest + piece).split(b"\n")
                    yield from map(_media_file.decode, lines)
        except (OSError, zstandard.ZstdError, msgspec.DecodeError) as error:
            raise CopyError(f"the media list of copy {copy.id} cannot be read: {error}") from error

    def packed_size(self, copy: Copy) -> int:
        """The bytes on disk of what `copy.bytes` counts. Raises OSError."""
        return sum((self.path / copy.id / name).stat().st_size for name in (_COLLECTION, _MEDIA))

    def half_made(self) -> list[Path]:
        """What is being made or removed just now, or was left by a killed process."""
        return list(self.path.glob(f"{_MAKING}*"))

    # --- making and removing ------------------------------------------------------------

    def take(self, state: State, cause: Cause, now_ms: int) -> Copy:
        """Keeps a copy; on return it is on disk. Closes the state's source.

        If the newest copy is of the same state, that one is returned instead, and from now
        on counts as taken for this cause if the cause is the weightier one. Raises CopyError
        if the disk does not take it; then nothing is left of it.
        """
        try:
            with self._alone():
                self._sweep()
                newest = self.newest()
                if newest is not None and _is_of(newest, state):
                    return self._promote(newest, cause, now_ms)
                return self._take(state, cause, now_ms)
        except OSError as error:
            raise CopyError(f"no copy could be kept: {error}") from error
        finally:
            state.source.close()

    def id_for(self, state: State, now_ms: int) -> str:
        """The id that a copy of the state has, or will have if it is the first of its second."""
        newest = self.newest()
        return newest.id if newest is not None and _is_of(newest, state) else _name(now_ms)

    def pin(self, copy: Copy) -> None:
        """From now on the copy stays until `unpin`."""
        with _told(copy):
            pin = self.path / copy.id / _PINNED
            pin.touch(mode=0o600)
            give_to_owner(pin, self._folder.root)
            flush(self.path / copy.id)

    def unpin(self, copy: Copy) -> None:
        """Lets the rules decide about the copy again."""
        with _told(copy):
            (self.path / copy.id / _PINNED).unlink(missing_ok=True)

    def delete(self, copy: Copy) -> None:
        """Removes a copy, whole or not at all."""
        aside = self.path / f"{_MAKING}{copy.id}"
        with _told(copy), self._alone():
            (self.path / copy.id).rename(aside)
            shutil.rmtree(aside)

    def sweep(self) -> int:
        """Removes what a killed process left half made or half removed; how many it was."""
        if not self.path.exists():
            return 0
        with self._alone():
            return self._sweep()

    # --- details ------------------------------------------------------------------------

    def _ids(self) -> list[str]:
        try:
            return [path.name for path in self.path.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits until nobody else, in any process, makes or removes a copy of the user."""
        self._folder.make()
        if not self.path.exists():
            self.path.mkdir(mode=0o700, exist_ok=True)
            give_to_owner(self.path, self._folder.root)
        lock = self._folder.open_own(self.path / _LOCK, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _sweep(self) -> int:
        left = self.half_made()
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        return len(left)

    def _take(self, state: State, cause: Cause, now_ms: int) -> Copy:
        making = self.path / f"{_MAKING}{secrets.token_hex(8)}"
        making.mkdir(mode=0o700)
        try:
            with (making / _COLLECTION).open("xb") as target:
                checksum, size = _pack_collection(state.source, target)
                files = _pack_media(state.media, making / _MEDIA)
                copy = Copy(
                    id="",
                    time=now_ms,
                    reason=cause.reason,
                    device=cause.device,
                    client=cause.client,
                    address=cause.address,
                    cards=state.counts.cards,
                    notes=state.counts.notes,
                    reviews=state.counts.revlog,
                    checksum=checksum,
                    size=size,
                    bytes=sum(path.stat().st_size for path in making.iterdir()),
                    schema=_SCHEMA,
                    crt=state.header.crt,
                    mod=state.header.mod,
                    scm=state.header.scm,
                    usn=state.header.usn,
                    media_usn=state.media_usn,
                    media_files=files,
                )
                return self._put_in_place(making, copy)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise

    def _put_in_place(self, making: Path, copy: Copy) -> Copy:
        name = _name(copy.time)
        for number in range(1, 1000):
            named = msgspec.structs.replace(copy, id=name if number == 1 else f"{name}-{number}")
            _write(making / _MANIFEST, msgspec.json.format(msgspec.json.encode(named)))
            for made in (making, *making.iterdir()):
                give_to_owner(made, self._folder.root)
            flush(making)
            try:
                making.rename(self.path / named.id)
            except OSError:
                # A copy of that second is there; anything else comes again below.
                if not (self.path / named.id).exists():
                    raise
                continue
            flush(self.path)
            flush(self.path.parent)
            return named
        raise CopyError(f"there are too many copies of {name}")

    def _promote(self, copy: Copy, cause: Cause, now_ms: int) -> Copy:
        if cause.reason not in DESTRUCTIVE or copy.reason in DESTRUCTIVE:
            return copy
        promoted = msgspec.structs.replace(
            copy,
            time=now_ms,
            reason=cause.reason,
            device=cause.device,
            client=cause.client,
            address=cause.address,
            pinned=False,
        )
        manifest = self.path / copy.id / _MANIFEST
        aside = manifest.with_suffix(".new")
        _write(aside, msgspec.json.format(msgspec.json.encode(promoted)))
        give_to_owner(aside, self._folder.root)
        aside.rename(manifest)
        flush(manifest.parent)
        return msgspec.structs.replace(promoted, pinned=copy.pinned)


def _name(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y%m%d-%H%M%S")


def _is_of(copy: Copy, state: State) -> bool:
    """Whether a copy is of this very state."""
    header, counts = state.header, state.counts
    return (copy.crt, copy.mod, copy.scm, copy.usn, copy.media_usn) == (
        header.crt,
        header.mod,
        header.scm,
        header.usn,
        state.media_usn,
    ) and (copy.cards, copy.notes, copy.reviews) == (counts.cards, counts.notes, counts.revlog)


def _pack_collection(source: ByteSource, target: IO[bytes]) -> tuple[str, int]:
    """Checksum and size of what was packed; it is flushed."""
    checksum, left = hashlib.sha256(), source.size
    packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj(size=left)
    while left and (piece := source.read(PIECE)):
        checksum.update(piece)
        left -= len(piece)
        target.write(packer.compress(piece))
    if left:
        raise CopyError("the collection ended before its size")
    target.write(packer.flush())
    target.flush()
    os.fsync(target.fileno())
    return checksum.hexdigest(), source.size


def _pack_media(files: Iterable[MediaFile], path: Path) -> int:
    """How many files there are in the list that was written, and flushed."""
    packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
    count, lines = 0, []
    with path.open("xb") as target:
        for file in files:
            count += 1
            lines.append(msgspec.json.encode(file) + b"\n")
            if len(lines) == _JSON_LINES:
                target.write(packer.compress(b"".join(lines)))
                lines.clear()
        target.write(packer.compress(b"".join(lines)) + packer.flush())
        target.flush()
        os.fsync(target.fileno())
    return count


@contextlib.contextmanager
def _told(copy: Copy) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NoSuchCopy(f"there is no kept copy {copy.id!r} any more") from None
    except OSError as error:
        raise CopyError(f"copy {copy.id} cannot be changed: {error}") from error


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as target:  # noqa: PTH123 (a descriptor)
        target.write(content)
        target.flush()
        os.fsync(descriptor)
