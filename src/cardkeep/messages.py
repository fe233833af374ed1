# SPDX-License-Identifier: AGPL-3.0-or-later
"""What client and server say to each other: plain records, no bytes, no SQL.

`wire` makes the client's messages out of bytes and bytes out of the answers; `sync`
takes the one and gives the other. Each client message is one protocol method
(docs/sync-protocol.md, sections 4 and 9); `METHODS` in `wire.request` ties names to classes.

Rows of cards, notes and reviews travel as plain tuples in the order of the table's
columns (`records.card`, `records.note`, `records.revlog`), since they come by the
hundred thousand; everything else is a record.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cardkeep.records.deck import Deck
from cardkeep.records.deck_config import DeckConfig
from cardkeep.records.notetype import Notetype

Row = Sequence[Any]


class ByteSource(Protocol):
    """A body that is read in pieces, in a worker thread, and closed once."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""

    def close(self) -> None:
        """Gives back whatever the source holds; may be called at any point."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who speaks, known from a valid host key.

    `device` identifies the login (one random key each); `protocol` is the framing's:
    11 for requests with the anki-sync header, 10 for forms. `client` is the text that
    the client gives of itself ("26.09.3,29bb700b,linux"), empty if it gave none.
    """

    user: str
    device: str
    protocol: int
    session_key: str
    client: str
    address: str
    host_key: str = field(default="", repr=False)


# --- client to server: collection -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostKey:
    """A login."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Meta:
    """`version` is the protocol version of the body, `client` the client's version text."""

    version: int
    client: str


@dataclass(frozen=True, slots=True)
class Graves:
    """Ids of deleted objects."""

    cards: Sequence[int] = ()
    notes: Sequence[int] = ()
    decks: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """Opens a sync. `min_usn` is M; `graves` only from legacy clients."""

    min_usn: int
    local_newer: bool
    graves: Graves | None = None


@dataclass(frozen=True, slots=True)
class ApplyGraves:
    """The client's deletions, or a part of them."""

    graves: Graves


@dataclass(frozen=True, slots=True)
class Changes:
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


@dataclass(frozen=True, slots=True)
class ApplyChanges:
    """The client's changes, all at once."""

    changes: Changes


@dataclass(frozen=True, slots=True)
class NextChunk:
    """The client asks for the next rows (method `chunk`)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of the three large tables, either way."""

    done: bool
    revlog: Sequence[Row] = ()
    cards: Sequence[Row] = ()
    notes: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class ApplyChunk:
    """Rows of the client."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of rows that both sides compare after a sync."""

    cards: int
    notes: int
    revlog: int
    notetypes: int
    decks: int
    deck_configs: int


@dataclass(frozen=True, slots=True)
class SanityCheck:
    """`counts` is None when a legacy client reports that its own check failed."""

    counts: Counts | None


@dataclass(frozen=True, slots=True)
class Finish:
    """The client asks for the result of its sync."""


@dataclass(frozen=True, slots=True)
class Abort:
    """The client gives its sync up."""


@dataclass(frozen=True, slots=True)
class Upload:
    """`file` is the decoded collection in the spool folder; the receiver may move it away."""

    file: Path


@dataclass(frozen=True, slots=True)
class Download:
    """The client asks for the whole collection."""


# --- client to server: media ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MediaBegin:
    """`client` is the version text."""

    client: str


@dataclass(frozen=True, slots=True)
class MediaChanges:
    """The client asks for what changed after `last_usn`."""

    last_usn: int


@dataclass(frozen=True, slots=True)
class MediaEntry:
    """One element of an upload: `data` opens the bytes, None for a deletion."""

    name: str
    data: Callable[[], ByteSource] | None


@dataclass(frozen=True, slots=True)
class UploadChanges:
    """At most 25 entries, in the client's order."""

    entries: Sequence[MediaEntry]


@dataclass(frozen=True, slots=True)
class DownloadFiles:
    """The client asks for files, at most 25."""

    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class MediaSanity:
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


@dataclass(frozen=True, slots=True)
class HostKeyGranted:
    """The key that the client keeps from now on."""

    key: str


@dataclass(frozen=True, slots=True)
class MetaAnswer:
    """`mod`, `scm` in ms, `now` in s."""

    mod: int
    scm: int
    usn: int
    now: int
    media_usn: int
    empty: bool
    message: str = ""
    proceed: bool = True


@dataclass(frozen=True, slots=True)
class Nothing:
    """The answer `null`."""


@dataclass(frozen=True, slots=True)
class SanityAnswer:
    """`client` and `server` are None where a count could not be made or compared."""

    ok: bool
    client: Counts | None = None
    server: Counts | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """`mod` in ms, as committed."""

    mod: int


@dataclass(frozen=True, slots=True)
class UploadAccepted:
    """The text `OK`."""


@dataclass(frozen=True, slots=True)
class CollectionFile:
    """A whole collection in the schema that the caller's protocol takes."""

    source: ByteSource


@dataclass(frozen=True, slots=True)
class MediaBegun:
    """`key` is what v8-10 clients send back as `sk`."""

    usn: int
    key: str


@dataclass(frozen=True, slots=True)
class MediaChange:
    """`sha1` is 40 hex digits, empty for a deletion."""

    name: str
    usn: int
    sha1: str


@dataclass(frozen=True, slots=True)
class MediaChangeList:
    """In ascending order of usn, at most 1,000."""

    changes: Sequence[MediaChange] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class MediaUploaded:
    """`usn` is the last one after the upload."""

    processed: int
    usn: int


@dataclass(frozen=True, slots=True)
class MediaFiles:
    """The answer to `downloadFiles`: a prefix of the names asked for, with open bytes."""

    files: Sequence[tuple[str, ByteSource]]


@dataclass(frozen=True, slots=True)
class MediaSanityAnswer:
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
