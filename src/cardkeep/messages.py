# SPDX-License-Identifier: AGPL-3.0-or-later
"""What client and server say to each other: plain records, no bytes, no SQL.

`wire` makes the client's messages out of bytes and bytes out of the answers; `sync`
takes the one and gives the other. Each client message is one protocol method
(docs/sync-protocol.md, sections 4 and 9); `METHODS` in `wire.request` ties names to classes.

Rows of cards, notes and reviews travel as plain tuples in the order of the table's
columns (`records.card`, `records.note`, `records.revlog`), since they come by the
hundred thousand; everything else is a record.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from cardkeep.records.deck import Deck
from cardkeep.records.deck_config import DeckConfig
from cardkeep.records.notetype import Notetype

Row = Sequence[Any]


class Record(msgspec.Struct, frozen=True):
    """A message or a part of one: immutable, and made in a fraction of a microsecond."""


class ByteSource(Protocol):
    """A body that is read in pieces, in a worker thread, and closed once."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""

    def close(self) -> None:
        """Gives back whatever the source holds; may be called at any point."""


class Caller(Record, frozen=True):
    """Who speaks, known from a valid host key.

    `device` identifies the login (one random key each); `protocol` is the framing's:
    11 for requests with the anki-sync header, 10 for forms. `client` is the text that
    the client gives of itself ("26.09.3,29bb700b,linux"), or gave last, as forms hold none.
    `shares_key` is true where all devices of the user have the key, which the official server gave.

    `received` and `sent` are bytes of bodies, as they travelled: those of the session's earlier
    requests that no Caller has told of yet. Of an upload `size` is its own body, and `arrival`
    the ms until all of it was there.
    """

    user: str
    device: str
    protocol: int
    session_key: str
    client: str
    address: str
    host_key: str = ""
    received: int = 0
    sent: int = 0
    size: int = 0
    arrival: int = 0
    shares_key: bool = False


class Finding(Record, frozen=True):
    """Something that a check of what is stored found.

    `kind` is a short word that stays the same, for programs; `what` is a sentence. `repairable`
    means that a check that repairs mends it, `repaired` that one did. What is `harmless` is
    told, but does not make a check fail.
    """

    kind: str
    what: str
    repaired: bool = False
    repairable: bool = False
    harmless: bool = False


# --- client to server: collection -------------------------------------------------------


class HostKey(Record, frozen=True):
    """A login."""

    user: str
    password: str


class Meta(Record, frozen=True):
    """`version` is the protocol version of the body, `client` the client's version text."""

    version: int
    client: str


class Graves(Record, frozen=True):
    """Ids of deleted objects."""

    cards: Sequence[int] = ()
    notes: Sequence[int] = ()
    decks: Sequence[int] = ()


class Start(Record, frozen=True):
    """Opens a sync. `min_usn` is M; `graves` only from legacy clients."""

    min_usn: int
    local_newer: bool
    graves: Graves | None = None


class ApplyGraves(Record, frozen=True):
    """The client's deletions, or a part of them."""

    graves: Graves


class Changes(Record, frozen=True):
    """Everything but cards, notes and reviews.

    `conf` (every configuration key, values as decoded JSON) and `crt` are None when
    the sender is not the newer side.
    """

    notetypes: Sequence[Notetype] = ()
    decks: Sequence[Deck] = ()
    deck_configs: Sequence[DeckConfig] = ()
    tags: Sequence[str] = ()
    conf: Mapping[str, Any] | None = None
    crt: int | None = None


class ApplyChanges(Record, frozen=True):
    """The client's changes, all at once."""

    changes: Changes


class NextChunk(Record, frozen=True):
    """The client asks for the next rows (method `chunk`)."""


class Chunk(Record, frozen=True):
    """Rows of the three large tables, either way."""

    done: bool
    revlog: Sequence[Row] = ()
    cards: Sequence[Row] = ()
    notes: Sequence[Row] = ()


class ApplyChunk(Record, frozen=True):
    """Rows of the client. A long chunk goes on in `rest`, whose parts are made one by one."""

    chunk: Chunk
    rest: Iterable[Chunk] = ()


class Counts(Record, frozen=True):
    """Numbers of rows that both sides compare after a sync."""

    cards: int
    notes: int
    revlog: int
    notetypes: int
    decks: int
    deck_configs: int


