# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads the collection packages that Anki makes, or ever made (see `records.package`).

A package comes from anywhere, so it is read as `packing.zip_reader` reads: counts, sizes and
names are known to be within limits before anything is unpacked, and no file becomes larger
than was said of it. What is kept in memory is some 45 bytes a member and, of older packages, the
list of media, of which one wants to have had the whole before believing any of it.
"""

import hashlib
import itertools
import stat
import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from cardkeep.backups.media_source import MediaSource, Progress, unwatched
from cardkeep.errors import BadRequest, TooLarge
from cardkeep.messages import ByteSource
from cardkeep.packing import compression, zip_reader
from cardkeep.packing.zip_format import Member
from cardkeep.packing.zip_reader import Directory, InFile, Lent, check_form, data_start
from cardkeep.records import package
from cardkeep.records.media_name import leaves_folder
from cardkeep.records.package import Form, Listed

_PIECE = 1024 * 1024
_PACKED_PIECE = 64 * 1024
_MAX_META = 1024
# A member's entry in the directory, with the extra fields that programs add.
_MAX_ENTRY = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of the collection and of the list of media, both unpacked; and the members."""

    collection: int = 4 << 30
    media_list: int = 32 << 20
    members: int = 500_000


class Package:
    """An open package; use it as a context.

    Opening it raises BadRequest, with words for the operator, for what is no package, is damaged
    or dangerous, and TooLarge for what passes the limits. `media_bytes` is what is said of the
    files' sizes.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._limits = limits
        # No pipe or device, which could be waited for without end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadRequest("it is no file")
        self._archive = InFile(path)
        try:
            self._members = _Members(self._archive, limits.members)
            self.form = self._read_form()
            self._collection = self._named(package.COLLECTIONS[self.form])
            self._list = self._named(package.MEDIA)
            self.media_files, self.media_bytes = self._check_media()
        except BaseException:
            self._archive.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def extract_collection(self, target: Path, progress: Progress = unwatched) -> None:
        """Writes the collection to the new file `target`; nobody has looked at it yet."""
        most = self._limits.collection
        if self.form is not Form.CURRENT and self._collection.size > most:
            raise _too_large(most)
        left = most
        with target.open("xb") as file:
            for piece in self._unpacked(self._collection):
                left -= len(piece)
                if left < 0:
                    raise _too_large(most)
                file.write(piece)
                progress(len(piece))

    def media(self) -> Iterator[MediaSource]:
        """The media files, one after another, in the order of the list.

        Their bytes are read from the package, while it is open; reading them raises BadRequest
        where they are not what was said of them.
        """
        for listed in self._listed():
            member = self._member(listed)
            size = member.size if listed.size is None else listed.size
            opener = partial(self._open, member, size, listed.sha1)
            yield MediaSource(listed.name, opener, listed.sha1, size)

    def verify(self, progress: Progress = unwatched) -> None:
        """Reads all media once. Raises BadRequest for the first that is damaged."""
        for file in self.media():
            source = file.open()
            if source is None:
                continue
            try:
                while piece := source.read(_PIECE):
                    progress(len(piece))
            except BadRequest as error:
                raise BadRequest(f"media file {file.name!r}: {error}") from error
            finally:
                source.close()

    # --- details ------------------------------------------------------------------------

    def _read_form(self) -> Form:
        member = self._members.named.get(package.META)
        if member is None:
            old = package.COLLECTIONS[Form.OLD] in self._members.named
            return Form.OLD if old else Form.OLDEST
        check_form(member, "meta")
        if member.size > _MAX_META:
            raise BadRequest(f"its meta has {member.size} bytes")
        return package.read_meta(b"".join(self._stored(member)))

    def _named(self, name: bytes) -> Member:
        member = self._members.named.get(name)
        if member is None:
            raise BadRequest(f"it is no collection package of Anki: it has no {name.decode()}")
        check_form(member, name.decode())
        self._start(member)
        return member

    def _check_media(self) -> tuple[int, int]:
        """Number and bytes of the files, all of which are there and have sane names."""
        if self.form is not Form.CURRENT and self._list.size > self._limits.media_list:
            raise BadRequest(f"its list of media files has {self._list.size} bytes")
        seen = bytearray(self._limits.members)
        count = total = 0
        for listed in self._listed():
            member = self._member(listed)
            if seen[listed.number]:
                raise BadRequest(f"its list of media files has number {listed.number} twice")
            seen[listed.number] = 1
            self._start(member)
            if leaves_folder(listed.name):
                raise BadRequest(f"it holds a media file with a dangerous name: {listed.name!r}")
            count += 1
            total += member.size if listed.size is None else listed.size
        return count, total

    def _listed(self) -> Iterator[Listed]:
        pieces = self._unpacked(self._list)
        if self.form is Form.CURRENT:
            return package.read_entries(self._bounded(pieces))
        return self._with_normal_names(package.read_pairs(b"".join(pieces)))

    def _bounded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        left = self._limits.media_list
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise BadRequest("its list of media files is too long")
            yield piece

    def _with_normal_names(self, listed: Iterator[Listed]) -> Iterator[Listed]:
        # Desktop on a Mac took names as they were on the disk; everybody else reads them in NFC.
        for entry in listed:
            yield entry._replace(name=unicodedata.normalize("NFC", entry.name))

    def _member(self, listed: Listed) -> Member:
        member = self._members.numbered(listed.number)
        if member is None:
            raise BadRequest(
                f"it lacks media file {listed.number}, {listed.name!r:.100}, which it lists"
            )
        check_form(member, str(listed.number))
        return member

    def _open(self, member: Member, size: int, sha1: bytes | None) -> ByteSource:
        source = self._source(member)
        if self.form is not Form.CURRENT:
            return source
        return _Unpacked(source, size, sha1)

    def _unpacked(self, member: Member) -> Iterator[bytes]:
        """The bytes of a member, the zstd frame that it is in today's packages undone."""
        if self.form is Form.CURRENT:
            return _unpack(self._source(member))
        return self._stored(member)

    def _stored(self, member: Member) -> Iterator[bytes]:
        source = self._source(member)
        while piece := source.read(_PIECE):
            yield piece

    def _source(self, member: Member) -> ByteSource:
        return zip_reader.source(Lent(self._archive), member, self._start(member))

    def _start(self, member: Member) -> int:
        return data_start(self._archive, member, self._members.end(member))


