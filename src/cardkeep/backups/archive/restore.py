# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes a data folder of a backup.

It is unpacked in a folder of its own within the data folder (which may be a volume of its own, so
that nothing outside it is on the same file system), and every checksum is compared. Then what
was unpacked is moved up. Whatever kills it before that leaves an empty data folder but for the
unpacked part, which the next restore removes; a kill in between leaves the rest of the moves to
the next restore of the same backup. No server starts on a data folder in either state.

Only plain files and folders of the expected places come out of a reader, so nothing leaves the
folder. All are made private and belong to whoever owns the data folder.

Devices go on with the restored server as with the old one (see `lost_usns`). Media are numbered
anew, so that each device compares all of its files once: what it has and the backup has not is
sent again, what it lacks comes back.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from cardkeep.accounts.names import check_name
from cardkeep.backups import base_lock, lost_usns
from cardkeep.backups.archive.file import Show, named
from cardkeep.backups.archive.read import BackupReader, Read
from cardkeep.backups.archive.records import Manifest
from cardkeep.backups.archive.sources import is_damage
from cardkeep.backups.base_lock import UNFINISHED
from cardkeep.backups.history import History, Kind, Row
from cardkeep.collection import database, header
from cardkeep.collection.folder import UserFolder
from cardkeep.disk import flush, give_to_owner
from cardkeep.errors import BackupError, DamagedBackup, Unavailable
from cardkeep.media import index
from cardkeep.records.usns import beyond

# Within it: the first while it is not whole, the second until all of it is moved up.
_UNPACKING = "unpacking"
_UNPACKED = "unpacked"
# Says whose the second is.
_IDENTITY = "backup"
# That of one user beside a running server.
_ONE_USER = ".cardkeep-restore-user"
# What file systems have of their own.
_NOTHING = {"lost+found", UNFINISHED}

# Room on the disk that a restore leaves to others: at most this, and this part of small disks.
_RESERVE = 64 * 1024 * 1024
_RESERVED_PART = 50
_FILES_BETWEEN_LOOKS = 200


# --- the whole server -------------------------------------------------------------------


def restore(base: Path, file: Path, show: Show) -> Read:
    """Restores everything into a data folder that is empty or not there; it is on disk then.

    Raises BackupError if there is something in it or the disk has no room, DamagedBackup if the
    file is not what was written, Unavailable if a server runs on the folder.
    """
    made = not base.exists()
    with _told(base):
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with base_lock.alone(base):
                return _restore(base, file, show)
        except BaseException:
            if made:
                with contextlib.suppress(OSError):
                    base.rmdir()
            raise


def _restore(base: Path, file: Path, show: Show) -> Read:
    place = base / UNFINISHED
    with file.open("rb") as raw, named(file), show("restoring", file.stat().st_size) as progress:
        with BackupReader(raw, base, progress=progress) as reader:
            if (place / _IDENTITY).exists() and not (place / _UNPACKING).exists():
                # Nothing but moves was left to do.
                _check_identity(place, reader.manifest)
                for _ in reader:
                    pass
            else:
                shutil.rmtree(place, ignore_errors=True)
                _expect_empty(base)
                try:
                    _unpack_aside(place, reader, base)
                except BaseException:
                    shutil.rmtree(place, ignore_errors=True)
                    raise
            found = Read(reader.manifest, reader.contents)
    _move_up(place, base)
    return found


def _expect_empty(base: Path) -> None:
    if there := sorted({path.name for path in base.iterdir()} - _NOTHING):
        raise BackupError(
            f"{base} is not empty ({', '.join(there[:3])}{', …' if len(there) > 3 else ''}); a "
            "restore needs an empty data folder: move what is there away, or name another one with "
            "--folder"
        )


def _unpack_aside(place: Path, reader: BackupReader, base: Path) -> None:
    unpacking = place / _UNPACKING
    unpacker = _Unpacker(unpacking, base)
    unpacker.make_room(reader.manifest.bytes)
    unpacker.folder(place)
    unpacker.folder(unpacking)
    unpacker.unpack(reader)
    for user in reader.manifest.users:
        _carry_on(UserFolder(unpacking / user), reader.manifest)
    unpacker.file(place / _IDENTITY, [reader.manifest.id.encode()], time.time())
    _flush_all(place)
    unpacking.rename(place / _UNPACKED)
    flush(place)


def _check_identity(place: Path, manifest: Manifest) -> None:
    if (place / _IDENTITY).read_bytes() != manifest.id.encode():
        raise BackupError(
            f"the restore of another backup into {place.parent} was cut off; run that again, or "
            f"empty {place.parent} first"
        )


def _move_up(place: Path, base: Path) -> None:
    unpacked = place / _UNPACKED
    if unpacked.exists():
        for path in sorted(unpacked.iterdir()):
            if (base / path.name).exists():
                raise BackupError(f"{base / path.name} came into being during the restore")
            path.rename(base / path.name)
        flush(unpacked)
        flush(base)
        unpacked.rmdir()
    (place / _IDENTITY).unlink()
    place.rmdir()
    flush(base)


# --- one user ---------------------------------------------------------------------------


