# SPDX-License-Identifier: AGPL-3.0-or-later
"""Devices that know a later state than the server: found when they come, one by one.

A backup brings back an old state. Devices that have not synced since it was made go on as if
nothing had happened: what they have is in it, or still to be sent. A device that has synced since
has sent changes that are gone with the server, will not send them again, and believes in a usn
that the server never gave it. Merging with it would go wrong in silence; and to have every device
ask for the direction, because one of them may be such a device, costs all others the changes that
they have not sent yet.

So a collection that was brought back counts on from a usn that no lost state can have reached
(`records.usns`), and the numbers it leaves out are written down. A device that begins a sync from
one of these, or from one that is still to come, is one that knows more. They hold for as long as
the collection is the same (its `scm`): one that is uploaded counts from wherever its device did.
"""

import os

import msgspec

from cardkeep.collection.folder import UserFolder
from cardkeep.collection.header import Header


class _Gap(msgspec.Struct, frozen=True):
    """Numbers after `last` and up to `first` were, or may have been, given out by lost states."""

    scm: int
    last: int
    first: int


_gaps = msgspec.json.Decoder(list[_Gap])


def leave_out(folder: UserFolder, before: Header, first: int) -> None:
    """Notes that a collection, whose header was `before`, counts on from `first`.

    Not flushed: for a folder that is not in use yet.
    """
    gaps = [*_read(folder), _Gap(before.scm, before.usn, first)]
    descriptor = folder.open_own(folder.lost_usns, os.O_WRONLY | os.O_TRUNC)
    with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor)
        file.write(msgspec.json.encode(gaps))


def is_lost(folder: UserFolder, usn: int, server: Header) -> bool:
    """Whether a device that begins from `usn` knows a later state than the server."""
    return usn > server.usn or any(
        gap.scm == server.scm and gap.last < usn <= gap.first for gap in _read(folder)
    )


def _read(folder: UserFolder) -> list[_Gap]:
    try:
        descriptor = os.open(folder.lost_usns, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        return _gaps.decode(os.read(descriptor, 65_536))
    except msgspec.DecodeError:
        return []
    finally:
        os.close(descriptor)