class _Members:
    """Where the members are: those with a meaning by name, media by number.

    Others are no harm: who packs a package anew may have put in what his system adds.
    """

    _NAMES = (package.META, package.MEDIA, *package.COLLECTIONS.values())

    def __init__(self, archive: InFile, most: int) -> None:
        directory = Directory(archive, max_members=most, max_bytes=most * _MAX_ENTRY)
        self.named: dict[bytes, Member] = {}
        self._rows = array("Q")
        self._row_of = array("I", bytes(array("I").itemsize * most))
        self._starts = array("Q")
        for name, member in directory:
            self._starts.append(member.header)
            if name in self._NAMES:
                if name in self.named:
                    raise BadRequest(f"it has two members named {name.decode()}")
                self.named[name] = member
            elif (number := _number(name)) is not None and number < most:
                if self._row_of[number]:
                    raise BadRequest(f"it has two members named {number}")
                self._rows.extend(member)
                self._row_of[number] = len(self._rows) // len(member)
        self._starts = array("Q", sorted(self._starts))
        self._starts.append(directory.start)
        if any(one >= other for one, other in itertools.pairwise(self._starts)):
            raise BadRequest("its members overlap each other or the directory")

    def numbered(self, number: int) -> Member | None:
        """The member that is named by a number."""
        row = self._row_of[number] if number < len(self._row_of) else 0
        if not row:
            return None
        width = len(Member._fields)
        return Member(*self._rows[(row - 1) * width : row * width])

    def end(self, member: Member) -> int:
        """Where the member must end."""
        return self._starts[bisect_right(self._starts, member.header)]


class _Unpacked:
    """The bytes of a media file in today's form, no more and no others than was said of them."""

    def __init__(self, packed: ByteSource, size: int, sha1: bytes | None) -> None:
        self._pieces = _unpack(packed)
        self._piece = b""
        self._left = size
        self._told = sha1
        self._sha1 = hashlib.sha1()
        self.size = size

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        if not self._piece:
            self._piece = self._next()
        data, self._piece = self._piece[:size], self._piece[size:]
        return data

    def _next(self) -> bytes:
        piece = next(self._pieces, b"")
        self._left -= len(piece)
        self._sha1.update(piece)
        if self._left < 0 or (self._left and not piece):
            raise BadRequest(f"it has not {self.size} bytes, as the list says")
        if not piece and self._told and self._sha1.digest() != self._told:
            raise BadRequest("its checksum is wrong")
        return piece

    def close(self) -> None:
        """The package is what is open."""


def _unpack(packed: ByteSource) -> Iterator[bytes]:
    """The content of a zstd frame, in bounded pieces."""
    unpacker = compression.Zstd()
    while piece := packed.read(_PACKED_PIECE):
        yield from unpacker.feed(piece)
    unpacker.finish()


def _number(name: bytes) -> int | None:
    if len(name) > 9 or not name.isdigit() or (name[:1] == b"0" and name != b"0"):
        return None
    return int(name)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"its collection has more than {most} bytes", "max_collection")
