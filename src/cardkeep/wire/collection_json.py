# SPDX-License-Identifier: AGPL-3.0-or-later
"""The JSON of the collection methods, both ways (docs/sync-protocol.md, 4.1 to 4.10).

Each client shape is a small typed struct named after its method; keys of other names are
ignored, keys without default must be there.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import msgspec

from cardkeep import messages
from cardkeep.errors import FIXED, TooLarge
from cardkeep.records import deck, deck_config, notetype
from cardkeep.records.card import CardEntry, card_row
from cardkeep.records.fields import LARGEST_OBJECT
from cardkeep.records.grave import GravesEntry, grave_ids
from cardkeep.records.note import NoteEntry, NoteRow, note_entry, note_row
from cardkeep.records.numbers import CreationTime, Int32, UInt32
from cardkeep.records.revlog import RevlogEntry, revlog_row
from cardkeep.wire.json_values import JsonText, encode, parse, require_storable
from cardkeep.wire.versions import require_known

#: Payloads above this many bytes are not decoded at once if they can be in parts.
LONG = 1024 * 1024

#: Rows of one chunk; clients send some 250.
MOST_ROWS = 300_000

#: Bytes of a note, as JSON. Pictures within the fields of a note take some megabytes at most.
LONGEST_ROW = 16 * 1024 * 1024

T = TypeVar("T")

# --- from the client --------------------------------------------------------------------


class _HostKey(msgspec.Struct):
    u: str
    p: str


class _Meta(msgspec.Struct):
    v: int
    cv: str


class _Start(msgspec.Struct):
    """`graves`: an object from legacy clients, null from engine clients, absent in between."""

    minUsn: Int32  # noqa: N815
    lnewer: bool
    graves: GravesEntry | None = None


class _ApplyGraves(msgspec.Struct):
    chunk: GravesEntry


class _Changes(msgspec.Struct):
    """`models`: notetypes; `decks`: decks and deck configs; all in legacy JSON.

    They are decoded one after the other: as Python has it, JSON can take many times its length.
    """

    models: list[msgspec.Raw]
    decks: tuple[list[msgspec.Raw], list[msgspec.Raw]]
    tags: list[msgspec.Raw]
    conf: dict[str, msgspec.Raw] | None = None
    crt: CreationTime | None = None


class _ApplyChanges(msgspec.Struct):
    changes: _Changes


class _Chunk(msgspec.Struct):
    done: bool = False
    revlog: list[RevlogEntry] = []
    cards: list[CardEntry] = []
    notes: list[NoteEntry] = []


class _ApplyChunk(msgspec.Struct):
    chunk: _Chunk


class _LongChunk(msgspec.Struct):
    """The same, with its rows still to be decoded."""

    done: bool = False
    revlog: list[msgspec.Raw] = []
    cards: list[msgspec.Raw] = []
    notes: list[msgspec.Raw] = []


class _ApplyLongChunk(msgspec.Struct):
    chunk: _LongChunk


class _SanityCheck(msgspec.Struct):
    """Due counts (new, learning, review), then cards, notes, revlog, graves, notetypes,
    decks, deck configs; or a text from a legacy client whose own check failed.
    """

    client: (
        tuple[
            tuple[UInt32, UInt32, UInt32],
            UInt32,
            UInt32,
            UInt32,
            UInt32,
            UInt32,
            UInt32,
            UInt32,
        ]
        | str
    )


class _Anything(msgspec.Struct):
    """`{}`, `{"_pad":null}` or any other object."""


_HOST_KEY = msgspec.json.Decoder(_HostKey)
_META = msgspec.json.Decoder(_Meta)
_START = msgspec.json.Decoder(_Start)
_APPLY_GRAVES = msgspec.json.Decoder(_ApplyGraves)
_APPLY_CHANGES = msgspec.json.Decoder(_ApplyChanges)
_APPLY_CHUNK = msgspec.json.Decoder(_ApplyChunk)
_APPLY_LONG_CHUNK = msgspec.json.Decoder(_ApplyLongChunk)
_ROWS: dict[str, tuple[msgspec.json.Decoder[Any], Callable[[Any], messages.Row]]] = {
    "revlog": (msgspec.json.Decoder(RevlogEntry), revlog_row),
    "cards": (msgspec.json.Decoder(CardEntry), card_row),
    "notes": (msgspec.json.Decoder(NoteEntry), note_row),
}
_VALUE = msgspec.json.Decoder(Any)
_TEXT = msgspec.json.Decoder(str)
_SANITY_CHECK = msgspec.json.Decoder(_SanityCheck)
_ANYTHING = msgspec.json.Decoder(_Anything)


def _read_host_key(payload: JsonText) -> messages.HostKey:
    body = parse(_HOST_KEY, payload)
    return messages.HostKey(user=body.u, password=body.p)


def _read_meta(payload: JsonText) -> messages.Meta:
    body = parse(_META, payload)
    require_known(body.v)
    return messages.Meta(version=body.v, client=body.cv)


def _read_start(payload: JsonText) -> messages.Start:
    body = parse(_START, payload)
    graves = None if body.graves is None else _graves(body.graves)
    return messages.Start(min_usn=body.minUsn, local_newer=body.lnewer, graves=graves)


def _read_apply_graves(payload: JsonText) -> messages.ApplyGraves:
    return messages.ApplyGraves(_graves(parse(_APPLY_GRAVES, payload).chunk))


def _graves(entry: GravesEntry) -> messages.Graves:
    return messages.Graves(
        cards=grave_ids(entry.cards),
        notes=grave_ids(entry.notes),
        decks=grave_ids(entry.decks),
    )


def _read_apply_changes(payload: JsonText) -> messages.ApplyChanges:
    body = parse(_APPLY_CHANGES, payload).changes
    decks, deck_configs = body.decks
    conf = None
    if body.conf is not None:
        conf = {key: _storable(raw, f"configuration {key!a:.60}") for key, raw in body.conf.items()}
    return messages.ApplyChanges(
        messages.Changes(
            notetypes=[notetype.from_json(_decode(_VALUE, raw, "notetype")) for raw in body.models],
            decks=[deck.from_json(_decode(_VALUE, raw, "deck")) for raw in decks],
            deck_configs=[
                deck_config.from_json(_decode(_VALUE, raw, "deck config")) for raw in deck_configs
            ],
            tags=[_decode(_TEXT, raw, "tag") for raw in body.tags],
            conf=conf,
            crt=body.crt,
        )
    )


def _storable(raw: msgspec.Raw, what: str) -> Any:
    """A value of the configuration; those of objects are looked at by `records` one by one."""
    value = _decode(_VALUE, raw, what)
    require_storable(value, depth=1)
    return value


def _decode(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw, what: str) -> T:
    text = memoryview(raw)
    if len(text) > LARGEST_OBJECT:
        raise TooLarge(f"{what}: {len(text)} bytes, at most {LARGEST_OBJECT} do", FIXED)
    return parse(decoder, text)


def _read_apply_chunk(payload: JsonText) -> messages.ApplyChunk:
    if len(payload) > LONG:
        return _read_long_chunk(payload)
    chunk = parse(_APPLY_CHUNK, payload).chunk
    return messages.ApplyChunk(
        messages.Chunk(
            done=chunk.done,
            revlog=[revlog_row(entry) for entry in chunk.revlog],
            cards=[card_row(entry) for entry in chunk.cards],
            notes=[note_row(entry) for entry in chunk.notes],
        )
    )


def _read_long_chunk(payload: JsonText) -> messages.ApplyChunk:
    if payload.count(b"[") > MOST_ROWS:
        raise TooLarge(f"applyChunk: more than {MOST_ROWS} rows", FIXED)
    chunk = parse(_APPLY_LONG_CHUNK, payload).chunk
    parts = _Parts(chunk)
    for _ in parts:
        pass  # whatever is wrong with it is told before a part of it is acted on
    return messages.ApplyChunk(messages.Chunk(chunk.done), parts)


class _Parts:
    """A long chunk in parts of about LONG bytes, decoded each time that they are asked for."""

    def __init__(self, chunk: _LongChunk) -> None:
        self._chunk = chunk

    def __iter__(self) -> Iterator[messages.Chunk]:
        for kind, (decoder, row) in _ROWS.items():
            rows: list[Any] = []
            size = 0
            for raw in getattr(self._chunk, kind):
                text = memoryview(raw)
                if len(text) > LONGEST_ROW:
                    raise TooLarge(
                        f"applyChunk: {len(text)} bytes in one row of {kind}, at most "
                        f"{LONGEST_ROW} do",
                        FIXED,
                    )
                rows.append(row(parse(decoder, text)))
                size += len(text)
                if size > LONG:
                    yield messages.Chunk(done=False, **{kind: rows})
                    rows, size = [], 0
            if rows:
                yield messages.Chunk(done=False, **{kind: rows})


def _read_sanity_check(payload: JsonText) -> messages.SanityCheck:
    client = parse(_SANITY_CHECK, payload).client
    if isinstance(client, str):
        return messages.SanityCheck(counts=None)
    _due, cards, notes, revlog, _graves, notetypes, decks, deck_configs = client
    return messages.SanityCheck(
        messages.Counts(
            cards=cards,
            notes=notes,
            revlog=revlog,
            notetypes=notetypes,
            decks=decks,
            deck_configs=deck_configs,
        )
    )


def _reader_of_nothing(
    message: messages.ClientMessage,
) -> Callable[[JsonText], messages.ClientMessage]:
    def read(payload: JsonText) -> messages.ClientMessage:
        parse(_ANYTHING, payload)
        return message

    return read


#: Message class to the function that reads it from a payload.
READERS: dict[type, Callable[[JsonText], messages.ClientMessage]] = {
    messages.HostKey: _read_host_key,
    messages.Meta: _read_meta,
    messages.Start: _read_start,
    messages.ApplyGraves: _read_apply_graves,
    messages.ApplyChanges: _read_apply_changes,
    messages.NextChunk: _reader_of_nothing(messages.NextChunk()),
    messages.ApplyChunk: _read_apply_chunk,
    messages.SanityCheck: _read_sanity_check,
    messages.Finish: _reader_of_nothing(messages.Finish()),
    messages.Abort: _reader_of_nothing(messages.Abort()),
    messages.Download: _reader_of_nothing(messages.Download()),
}


# --- to the client ----------------------------------------------------------------------


def _write_host_key(answer: messages.HostKeyGranted) -> bytes:
    return encode({"key": answer.key})


def _write_meta(answer: messages.MetaAnswer) -> bytes:
    return encode(
        {
            "mod": answer.mod,
            "scm": answer.scm,
            "usn": answer.usn,
            "ts": answer.now,
            "msg": answer.message,
            "cont": answer.proceed,
            "hostNum": 0,
            "empty": answer.empty,
            "media_usn": answer.media_usn,
        }
    )


def _write_graves(answer: messages.Graves) -> bytes:
    return encode({"cards": answer.cards, "decks": answer.decks, "notes": answer.notes})


def _write_changes(answer: messages.Changes) -> bytes:
    body: dict[str, Any] = {
        "models": [notetype.to_json(record) for record in answer.notetypes],
        "decks": [
            [deck.to_json(record) for record in answer.decks],
            [deck_config.to_json(record) for record in answer.deck_configs],
        ],
        "tags": answer.tags,
    }
    # Legacy clients fail on null here: a key that is not sent must be absent.
    if answer.conf is not None:
        body["conf"] = answer.conf
    if answer.crt is not None:
        body["crt"] = answer.crt
    return encode(body)


def _write_chunk(answer: messages.Chunk) -> bytes:
    body: dict[str, Any] = {"done": answer.done}
    # Legacy clients test for presence, engine clients default to empty.
    if answer.revlog:
        body["revlog"] = answer.revlog
    if answer.cards:
        body["cards"] = answer.cards
    if answer.notes:
        body["notes"] = [note_entry(row) for row in cast("Sequence[NoteRow]", answer.notes)]
    return encode(body)


def _write_sanity(answer: messages.SanityAnswer) -> bytes:
    return encode(
        {
            "status": "ok" if answer.ok else "bad",
            "c": _counts(answer.client),
            "s": _counts(answer.server),
        }
    )


def _counts(counts: messages.Counts | None) -> Sequence[Any] | None:
    """Due counts and graves are zero: nobody compares them (4.8)."""
    if counts is None:
        return None
    return (
        (0, 0, 0),
        counts.cards,
        counts.notes,
        counts.revlog,
        0,
        counts.notetypes,
        counts.decks,
        counts.deck_configs,
    )


def _write_finished(answer: messages.Finished) -> bytes:
    return encode(answer.mod)


def _write_nothing(_answer: messages.Nothing) -> bytes:
    # v10 clients parse these four bytes and reject anything else.
    return b"null"


def _write_upload_accepted(_answer: messages.UploadAccepted) -> bytes:
    return b"OK"


#: Answer class to the function that writes it.
WRITERS: dict[type, Callable[[Any], bytes]] = {
    messages.HostKeyGranted: _write_host_key,
    messages.MetaAnswer: _write_meta,
    messages.Graves: _write_graves,
    messages.Changes: _write_changes,
    messages.Chunk: _write_chunk,
    messages.SanityAnswer: _write_sanity,
    messages.Finished: _write_finished,
    messages.Nothing: _write_nothing,
    messages.UploadAccepted: _write_upload_accepted,
}
