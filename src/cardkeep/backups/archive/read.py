# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads a backup from start to end, and so checks it."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cardkeep.accounts.database import FILE as ACCOUNTS
from cardkeep.backups.archive.records import (
    CONTENTS,
    LARGEST,
    MANIFEST,
    Contents,
    Manifest,
    Progress,
    decode_contents,
    decode_manifest,
)
from cardkeep.backups.archive.stream import Member, TarReader, ignore
from cardkeep.errors import DamagedBackup


class Read(NamedTuple):
    """What a backup that was read in full says of itself."""

    manifest: Manifest
    contents: Contents


class BackupReader:
    """Iterates over what belongs into a data folder; a context.

    `manifest` is there from the beginning, `contents` once the iteration has ended, and then
    everything was found to be as it was written. Raises DamagedBackup where it is not.
    """

    manifest: Manifest
    contents: Contents

    def __init__(self, raw: BinaryIO, spool: Path, *, progress: Progress = ignore) -> None:
        self._reader = TarReader(raw, spool, progress=progress)
        self._members = iter(self._reader)
        try:
            first = next(self._members)
            if first.path != MANIFEST or first.is_folder:
                raise DamagedBackup(f"it is no backup: it does not begin with {MANIFEST}")
            self.manifest = decode_manifest(self._reader.whole(LARGEST))
            self._size = first.size
            self._known = {*self.manifest.users, ACCOUNTS, ".cardkeep"}
        except BaseException:
            self._reader.close()
            raise

    def __enter__(self) -> "BackupReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def __iter__(self) -> Iterator[Member]:
        files, size, contents = 1, self._size, None
        for member in self._members:
            if member.path == CONTENTS and not member.is_folder and contents is None:
                contents = decode_contents(self._reader.whole(LARGEST))
                continue
            if contents is not None or member.parts[0] not in self._known:
                raise DamagedBackup(f"it holds {member.path!r}, which belongs to no user")
            files, size = files + (not member.is_folder), size + member.size
            yield member
        if contents is None or (contents.files, contents.bytes) != (files, size):
            raise DamagedBackup(f"{CONTENTS} in it does not say what is in it")
        self.contents = contents

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the present member."""
        return self._reader.pieces()


def verify(raw: BinaryIO, spool: Path, *, progress: Progress = ignore) -> Read:
    """Reads it all, and compares every checksum; `progress` is told of packed bytes.

    Raises DamagedBackup.
    """
    with BackupReader(raw, spool, progress=progress) as reader:
        for _ in reader:
            pass
        return Read(reader.manifest, reader.contents)
