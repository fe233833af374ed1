# SPDX-License-Identifier: AGPL-3.0-or-later
"""The zip files of media sync: read what a client uploads, pack what it downloads.

Formats: docs/sync-protocol.md, 9.3 and 9.4. What clients write: current ones store
members as they are; desktop up to 2.1.27 deflates them; AnkiDroid up to 2.15 deflates
them with Java's ZipOutputStream, which leaves the sizes out of the local headers and sets
bit 3. None writes zip64, comments, encryption, or a member that `_meta` does not name.

The reader is our own because it must be safe before it is general: Python's zipfile
builds an object for each of a million members before one can count them, and up to 3.11.7
it gives out members that overlap. Here the number of members, the size of the directory,
each member's size and their total are known to be within limits before a byte is unpacked,
and unpacking stops where the directory said that it would.

This is the one module of the room that touches files: what is too large for memory lies in
the spool folder.
"""

import bisect
import itertools
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from cardkeep.errors import BadRequest, TooLarge
from cardkeep.messages import ByteSource, MediaEntry
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
_MAX_COMMENT = 0xFFFF
_PIECE = 1024 * 1024
_PACKED_PIECE = 64 * 1024

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_VERSION = 10
# 1980-01-01, the first day that the format knows.
_NO_TIME, _NO_DATE = 0, 0x21
_STORED, _DEFLATED = 0, 8
# Encryption (bits 0, 6, 13) and patches (5). Bit 3, sizes after the data, is fine: the
# directory has them too.
_FORBIDDEN_FLAGS = 0x2061
_ZIP64 = 0xFFFFFFFF


class _Member(NamedTuple):
    """A member as the central directory has it; sizes in bytes, `header` is an offset."""

    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


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
    opened = _opened(archive)
    try:
        members, end = _directory(opened)
        starts = _starts(members, end)
        listed = _read_meta(opened, members, starts)
        if len(listed) > MAX_FILES:
            raise BadRequest(f"{len(listed)} media files in one upload, at most {MAX_FILES} do")
        wanted = [_find(members, name, member) for name, member in listed]
        _check_sizes([member for member in wanted if member], max_file, max_total)
        return [
            MediaEntry(name, member and _opener(archive, opened, member, starts))
            for (name, _), member in zip(listed, wanted, strict=True)
        ]
    finally:
        opened.close()


class _InFile:
    """A zip in a file."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read_at(self, start: int, size: int) -> bytes:
        """At most `size` bytes, none at the end."""
        return os.pread(self._descriptor, size, start)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _InMemory:
    """A zip in memory."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read_at(self, start: int, size: int) -> bytes:
        return self._data[start : start + size]

    def close(self) -> None:
        self._data = b""


_Archive = _InFile | _InMemory


def _opened(archive: Path | bytes) -> _Archive:
    return _InMemory(archive) if isinstance(archive, bytes) else _InFile(archive)


def _directory(archive: _Archive) -> tuple[dict[bytes, _Member], int]:
    """The members by name, and the offset at which the central directory begins."""
    length = archive.size
    end = _end_record(archive, length)
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(end)
    if disk or first_disk or here != count or _END.size + comment != len(end):
        raise BadRequest("media zip: damaged at its end, or in several parts")
    if count > _MAX_MEMBERS or size > _MAX_DIRECTORY:
        raise BadRequest(f"media zip: {count} members with a directory of {size} bytes")
    if start + size != length - len(end):
        raise BadRequest("media zip: the directory is not where the end says")
    return _members(archive.read_at(start, size), count), start


def _end_record(archive: _Archive, length: int) -> bytes:
    """The bytes from the end record on."""
    end = archive.read_at(max(length - _END.size, 0), _END.size)
    if len(end) == _END.size and end.startswith(_END_MARK) and end.endswith(b"\0\0"):
        return end
    # Behind the record there may be a comment.
    furthest = max(length - _END.size - _MAX_COMMENT, 0)
    tail = archive.read_at(furthest, length - furthest)
    found = tail.rfind(_END_MARK)
    if found < 0 or len(tail) - found < _END.size:
        raise BadRequest("media zip: not a zip file")
    return tail[found:]