class SanityCheck(Record, frozen=True):
    """`counts` is None when a legacy client reports that its own check failed."""

    counts: Counts | None


class Finish(Record, frozen=True):
    """The client asks for the result of its sync."""


class Abort(Record, frozen=True):
    """The client gives its sync up."""


class Upload(Record, frozen=True):
    """`file` is the decoded collection in the spool folder; the receiver may move it away."""

    file: Path


class Download(Record, frozen=True):
    """The client asks for the whole collection."""


# --- client to server: media ------------------------------------------------------------


class MediaBegin(Record, frozen=True):
    """`client` is the version text."""

    client: str


class MediaChanges(Record, frozen=True):
    """The client asks for what changed after `last_usn`."""

    last_usn: int


class MediaEntry(Record, frozen=True):
    """One element of an upload: `data` opens the bytes, None for a deletion."""

    name: str
    data: Callable[[], ByteSource] | None


class UploadChanges(Record, frozen=True):
    """At most 25 entries, in the client's order.

    `read` gives them, once, to whoever stores them. It blocks, and raises BadRequest and TooLarge.
    """

    read: Callable[[], Sequence[MediaEntry]]


class DownloadFiles(Record, frozen=True):
    """The client asks for files, at most 25."""

    names: Sequence[str]


class MediaSanity(Record, frozen=True):
    """`count` is the number of files that the client has."""

    count: int


CollectionMessage = (
    HostKey
    | Meta
    | Start
    | ApplyGraves
    | ApplyChanges
    | NextChunk
    | ApplyChunk
    | SanityCheck
    | Finish
    | Abort
    | Upload
    | Download
)
MediaMessage = MediaBegin | MediaChanges | UploadChanges | DownloadFiles | MediaSanity
ClientMessage = CollectionMessage | MediaMessage


# --- server to client -------------------------------------------------------------------


class HostKeyGranted(Record, frozen=True):
    """The key that the client keeps from now on."""

    key: str


class MetaAnswer(Record, frozen=True):
    """`mod`, `scm` in ms, `now` in s."""

    mod: int
    scm: int
    usn: int
    now: int
    media_usn: int
    empty: bool
    message: str = ""
    proceed: bool = True


class Nothing(Record, frozen=True):
    """The answer `null`."""


class SanityAnswer(Record, frozen=True):
    """`client` and `server` are None where a count could not be made or compared."""

    ok: bool
    client: Counts | None = None
    server: Counts | None = None


class Finished(Record, frozen=True):
    """`mod` in ms, as committed."""

    mod: int


class UploadAccepted(Record, frozen=True):
    """The text `OK`."""


class CollectionFile(Record, frozen=True):
    """A whole collection in the schema that the caller's protocol takes.

    `begun` is when it was asked for, in ms; clients are not told.
    """

    source: ByteSource
    begun: int = 0


class MediaBegun(Record, frozen=True):
    """`key` is what v8-10 clients send back as `sk`."""

    usn: int
    key: str


class MediaChange(Record, frozen=True):
    """`sha1` is 40 hex digits, empty for a deletion."""

    name: str
    usn: int
    sha1: str


class MediaChangeList(Record, frozen=True):
    """In ascending order of usn, at most 1,000."""

    changes: Sequence[MediaChange] = ()


class MediaUploaded(Record, frozen=True):
    """`usn` is the last one after the upload. Clients are not told what it changed."""

    processed: int
    usn: int
    added: int = 0
    changed: int = 0
    deleted: int = 0


class MediaFiles(Record, frozen=True):
    """The answer to `downloadFiles`.

    `open` gives a prefix of the names asked for, with open bytes; whoever calls it closes them.
    It blocks, and raises MissingMedia.
    """

    open: Callable[[], Sequence[tuple[str, ByteSource]]]


class MediaSanityAnswer(Record, frozen=True):
    """Whether both sides have the same number of files."""

    ok: bool


Answer = (
    HostKeyGranted
    | MetaAnswer
    | Graves
    | Changes
    | Chunk
    | Nothing
    | SanityAnswer
    | Finished
    | UploadAccepted
    | CollectionFile
    | MediaBegun
    | MediaChangeList
    | MediaUploaded
    | MediaFiles
    | MediaSanityAnswer
)
