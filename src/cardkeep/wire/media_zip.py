# SPDX-License-Identifier: AGPL-3.0-or-later
"""The zip files of media sync: read what a client uploads, pack what it downloads.

Formats: docs/sync-protocol.md, 9.3 and 9.4. What clients write: current ones store
members as they are; desktop up to 2.1.27 deflates them; AnkiDroid up to 2.15 deflates
them with Java's ZipOutputStream, which leaves the sizes out of the local headers and sets
bit 3. None writes zip64, comments, encryption, or a member that `_meta` does not name.

The number of members, the size of the directory, each member's size and their total are
known to be within limits before a byte is unpacked (`packing.zip_reader` says why).

This is the one module of the room that touches files: what is too large for memory lies in
the spool folder.
"""

import bisect
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from cardkeep.errors import BadRequest, TooLarge
from cardkeep.messages import ByteSource, MediaEntry
from cardkeep.packing import zip_reader
from cardkeep.packing.checksum import crc32
from cardkeep.packing.zip_format import (
    STORED,
    Member,
    end_of_directory,
    headers,
    local_header,
)
from cardkeep.packing.zip_reader import Archive, Directory, check_form, data_start, opened
from cardkeep.records.media_name import check_media_name, check_new_media_name

#: Elements of an upload: what clients send at most, and what the official server takes.
MAX_FILES = 25

#: Bytes of one media file, inclusive: the official server's limit, and built into clients.
MAX_FILE = 100 * 1024 * 1024

#: Bytes of all files of an upload, unpacked. Clients stop after the file that passes 2.5 MiB.
MAX_TOTAL = 128 * 1024 * 1024

#: An answer of up to this size is kept in memory, a larger one in the spool folder.
MEMORY = 1024 * 1024

_META = b"_meta"
_MAX_META = 50 * 1024
# 25 files and _meta; and some room, since nothing forbids members that _meta does not name.
_MAX_MEMBERS = 64
_MAX_DIRECTORY = 64 * 1024
_PIECE = 1024 * 1024


# --- reading ----------------------------------------------------------------------------


def read_upload(
    archive: Path | bytes, *, max_file: int = MAX_FILE, max_total: int = MAX_TOTAL
) -> list[MediaEntry]:
    """The elements of an `uploadChanges` body, in the client's order.

    `archive` is a file, or the zip itself where that is small enough for memory. The bytes
    stay in it, and it must live as long as the entries: each `data()` opens it anew, and
    its `read` raises BadRequest where the bytes are not what the directory promised (length,
    checksum, broken deflate stream). A file of `max_file` bytes is taken even where `max_total`
    is smaller.

    Raises BadRequest, and TooLarge naming the settings `max_media_file` and `max_media_zip`.
    """
    zipped = opened(archive)
    try:
        members, end = _members(zipped)
        starts = _starts(members, end)
        listed = _read_meta(zipped, members, starts)
        if len(listed) > MAX_FILES:
            raise BadRequest(f"{len(listed)} media files in one upload, at most {MAX_FILES} do")
        wanted = [_find(members, name, member) for name, member in listed]
        _check_sizes([member for member in wanted if member], max_file, max_total)
        return [
            MediaEntry(name, member and _opener(archive, zipped, member, starts))
            for (name, _), member in zip(listed, wanted, strict=True)
        ]
    finally:
        zipped.close()


def _members(archive: Archive) -> tuple[dict[bytes, Member], int]:
    """The members by name, and the offset at which the central directory begins."""
    directory = Directory(archive, max_members=_MAX_MEMBERS, max_bytes=_MAX_DIRECTORY)
    members: dict[bytes, Member] = {}
    for name, member in directory:
        if name in members:
            raise BadRequest("zip: the directory names a member twice")
        members[name] = member
    return members, directory.start


def _starts(members: Mapping[bytes, Member], end: int) -> list[int]:
    """Where members begin, ascending, and where the last one must end."""
    starts = sorted(member.header for member in members.values())
    starts.append(end)
    if any(one >= next_one for one, next_one in itertools.pairwise(starts)):
        raise BadRequest("zip: members overlap each other or the directory")
    return starts


