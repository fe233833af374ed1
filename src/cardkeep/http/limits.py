# SPDX-License-Identifier: AGPL-3.0-or-later
"""How much the server takes in; the application fills it from its settings."""

from dataclasses import dataclass

from cardkeep.errors import FIXED

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limit:
    """A number of bytes, and the setting that an operator changes it with."""

    size: int
    setting: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes unless said otherwise.

    The official server (docs/sync-protocol.md, 1.5) has one limit L of 100 MiB for packed
    form bodies, cuts every unpacked payload at 3 L, and takes packed bodies of protocol 11
    of any size.
    """

    #: A body as it is sent: packed payload and, in protocols 8 to 10, the form around it.
    packed_body: Limit = Limit(1 * GIB, "max_body")
    #: An uploaded collection, unpacked.
    collection: Limit = Limit(4 * GIB, "max_collection")
    #: One file of a media upload. Clients send none above 100 MiB.
    media_file: Limit = Limit(100 * MIB, "max_media_file")
    #: All files of a media upload; one file within its own limit is taken all the same.
    media_zip: Limit = Limit(128 * MIB, "max_media_zip")
    #: Rows of one request, unpacked. A chunk of 250 rows has 10 to 500 KiB.
    json: Limit = Limit(100 * MIB, "max_json")
    #: Every other JSON, of which all is in memory at once, and more than once.
    whole_json: Limit = Limit(32 * MIB, FIXED)
    #: A login, before anybody is known: real ones have some 100 bytes.
    login: Limit = Limit(64 * KIB, FIXED)
    #: What an early answer reads and throws away of a body, so that the client hears it:
    #: of somebody unknown, and of a user whose client shall show why an upload is refused.
    discarded: int = 64 * MIB
    discard_seconds: float = 20
    discarded_of_user: int = 4 * GIB
    discard_seconds_of_user: float = 600
    #: A client that sends or takes nothing for so long is given up. Clients wait 30 to 60 s.
    idle_seconds: float = 120
    #: JSON payloads above this size are worked on by so many requests at once.
    big_json: int = 2 * MIB
    big_json_at_once: int = 1
    #: Frames that are unpacked as they arrive, 2 to 8 MiB of memory each.
    open_frames: int = 8
    #: Threads for packing, unpacking, JSON and files.
    threads: int = 4
