# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes a collection with its media as a package that Anki imports (see `records.package`).

Everything is read and written in pieces; the package gets its name when it is whole and on
disk. The collection comes first, so that what holds it in its state can be let go soon.
"""

import hashlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, NamedTuple

import zstandard

from cardkeep.backups.media_source import MediaSource, Progress, unwatched
from cardkeep.backups.new_file import new_file
from cardkeep.collection.schema.downgrade import downgrade
from cardkeep.collection.schema.notice import create_notice
from cardkeep.messages import ByteSource
from cardkeep.packing import compression
from cardkeep.packing.zip_writer import ZipWriter
from cardkeep.records import package
from cardkeep.records.media_name import is_clients_own
from cardkeep.records.package import Form

_PIECE = 1024 * 1024
# From here on a collection might pass 4 GiB, packed badly or converted. Not every old program
# reads what is in zip64 form, so only what needs it is.
_LARGE = 3 << 30
_WORDS = "This file is for a newer version of Anki. Please update Anki, then import it again."


class Written(NamedTuple):
    """`size` of the package in bytes, `media` the number of files in it.

    `missing` are names of files that were not there any more, `unfit` of those that Anki would
    take none of the media for, both left out; `changed` of files that are not what was told of
    them, which are in it as they were found.
    """

    size: int
    media: int
    missing: list[str]
    unfit: list[str]
    changed: list[str]


def write_package(
    target: Path,
    collection: ByteSource,
    media: Iterable[MediaSource],
    *,
    form: Form,
    scratch: Path,
    overwrite: bool = False,
    progress: Progress = unwatched,
) -> Written:
    """Writes the package `target`, of the form CURRENT or OLD; closes `collection`.

    `collection` is schema 18, whole by itself; for an OLD package it is converted in `scratch`, a
    folder for private files. `progress` is told of the collection's and the files' bytes.

    Raises FileExistsError if there is a file and not to `overwrite`, BadRequest if the collection
    cannot be converted, OSError from the disk; then there is no new package.
    """
    try:
        with (
            new_file(target, overwrite=overwrite) as descriptor,
            closing(ZipWriter(descriptor, scratch)) as zipped,
        ):
            zipped.add(package.META, [package.meta(form)])
            _add_collection(zipped, collection, form, scratch, progress)
            _add_notice(zipped, scratch)
            listed = _add_media(zipped, media, form, scratch, progress)
            return listed._replace(size=zipped.finish())
    finally:
        collection.close()


# --- the collection ---------------------------------------------------------------------


def _add_collection(
    zipped: ZipWriter, collection: ByteSource, form: Form, scratch: Path, progress: Progress
) -> None:
    name, large = package.COLLECTIONS[form], collection.size > _LARGE
    pieces = _pieces(collection, progress)
    if form is Form.CURRENT:
        zipped.add(name, _packed(pieces), large=large)
        collection.close()
        return
    converted = scratch / "converted.anki2"
    with converted.open("wb") as file:
        file.writelines(pieces)
    collection.close()
    downgrade(converted)
    with converted.open("rb") as file:
        zipped.add(name, _pieces(file), deflate=True, large=large)
    converted.unlink()


def _add_notice(zipped: ZipWriter, scratch: Path) -> None:
    """What programs find that look for the collection where it was long ago."""
    path = scratch / "notice.anki2"
    create_notice(path, _WORDS, time.time_ns() // 1_000_000)
    with path.open("rb") as file:
        zipped.add(package.NOTICE, _pieces(file))
    path.unlink()


# --- media ------------------------------------------------------------------------------


def _add_media(
    zipped: ZipWriter,
    media: Iterable[MediaSource],
    form: Form,
    scratch: Path,
    progress: Progress,
) -> Written:
    current = form is Form.CURRENT
    written = Written(0, 0, [], [], [])
    number = 0
    with tempfile.SpooledTemporaryFile(max_size=_PIECE, dir=str(scratch)) as listed:
        for file in media:
            if current and not is_clients_own(file.name):
                written.unfit.append(file.name)
                continue
            source = file.open()
            if source is None:
                written.missing.append(file.name)
                continue
            with closing(source):
                found = _Measured(_pieces(source, progress))
                zipped.add(b"%d" % number, _packed(found) if current else found)
            if file.sha1 not in (None, found.sha1):
                written.changed.append(file.name)
            if current:
                listed.write(package.entry(file.name, found.size, found.sha1))
            else:
                listed.write(b"," * bool(number) + package.pair(number, file.name))
            number += 1
        listed.seek(0)
        pieces = _pieces(listed)
        zipped.add(package.MEDIA, _packed(pieces) if current else _in_braces(pieces))
    return written._replace(media=number)


class _Measured:
    """Hands pieces on, and knows afterwards what they were."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self._sha1 = hashlib.sha1()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._sha1.update(piece)
            self.size += len(piece)
            yield piece

    @property
    def sha1(self) -> bytes:
        return self._sha1.digest()


def _pieces(source: ByteSource | IO[bytes], progress: Progress = unwatched) -> Iterator[bytes]:
    while piece := source.read(_PIECE):
        yield piece
        progress(len(piece))


def _packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """One zstd frame. Files may change while they are read, so it does not tell its size."""
    packer = zstandard.ZstdCompressor(level=compression.LEVEL).compressobj()
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _in_braces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield b"{"
    yield from pieces
    yield b"}"
