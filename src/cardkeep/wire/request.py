# SPDX-License-Identifier: AGPL-3.0-or-later
"""The methods of the protocol as a table, and what every request carries beside its payload.

docs/sync-protocol.md, 1.1 for the names, 1.3 and 1.4 for the head.
"""

from dataclasses import dataclass
from enum import Enum

import msgspec

from cardkeep import messages
from cardkeep.errors import FIXED, TooLarge
from cardkeep.wire import collection_json, media_json
from cardkeep.wire.collection_json import LONG
from cardkeep.wire.json_values import JsonText


class Payload(Enum):
    """What the payload of a request is, once unpacked."""

    JSON = "json"
    COLLECTION = "collection"
    MEDIA_ZIP = "media zip"


@dataclass(frozen=True, slots=True)
class Method:
    """One method: `area` is the path segment before its name, `verbs` what it is asked with.

    `needs_session` says that a request without session key is refused (4.3; legacy
    clients send none with upload, download and media, and `abort` is always answered);
    `in_parts` that a long payload is decoded little by little.
    """

    name: str
    area: str
    message: type[messages.ClientMessage]
    payload: Payload = Payload.JSON
    needs_session: bool = False
    in_parts: bool = False
    verbs: tuple[str, ...] = ("POST",)


_ROWS = (
    Method("hostKey", "sync", messages.HostKey),
    Method("meta", "sync", messages.Meta),
    Method("start", "sync", messages.Start, needs_session=True),
    Method("applyGraves", "sync", messages.ApplyGraves, needs_session=True),
    Method("applyChanges", "sync", messages.ApplyChanges, needs_session=True),
    Method("chunk", "sync", messages.NextChunk, needs_session=True),
    Method("applyChunk", "sync", messages.ApplyChunk, needs_session=True, in_parts=True),
    Method("sanityCheck2", "sync", messages.SanityCheck, needs_session=True),
    Method("finish", "sync", messages.Finish, needs_session=True),
    Method("abort", "sync", messages.Abort),
    Method("upload", "sync", messages.Upload, Payload.COLLECTION),
    Method("download", "sync", messages.Download),
    Method("begin", "msync", messages.MediaBegin, verbs=("GET", "HEAD", "POST")),
    Method("mediaChanges", "msync", messages.MediaChanges),
    Method("uploadChanges", "msync", messages.UploadChanges, Payload.MEDIA_ZIP),
    Method("downloadFiles", "msync", messages.DownloadFiles),
    Method("mediaSanity", "msync", messages.MediaSanity),
)

#: Method name to method. All names are distinct, so the name alone tells the area.
METHODS = {method.name: method for method in _ROWS}

_READERS = collection_json.READERS | media_json.READERS


class Head(msgspec.Struct, frozen=True):
    """What comes beside the payload in either framing; texts are empty where absent.

    `client` is the text the client gives of itself: the `c` of the header, the `v` of the form.
    """

    version: int
    host_key: str
    session_key: str
    client: str


#: Values in one payload, if it is decoded at once. Each takes some 60 bytes of memory and few
#: of text.
MOST_VALUES = 750_000


def read_json(method: Method, payload: JsonText) -> messages.ClientMessage:
    """The message in the payload of a JSON method; no payload at all stands for `{}`.

    Raises BadRequest, and UnsupportedVersion for a `meta` of another protocol.
    """
    # Commas within texts count too, which does no harm: a text is seldom all commas.
    if len(payload) > LONG and not method.in_parts and payload.count(b",") > MOST_VALUES:
        raise TooLarge(f"{method.name}: more than {MOST_VALUES} values", FIXED)
    return _READERS[method.message](payload or b"{}")
