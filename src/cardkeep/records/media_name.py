# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which names a media file may have (docs/sync-protocol.md, 9.3).

A media file is stored under its own name, so a name must be one that stays inside
its folder on every system that an Anki client runs on. Refusing a name is safe for
clients, altering one is not: they match files by exact name.
"""

import re
import unicodedata

from cardkeep.errors import BadRequest

LONGEST_NAME = 255
"""Bytes in UTF-8: the official server's limit, and that of common file systems."""

_LEAVES_FOLDER = re.compile(r"[\x00/]|\A\.{0,2}\Z")
# Control characters are the ASCII ones: clients strip those, but let U+0085 and its like pass.
_ODD = re.compile(r"[\x00-\x1f\x7f\\]|\A[A-Za-z]:")


def leaves_folder(name: str) -> bool:
    """Whether opening `name` within a folder could touch anything but a file in it."""
    return _LEAVES_FOLDER.search(name) is not None


def is_odd(name: str) -> bool:
    """Whether no new file may have this name, though the official server takes it.

    Backslashes, control characters and drive letters (`C:x`): harmless here, but not on
    every device that would be offered the file. Folders written by the official
    server may hold such names already, and clients must be able to delete them.
    """
    return _ODD.search(name) is not None


def check_media_name(name: str) -> None:
    """Raises BadRequest unless `name` could stand in an index: the rule for deletions."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise BadRequest("a media name is not Unicode text") from None
    if length > LONGEST_NAME:
        raise BadRequest(f"a media name has {length} bytes, at most {LONGEST_NAME} can be taken")
    if leaves_folder(name):
        raise BadRequest(f"a media name cannot be a file's: {name!r}")
    if not unicodedata.is_normalized("NFC", name):
        raise BadRequest(f"a media name is not in Unicode form NFC: {name!r}")


def check_new_media_name(name: str) -> None:
    """Raises BadRequest unless a file may be stored under `name`."""
    check_media_name(name)
    if is_odd(name):
        raise BadRequest(f"a media name has characters that some systems forbid: {name!r}")
