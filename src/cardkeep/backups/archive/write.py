# SPDX-License-Identifier: AGPL-3.0-or-later
"""Puts a backup together from the data folder of a server that may be running.

Each user's collection and index of media is in one state, each file of the index has the bytes
that the index lists, each kept copy is whole. Users follow each other, so what two of them did
at one moment may be in the backup for one of them only.
"""

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

import cardkeep
from cardkeep.accounts import database as accounts_database
from cardkeep.accounts.database import FILE as ACCOUNTS
from cardkeep.backups.archive import sources
from cardkeep.backups.archive.media import HELD, Found, Indexes, MediaFiles, is_text, whole
from cardkeep.backups.archive.records import (
    CONTENTS,
    FORMAT,
    MANIFEST,
    Contents,
    Manifest,
    Progress,
    UserContents,
    encode,
)
from cardkeep.backups.archive.stream import LEVEL, TarWriter, ignore
from cardkeep.collection import database
from cardkeep.collection.folder import UserFolder
from cardkeep.errors import BackupError, Unavailable
from cardkeep.media import index
from cardkeep.media.files import FOLDER, FileSource, open_file

# By these the folder of a user is known.
_SIGNS = ("collection.anki2", "media.db", "media", ".cardkeep")
# What belongs to live syncs and running programs alone, in a user's own folder and in the base's,
# where `media` is a store of hard links.
_LIVE = {"session", "journal", "counts", "incoming", "new.anki2"}
_LIVE_BEGINNINGS = (".", "brought-", "notice.")
_LIVE_IN_BASE = {"spool", "media", "migrate"}
_LIVE_BEGINNINGS_IN_BASE = (".", "removed-")
# While a copy's manifest is replaced.
_NEW = ".new"
_PROBLEMS_TOLD = 200


def folders_in(base: Path) -> list[str]:
    """The folders of users, with something in them."""
    return sorted(
        entry.name
        for entry in os.scandir(base)
        if entry.is_dir()
        and not entry.name.startswith(".")
        and any((base / entry.name / sign).exists() for sign in _SIGNS)
    )


def estimate(base: Path, users: Sequence[str]) -> int:
    """About how many bytes a backup unpacks to."""
    return sum(_estimate(base / user) for user in users)


def _estimate(folder: Path) -> int:
    size = 0
    with suppress(OSError):
        size += (folder / "collection.anki2").stat().st_size
    with suppress(OSError, sqlite3.Error, Unavailable):
        with closing(index.connect(folder / "media.db")) as connection:
            size += index.totals(connection).total_bytes
    for root, _, files in os.walk(folder / ".cardkeep"):
        for file in files:
            with suppress(OSError):
                size += (Path(root) / file).stat().st_size
    return size


def write(
    base: Path,
    output: BinaryIO,
    spool: Path,
    *,
    level: int = LEVEL,
    progress: Progress = ignore,
) -> Contents:
    """Writes a backup of the data folder to `output`; `spool` holds small copies meanwhile.

    `progress` is told of unpacked bytes. Raises BackupError and OSError if it cannot be done,
    Unavailable if another program (the official server) has something locked. What is missing
    or damaged on the server's side is not an error: it is said in the contents.
    """
    folders = folders_in(base)
    users = [name for name in folders if is_text(name)]
    manifest = Manifest(
        format=FORMAT,
        id=secrets.token_hex(8),
        cardkeep=cardkeep.__version__,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        users=tuple(users),
        bytes=estimate(base, users),
    )
    with closing(TarWriter(output, spool, level=level, progress=progress)) as writer:
        now = time.time()
        writer.add(MANIFEST, encode(manifest), now)
        backup = _Backup(base, writer, spool)
        for name in sorted({*folders} - {*users}):
            backup.problem(f"the folder {name!r} has a name that is no text; it is left out")
        found = tuple([backup.user(name) for name in users])
        backup.own_folder(base / ".cardkeep", ".cardkeep", _LIVE_IN_BASE, _LIVE_BEGINNINGS_IN_BASE)
        contents = Contents(
            users=found,
            accounts=backup.accounts(),
            files=writer.files,
            bytes=writer.bytes,
            problem_count=backup.problem_count,
            problems=tuple(backup.problems),
        )
        writer.add(CONTENTS, encode(contents), now)
        writer.finish()
    return contents


