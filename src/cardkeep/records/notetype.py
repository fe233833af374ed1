# SPDX-License-Identifier: AGPL-3.0-or-later
"""A notetype with its fields and templates: rows of schema 18 and legacy JSON."""

import msgspec


class Field(msgspec.Struct, frozen=True, gc=False):
    """A row of `fields`; its ord is its position."""

    name: str
    config: bytes


class Template(msgspec.Struct, frozen=True, gc=False):
    """A row of `templates`; its ord is its position, its mtime and usn are 0."""

    name: str
    config: bytes


class Notetype(msgspec.Struct, frozen=True):
    """A row of `notetypes` and its rows of `fields` and `templates`."""

    id: int
    name: str
    mtime_secs: int
    usn: int
    config: bytes
    fields: list[Field]
    templates: list[Template]
