# SPDX-License-Identifier: AGPL-3.0-or-later
"""A deck config (preset): row of schema 18 and legacy JSON."""

import msgspec


class DeckConfig(msgspec.Struct, frozen=True, gc=False):
    """A row of `deck_config`."""

    id: int
    name: str
    mtime_secs: int
    usn: int
    config: bytes
