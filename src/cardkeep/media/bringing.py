# SPDX-License-Identifier: AGPL-3.0-or-later
"""Media files come back: as an earlier list has them, or as the index lists them still.

The bytes are looked for by their checksum: in the trash, then in the store of shared bytes if
there is one, then among the files that are listed under other names. They are taken by
a hard link where nobody else has a name for them, else copied, and checked in either case.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from cardkeep.errors import BadRequest
from cardkeep.media import index
from cardkeep.media.delivery import Delivery
from cardkeep.media.files import FileSource
from cardkeep.media.incoming import ByteStore, Upload
from cardkeep.media.index import Fingerprint
from cardkeep.records.media_name import check_media_name, check_new_media_name

#: A file and the bytes that it is to have.
Wish = tuple[str, Fingerprint]


class BroughtBack(NamedTuple):
    """What became of the files that were wanted; `brought` and `unchanged` are numbers.

    The bytes of the `missing` are nowhere any more. The `refused` have a name that no new file
    may have, or no bytes at all.
    """

    brought: int = 0
    unchanged: int = 0
    missing: Sequence[str] = ()
    refused: Sequence[str] = ()

    @classmethod
    def of(cls, parts: Sequence["BroughtBack"]) -> Self:
        """All of them together."""
        return cls(
            sum(part.brought for part in parts),
            sum(part.unchanged for part in parts),
            [name for part in parts for name in part.missing],
            [name for part in parts for name in part.refused],
        )


def bring_back(
    delivery: Delivery, wishes: Sequence[Wish], stores: Sequence[ByteStore], now: int
) -> BroughtBack:
    """Gives files the bytes that they once had, as a change of the server's own.

    At most as many as an upload may have. Raises BadRequest for a name that the file
    system cannot have; nothing is changed then.
    """
    delivery.settle_leftovers()
    nameable = [wish for wish in wishes if _passes(check_media_name, wish[0])]
    entries = index.entries(delivery.connection, [name for name, _ in nameable])
    absent = [wish for wish in nameable if not delivery.is_stored(*wish, entries)]
    wanted = [wish for wish in absent if wish[1].size and _passes(check_new_media_name, wish[0])]
    found = find(delivery, wanted, stores)
    if found:
        delivery.commit(found, now)
        delivery.trash.take_out([bytes_ for _, bytes_ in found])
    return BroughtBack(
        brought=len(found),
        unchanged=len(nameable) - len(absent),
        missing=_names(wanted, besides=found),
        refused=_names(wishes, besides=nameable) + _names(absent, besides=wanted),
    )


def put_back(delivery: Delivery, wishes: Sequence[Wish], stores: Sequence[ByteStore]) -> set[str]:
    """Gives files the bytes that the index lists, whatever lies in their places now.

    Returns the names of those whose bytes were found. At most as many as an upload may have.
    """
    found = find(delivery, wishes, stores)
    put = delivery.put_back(found) if found else set()
    delivery.trash.take_out([bytes_ for name, bytes_ in found if name in put])
    return put


def find(delivery: Delivery, wishes: Sequence[Wish], stores: Sequence[ByteStore]) -> list[Wish]:
    """Those whose bytes could be had; they are aside then, in the order of the result."""
    found: list[Wish] = []
    lacking: list[Wish] = []
    for wish in wishes:
        (found if _take(delivery, len(found), wish[1], stores) else lacking).append(wish)
    if lacking:
        others = index.names_with(delivery.connection, {bytes_.sha1 for _, bytes_ in lacking})
        for wish in lacking:
            if _copy_other(delivery, len(found), wish[1], others.get(wish[1].sha1, ())):
                found.append(wish)
    delivery.upload.flush()
    return found


def _take(
    delivery: Delivery, position: int, bytes_: Fingerprint, stores: Sequence[ByteStore]
) -> bool:
    if any(delivery.upload.link(position, bytes_, store) for store in stores):
        return True
    return _copy(delivery.upload, position, bytes_, delivery.trash.open(bytes_))


def _copy_other(
    delivery: Delivery, position: int, bytes_: Fingerprint, names: Sequence[str]
) -> bool:
    return any(
        _copy(delivery.upload, position, bytes_, delivery.folder.open(name)) for name in names
    )


def _copy(upload: Upload, position: int, bytes_: Fingerprint, source: FileSource | None) -> bool:
    if source is None:
        return False
    with contextlib.closing(source):
        if source.size != bytes_.size:
            return False
        if upload.copy(position, source) == bytes_:
            return True
    upload.drop(position)
    return False


def _passes(check: Callable[[str], None], name: str) -> bool:
    try:
        check(name)
    except BadRequest:
        return False
    return True


def _names(wishes: Sequence[Wish], besides: Sequence[Wish]) -> list[str]:
    without = {name for name, _ in besides}
    return [name for name, _ in wishes if name not in without]
