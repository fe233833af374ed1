# SPDX-License-Identifier: AGPL-3.0-or-later
"""A tar within zstd, written and read from start to end in constant memory.

What is written is what any tar reads (POSIX.1-2001, "pax"). What is read is only what is written
here: plain files and folders under relative paths, of bounded headers, in one zstd frame, with a
list of checksums as the last file. So links, devices and paths out of the folder cannot come out
of a reader, and reading to the end without an error means that every byte is as it was written.
"""

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import zstandard

from cardkeep.backups.archive.records import SUMS, Progress
from cardkeep.errors import BackupError, DamagedBackup
from cardkeep.messages import ByteSource

#: Bytes held at once.
PIECE = 1024 * 1024

#: Packs collections to a third. Media hardly shrink at any level, and zstd sees that soon: at this
#: level it passes 4 GB/s of random bytes on where it packs 0.3 GB/s of a collection.
LEVEL = 3

_BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE
_ZEROS = bytes(_BLOCK)
# The most that zstd asks of any decoder without being told to.
_MAX_WINDOW = 128 * 1024 * 1024
# A header of ours holds one path; no path is longer than this.
_LONGEST_PATH = 4096
_MAX_HEADER = 2 * _LONGEST_PATH
_HEADER_KEYS = {"path", "size", "mtime"}
_SPOOLED = 1024 * 1024


def ignore(_: int) -> None:
    """Progress that nobody watches."""


# --- writing ----------------------------------------------------------------------------


class TarWriter:
    """Writes to `output`; what it needs to remember goes to an unnamed file in `spool`."""

    def __init__(
        self, output: BinaryIO, spool: Path, *, level: int = LEVEL, progress: Progress = ignore
    ) -> None:
        self._output = output
        self._progress = progress
        packer = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._packer = packer.compressobj()
        self._sums = tempfile.SpooledTemporaryFile(max_size=_SPOOLED, dir=str(spool))  # noqa: SIM115
        self.files = 0
        self.bytes = 0
        self._written = 0

    def folder(self, path: str, mtime: float) -> None:
        """Adds a folder."""
        self._header(path, tarfile.DIRTYPE, 0, mtime, 0o700)

    def add(self, path: str, data: bytes, mtime: float) -> None:
        """Adds a short file."""
        self._header(path, tarfile.REGTYPE, len(data), mtime, 0o600)
        self._put(data)
        self._end(path, hashlib.sha256(data), len(data))

    def stream(self, path: str, source: ByteSource, mtime: float) -> None:
        """Adds a file of `source.size` bytes. Raises BackupError if they are not there."""
        self._header(path, tarfile.REGTYPE, source.size, mtime, 0o600)
        checksum, left = hashlib.sha256(), source.size
        while left and (piece := source.read(min(PIECE, left))):
            checksum.update(piece)
            self._put(piece)
            left -= len(piece)
        if left:
            raise BackupError(f"{path} became shorter while it was read")
        self._end(path, checksum, source.size)

    def finish(self) -> None:
        """Adds the checksums and the end."""
        size = self._sums.tell()
        self._header(SUMS, tarfile.REGTYPE, size, 0, 0o600)
        self._sums.seek(0)
        while piece := self._sums.read(PIECE):
            self._put(piece)
        self._pad(size)
        self._put(bytes(2 * _BLOCK))
        self._put(bytes(-self._written % _RECORD))
        self._output.write(self._packer.flush())

    def close(self) -> None:
        """Gives back what it holds; at any point."""
        self._sums.close()

    def _header(self, path: str, kind: bytes, size: int, mtime: float, mode: int) -> None:
        info = tarfile.TarInfo(path)
        info.type, info.size, info.mode, info.mtime = kind, size, mode, int(max(mtime, 0))
        self._put(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))

    def _put(self, data: bytes) -> None:
        if packed := self._packer.compress(data):
            self._output.write(packed)
        self._written += len(data)
        self._progress(len(data))

    def _pad(self, size: int) -> None:
        self._put(bytes(-size % _BLOCK))

    def _end(self, path: str, checksum: "hashlib._Hash", size: int) -> None:
        self._pad(size)
        self._sums.write(_sum_line(path, checksum))
        self.files += 1
        self.bytes += size


