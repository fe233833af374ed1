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

LONGEST_CLIENT_NAME = 120
"""The same for clients' own names."""

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
    is_ascii = name.isascii()
    try:
        length = len(name if is_ascii else name.encode())
    except UnicodeEncodeError:
        raise BadRequest("a media name is not Unicode text") from None
    if length > LONGEST_NAME:
        raise BadRequest(f"a media name has {length} bytes, at most {LONGEST_NAME} can be taken")
    if leaves_folder(name):
        raise BadRequest(f"a media name cannot be a file's: {name!r}")
    if not is_ascii and not unicodedata.is_normalized("NFC", name):
        raise BadRequest(f"a media name is not in Unicode form NFC: {name!r}")


def check_new_media_name(name: str) -> None:
    """Raises BadRequest unless a file may be stored under `name`."""
    check_media_name(name)
    if is_odd(name):
        raise BadRequest(f"a media name has characters that some systems forbid: {name!r}")


# --- the clients' own rule --------------------------------------------------------------

# What is unassigned in the clients' Unicode (10.0) and was assigned since: the interpreter
# knows some of it. Ranges of code points, in hexadecimal.
_NEWER = """
560 588 5eb-5ef 61d 7fb-7ff 86b-89f 8b5 8be-8d3 9fe-a00 a76-a80 b4e-b55 c04 c3a-c3c c5b-c5f
c70-c77 c84 cd7-cdd d04 d80-d81 e85-e86 e89 e8b-e8c e8e-e93 e98 ea0 ea8-ea9 eac eba 170d
1715-171f 180f 1878-187f 1abf-1aff 1b4c-1b4f 1b7d-1b7f 1c89-1cbf 1cfa-1cff 1dfa 20c0-20cf
2b96-2b97 2bba-2bbc 2bc9 2bd3-2beb 2bf0-2bff 2c2f 2c5f 2e4a-2e7f 312f-3130 31bb-31bf 32ff
4db6-4dbf 9feb-9fff a7af a7b8-a7f6 a82c-a82f a8fe-a8ff ab66-ab6f fbc2-fbd2 fd40-fd4f fdc8-fdef
fdfe-fdff 1019c-1019f 10570-105ff 10768-107ff 10a34-10a37 10a48-10a4f 10d00-10e5f 10e7f-10fff
11070-1107e 110c2-110cf 11144-1114f 111ce-111cf 1133a-1133b 1145a 1145e-1147f 116b8-116bf
1171a-1171c 11740-1189f 11900-119ff 11a84-11a85 11a9d 11aa3-11abf 11d5a-11fff 12544-12fff
1342f-143ff 16a70-16acf 16b90-16eff 16f45-16f4f 16f7f-16f8e 16fe2-16fff 187ed-187ff 18af3-1afff
1b11f-1b16f 1bca4-1cfff 1d1e9-1d1ff 1d246-1d2ff 1d372-1d3ff 1dab0-1dfff 1e02b-1e7ff 1e94b-1e94f
1e960-1edff 1f10d-1f10f 1f12f 1f16c-1f16f 1f1ad-1f1e5 1f6d5-1f6df 1f6f9-1f6ff 1f7d5-1f7ff
1f8ae-1f8ff 1f90c-1f90f 1f93f 1f94d-1f94f 1f96c-1f97f 1f998-1f9bf 1f9c1-1f9cf 1f9e7-1ffff
2a6d7-2a6ff 2b735-2b73f 2fa1e-e0000
"""
_UNFIT = re.compile(
    # Control characters, what Windows forbids, brackets, and the no-break space.
    r'[\x00-\x1f\x7f\[\]<>:"/?*^\\|\xa0'
    + "".join(re.sub(r"[0-9a-f]+", lambda point: rf"\U{point[0]:0>8}", _NEWER).split())
    # Names that Windows keeps for devices or cuts short.
    + r"]|\A(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|\Z)|[. ]\Z",
    re.ASCII | re.IGNORECASE,
)


def is_clients_own(name: str) -> bool:
    """Whether clients leave this name as it is.

    They give a file another name where it is not, each on its own and without telling the
    others; in a package of today's form one such name makes Anki take none of the media.
    """
    return (
        0 < len(name.encode(errors="replace")) <= LONGEST_CLIENT_NAME
        and not leaves_folder(name)
        and not _UNFIT.search(name)
        and unicodedata.is_normalized("NFC", name)
        and not any(unicodedata.category(character) in ("Cn", "Cs") for character in name)
    )
