# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `cardkeep check` looks at beside the users' own things: the place that they are in.

The server is taken to run as the owner of the data folder. That is who must be able to read and
write everything, whoever runs the check.
"""

import contextlib
import os
import pwd
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cardkeep.accounts.check import check_accounts, user_names
from cardkeep.accounts.database import FILE as ACCOUNTS
from cardkeep.backups import scratch
from cardkeep.cli.words import in_words
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.session_file import SessionFile
from cardkeep.http import spool
from cardkeep.media.shared import SharedBytes
from cardkeep.messages import Finding

# What a process may still be using is younger than this, in s.
_LEFT_AFTER = 86_400
# An upload is written aside, then into the log of the collection; a copy of the old one is kept.
_ROOM = 3
_NAMED = 3
_OF_A_USER = ("collection.anki2", "media.db", ".cardkeep")

_READ, _WRITE, _ENTER = 4, 2, 1


def folders_of_users(base: Path) -> list[str]:
    """The names of the folders that hold anything of a user."""
    return sorted(
        path.name
        for path in base.iterdir()
        if not path.name.startswith(".") and any((path / name).exists() for name in _OF_A_USER)
    )


def check_data_folder(base: Path, *, repair: bool = False) -> Iterator[Finding]:
    """What is wrong with the data folder itself."""
    folders = folders_of_users(base)
    yield from check_accounts(base)
    yield from _users(base, folders)
    yield from _access(base, folders)
    yield from _secrets(base, repair=repair)
    yield from _free_space(base, folders)
    yield from _leftovers(base, folders, repair=repair)


def _named(things: Sequence[object]) -> str:
    return _some(things, len(things))


def _some(first: Sequence[object], count: int) -> str:
    shown = ", ".join(map(str, first[:_NAMED]))
    return shown + ("" if count <= _NAMED else f" and {count - _NAMED} more")


def _users(base: Path, folders: Sequence[str]) -> Iterator[Finding]:
    known = user_names(base)
    new = [name for name in known if name not in set(folders)]
    if new:
        yield Finding(
            "user-without-folder", f"No device has synced yet of {_named(new)}.", harmless=True
        )
    nobodys = [name for name in folders if name not in set(known)]
    if nobodys:
        yield Finding(
            "folder-without-user", f"Nobody can log in to {_named(nobodys)}.", harmless=True
        )


# --- access -----------------------------------------------------------------------------


class _Server:
    """As whom the server runs, and what that may do."""

    def __init__(self, base: Path) -> None:
        self.uid = base.stat().st_uid
        try:
            account = pwd.getpwuid(self.uid)
            self.name = account.pw_name
            self._groups = set(os.getgrouplist(account.pw_name, account.pw_gid))
        except KeyError:
            self.name = f"user {self.uid}"
            self._groups = {base.stat().st_gid}

    def may(self, status: os.stat_result, wanted: int) -> bool:
        """Whether it can read, write, enter; root can."""
        if self.uid == 0:
            return True
        if status.st_uid == self.uid:
            granted = status.st_mode >> 6
        elif status.st_gid in self._groups:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        return granted & wanted == wanted


def _access(base: Path, folders: Sequence[str]) -> Iterator[Finding]:
    server = _Server(base)
    barred: list[Path] = []
    foreign: list[Path] = []
    bars = strangers = 0
    for path, status in _everything(base, folders):
        if not server.may(status, _wanted(path, status)):
            bars += 1
            barred += [path] if len(barred) < _NAMED else []
        elif status.st_uid != server.uid:
            strangers += 1
            foreign += [path] if len(foreign) < _NAMED else []
    if bars:
        words = f"The server, which runs as {server.name}, cannot use"
        yield Finding("not-accessible", f"{words} {_some(barred, bars)}.")
    if strangers:
        words = f"The server runs as {server.name}, but others own"
        yield Finding("owner", f"{words} {_some(foreign, strangers)}.", harmless=True)


def _wanted(path: Path, status: os.stat_result) -> int:
    if stat.S_ISDIR(status.st_mode):
        return _READ | _WRITE | _ENTER
    # A media file is never written to: another one takes its place.
    return _READ if path.parent.name == "media" else _READ | _WRITE


def _everything(base: Path, folders: Sequence[str]) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file and folder of ours with its status, one in memory at a time."""
    tops = [base / ".cardkeep", *base.glob(f"{ACCOUNTS}*"), *(base / name for name in folders)]
    yield base, base.stat()
    for top in tops:
        yield from _tree(top)


