# SPDX-License-Identifier: AGPL-3.0-or-later
"""Media files of an import become those of a user, as if a device had sent them."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from cardkeep.backups.media_source import MediaSource, Progress, unwatched
from cardkeep.errors import PackageError
from cardkeep.media.store import MAX_FILES, MediaStore
from cardkeep.messages import ByteSource, MediaEntry
from cardkeep.records.media_name import is_clients_own


class LeftOut(NamedTuple):
    """A file that no device could have, and what it is that says so."""

    name: str
    why: str


def store_media(
    store: MediaStore,
    user: str,
    files: Iterable[MediaSource],
    *,
    most: int,
    progress: Progress = unwatched,
) -> tuple[int, list[LeftOut]]:
    """Stores the files, each whole or not at all; what the user has besides stays.

    Returns how many were stored (or were there already), and which were left out: those of
    more than `most` bytes among them. Raises BadRequest if one turns out to be damaged.
    """
    stored, left_out = 0, list[LeftOut]()
    for batch in _batches(files):
        entries = []
        for file in batch:
            if why := _unfit(file, most):
                left_out.append(LeftOut(file.name, why))
            else:
                entries.append(MediaEntry(file.name, partial(_opened, file)))
        if entries:
            store.upload(user, entries)
        stored += len(entries)
        progress(sum(file.size for file in batch))
    return stored, left_out


def _batches(files: Iterable[MediaSource]) -> Iterator[list[MediaSource]]:
    batch = []
    for file in files:
        batch.append(file)
        if len(batch) == MAX_FILES:
            yield batch
            batch = []
    if batch:
        yield batch


def _unfit(file: MediaSource, most: int) -> str:
    if not is_clients_own(file.name):
        return "named as no client keeps it"
    if not file.size:
        return "empty"
    if file.size > most:
        return f"larger than {most} bytes (setting max_media_file)"
    return ""


def _opened(file: MediaSource) -> ByteSource:
    source = file.open()
    if source is None:
        raise PackageError(f"the media file {file.name!r} vanished meanwhile")
    return source
