# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a user is still to be told through the protocol: words in the answer to `meta`.

Clients show these words when they sync. But current ones also ask `meta` in the background, to
colour their sync button, and show nothing then; both look the same to the server. So a device is
told again, some minutes later, until a sync follows under the session key of the telling, a few
times at most. A notice that `stays` is told each time, until the device has up- or
downloaded a whole collection.
"""

import contextlib
import html
import os
import shlex
import threading
from collections.abc import Mapping

import msgspec

from cardkeep.collection.folder import UserFolder
from cardkeep.disk import Stamp

# The background look of clients comes at most every 5 minutes.
_AGAIN_AFTER_MS = 5 * 60_000
_TELLINGS = 3
_FORGOTTEN_AFTER_MS = 30 * 86_400_000


class Telling(msgspec.Struct, frozen=True):
    """How often a device was told, when last (ms), and under which session key."""

    times: int = 0
    last: int = 0
    key: str = ""
    done: bool = False


class Notice(msgspec.Struct, frozen=True):
    """A sentence for the user, since when (ms), and which devices know it."""

    words: str
    since: int
    stays: bool = False
    told: Mapping[str, Telling] = {}


_notice = msgspec.json.Decoder(Notice)


def in_command(user: str) -> str:
    """A user's name within a command that clients show: for a shell, and as HTML."""
    return html.escape(shlex.quote(user), quote=False)


def put(folder: UserFolder, words: str, now_ms: int, *, stays: bool = False) -> None:
    """From now on each device is told these words, instead of any earlier ones."""
    _write(folder, Notice(words, now_ms, stays))


def tell(folder: UserFolder, device: str, key: str, now_ms: int, stamp: Stamp | None = None) -> str:
    """What the device is to be told now; empty if nothing.

    `stamp` is the folder's as of now: no look is needed if there was no notice under it.
    """
    if stamp is not None and folder.without_notice == stamp:
        return ""
    notice = _read(folder)
    if notice is None:
        folder.without_notice = stamp
        return ""
    if now_ms - notice.since > _FORGOTTEN_AFTER_MS:
        folder.notice.unlink(missing_ok=True)
        return ""
    known = notice.told.get(device, Telling())
    if known.done:
        return ""
    was_just_told = known.times > 0 and now_ms - known.last < _AGAIN_AFTER_MS
    if not notice.stays and (was_just_told or known.times >= _TELLINGS):
        return ""
    _note(folder, notice, device, Telling(known.times + 1, now_ms, key))
    return notice.words


def followed(folder: UserFolder, device: str, key: str) -> None:
    """A normal sync followed under this session key: the words were shown."""
    notice = _read(folder)
    if notice is None or notice.stays:
        return
    known = notice.told.get(device)
    if known is not None and known.key == key and not known.done:
        _note(folder, notice, device, Telling(done=True))


def downloaded(folder: UserFolder, device: str) -> None:
    """The device has what the server has: nothing is left to be told."""
    notice = _read(folder)
    if notice is not None:
        _note(folder, notice, device, Telling(done=True))


def drop(folder: UserFolder) -> None:
    """Another collection is in its place: what was to be told does not hold any more."""
    folder.notice.unlink(missing_ok=True)


def _note(folder: UserFolder, notice: Notice, device: str, telling: Telling) -> None:
    _write(folder, msgspec.structs.replace(notice, told={**notice.told, device: telling}))


def _read(folder: UserFolder) -> Notice | None:
    try:
        descriptor = os.open(folder.notice, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _notice.decode(os.read(descriptor, 65_536))
    except msgspec.DecodeError:
        return None
    finally:
        os.close(descriptor)


def _write(folder: UserFolder, notice: Notice) -> None:
    """Not flushed: after a crash of the machine a device may be told once more."""
    folder.make()
    # Aside in the user's own folder: so the move changes the stamp of that, too.
    aside = folder.root / f"notice.{os.getpid()}-{threading.get_native_id()}"
    with contextlib.suppress(OSError):  # a full disk must not keep anybody from syncing
        aside.write_bytes(msgspec.json.encode(notice))
        aside.replace(folder.notice)
