# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a backup says of itself: two JSON files and the list of checksums in it."""

from collections.abc import Callable

import msgspec

from cardkeep.errors import DamagedBackup

#: Raised by whoever changes what is where, so that an older reader does not misread it.
FORMAT = 1

MANIFEST = "cardkeep-backup.json"
CONTENTS = "cardkeep-backup-contents.json"
SUMS = "cardkeep-backup.sha256"
#: What is in the file beside the data folder.
ABOUT = (MANIFEST, CONTENTS, SUMS)

# Both are held in memory; a thousand users are 300 kB.
LARGEST = 64 * 1024 * 1024

Progress = Callable[[int], None]
"""Told the bytes of each piece that was dealt with."""


class Manifest(msgspec.Struct, frozen=True):
    """The beginning. `made` is UTC (ISO 8601), `bytes` about what it will unpack to."""

    format: int
    id: str
    cardkeep: str
    made: str
    users: tuple[str, ...]
    bytes: int


class UserContents(msgspec.Struct, frozen=True):
    """What there is of a user: media files that are listed, kept copies, files in the trash."""

    name: str
    cards: int = 0
    notes: int = 0
    reviews: int = 0
    media_files: int = 0
    media_bytes: int = 0
    copies: int = 0
    trash: int = 0


class Contents(msgspec.Struct, frozen=True):
    """The end. `problems` are sentences, at most some hundred of the `problem_count`."""

    users: tuple[UserContents, ...]
    accounts: bool
    files: int
    bytes: int
    problem_count: int = 0
    problems: tuple[str, ...] = ()


def encode(record: Manifest | Contents) -> bytes:
    """As a text that people can read."""
    return msgspec.json.format(msgspec.json.encode(record)) + b"\n"


def decode_manifest(text: bytes) -> Manifest:
    """Raises DamagedBackup, also for a file that a newer cardkeep wrote."""
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        raise DamagedBackup(f"{MANIFEST} in it cannot be read: {error}") from None
    if manifest.format != FORMAT:
        raise DamagedBackup(
            f"it is of format {manifest.format}, this cardkeep knows {FORMAT}; "
            f"cardkeep {manifest.cardkeep} wrote it"
        )
    return manifest


def decode_contents(text: bytes) -> Contents:
    """Raises DamagedBackup."""
    try:
        return msgspec.json.decode(text, type=Contents)
    except msgspec.DecodeError as error:
        raise DamagedBackup(f"{CONTENTS} in it cannot be read: {error}") from None
