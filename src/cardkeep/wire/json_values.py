# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the JSON of both areas shares: strict numbers, one error, one encoder.

docs/sync-protocol.md, 3. Unknown keys are ignored and of a key that stands twice the last
counts, as in the clients' own parser.
"""

from typing import Any, TypeVar

import msgspec

from cardkeep.errors import BadRequest

#: Levels of nesting within one value, as in `records.fields` and in uploads. The engine's parser
#: gives up at 128 for a whole answer, so a deeper value, once stored, would end every later
#: sync of that user.
MAX_DEPTH = 120

#: JSON as it was unpacked: a long one is not copied once more.
JsonText = bytes | bytearray

#: A whole text, or a part of one.
JsonPart = JsonText | memoryview

_T = TypeVar("_T")

encode = msgspec.json.Encoder().encode


def parse(decoder: msgspec.json.Decoder[_T], payload: JsonPart) -> _T:
    """Decodes; raises BadRequest for anything that is not the JSON the decoder wants."""
    try:
        return decoder.decode(payload)
    except RecursionError:
        raise BadRequest("JSON: nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"JSON: {error}") from None


def require_storable(value: Any, depth: int = 0) -> None:
    """Raises BadRequest if a free-form value holds what no client could read again.

    That is an integer outside 64 bits or more than MAX_DEPTH levels.
    """
    if isinstance(value, dict):
        value = value.values()
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise BadRequest("JSON: an integer of more than 64 bits")
        return
    elif not isinstance(value, list):
        return
    if depth >= MAX_DEPTH:
        raise BadRequest("JSON: nested too deeply")
    for inner in value:
        require_storable(inner, depth + 1)