def _sum_line(path: str, checksum: "hashlib._Hash") -> bytes:
    """As `sha256sum` writes it: names with a line break or a backslash are marked by one."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n")
    mark = "\\" if escaped != path else ""
    return f"{mark}{checksum.hexdigest()}  {escaped}\n".encode()


# --- reading ----------------------------------------------------------------------------


class Member(NamedTuple):
    """One file or folder; `mtime` in s."""

    path: str
    is_folder: bool
    size: int
    mtime: float

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the path, each that of a file or folder."""
        return tuple(self.path.split("/"))


class TarReader:
    """Iterates over the members; the bytes of each are to be had until the next.

    Whatever is not read is checked all the same. When the iteration ends by itself, every
    checksum was right and nothing came after the end; else it raises DamagedBackup. The list of
    checksums itself does not come out.
    """

    def __init__(self, raw: BinaryIO, spool: Path, *, progress: Progress = ignore) -> None:
        """`progress` is told of packed bytes."""
        self._frame = _Frame(raw, progress)
        unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._unpacked = unpacker.stream_reader(cast(BinaryIO, self._frame), read_size=PIECE)
        self._sums = tempfile.SpooledTemporaryFile(max_size=_SPOOLED, dir=str(spool))  # noqa: SIM115
        self._member: Member | None = None
        self._checksum = hashlib.sha256()
        self._left = 0

    def close(self) -> None:
        """Gives back what it holds; the file stays open."""
        self._sums.close()

    def __iter__(self) -> Iterator[Member]:
        while True:
            self._finish_member()
            member = self._next()
            if member is None:
                raise DamagedBackup("it has no list of checksums")
            if member.path == SUMS and not member.is_folder:
                break
            self._member, self._left = member, member.size
            self._checksum = hashlib.sha256()
            yield member
        self._compare_sums(member.size)
        self._expect_end()

    def pieces(self) -> Iterator[bytes]:
        """What is left of the present member's bytes."""
        while self._left:
            piece = self._exactly(min(self._left, PIECE))
            self._left -= len(piece)
            self._checksum.update(piece)
            yield piece

    def whole(self, limit: int) -> bytes:
        """The bytes of the present member at once. Raises DamagedBackup beyond `limit`."""
        if self._left > limit:
            assert self._member is not None  # noqa: S101 (nothing is left of none)
            raise DamagedBackup(f"{self._member.path!r} in it has {self._left} bytes")
        return b"".join(self.pieces())

    # --- members ------------------------------------------------------------------------

    def _finish_member(self) -> None:
        member, self._member = self._member, None
        if member is None or member.is_folder:
            return
        for _ in self.pieces():
            pass
        self._exactly(-member.size % _BLOCK)
        self._sums.write(_sum_line(member.path, self._checksum))

    def _next(self) -> Member | None:
        info = self._header()
        if info is None:
            return None
        extended: dict[str, str] = {}
        if info.type == tarfile.XHDTYPE:
            if info.size > _MAX_HEADER:
                raise DamagedBackup("it has a header that is too long")
            extended = _extended(self._exactly(info.size))
            self._exactly(-info.size % _BLOCK)
            info = self._header()
        if info is None or info.type not in (tarfile.REGTYPE, tarfile.DIRTYPE):
            shown = extended.get("path", info.name if info else "")
            raise DamagedBackup(f"{shown!r} in it is neither a file nor a folder")
        return _member(info, extended)

    def _header(self) -> tarfile.TarInfo | None:
        """None at the end, which is two empty blocks."""
        block = self._exactly(_BLOCK)
        if block == _ZEROS:
            if self._exactly(_BLOCK) != _ZEROS:
                raise DamagedBackup("it goes on after its end")
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise DamagedBackup(f"it has a header that is none: {error}") from None

    # --- the end ------------------------------------------------------------------------

    def _compare_sums(self, size: int) -> None:
        computed, left = self._sums, size
        computed.seek(0)
        while left:
            line = computed.readline()
            if not line or self._exactly(min(len(line), left)) != line:
                name = line.partition(b"  ")[2].decode(errors="replace").rstrip("\n")
                raise DamagedBackup(f"the checksum of {name!r} in it is another one")
            left -= len(line)
        if computed.readline():
            raise DamagedBackup("its list of checksums is too short")
        self._exactly(-size % _BLOCK)

    def _expect_end(self) -> None:
        if self._header() is not None:
            raise DamagedBackup("it goes on after its list of checksums")
        rest = self._read(_RECORD + 1)
        if len(rest) > _RECORD or any(rest) or not self._frame.is_whole:
            raise DamagedBackup("its end is missing, or something follows")

    # --- bytes --------------------------------------------------------------------------

    def _exactly(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) < size:
            raise DamagedBackup("it is cut off")
        return data

    def _read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        pieces = []
        try:
            while size and (piece := self._unpacked.read(size)):
                pieces.append(piece)
                size -= len(piece)
        except zstandard.ZstdError as error:
            raise DamagedBackup(f"it cannot be unpacked: {error}") from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _extended(text: bytes) -> dict[str, str]:
    """The records of an extended header: each is its length, a key and a value."""
    found = {}
    try:
        while text:
            length, _, _ = text.partition(b" ")
            record, text = text[: int(length)], text[int(length) :]
            key, equals, value = record[len(length) + 1 :].decode().partition("=")
            if key not in _HEADER_KEYS or not equals or not value.endswith("\n"):
                raise DamagedBackup(f"it has a header of the unknown kind {key[:40]!r}")
            found[key] = value[:-1]
    except ValueError:
        raise DamagedBackup("it has an extended header that is none") from None
    return found