def _read_meta(
    archive: Archive, members: Mapping[bytes, Member], starts: Sequence[int]
) -> list[tuple[str, str | None]]:
    """The pairs of file name and member name in `_meta`."""
    member = members.get(_META)
    if member is None:
        raise BadRequest("zip: no _meta")
    if member.size > _MAX_META:
        raise BadRequest(f"zip: _meta has {member.size} bytes, at most {_MAX_META} do")
    check_form(member, "_meta")
    start = data_start(archive, member, _end(member, starts))
    text = _read_whole(zip_reader.source(archive, member, start))
    try:
        return msgspec.json.decode(text, type=list[tuple[str, str | None]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"zip: _meta: {error}") from None


def _find(members: Mapping[bytes, Member], name: str, member_name: str | None) -> Member | None:
    """The member that holds the file's bytes; None for a deletion.

    Older clients write an empty member name instead of null.
    """
    if not member_name:
        check_media_name(name)
        return None
    check_new_media_name(name)
    member = members.get(member_name.encode())
    if member is None:
        raise BadRequest(f"zip: no member {member_name!r}, which _meta names")
    check_form(member, member_name)
    return member


def _check_sizes(wanted: Sequence[Member], max_file: int, max_total: int) -> None:
    if any(member.size == 0 for member in wanted):
        raise BadRequest("zip: a file without bytes")
    largest = max((member.size for member in wanted), default=0)
    if largest > max_file:
        raise TooLarge(f"a media file of {largest} bytes", "max_media_file")
    total = sum(member.size for member in wanted)
    if total > max(max_total, max_file):
        raise TooLarge(f"media files of {total} bytes in one upload", "max_media_zip")


def _opener(
    archive: Path | bytes, zipped: Archive, member: Member, starts: Sequence[int]
) -> Callable[[], ByteSource]:
    start = data_start(zipped, member, _end(member, starts))
    return lambda: zip_reader.source(opened(archive), member, start)


def _end(member: Member, starts: Sequence[int]) -> int:
    return starts[bisect.bisect_right(starts, member.header)]


# --- packing ----------------------------------------------------------------------------


def pack(files: Sequence[tuple[str, ByteSource]], spool: Path) -> ByteSource:
    """The answer to `downloadFiles`: members `0`, `1`, … as they are, and `_meta`.

    Reads and closes every source. The zip is whole when this returns, so that its size can
    go into a header: in memory up to a mebibyte, beyond that in a nameless file in `spool`.
    """
    zipped = _Zip(spool)
    try:
        for position, (_, source) in enumerate(files):
            zipped.add(b"%d" % position, source)
        names = {str(position): name for position, (name, _) in enumerate(files)}
        zipped.add_bytes(_META, msgspec.json.encode(names))
        return zipped.finish()
    except BaseException:
        zipped.discard()
        raise
    finally:
        for _, source in files:
            source.close()


class _Zip:
    """A zip file as it grows."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._file: IO[bytes] | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._flushed = 0
        self._directory: list[bytes] = []

    def add(self, name: bytes, source: ByteSource) -> None:
        if source.size <= _PIECE:
            self.add_bytes(name, _read_whole(source))
        else:
            self._add_stream(name, source)

    def add_bytes(self, name: bytes, data: bytes) -> None:
        start = self._flushed + self._held_bytes
        header = self._header(name, crc32(data), len(data), start)
        self._hold(header, data)

    def _add_stream(self, name: bytes, source: ByteSource) -> None:
        """A member whose checksum is known only after its bytes: its header comes last."""
        file = self._flush()
        start = self._flushed
        file.seek(len(local_header(name, _stored(0, 0, start))), os.SEEK_CUR)
        crc = size = 0
        while data := source.read(_PIECE):
            crc = crc32(data, crc)
            size += len(data)
            file.write(data)
        file.seek(start)
        file.write(self._header(name, crc, size, start))
        self._flushed = file.seek(0, os.SEEK_END)

    def _header(self, name: bytes, crc: int, size: int, start: int) -> bytes:
        """A local header; the same goes into the directory."""
        local, entry = headers(name, _stored(crc, size, start))
        self._directory.append(entry)
        return local

    def _hold(self, *parts: bytes) -> None:
        self._held += parts
        self._held_bytes += sum(map(len, parts))
        if self._held_bytes > MEMORY:
            self._flush()

    def _flush(self) -> IO[bytes]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._spool)  # noqa: SIM115
        self._file.writelines(self._held)
        self._flushed += self._held_bytes
        self._held, self._held_bytes = [], 0
        return self._file

    def finish(self) -> ByteSource:
        start = self._flushed + self._held_bytes
        directory = b"".join(self._directory)
        count = len(self._directory)
        self._hold(directory, end_of_directory(count, len(directory), start))
        if self._file is None:
            return _Memory(b"".join(self._held))
        file = self._flush()
        file.seek(0)
        return _Spooled(file, self._flushed)

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()


def _stored(crc: int, size: int, start: int) -> Member:
    return Member(0, STORED, crc, size, size, start)


def _read_whole(source: ByteSource) -> bytes:
    data = source.read(min(source.size, _PIECE))  # room that is not needed costs, too
    if len(data) == source.size:
        return data
    pieces = [data]
    while data := source.read(_PIECE):
        pieces.append(data)
    return b"".join(pieces)


class _Memory:
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        self._at += len(data)
        return data

    def close(self) -> None:
        self._data = b""


class _Spooled:
    """A body in a file that has no name any more."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()
