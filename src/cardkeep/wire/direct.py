# SPDX-License-Identifier: AGPL-3.0-or-later
"""The framing of protocol 11: everything but the payload stands in one JSON header.

docs/sync-protocol.md, 1.3. The payload is a zstd frame both ways; see `packing`.
"""

import msgspec

from cardkeep.errors import BadRequest
from cardkeep.wire.request import Head
from cardkeep.wire.versions import PACKED_ANSWERS, require_known

#: A request is in this framing exactly if it has this header (lower case, as ASGI gives it).
HEADER = b"anki-sync"

#: Size of the answer's payload before packing, in decimal. Without it the client fails
#: every method, also for `null`. Clients read 32 bits.
SIZE_HEADER = b"anki-original-size"
MAX_ORIGINAL_SIZE = 2**32 - 1


class _SyncHeader(msgspec.Struct):
    v: int
    k: str
    c: str
    s: str


_DECODER = msgspec.json.Decoder(_SyncHeader)


def read_head(value: bytes) -> Head:
    """The head in the header's value.

    Raises BadRequest for anything unparsable or missing, UnsupportedVersion outside 8 to 11.
    """
    try:
        header = _DECODER.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"anki-sync header: {error}") from None
    require_known(header.v)
    return Head(header.v, header.k, header.s, header.c)


def answers_packed(head: Head) -> bool:
    """Whether the answer is a zstd frame; a client that says 8 to 10 here gets it plain."""
    return head.version >= PACKED_ANSWERS
