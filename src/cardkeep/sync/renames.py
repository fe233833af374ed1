# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two devices made a deck, or a notetype, of the same name.

The official server renames the received one, and its sender never learns of that. Here
the server's own gives way, before it is sent: the client then stores it under its new
name, and every device ends up with the same two names.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from cardkeep.records.deck import Deck
from cardkeep.records.names import free_name
from cardkeep.records.notetype import Notetype
from cardkeep.records.unicase import fold
from cardkeep.sync.journal import Renamed

N = TypeVar("N", Deck, Notetype)


def make_way(
    received: Sequence[Deck] | Sequence[Notetype],
    holder: Callable[[str], int | None],
    stored_name: Callable[[int], str],
    gone: Collection[int],
    now: int,
) -> list[Renamed]:
    """The server's own objects that must give their names to the `received` ones.

    `holder` finds the id that holds a name; objects in `gone` are deleted by this sync.
    `now` in s becomes their modification time.
    """
    incoming = {one.id for one in received}
    wanted = {fold(one.name) for one in received}
    given: list[Renamed] = []
    for one in received:
        own = holder(one.name)
        if own is None or own in incoming or own in gone:
            continue
        name = free_name(stored_name(own), lambda n: fold(n) in wanted or holder(n) is not None)
        wanted.add(fold(name))
        given.append(Renamed(own, name, now))
    return given


def sending_order(objects: Iterable[N]) -> list[N]:
    """Objects so that a client can store them one by one without two having one name.

    What changed earlier goes first; but one that gave its name away (`Name+`) goes
    before the one that took it, since the client still has it under the old name.
    """
    found = sorted(objects, key=lambda one: (one.usn, one.mtime_secs, one.id))
    names = {fold(one.name) for one in found}
    gave_way = [one for one in found if _base_in(fold(one.name), names)]
    gave_way.sort(key=lambda one: len(one.name), reverse=True)
    first = {one.id for one in gave_way}
    return gave_way + [one for one in found if one.id not in first]


def _base_in(name: str, names: Collection[str]) -> bool:
    while name.endswith("+"):
        name = name[:-1]
        if name in names:
            return True
    return False