def _tree(top: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        status = top.stat()
        yield top, status
        if not stat.S_ISDIR(status.st_mode):
            return
        with os.scandir(top) as entries:
            for entry in entries:
                # Only `media` may be a link, made by the operator: no other is followed.
                follow = entry.name == "media"
                if entry.is_dir(follow_symlinks=follow):
                    yield from _tree(Path(entry.path))
                else:
                    with contextlib.suppress(FileNotFoundError):
                        yield Path(entry.path), entry.stat(follow_symlinks=follow)
    except (FileNotFoundError, PermissionError):
        # Gone by now; or told of the folder itself.
        return


def _secrets(base: Path, *, repair: bool) -> Iterator[Finding]:
    """The accounts hold hashes of passwords and keys."""
    if not base.stat().st_mode & stat.S_IXOTH:
        return
    open_ = [path for path in base.glob(f"{ACCOUNTS}*") if _of_others(path)]
    if not open_:
        return
    if repair:
        for path in open_:
            with contextlib.suppress(OSError):
                path.chmod(stat.S_IMODE(path.stat().st_mode) & ~stat.S_IRWXO)
    yield Finding(
        "readable-by-others",
        f"Every user of this machine can use {_named(open_)}, with the hashes of all passwords.",
        repaired=repair and not any(map(_of_others, open_)),
        repairable=True,
    )


def _of_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except FileNotFoundError:
        return False


# --- room -------------------------------------------------------------------------------


def _free_space(base: Path, folders: Iterable[str]) -> Iterator[Finding]:
    largest, owner = max(
        ((_size(UserFolder(base / name).collection), name) for name in folders), default=(0, "")
    )
    free = shutil.disk_usage(base).free
    if free < largest * _ROOM:
        yield Finding(
            "free-space",
            f"{in_words(free)} are free. An upload of {owner}'s collection of {in_words(largest)}, "
            f"with the copy that is kept of it, can take {in_words(largest * _ROOM)}.",
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _leftovers(base: Path, folders: Iterable[str], *, repair: bool) -> Iterator[Finding]:
    """What killed processes left: bodies, removed users, a collection that was being made, and
    bytes that nobody shares any more.
    """
    before = time.time() - _LEFT_AFTER
    ours = base / ".cardkeep"
    bodies = (ours / "spool").glob(f"{spool.PREFIX}*")
    fresh = (UserFolder(base / name).fresh for name in folders)
    left = [path for path in (*bodies, *ours.glob("removed-*"), *fresh) if _is_older(path, before)]
    left += scratch.leftovers(ours / "spool")
    shared = SharedBytes(base)
    left += shared.unused()
    if not left:
        return
    if repair:
        spool.sweep(ours / "spool", before)
        scratch.sweep(ours / "spool")
        shared.sweep()
        for path in ours.glob("removed-*"):
            if _is_older(path, before):
                shutil.rmtree(path, ignore_errors=True)
        for name in folders:
            _drop_fresh(UserFolder(base / name), before)
    text = f"Temporary files of killed processes: {_named(left)}."
    yield Finding(
        "leftover",
        text,
        repaired=repair and not any(_is_older(path, before) for path in left),
        repairable=True,
        harmless=True,
    )


def _drop_fresh(folder: UserFolder, before: float) -> None:
    if _is_older(folder.fresh, before):
        with SessionFile(folder, wait=True):
            folder.fresh.unlink(missing_ok=True)


def _is_older(path: Path, moment: float) -> bool:
    try:
        return path.lstat().st_mtime < moment
    except OSError:
        return False