def _member(info: tarfile.TarInfo, extended: dict[str, str]) -> Member:
    is_folder = info.type == tarfile.DIRTYPE
    try:
        size = int(extended.get("size", info.size))
        mtime = float(extended.get("mtime", info.mtime))
    except ValueError:
        raise DamagedBackup("it has an extended header that is none") from None
    path = extended.get("path", info.name)
    if is_folder:
        path = path.removesuffix("/")
    if size < 0 or (is_folder and size) or not _is_path(path) or not abs(mtime) < 1 << 40:
        raise DamagedBackup(f"it has a file of the path {path[:200]!r}, which none can have")
    return Member(path, is_folder, size, mtime)


def _is_path(path: str) -> bool:
    """Whether it stays within the folder in which it is unpacked, on this system."""
    return (
        len(path) <= _LONGEST_PATH and "\0" not in path and not {"", ".", ".."} & {*path.split("/")}
    )


class _Frame:
    """The packed bytes on their way to the decoder, which does not tell where the frame ends.

    A frame is a header, then blocks that each begin with their type and length, and perhaps a
    checksum of four bytes (RFC 8878, 3.1.1).
    """

    _CHECKSUM_FLAG = 4
    _RLE = 1

    def __init__(self, raw: BinaryIO, progress: Progress) -> None:
        self._raw = raw
        self._progress = progress
        self._has_begun = self._is_last = self._has_ended = self._has_more = False
        self._checksum = 0
        self._header = b""
        self._left = 0

    @property
    def is_whole(self) -> bool:
        """Whether all that was read is one frame from its start to its end."""
        return self._has_ended and not self._has_more

    def read(self, size: int) -> bytes:
        """At most `size` bytes, for the decoder."""
        data = self._raw.read(size)
        self._progress(len(data))
        if data:
            self._follow(data if self._has_begun else data[self._begin(data) :])
        return data

    def _begin(self, data: bytes) -> int:
        self._has_begun = True
        try:
            size = zstandard.frame_header_size(data)
        except (zstandard.ZstdError, ValueError):
            raise DamagedBackup("it is no backup: not zstd") from None
        self._checksum = 4 if data[4] & self._CHECKSUM_FLAG else 0
        return size

    def _follow(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._has_ended:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
            else:
                self._header += data[at : at + 1]
                at += 1
                if len(self._header) < 3:
                    continue
                self._enter_block(int.from_bytes(self._header, "little"))
                self._header = b""
            self._has_ended = self._is_last and not self._left
        self._has_more = self._has_more or at < len(data)

    def _enter_block(self, header: int) -> None:
        self._is_last = bool(header & 1)
        kind, size = header >> 1 & 3, header >> 3
        self._left = 1 if kind == self._RLE else size
        if self._is_last:
            self._left += self._checksum
