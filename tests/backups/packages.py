# SPDX-License-Identifier: AGPL-3.0-or-later
"""Packages made by hand, as Anki makes them and as nobody should."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import zstandard

from cardkeep.records import package
from cardkeep.records.package import Form
from tests.wire.zips import Member

RICH_18 = Path(__file__).parents[1] / "vectors" / "collections" / "rich-schema18.anki2"
RICH_11 = Path(__file__).parents[1] / "vectors" / "collections" / "rich-schema11.anki2"

Files = Sequence[tuple[str, bytes]]


@functools.lru_cache(maxsize=4)
def zstd(data: bytes) -> bytes:
    """As Anki packs: a frame that does not tell its size."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.flush()


def todays(files: Files = (), **changes: Member | None) -> list[Member]:
    """The members of a CURRENT package; `changes` replace members, None leaves one out."""
    listed = b"".join(
        package.entry(name, len(data), hashlib.sha1(data).digest()) for name, data in files
    )
    members = [
        Member(b"meta", package.meta(Form.CURRENT)),
        Member(b"collection.anki21b", zstd(RICH_18.read_bytes())),
        Member(b"collection.anki2", b"for old programs"),
        *(Member(b"%d" % n, zstd(data)) for n, (_, data) in enumerate(files)),
        Member(b"media", zstd(listed)),
    ]
    return _changed(members, changes)


def olds(files: Files = (), **changes: Member | None) -> list[Member]:
    """The members of an OLD package."""
    names = {str(n): name for n, (name, _) in enumerate(files)}
    members = [
        Member(b"meta", package.meta(Form.OLD)),
        Member(b"collection.anki21", RICH_11.read_bytes()).deflated(),
        Member(b"collection.anki2", b"for old programs"),
        *(Member(b"%d" % n, data) for n, (_, data) in enumerate(files)),
        Member(b"media", json.dumps(names).encode()),
    ]
    return _changed(members, changes)


def _changed(members: list[Member], changes: Mapping[str, Member | None]) -> list[Member]:
    """Keyword names: `n0` for member 0, and `anki21b` for collection.anki21b."""
    named = {
        (b"collection." if name.startswith("anki") else b"") + name.removeprefix("n").encode(): new
        for name, new in changes.items()
    }
    kept = [named.pop(member.name, member) for member in members]
    return [member for member in (*kept, *named.values()) if member]
