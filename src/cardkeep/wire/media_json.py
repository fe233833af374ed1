# SPDX-License-Identifier: AGPL-3.0-or-later
"""The JSON of the media methods, both ways (docs/sync-protocol.md, 9.1 to 9.5).

Every answer but that of `downloadFiles` is `{"data":…,"err":""}`.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from cardkeep import messages
from cardkeep.errors import BadRequest
from cardkeep.records.numbers import Int32, UInt32
from cardkeep.wire.json_values import JsonText, encode, parse

#: More names in one request are refused by the official server too (9.4).
MAX_FILES = 25


class _Begin(msgspec.Struct):
    v: str


class _MediaChanges(msgspec.Struct):
    lastUsn: Int32  # noqa: N815


class _DownloadFiles(msgspec.Struct):
    files: list[str]


class _MediaSanity(msgspec.Struct):
    local: UInt32


_BEGIN = msgspec.json.Decoder(_Begin)
_MEDIA_CHANGES = msgspec.json.Decoder(_MediaChanges)
_DOWNLOAD_FILES = msgspec.json.Decoder(_DownloadFiles)
_MEDIA_SANITY = msgspec.json.Decoder(_MediaSanity)


def begin(client: str) -> messages.MediaBegin:
    """The message from the client's version text, which older clients send outside of JSON."""
    if not client:
        raise BadRequest("begin without the client's version (v)")
    return messages.MediaBegin(client=client)


def _read_begin(payload: JsonText) -> messages.MediaBegin:
    return begin(parse(_BEGIN, payload).v)


def _read_media_changes(payload: JsonText) -> messages.MediaChanges:
    return messages.MediaChanges(last_usn=parse(_MEDIA_CHANGES, payload).lastUsn)


def _read_download_files(payload: JsonText) -> messages.DownloadFiles:
    names = parse(_DOWNLOAD_FILES, payload).files
    if len(names) > MAX_FILES:
        raise BadRequest(f"{len(names)} files asked for at once, at most {MAX_FILES} are allowed")
    return messages.DownloadFiles(names=names)


def _read_media_sanity(payload: JsonText) -> messages.MediaSanity:
    return messages.MediaSanity(count=parse(_MEDIA_SANITY, payload).local)


#: Message class to the function that reads it from a payload.
READERS: dict[type, Callable[[JsonText], messages.ClientMessage]] = {
    messages.MediaBegin: _read_begin,
    messages.MediaChanges: _read_media_changes,
    messages.DownloadFiles: _read_download_files,
    messages.MediaSanity: _read_media_sanity,
}


def _write_data(data: Any) -> bytes:
    # v10 and legacy clients need `err` to be there.
    return encode({"data": data, "err": ""})


def write_error(words: str) -> bytes:
    """A refusal whose words the client shows as they are (2.2)."""
    return encode({"data": None, "err": words})


def _write_begun(answer: messages.MediaBegun) -> bytes:
    return _write_data({"usn": answer.usn, "sk": answer.key})


def _write_change_list(answer: messages.MediaChangeList) -> bytes:
    return _write_data([(change.name, change.usn, change.sha1) for change in answer.changes])


def _write_uploaded(answer: messages.MediaUploaded) -> bytes:
    return _write_data((answer.processed, answer.usn))


def _write_sanity(answer: messages.MediaSanityAnswer) -> bytes:
    return _write_data("OK" if answer.ok else "mediaSanity")


#: Answer class to the function that writes it.
WRITERS: dict[type, Callable[[Any], bytes]] = {
    messages.MediaBegun: _write_begun,
    messages.MediaChangeList: _write_change_list,
    messages.MediaUploaded: _write_uploaded,
    messages.MediaSanityAnswer: _write_sanity,
}
