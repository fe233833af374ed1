# SPDX-License-Identifier: AGPL-3.0-or-later
"""Zip files as clients make them, and as attackers do."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

Files = Sequence[tuple[str, bytes | None]]


class _Unseekable(io.RawIOBase):
    """Makes zipfile write sizes after the data, as Java's ZipOutputStream does."""

    def __init__(self) -> None:
        self.data = io.BytesIO()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self.data.write(data)  # type: ignore[arg-type]


def upload_zip(
    files: Files,
    *,
    method: int = zipfile.ZIP_STORED,
    deletion: str | None = None,
    streamed: bool = False,
) -> bytes:
    """An `uploadChanges` body; `deletion` is what stands for the member of a deleted file."""
    target = _Unseekable() if streamed else io.BytesIO()
    meta: list[tuple[str, str | None]] = []
    with zipfile.ZipFile(target, "w", method) as archive:  # type: ignore[arg-type]
        for position, (name, data) in enumerate(files):
            if data is None:
                meta.append((name, deletion))
            else:
                archive.writestr(str(position), data)
                meta.append((name, str(position)))
        archive.writestr("_meta", json.dumps(meta))
    return (target.data if isinstance(target, _Unseekable) else target).getvalue()


@dataclass(frozen=True)
class Member:
    """A member, with every number that can lie. None: as it should be."""

    name: bytes
    data: bytes
    packed: bytes | None = None
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    packed_size: int | None = None
    header: int | None = None
    local_extra: bytes = b""
    local_mark: bytes = b"PK\x03\x04"
    absent: bool = False
    """In the directory only."""

    def deflated(self) -> "Member":
        return replace(self, method=8, packed=deflate(self.data))


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(data) + packer.flush()


def crafted_zip(
    members: Sequence[Member],
    *,
    count: int | None = None,
    directory_size: int | None = None,
    directory_start: int | None = None,
    disk: int = 0,
    comment: bytes = b"",
    before_end: bytes = b"",
    directory_tail: bytes = b"",
) -> bytes:
    """A zip file made by hand."""
    body, directory = b"", b""
    for member in members:
        packed = member.data if member.packed is None else member.packed
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        size = len(member.data) if member.size is None else member.size
        packed_size = len(packed) if member.packed_size is None else member.packed_size
        header = len(body) if member.header is None else member.header
        numbers = (20, member.flags, member.method, 0, 33, crc, packed_size, size)
        directory += struct.pack(
            "<4s6H3I5H2I",
            b"PK\x01\x02",
            20,
            *numbers,
            *(len(member.name), 0, 0, 0, 0, 0),
            header,
        )
        directory += member.name
        if not member.absent:
            body += struct.pack(
                "<4s5H3I2H",
                member.local_mark,
                *numbers,
                *(len(member.name), len(member.local_extra)),
            )
            body += member.name + member.local_extra + packed
    directory += directory_tail
    start = len(body) if directory_start is None else directory_start
    stated = len(directory) if directory_size is None else directory_size
    number = len(members) if count is None else count
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", disk, 0, number, number, stated, start, 0)
    return body + directory + before_end + end[:-2] + struct.pack("<H", len(comment)) + comment


def meta(*pairs: tuple[str, str | None]) -> Member:
    return Member(b"_meta", json.dumps(pairs).encode())
