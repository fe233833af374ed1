# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is found in the folder of another server."""

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

COLLECTION = "collection.anki2"

SecretKind = Literal["plain", "phc", "ankisyncd"]


class Secret(msgspec.Struct, frozen=True):
    """A password: plain, as a PHC string, or as ankisyncd hashed it. `origin` is for people."""

    kind: SecretKind
    text: str
    origin: str

    def __repr__(self) -> str:
        return f"Secret({self.kind}, ***, {self.origin})"


class MediaPlace(msgspec.Struct, frozen=True):
    """A user's media files, and the index of them if there is one."""

    folder: Path
    index: Path | None


class Found(msgspec.Struct, frozen=True):
    """A user of another server.

    `name` is as it was given there. `keys` are the host keys with which devices are logged in,
    as far as they may be taken over.
    """

    name: str
    collection: Path | None
    media: MediaPlace | None
    password: Secret | None = None
    keys: tuple[str, ...] = ()


class Source(msgspec.Struct, frozen=True):
    """A folder of another server: `kind` names that, `logins` says what becomes of devices."""

    kind: str
    folder: Path
    users: tuple[Found, ...]
    logins: str
    notes: tuple[str, ...] = ()


def folders(root: Path) -> Iterator[Path]:
    """The folders in a folder, by name."""
    yield from sorted(path for path in root.iterdir() if path.is_dir())


def official_media(folder: Path) -> MediaPlace | None:
    """Media as the official server keeps them."""
    return _media(folder / "media", folder / "media.db")


def ankisyncd_media(folder: Path) -> MediaPlace | None:
    """Media as ankisyncd kept them; before 2020 it used the index of a client."""
    stem = folder / "collection.media"
    server, client = (stem.with_name(f"{stem.name}.{end}") for end in ("server.db", "db2"))
    return _media(stem, server if server.is_file() else client)


def _media(folder: Path, index: Path) -> MediaPlace | None:
    found = index if index.is_file() else None
    return MediaPlace(folder, found) if found or folder.is_dir() else None


def collection_in(folder: Path) -> Path | None:
    """The collection in a user's folder."""
    path = folder / COLLECTION
    return path if path.is_file() else None


def by_name(passwords: Mapping[str, Secret], name: str) -> Secret | None:
    """A user's password; names are compared in Unicode NFC."""
    wanted = unicodedata.normalize("NFC", name)
    for each, secret in passwords.items():
        if unicodedata.normalize("NFC", each) == wanted:
            return secret
    return None