def _members(directory: bytes, count: int) -> dict[bytes, _Member]:
    members: dict[bytes, _Member] = {}
    at = 0
    for _ in range(count):
        if len(directory) - at < _CENTRAL.size or not directory.startswith(_CENTRAL_MARK, at):
            raise BadRequest("media zip: damaged directory")
        fields = _CENTRAL.unpack_from(directory, at)
        _, _, _, flags, method, _, _, crc, packed, size, *lengths, _, _, _, header = fields
        at += _CENTRAL.size
        name = directory[at : at + lengths[0]]
        at += sum(lengths)
        if at > len(directory) or name in members:
            raise BadRequest("media zip: damaged directory, or one that names a member twice")
        members[name] = _Member(flags, method, crc, packed, size, header)
    if at != len(directory):
        raise BadRequest("media zip: the directory goes on after its last member")
    return members


def _starts(members: Mapping[bytes, _Member], end: int) -> list[int]:
    """Where members begin, ascending, and where the last one must end."""
    starts = sorted(member.header for member in members.values())
    starts.append(end)
    if any(one >= next_one for one, next_one in itertools.pairwise(starts)):
        raise BadRequest("media zip: members overlap each other or the directory")
    return starts


def _read_meta(
    archive: _Archive, members: Mapping[bytes, _Member], starts: Sequence[int]
) -> list[tuple[str, str | None]]:
    """The pairs of file name and member name in `_meta`."""
    member = members.get(_META)
    if member is None:
        raise BadRequest("media zip: no _meta")
    if member.size > _MAX_META:
        raise BadRequest(f"media zip: _meta has {member.size} bytes, at most {_MAX_META} do")
    _check_form(member, "_meta")
    text = _read_whole(_source(archive, member, _data_start(archive, member, starts)))
    try:
        return msgspec.json.decode(text, type=list[tuple[str, str | None]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"media zip: _meta: {error}") from None


def _find(members: Mapping[bytes, _Member], name: str, member_name: str | None) -> _Member | None:
    """The member that holds the file's bytes; None for a deletion.

    Older clients write an empty member name instead of null.
    """
    if not member_name:
        check_media_name(name)
        return None
    check_new_media_name(name)
    member = members.get(member_name.encode())
    if member is None:
        raise BadRequest(f"media zip: no member {member_name!r}, which _meta names")
    _check_form(member, member_name)
    return member


def _check_form(member: _Member, name: str) -> None:
    if member.flags & _FORBIDDEN_FLAGS:
        raise BadRequest(f"media zip: member {name!r} is encrypted or a patch")
    if member.method not in (_STORED, _DEFLATED):
        raise BadRequest(f"media zip: member {name!r} has compression method {member.method}")
    if _ZIP64 in (member.packed, member.size, member.header):
        raise BadRequest(f"media zip: member {name!r} is in zip64 form")
    if member.method == _STORED and member.packed != member.size:
        raise BadRequest(f"media zip: member {name!r} is stored, but its sizes differ")


def _check_sizes(wanted: Sequence[_Member], max_file: int, max_total: int) -> None:
    if any(member.size == 0 for member in wanted):
        raise BadRequest("media zip: a file without bytes")
    largest = max((member.size for member in wanted), default=0)
    if largest > max_file:
        raise TooLarge(f"a media file of {largest} bytes", "max_media_file")
    total = sum(member.size for member in wanted)
    if total > max(max_total, max_file):
        raise TooLarge(f"media files of {total} bytes in one upload", "max_media_zip")


def _data_start(archive: _Archive, member: _Member, starts: Sequence[int]) -> int:
    """The offset of a member's bytes, which end before the next member begins.

    Overlapping members are how a small file unpacks to a large one without compression.
    """
    header = archive.read_at(member.header, _LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(_LOCAL_MARK):
        raise BadRequest("media zip: a member is not where the directory says")
    *_, name_length, extra_length = _LOCAL.unpack(header)
    start: int = member.header + _LOCAL.size + name_length + extra_length
    if start + member.packed > starts[bisect.bisect_right(starts, member.header)]:
        raise BadRequest("media zip: members overlap")
    return start


def _opener(
    archive: Path | bytes, opened: _Archive, member: _Member, starts: Sequence[int]
) -> Callable[[], ByteSource]:
    start = _data_start(opened, member, starts)
    return lambda: _source(_opened(archive), member, start)


def _source(archive: _Archive, member: _Member, start: int) -> ByteSource:
    return (_Stored if member.method == _STORED else _Deflated)(archive, member, start)


class _Stored:
    """The bytes of a member that is not compressed; closes `archive`."""

    def __init__(self, archive: _Archive, member: _Member, start: int) -> None:
        self._archive = archive
        self._at = start
        self._member = member
        self._left = member.size
        self._crc = 0

    @property
    def size(self) -> int:
        return self._member.size

    def read(self, size: int) -> bytes:
        if not self._left:
            return b""
        data = self._take(min(size, self._left))
        self._left -= len(data)
        self._crc = zlib.crc32(data, self._crc)
        if not self._left:
            self._check_end()
            if self._crc != self._member.crc:
                raise BadRequest("media zip: a member's checksum is wrong")
        return data

    def _take(self, size: int) -> bytes:
        """Between 1 and `size` bytes of the file."""
        data = self._archive.read_at(self._at, size)
        if not data:
            raise BadRequest("media zip: a member ends early")
        self._at += len(data)
        return data

    def _check_end(self) -> None:
        """All bytes were taken."""

    def close(self) -> None:
        self._archive.close()


class _Deflated(_Stored):
    """The bytes of a compressed member; never unpacks more than is asked for."""

    def __init__(self, archive: _Archive, member: _Member, start: int) -> None:
        super().__init__(archive, member, start)
        self._end = start + member.packed
        self._inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        self._packed = b""

    def _take(self, size: int) -> bytes:
        while not self._inflater.eof:
            if data := self._inflate(size):
                return data
        raise BadRequest("media zip: a member is shorter than the directory says")

    def _inflate(self, size: int) -> bytes:
        if not self._packed:
            self._packed = super()._take(min(_PACKED_PIECE, self._end - self._at))
        try:
            data = self._inflater.decompress(self._packed, size)
        except zlib.error as error:
            raise BadRequest(f"media zip: a member does not unpack: {error}") from None
        self._packed = self._inflater.unconsumed_tail
        return data

    def _check_end(self) -> None:
        while not self._inflater.eof:
            if self._inflate(1):
                raise BadRequest("media zip: a member is longer than the directory says")
        if self._at != self._end or self._inflater.unused_data:
            raise BadRequest("media zip: a member goes on after its end")


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
        self._hold(self._header(name, zlib.crc32(data), len(data), start))
        self._hold(data)

    def _add_stream(self, name: bytes, source: ByteSource) -> None:
        """A member whose checksum is known only after its bytes: its header comes last."""
        file = self._flush()
        start = self._flushed
        file.seek(_LOCAL.size + len(name), os.SEEK_CUR)
        crc = size = 0
        while data := source.read(_PIECE):
            crc = zlib.crc32(data, crc)
            size += len(data)
            file.write(data)
        file.seek(start)
        file.write(self._header(name, crc, size, start))
        self._flushed = file.seek(0, os.SEEK_END)

    def _header(self, name: bytes, crc: int, size: int, start: int) -> bytes:
        """A local header; the same goes into the directory."""
        common = (_VERSION, 0, _STORED, _NO_TIME, _NO_DATE, crc, size, size, len(name), 0)
        self._directory.append(
            _CENTRAL.pack(_CENTRAL_MARK, _VERSION, *common, 0, 0, 0, 0, start) + name
        )
        return _LOCAL.pack(_LOCAL_MARK, *common) + name

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
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
        self._hold(directory)
        self._hold(_END.pack(_END_MARK, 0, 0, count, count, len(directory), start, 0))
        if self._file is None:
            return _Memory(b"".join(self._held))
        file = self._flush()
        file.seek(0)
        return _Spooled(file, self._flushed)

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()


def _read_whole(source: ByteSource) -> bytes:
    data = source.read(_PIECE)
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
