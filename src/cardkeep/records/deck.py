# SPDX-License-Identifier: AGPL-3.0-or-later
"""A deck: row of schema 18 and legacy JSON."""

import msgspec


class Deck(msgspec.Struct, frozen=True, gc=False):
    """A row of `decks`. `name` is the native form (levels joined by U+001F)."""

    id: int
    name: str
    mtime_secs: int
    usn: int
    common: bytes
    kind: bytes