class _Backup:
    def __init__(self, base: Path, writer: TarWriter, spool: Path) -> None:
        self._base = base
        self._writer = writer
        self._spool = spool
        self.problems: list[str] = []
        self.problem_count = 0

    def accounts(self) -> bool:
        path = self._base / ACCOUNTS
        if not path.exists():
            return False
        try:
            with (
                closing(accounts_database.connect(path)) as live,
                sources.copied(live, self._spool) as copy,
            ):
                self._file(ACCOUNTS, copy.parent, copy.name, _mtime(path))
        except sqlite3.DatabaseError as error:
            self._take_as_it_lies("the accounts", ACCOUNTS, path, error)
        return True

    def user(self, name: str) -> UserContents:
        folder = UserFolder(self._base / name)
        self._folder(name, folder.root)
        self._folder(f"{name}/.cardkeep", folder.ours)
        contents = self._collection(name, folder, UserContents(name))
        contents = self._media(name, folder, contents)
        copies = self._copies(name, folder)
        self.own_folder(folder.ours, f"{name}/.cardkeep", _LIVE, _LIVE_BEGINNINGS)
        return msgspec.structs.replace(contents, copies=copies)

    # --- a user's things ----------------------------------------------------------------

    def _collection(self, name: str, folder: UserFolder, contents: UserContents) -> UserContents:
        with ExitStack() as stack:
            try:
                taken = stack.enter_context(sources.collection(folder, self._spool))
            except FileNotFoundError:
                return contents
            path = f"{name}/{folder.collection.name}"
            self._writer.stream(path, taken.source, _mtime(folder.collection))
            if taken.counts is None:
                self.problem(
                    f"the collection of {name} is damaged ({taken.damage}); it is taken as it lies"
                )
                return contents
            return msgspec.structs.replace(
                contents,
                cards=taken.counts.cards,
                notes=taken.counts.notes,
                reviews=taken.counts.revlog,
            )

    def _media(self, name: str, folder: UserFolder, contents: UserContents) -> UserContents:
        path, database_path = f"{name}/media", folder.root / "media.db"
        with ExitStack() as stack:
            opened = self._open_index(name, database_path, stack)
            files = stack.enter_context(closing(MediaFiles(folder.root, opened)))
            self._folder(path, folder.root / "media")
            count = size = 0
            for found in files.listed():
                if taken := self._found(path, found):
                    count, size = count + 1, size + taken
                else:
                    self.problem(f"media file {found.name!r} of {name} is not there as listed")
            for found in files.unlisted():
                self._found(path, found)
            # After the media, so that what is deleted while they are read is found here or there.
            trash = self._trash(name, folder, files)
            if opened:
                opened.copy.close()
                file = opened.file
                self._file(f"{name}/media.db", file.parent, file.name, _mtime(database_path))
        return msgspec.structs.replace(contents, media_files=count, media_bytes=size, trash=trash)

    def _trash(self, name: str, folder: UserFolder, files: MediaFiles) -> int:
        path, count = f"{name}/.cardkeep/trash", 0
        self._folder(path, folder.ours / "trash")
        for count, found in enumerate(files.trash(), start=1):  # noqa: B007
            self._found(path, found)
        return count

    def _open_index(self, name: str, path: Path, stack: ExitStack) -> Indexes | None:
        """None if there is none, or a damaged one."""
        try:
            live = stack.enter_context(closing(index.connect(path)))
            file = stack.enter_context(sources.copied(live, self._spool))
            copy = stack.enter_context(closing(database.connect_private(file)))
            index.totals(copy)
        except FileNotFoundError:
            return None
        except (sqlite3.DatabaseError, Unavailable) as error:
            what = f"the media index of {name}"
            self._take_as_it_lies(what, f"{name}/{path.name}", path, error)
            return None
        return Indexes(live, copy, file)

    def _take_as_it_lies(self, what: str, member: str, path: Path, error: Exception) -> None:
        """A damaged database; raises BackupError for one that is locked, or a broken disk."""
        if isinstance(error, sqlite3.DatabaseError) and not sources.is_damage(error):
            raise BackupError(f"{path} cannot be read: {error}") from error
        self.problem(f"{what}: {path.name} is damaged ({error}); it is taken as it lies")
        self._file(member, path.parent, path.name, _mtime(path))

    def _found(self, folder: str, found: Found) -> int:
        """Adds a file; its bytes in all, 0 if there are none."""
        if found.source is None:
            return 0
        with closing(found.source) as source:
            self._writer.stream(f"{folder}/{found.name}", source, found.mtime)
            return source.size

    def _copies(self, name: str, folder: UserFolder) -> int:
        """Kept copies, each whole: all its files are open before the first is read."""
        path = f"{name}/.cardkeep/{folder.snapshots.name}"
        count = 0
        self._folder(path, folder.snapshots)
        for identity in _names(folder.snapshots):
            with ExitStack() as stack:
                files = _files_of_copy(folder.snapshots / identity, stack)
                if files is None:
                    continue  # removed meanwhile
                count += 1
                self._writer.folder(f"{path}/{identity}", _mtime(folder.snapshots / identity))
                for file, source, mtime in files:
                    self._writer.stream(f"{path}/{identity}/{file}", source, mtime)
        return count

    def own_folder(
        self, folder: Path, path: str, live: set[str], beginnings: tuple[str, ...]
    ) -> None:
        """Adds what cardkeep keeps in a folder of its own, but for `live` things."""
        for name in _names(folder):
            if name in live or name.startswith(beginnings) or name in ("snapshots", "trash"):
                continue
            if (folder / name).is_dir():
                self._folder(f"{path}/{name}", folder / name)
                self.own_folder(folder / name, f"{path}/{name}", set(), (".",))
            else:
                self._file(f"{path}/{name}", folder, name, _mtime(folder / name))

    # --- details ------------------------------------------------------------------------

    def _folder(self, path: str, folder: Path) -> None:
        if folder.is_dir():
            self._writer.folder(path, _mtime(folder))

    def _file(self, path: str, folder: Path, name: str, mtime: float) -> None:
        """Adds a file, as long as it is when it is opened; nothing if it is gone."""
        descriptor = os.open(folder, FOLDER)
        try:
            source = open_file(name, descriptor)
        finally:
            os.close(descriptor)
        if source is not None:
            with closing(source):
                if source.size > HELD:
                    self._writer.stream(path, source, mtime)
                else:  # it may be changing
                    self._writer.add(path, whole(source), mtime)

    def problem(self, text: str) -> None:
        self.problem_count += 1
        if len(self.problems) < _PROBLEMS_TOLD:
            self.problems.append(text)


def _files_of_copy(folder: Path, stack: ExitStack) -> list[tuple[str, FileSource, float]] | None:
    """The files of a kept copy, open; None if it is being removed."""
    files = []
    try:
        descriptor = os.open(folder, FOLDER)
        stack.callback(os.close, descriptor)
        for name in os.listdir(descriptor):  # noqa: PTH208 (a descriptor)
            source = None if name.endswith(_NEW) else open_file(name, descriptor)
            if source is not None:
                stack.callback(source.close)
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                files.append((name, source, status.st_mtime))
        # Whoever removes a copy renames it first: so nothing of it was missing when it was listed.
        return files if os.path.samestat(folder.stat(), os.fstat(descriptor)) else None
    except FileNotFoundError:
        return None


def _names(folder: Path) -> Iterator[str]:
    """What is in a folder of ours; nothing if there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted({path.name for path in folder.iterdir() if not path.name.startswith(".")})


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
