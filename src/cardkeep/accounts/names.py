# SPDX-License-Identifier: AGPL-3.0-or-later
"""User names. A name is also the name of the user's folder, on any file system."""

import re
import unicodedata

from cardkeep.errors import AccountError

LONGEST = 100  # bytes; leaves room for the suffixes of temporary files within 255
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")
_OURS = re.compile(r"accounts\.db.*|lost\+found|cardkeep-backup.*")
# Invisible characters make look-alikes; but Persian and Indic names need the joiners.
_JOINERS = "\u200c\u200d"
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def check_name(name: str) -> str:
    """The name in Unicode NFC, as it is stored. Raises AccountError with the reason."""
    name = unicodedata.normalize("NFC", name)
    shown = repr(name[:LONGEST])
    if not name:
        raise AccountError("a user name must not be empty")
    if any(unicodedata.category(c) in _INVISIBLE and c not in _JOINERS for c in name):
        raise AccountError(f"user name {shown} contains control or invisible characters")
    if len(name.encode()) > LONGEST:
        raise AccountError(f"user name {shown}… is longer than {LONGEST} bytes")
    if match := _FORBIDDEN.search(name):
        raise AccountError(f"user name {shown} contains {match[0]!r}, which folders cannot have")
    if name.startswith(".") or name.endswith("."):
        raise AccountError(f"user name {shown} begins or ends with a dot")
    if name != name.strip():
        raise AccountError(f"user name {shown} begins or ends with a space")
    if _WINDOWS_DEVICES.fullmatch(folded(name)) or _OURS.fullmatch(folded(name)):
        raise AccountError(f"user name {shown} is reserved")
    return name


def folded(name: str) -> str:
    """What two names have in common when some file system cannot tell them apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
