# SPDX-License-Identifier: AGPL-3.0-or-later
"""From a path to a method of the protocol (docs/sync-protocol.md, 1.1).

People give their clients addresses with and without final slash, with `/sync/` at the end,
behind proxies that keep or strip a prefix, and clients join the parts each in their own
way. All method names are distinct, so the last segment decides and the rest is not looked
at. No page may therefore have a method's name as its last segment.
"""

from functools import lru_cache

from cardkeep.errors import UnknownMethod
from cardkeep.wire.request import METHODS, Method

# Clients use few paths, again and again.
_REMEMBERED = 100

_AREAS = frozenset(method.area for method in METHODS.values())

#: v10 desktop appends the name to what it was given: `http://host/sync` without a final
#: slash becomes `/synchostKey`.
_NAMES = METHODS | {method.area + method.name: method for method in METHODS.values()}


@lru_cache(_REMEMBERED)
def is_sync(path: str) -> bool:
    """Whether the path is the protocol's: a method, or anything right under /sync or /msync."""
    return _last(path) in _NAMES or _area(path) in _AREAS


@lru_cache(_REMEMBERED)
def find_method(path: str) -> Method:
    """The method; raises UnknownMethod."""
    method = _NAMES.get(_last(path))
    if method is None:
        raise UnknownMethod(f"no method at {path}")
    return method


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _area(path: str) -> str:
    return _last(path.rstrip("/").rpartition("/")[0])