def restore_user(base: Path, file: Path, user: str, show: Show) -> Read:
    """Brings one user's folder back, where it is missing; a server may be running.

    Raises BackupError if the user has a folder or is not in the backup, DamagedBackup, and
    AccountError for a name that no user can have.
    """
    user = check_name(user)
    target = base / user
    with _told(base), _alone_at(base / _ONE_USER) as place:
        if target.exists() and any(target.iterdir()):
            raise BackupError(f"{target} is there; only a user without a folder is brought back")
        with (
            file.open("rb") as raw,
            named(file),
            show("restoring", file.stat().st_size) as progress,
            BackupReader(raw, base, progress=progress) as reader,
        ):
            if user not in reader.manifest.users:
                raise BackupError(f"there is no {user} in {file}")
            unpacker = _Unpacker(place, base)
            unpacker.unpack(reader, only=user)
            found = Read(reader.manifest, reader.contents)
        _carry_on(UserFolder(place / user), found.manifest)
        _flush_all(place)
        try:
            (place / user).rename(target)
        except OSError as error:
            raise BackupError(f"{target} came into being during the restore") from error
        flush(base)
    return found


@contextlib.contextmanager
def _alone_at(place: Path) -> Iterator[Path]:
    """A new folder, gone at the end; what a killed restore left in its place is removed."""
    place.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"another restore is running in {place.parent}") from None
        for left in place.iterdir():
            shutil.rmtree(left)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(descriptor)


# --- unpacking --------------------------------------------------------------------------


class _Unpacker:
    """Makes files and folders that were not there, within the room that the disk has."""

    def __init__(self, target: Path, base: Path) -> None:
        self._target = target
        self._base = base
        self._unseen = 0
        self._room = 0

    def unpack(self, reader: BackupReader, *, only: str | None = None) -> None:
        """Everything, or one user's things. Raises BackupError, DamagedBackup."""
        for member in reader:
            if only not in (None, member.parts[0]):
                continue
            path = self._target / member.path
            try:
                if member.is_folder:
                    self.folder(path)
                else:
                    self.make_room(member.size)
                    self.folder(path.parent)
                    self.file(path, reader.pieces(), member.mtime)
            except FileExistsError:
                raise DamagedBackup(f"it holds {member.path!r} twice") from None

    def make_room(self, size: int) -> None:
        """Raises BackupError if a file of this size would fill the disk."""
        self._room -= size
        self._unseen += 1
        if self._room < 0 or self._unseen >= _FILES_BETWEEN_LOOKS:
            self._unseen = 0
            status = os.statvfs(self._base)
            whole = status.f_blocks * status.f_frsize
            reserve = min(_RESERVE, whole // _RESERVED_PART)
            free = status.f_bavail * status.f_frsize - reserve
            if free < size or (status.f_files and status.f_favail < _FILES_BETWEEN_LOOKS):
                raise BackupError(
                    f"there is no room for it on the disk of {self._base}: {size:,} bytes are "
                    f"needed, {max(free, 0):,} are free"
                )
            # What others write meanwhile is seen with the next look.
            self._room = (free - size) // 2

    def folder(self, path: Path) -> None:
        """Makes it, and those that it is in, unless it is there."""
        if not path.is_dir():
            if path != self._base:
                self.folder(path.parent)
            path.mkdir(mode=0o700)
            give_to_owner(path, self._base)

    def file(self, path: Path, pieces: Iterable[bytes], mtime: float) -> None:
        """Makes a new file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 (a descriptor)
            give_to_owner(descriptor, self._base)
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
            os.utime(descriptor, (mtime, mtime))


# --- carrying on ------------------------------------------------------------------------


def _carry_on(folder: UserFolder, manifest: Manifest) -> None:
    """Lets the devices go on where the lost server's last state may have been.

    What was damaged when the backup was made stays as it is.
    """
    now = time.time()
    for step in (_leave_out_usns, _renumber_media):
        try:
            step(folder, now)
        except (sqlite3.DatabaseError, TypeError) as error:
            if not is_damage(error):
                raise
    row = Row(time=int(now * 1000), kind=Kind.RESTORE, note=f"backup of {manifest.made}")
    History().add(folder, row)


def _leave_out_usns(folder: UserFolder, now: float) -> None:
    if not folder.collection.exists():
        return
    with closing(database.connect_private(folder.collection)) as db:
        before = header.read(db)
        first = beyond(before.usn, now)
        header.set_usn(db, first)
    lost_usns.leave_out(folder, before, first)


def _renumber_media(folder: UserFolder, now: float) -> None:
    with contextlib.suppress(FileNotFoundError, Unavailable):  # none, or one of a strange version
        path = folder.root / "media.db"
        with closing(index.connect(path)) as connection, index.writing(connection):
            index.renumber(connection, beyond(index.last_usn(connection), now))


# --- flushing ---------------------------------------------------------------------------


def _flush_all(folder: Path) -> None:
    """Returns when everything on the folder's file system is on disk.

    Flushing 100,000 small files one by one takes hours on a memory card, this takes seconds.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not hasattr(_libc, "syncfs"):
            os.sync()
        elif _libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def _told(base: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"the restore into {base} was not finished: {error}") from error
