# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every malformed request ends in a refusal that says why, and changes nothing.

A row is a name, what is sent, and the statuses that will do (4xx unless said). After each one
the user's collection and media are the same, the log has a reason, the server has not grown
and goes on serving. An upload may also be refused with 200 and words for the user.
"""

import contextlib
import functools
import gzip
import hashlib
import http.client
import io
import json
import random
import socket
import sqlite3
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.protocol.client import (
    FORM_HEADERS,
    Client,
    Reply,
    form,
    media_zip,
    pack,
)
from tests.protocol.collections import (
    BASIC,
    CARDS,
    DECK,
    FIRST_USN,
    NOTES,
    opened,
    spoiled,
    uploadable,
)
from tests.servers import PASSWORD, Server, running

# The official server fails many of these: `--server official` shows which.
SERVERS = ("cardkeep",)

MIB = 1024 * 1024
# What a row may add to the server's memory: what the largest honest message needs, far less than
# the worst rows would like to have.
GROWTH_MIB = 120
# Keeps the bombs small: 1 GiB passes these limits as well as more would.
LIMITS = {"CARDKEEP_MAX_COLLECTION": "256M"}

Send = Callable[[Client], Reply]


@dataclass
class Row:
    """`send` says it; any of `statuses` is a refusal."""

    name: str
    send: Send
    statuses: tuple[int, ...] = (400,)
    words: bool = False


ROWS: list[Row] = []


def row(name: str, send: Send, *statuses: int) -> None:
    ROWS.append(Row(name, send, statuses or (400,)))


# --- what is sent -----------------------------------------------------------------------


def body(method: str, content: bytes, **header: Any) -> Send:
    """A body as it is, under the header of protocol 11."""
    return lambda client: client.send(_path(method), content, client.header(**header))


def text(method: str, content: str | bytes) -> Send:
    """A payload that is no proper message."""
    raw = content.encode() if isinstance(content, str) else content
    return body(method, pack(raw))


def message(method: str, content: Any) -> Send:
    """A message with something wrong in it."""
    return text(method, json.dumps(content))


def in_sync(method: str, content: Any, *, before: str = "") -> Send:
    """The same in the middle of a sync that was good so far."""

    def send(client: Client) -> Reply:
        client.new_session()
        client.start(FIRST_USN, newer=True)
        client.apply_graves(notes=[NOTES[1]], cards=[CARDS[1]])
        if method in ("applyChunk", "sanityCheck2"):
            client.apply_changes(tags=["never-kept"])
        if method == "sanityCheck2":
            client.apply_chunk()
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        return client.send(_path(method), pack(raw), client.header())

    return send


def as_form(method: str, content: bytes, headers: Mapping[str, str] = FORM_HEADERS) -> Send:
    """A body in the framing of protocols 8 to 10."""
    return lambda client: client.send(
        _path(method), content.replace(b"KEY", client.key.encode()), headers
    )


def keyed(data: bytes | None, **fields: str) -> bytes:
    return form(data, {"c": "1", "k": "KEY", "s": "abc", **fields})


def bytes_on_the_wire(*pieces: bytes) -> Send:
    """HTTP itself, spoken wrongly."""

    def send(client: Client) -> Reply:
        with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while got := connection.recv(65536):
                answer += got
        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
        return Reply(status, None, answer)  # type: ignore[arg-type]

    return send


def _path(method: str) -> str:
    media = ("begin", "mediaChanges", "uploadChanges", "downloadFiles", "mediaSanity")
    return f"/msync/{method}" if method in media else f"/sync/{method}"


@functools.cache
def zstd_zeros(size: int) -> bytes:
    """A small frame of very much."""
    packer = zstandard.ZstdCompressor().compressobj()
    pieces = [packer.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join(pieces) + packer.flush()


@functools.cache
def gzip_zeros(size: int) -> bytes:
    """The same as gzip, but for its end, which nobody ought to get to."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    mebibyte = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + mebibyte * (size // MIB)


META = b'{"v":11,"cv":"x"}'

# --- protocol 11: the header ------------------------------------------------------------

row("no header and no form", lambda c: c.send("/sync/meta", pack(META)))
for name, header in {
    "header is not JSON": "nonsense",
    "header is empty": "",
    "header is a list": "[]",
    "header is null": "null",
    "header without v": '{"k":"","c":"","s":""}',
    "header without k": '{"v":11,"c":"","s":""}',
    "header without s": '{"v":11,"k":"","c":""}',
    "header with v as text": '{"v":"11","k":"","c":"","s":""}',
    "header with v as truth": '{"v":true,"k":"","c":"","s":""}',
    "header with a v beyond all bounds": '{"v":1e400,"k":"","c":"","s":""}',
    "header with k as a number": '{"v":11,"k":1,"c":"","s":""}',
    "header with s as a list": '{"v":11,"k":"","c":"","s":[]}',
    "header nested deeply": '{"v":11,"k":"","c":"","s":"","x":' + "[" * 3000 + "]" * 3000 + "}",
    "header cut off": '{"v":11,"k":"',
}.items():
    row(
        name,
        lambda c, h=header: c.send("/sync/meta", pack(META), {"anki-sync": h}),  # type: ignore[misc]
        400,
        403,
    )
row("header with v 12", body("meta", pack(META), v=12), 400, 501)
row("header with v 7", body("meta", pack(META), v=7), 400, 501)
row(
    "header of 300 kB",
    lambda c: c.send("/sync/meta", pack(META), c.header(c="x" * 300_000)),
    400,
    431,
)
row("header with a key that is not ASCII", body("meta", pack(META), k="ключ"), 400, 403)
row("header with a key of control characters", body("meta", pack(META), k="a\u0000\n"), 400, 403)

# --- protocol 11: the body --------------------------------------------------------------

row("empty body", body("meta", b""))
row("body is plain JSON", body("meta", META))
row("body is gzip", body("meta", gzip.compress(META)))
row("body is noise", body("meta", bytes(range(256)) * 20))
row("frame cut off", body("meta", pack(META)[:-3]))
row("frame cut off after its head", body("meta", pack(META)[:6]))
row(
    "frame spoiled in the middle",
    body("start", pack(b'{"minUsn":1,"lnewer":true}' * 50)[:-9] + b"xxxxxxxxx"),
)
row("bomb of 1 GiB for meta", body("meta", zstd_zeros(1024 * MIB)))
row("bomb of 1 GiB for applyChunk", body("applyChunk", zstd_zeros(1024 * MIB)), 400, 409)
row(
    "window of 2 GiB",
    body(
        "meta",
        zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(
                window_log=31, enable_ldm=True, write_content_size=False
            )
        )
        .compressobj()
        .compress(bytes(20 * MIB))
        + b"",
    ),
)
row(
    "frame for a dictionary that nobody has",
    body("meta", b"\x28\xb5\x2f\xfd\x23\x01\x02\x03\x04\x11\x00"),
)

# --- JSON -------------------------------------------------------------------------------

for method in ("hostKey", "meta"):
    for name, payload in {
        "no text": b"",
        "only spaces": b"   ",
        "cut off": b'{"v":11,"c',
        "not UTF-8": b'{"v":11,"cv":"\xff\xfe"}',
        "UTF-16": '{"v":11,"cv":"x"}'.encode("utf-16"),
        "nested 200,000 deep": b"[" * 200_000,
        "objects nested 100,000 deep": b'{"a":' * 100_000,
        "a number of a million digits": b'{"v":' + b"9" * 1_000_000 + b',"cv":"x"}',
        "NaN": b'{"v":NaN,"cv":"x"}',
        "infinity": b'{"v":1e999,"cv":"x"}',
        "a list": b"[]",
        "a text": b'"meta"',
        "null": b"null",
        "two objects": b'{"v":11,"cv":"x"}{"v":11,"cv":"x"}',
        "half a surrogate": b'{"v":11,"cv":"\\ud800","u":"\\ud800","p":"\\udfff"}',
    }.items():
        row(
            f"{method}: {name}", text(method, payload), *((400, 403) if "surrogate" in name else ())
        )
# Half a surrogate in the client's own description harms nobody.
ROWS = [r for r in ROWS if r.name != "meta: half a surrogate"]

# --- login and meta ----------------------------------------------------------------------

row("hostKey without a password", message("hostKey", {"u": "a"}))
row("hostKey without a user", message("hostKey", {"p": "a"}))
row("hostKey with numbers", message("hostKey", {"u": 1, "p": 2}))
row("hostKey with null", message("hostKey", {"u": None, "p": None}))
row("hostKey of a path", message("hostKey", {"u": "../../etc", "p": PASSWORD}), 400, 403)
row("hostKey of a user with NUL", message("hostKey", {"u": "user1\0", "p": PASSWORD}), 400, 403)
row("hostKey of nobody", message("hostKey", {"u": "", "p": ""}), 400, 403)
row(
    "hostKey with 20 MB of password",
    message("hostKey", {"u": "x", "p": "x" * 20 * MIB}),
    400,
    403,
    413,
)
row("meta without v", message("meta", {"cv": "x"}))
row("meta without cv", message("meta", {"v": 11}))
row("meta with v as text", message("meta", {"v": "11", "cv": "x"}))
row("meta with a fractional v", message("meta", {"v": 11.0, "cv": "x"}))
row("meta of version 7", message("meta", {"v": 7, "cv": "x"}), 501)
row("meta of version 12", message("meta", {"v": 12, "cv": "x"}), 501)
row("an unknown method", message("everything", {}), 400, 404)
row("a method in capitals", message("META", {}), 400, 404)
row(
    "a path above the root",
    lambda c: c.send("/sync/../../etc/passwd", pack(META), c.header()),
    400,
    404,
)
row("an encoded path", lambda c: c.send("/sync/%2e%2e%2fmeta%00", pack(META), c.header()), 400, 404)
row(
    "a path of 60 kB",
    lambda c: c.send("/" + "a" * 60_000 + "/sync/x", pack(META), c.header()),
    400,
    404,
    414,
    431,
)
for verb in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "NONSENSE"):
    row(f"{verb} meta", lambda c, v=verb: c.send("/sync/meta", b"", c.header(), verb=v), 400, 405)  # type: ignore[misc]

# --- start and graves --------------------------------------------------------------------

row("start without a session key", body("start", pack(b'{"minUsn":0,"lnewer":false}'), s=""))
for name, wrong in {
    "start without minUsn": {"lnewer": False},
    "start without lnewer": {"minUsn": 0},
    "start with minUsn as text": {"minUsn": "0", "lnewer": False},
    "start with minUsn beyond 32 bits": {"minUsn": 2**40, "lnewer": False},
    "start with a fractional minUsn": {"minUsn": 1.5, "lnewer": False},
    "start with lnewer as a number": {"minUsn": 0, "lnewer": 1},
    "start with graves as a list": {"minUsn": 0, "lnewer": False, "graves": []},
    "start with graves without decks": {
        "minUsn": 0,
        "lnewer": False,
        "graves": {"cards": [], "notes": []},
    },
    "start with graves of words": {
        "minUsn": 0,
        "lnewer": False,
        "graves": {"cards": ["one"], "notes": [], "decks": []},
    },
    "start that deletes the default deck": {
        "minUsn": FIRST_USN,
        "lnewer": True,
        "graves": {"cards": [], "notes": [], "decks": ["1"]},
    },
}.items():
    row(name, message("start", wrong))
for name, wrong in {
    "applyGraves without chunk": {},
    "applyGraves without notes": {"chunk": {"cards": [], "decks": []}},
    "applyGraves with fractions": {"chunk": {"cards": [1.5], "notes": [], "decks": []}},
    "applyGraves with null": {"chunk": {"cards": [None], "notes": [], "decks": []}},
    "applyGraves beyond 64 bits": {"chunk": {"cards": [2**64], "notes": [], "decks": []}},
    "applyGraves with an object": {"chunk": {"cards": {"1": 1}, "notes": [], "decks": []}},
    "applyGraves of the default deck": {"chunk": {"cards": [], "notes": [], "decks": [7, 1]}},
}.items():
    row(name, in_sync("applyGraves", wrong))

# --- applyChanges ------------------------------------------------------------------------


def changes(**wrong: Any) -> dict[str, Any]:
    return {"changes": {"models": [], "decks": [[], []], "tags": [], **wrong}}


FIELD = {"name": "F", "ord": 0, "sticky": False, "rtl": False, "font": "Arial", "size": 20}
TEMPLATE = {
    "name": "T",
    "ord": 0,
    "qfmt": "{{F}}",
    "afmt": "",
    "bqfmt": "",
    "bafmt": "",
    "did": None,
}
NOTETYPE: dict[str, Any] = {
    "id": 5,
    "name": "N",
    "type": 0,
    "mod": 1,
    "usn": 1,
    "sortf": 0,
    "did": None,
    "css": "",
    "req": [],
    "flds": [FIELD],
    "tmpls": [TEMPLATE],
}
NORMAL_DECK: dict[str, Any] = {
    "id": 6,
    "name": "D",
    "mod": 1,
    "usn": 1,
    "dyn": 0,
    "desc": "",
    "conf": 1,
    "collapsed": False,
    "newToday": [0, 0],
    "revToday": [0, 0],
    "lrnToday": [0, 0],
    "timeToday": [0, 0],
}
for name, wrong in {
    "without changes": {},
    "with changes as a list": {"changes": []},
    "without models": {"changes": {"decks": [[], []], "tags": []}},
    "with models as an object": changes(models={}),
    "with one list of decks": changes(decks=[[]]),
    "with decks as an object": changes(decks={}),
    "with numbers for tags": changes(tags=[1, 2]),
    "with tags as a text": changes(tags="a b"),
    "with conf as a list": changes(conf=[]),
    "with crt as text": changes(conf={}, crt="1"),
    "with crt beyond 64 bits": changes(conf={}, crt=2**70),
    "with crt in a year beyond all calendars": changes(conf={}, crt=2**62),
    "with a notetype of id 0": changes(models=[{**NOTETYPE, "id": 0}]),
    "with a notetype without a name": changes(models=[{**NOTETYPE, "name": None}]),
    "with a notetype without fields": changes(models=[{**NOTETYPE, "flds": None}]),
    "with a notetype of two equal fields": changes(
        models=[{**NOTETYPE, "flds": [FIELD, {**FIELD, "name": "f"}]}]
    ),
    "with a notetype of two equal templates": changes(
        models=[{**NOTETYPE, "tmpls": [TEMPLATE, {**TEMPLATE, "name": "t"}]}]
    ),
    "with a notetype of an unknown type": changes(models=[{**NOTETYPE, "type": 7}]),
    "with a notetype as a number": changes(models=[5]),
    "with a changed number of fields": changes(
        models=[{**NOTETYPE, "id": BASIC, "mod": 2_000_000_000}]
    ),
    "with a deck of id 0": changes(decks=[[{**NORMAL_DECK, "id": 0}], []]),
    "with a deck named by a number": changes(decks=[[{**NORMAL_DECK, "name": 5}], []]),
    "with a deck without a kind": changes(decks=[[{**NORMAL_DECK, "dyn": "x"}], []]),
    "with a deck as null": changes(decks=[[None], []]),
    "with a preset of id 0": changes(decks=[[], [{"id": 0, "name": "x"}]]),
    "with a preset without anything": changes(decks=[[], [{}]]),
    "with a preset beyond 64 bits": changes(decks=[[], [{"id": 2**64, "name": "x", "mod": 1}]]),
}.items():
    row(f"applyChanges {name}", in_sync("applyChanges", wrong))
row(
    "applyChanges with NaN in the configuration",
    in_sync("applyChanges", json.dumps(changes(conf={"a": float("nan")}, crt=1)).encode()),
)
row(
    "applyChanges with a configuration nested 100,000 deep",
    in_sync(
        "applyChanges",
        b'{"changes":{"models":[],"decks":[[],[]],"tags":[],"crt":1,"conf":{"a":'
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}}",
    ),
)
row(
    "applyChanges with a notetype nested 5,000 deep",
    in_sync(
        "applyChanges",
        json.dumps(changes(models=[{**NOTETYPE, "extra": "HERE"}]))
        .encode()
        .replace(b'"HERE"', b"[" * 5000 + b"]" * 5000),
    ),
)

row(
    "applyChanges with a configuration value of 9 MiB",
    in_sync("applyChanges", changes(conf={"a": "x" * 9 * MIB}, crt=1)),
)
row(
    "applyChanges with a tag of 9 MiB",
    in_sync("applyChanges", changes(tags=["x" * 9 * MIB])),
)
row(
    "applyChanges with a deck of 9 MiB",
    in_sync("applyChanges", changes(decks=[[{**NORMAL_DECK, "desc": "x" * 9 * MIB}], []])),
)
row(
    "applyChanges of 40 MiB",
    in_sync("applyChanges", changes(tags=["x" * MIB] * 40)),
)

# --- applyChunk --------------------------------------------------------------------------

NOTE: list[Any] = [9, "g", BASIC, 1, 1, "", "a\x1fb", "", "", 0, ""]
CARD: list[Any] = [9, NOTES[0], DECK, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, ""]
REVIEW: list[Any] = [9, CARDS[0], 1, 3, 1, 0, 2500, 1000, 0]


def replaced(entry: list[Any], place: int, value: Any) -> list[Any]:
    return [*entry[:place], value, *entry[place + 1 :]]


for name, kind, entry in (
    ("a note of an unknown notetype", "notes", replaced(NOTE, 2, 99)),
    ("a note with a field too few", "notes", replaced(NOTE, 6, "a")),
    ("a note with a field too many", "notes", replaced(NOTE, 6, "a\x1fb\x1fc")),
    ("a note of ten values", "notes", NOTE[:10]),
    ("a note of twelve values", "notes", [*NOTE, ""]),
    ("a note with a number for a guid", "notes", replaced(NOTE, 1, 5)),
    ("a note with null for fields", "notes", replaced(NOTE, 6, None)),
    ("a note with an id as text", "notes", replaced(NOTE, 0, "9")),
    ("a note with an id beyond 64 bits", "notes", replaced(NOTE, 0, 2**64)),
    ("a note with a number for sfld", "notes", replaced(NOTE, 7, 1)),
    ("a note with a fractional time", "notes", replaced(NOTE, 3, 1.5)),
    ("a note with half a surrogate", "notes", replaced(NOTE, 6, "\ud800\x1fb")),
    ("a note as an object", "notes", {"id": 9}),
    ("a card of 17 values", "cards", CARD[:17]),
    ("a card of an unknown type", "cards", replaced(CARD, 6, 4)),
    ("a card of an unknown queue", "cards", replaced(CARD, 7, 5)),
    ("a card with a negative template", "cards", replaced(CARD, 3, -1)),
    ("a card with a template beyond 16 bits", "cards", replaced(CARD, 3, 65536)),
    ("a card with an ease beyond 16 bits", "cards", replaced(CARD, 10, 65536)),
    ("a card with a flag beyond 8 bits", "cards", replaced(CARD, 16, 256)),
    ("a card with null for its deck", "cards", replaced(CARD, 2, None)),
    ("a card with a fractional id", "cards", replaced(CARD, 0, 9.5)),
    ("a card with a number for data", "cards", replaced(CARD, 17, 5)),
    ("a card with text for due", "cards", replaced(CARD, 8, "1")),
    ("a review of 7 values", "revlog", REVIEW[:7]),
    ("a review with a button beyond 8 bits", "revlog", replaced(REVIEW, 3, 256)),
    ("a review with null for its card", "revlog", replaced(REVIEW, 1, None)),
    ("a review with text for its time", "revlog", replaced(REVIEW, 7, "1")),
    ("notes as an object", "notes", None),
):
    rows = {kind: {} if entry is None else [entry]}
    # What needs the collection to be known may be found when all is applied.
    row(f"applyChunk with {name}", in_sync("applyChunk", {"chunk": {"done": True, **rows}}))
row("applyChunk without chunk", in_sync("applyChunk", {}))
row("applyChunk with done as text", in_sync("applyChunk", {"chunk": {"done": "yes"}}))
row("applyChunk after no start", message("applyChunk", {"chunk": {"done": True}}), 409)

# --- sanityCheck2 ------------------------------------------------------------------------

for name, wrong in {
    "without client": {},
    "with a number": {"client": 5},
    "with too few numbers": {"client": [[0, 0, 0], 1, 2]},
    "with text among the numbers": {"client": [[0, 0, 0], "2", 2, 1, 0, 6, 3, 1]},
    "with fractions": {"client": [[0, 0, 0], 2.5, 2, 1, 0, 6, 3, 1]},
    "with null": {"client": [None, 2, 2, 1, 0, 6, 3, 1]},
}.items():
    row(f"sanityCheck2 {name}", in_sync("sanityCheck2", wrong))

# --- upload ------------------------------------------------------------------------------


def upload(name: str, collection: bytes | Callable[[], bytes], *statuses: int) -> None:
    def send(client: Client) -> Reply:
        client.new_session()
        content = collection() if callable(collection) else collection
        return client.send("/sync/upload", iter([pack(content)]), client.header())

    ROWS.append(Row(f"upload {name}", send, statuses or (400,), words=True))


def cut(at: int) -> Callable[[], bytes]:
    return lambda: uploadable()[:at]


def overwritten(page: int, data: bytes) -> Callable[[], bytes]:
    def make() -> bytes:
        whole = bytearray(uploadable())
        whole[page * 4096 : page * 4096 + len(data)] = data
        return bytes(whole)

    return make


def sql(*statements: str, schema: int = 18) -> Callable[[], bytes]:
    return lambda: spoiled(*statements, schema=schema)


def foreign() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "foreign.db"
        connection = sqlite3.connect(path)
        connection.executescript("create table songs (id, name); insert into songs values (1, 'a')")
        connection.close()
        return path.read_bytes()


upload("of 0 bytes", b"")
upload("of noise", bytes(range(256)) * 64)
upload("of text", b"this is not a database" * 1000)
upload("of nothing but SQLite's mark", b"SQLite format 3\0")
upload("of nothing but a first page", cut(4096))
upload("of a file cut in the middle", lambda: uploadable()[: len(uploadable()) // 2 // 4096 * 4096])
upload("of a file cut within a page", lambda: uploadable()[: len(uploadable()) // 2 - 1000])
upload("of a foreign database", foreign)
upload("of a page overwritten with noise", overwritten(3, bytes(range(256)) * 16))
upload("of a page overwritten with zeros", overwritten(5, bytes(4096)))
upload("of a spoiled head", overwritten(0, b"SQLite format 3\0" + b"\x00\x03" + b"\xff" * 60))
upload("of a file that claims 2 GiB of pages", lambda: _claiming_pages(uploadable()))
for version in (0, 10, 12, 13, 19, 99, -1):
    upload(f"of schema {version}", sql(f"update col set ver = {version}"))
upload("of schema 11's version on schema 18's tables", sql("update col set ver = 11"))
upload("of schema 18's version on schema 11's tables", sql("update col set ver = 18", schema=11))
upload("without a col row", sql("delete from col"))
upload(
    "with two col rows",
    sql(
        "insert into col select 2, crt, mod, scm, ver, dty, usn, ls, conf, models, decks, dconf,"
        " tags from col"
    ),
)
upload("with a text for usn", sql("update col set usn = 'one'"))
upload("with a text for mod", sql("update col set mod = 'now'"))
for table in (
    "col",
    "notes",
    "cards",
    "revlog",
    "graves",
    "config",
    "deck_config",
    "decks",
    "notetypes",
    "fields",
    "templates",
    "tags",
):
    upload(f"without the table {table}", sql(f"drop table {table}"))
upload("with a column missing", sql("drop index ix_cards_usn", "alter table cards drop column usn"))
upload("with a trigger", sql("create trigger t after insert on notes begin delete from cards; end"))
upload(
    "with an endless trigger",
    sql(
        "create trigger t after update on col begin insert into revlog with recursive c(n) as"
        " (select 1 union all select n + 1 from c) select n, 1, 1, 1, 1, 1, 1, 1, 1 from c; end"
    ),
)
upload("with a view", sql("create view v as select * from notes"))
upload(
    "with a view in place of a table",
    sql("alter table tags rename to t2", "create view tags as select * from t2"),
)
upload("with a virtual table", sql("create virtual table v using fts5(a)"))
upload("with an rtree", sql("create virtual table v using rtree(id, a, b)"))
upload("with a deck that cannot be decoded", sql("update decks set kind = x'ff' where id != 1"))
upload("with a deck without a kind", sql("update decks set kind = x'' where id != 1"))
upload("with a preset that cannot be decoded", sql("update deck_config set config = x'0aff'"))
upload("with a notetype that cannot be decoded", sql("update notetypes set config = x'0aff'"))
upload("with configuration that is not JSON", sql("update config set val = cast('{' as blob)"))
upload("with configuration as text", sql("update config set val = cast(val as text)"))
upload(
    "without any notetype",
    sql("delete from notetypes", "delete from fields", "delete from templates"),
)
upload("with a note of an unknown notetype", sql("update notes set mid = 5"))
upload("with text for a card's deck", sql("update cards set did = 'x'"))
upload("with a card of an unknown queue", sql("update cards set queue = 99"))
upload("with a fractional ease", sql("update cards set factor = 2.5"))
upload("with a blob for fields", sql("update notes set flds = x'00ff'"))
upload("of schema 11 with decks that are not JSON", sql("update col set decks = '{'", schema=11))
upload("of schema 11 with models as a list", sql("update col set models = '[]'", schema=11))
upload(
    "of schema 11 with a deck without a name",
    sql("""update col set decks = '{"1":{"id":1}}'""", schema=11),
)
upload(
    "of schema 11 with JSON nested deeply",
    sql("update col set conf = '" + "[" * 50_000 + "'", schema=11),
)
upload(
    "of schema 11 with a trigger",
    sql("create trigger t after insert on notes begin delete from cards; end", schema=11),
)
upload("that unpacks to 1 GiB of zeros", lambda: b"")
ROWS[-1].send = lambda c: c.send("/sync/upload", zstd_zeros(1024 * MIB), c.header())


def _claiming_pages(whole: bytes) -> bytes:
    return whole[:28] + struct.pack(">I", 2**19) + whole[32:]


row("upload as a form without data", as_form("upload", keyed(None)), 200, 400)
ROWS[-1].words = True
row("upload as a form of broken gzip", as_form("upload", keyed(b"\x1f\x8b" + bytes(50))))
row("upload as a form of gzip cut off", as_form("upload", keyed(gzip.compress(b"x" * 9999)[:-20])))
row(
    "upload as a form that unpacks to 1 GiB",
    as_form("upload", keyed(gzip_zeros(1024 * MIB))),
    400,
    413,
)
ROWS[-1].words = True

# --- forms -------------------------------------------------------------------------------

row(
    "form without a boundary", as_form("meta", keyed(b"x"), {"content-type": "multipart/form-data"})
)
row(
    "form with another boundary",
    as_form("meta", keyed(b"x"), {"content-type": "multipart/form-data; boundary=other"}),
    400,
    403,
)
row("form without its end", as_form("meta", keyed(gzip.compress(META))[:-30]), 400, 403)
row("form that is empty", as_form("meta", b""), 400, 403)
row("form that is noise", as_form("meta", bytes(range(256)) * 10), 400, 403)
row("form with gzip that is none", as_form("meta", keyed(META)))
row(
    "form with plain data that says it is gzip",
    as_form("start", keyed(b'{"minUsn":0,"lnewer":false}')),
)
row("form with gzip cut off", as_form("meta", keyed(gzip.compress(META)[:-10])))
row("form with a bomb", as_form("meta", keyed(gzip_zeros(1024 * MIB))), 400, 413)
row("form without a key", as_form("meta", form(gzip.compress(META), {"c": "1", "s": "abc"})), 403)
row("form with a key in bytes", as_form("meta", keyed(b"x").replace(b"KEY", b"\xff\xfe")), 400, 403)
row(
    "form of 20,000 parts",
    as_form("meta", form(None, {f"f{n}": "x" for n in range(20_000)})),
    400,
    403,
    413,
)
row(
    "form with a part head of 1 MB",
    as_form(
        "meta",
        form(b"x", {"x" * MIB: "x"}),
    ),
    400,
    403,
    413,
)
row("form with a key of 5 MB", as_form("meta", form(b"{}", {"k": "x" * 5 * MIB})), 400, 403, 413)
row(
    "form start without a session key",
    as_form("start", form(gzip.compress(b'{"minUsn":0,"lnewer":false}'), {"c": "1", "k": "KEY"})),
)
row(
    "urlencoded form",
    as_form("meta", b"k=KEY&data=x", {"content-type": "application/x-www-form-urlencoded"}),
    400,
    403,
    415,
)

# --- media -------------------------------------------------------------------------------

row("begin without v", message("begin", {}))
row("begin with v as a number", message("begin", {"v": 5}))
row("GET begin without v", lambda c: c.send(f"/msync/begin?k={c.key}", verb="GET"))
row("GET begin without a key", lambda c: c.send("/msync/begin?v=x", verb="GET"), 400, 403)
row("mediaChanges without lastUsn", message("mediaChanges", {}))
row("mediaChanges with text", message("mediaChanges", {"lastUsn": "0"}))
row("mediaChanges beyond 64 bits", message("mediaChanges", {"lastUsn": 2**70}))
row("mediaSanity without local", message("mediaSanity", {}))
row("mediaSanity with text", message("mediaSanity", {"local": "1"}))
row("downloadFiles without files", message("downloadFiles", {}))
row("downloadFiles with a text", message("downloadFiles", {"files": "a"}))
row("downloadFiles with numbers", message("downloadFiles", {"files": [1]}))
row("downloadFiles of 26", message("downloadFiles", {"files": ["kept.txt"] * 26}))
for name in ("..", "../collection.anki2", "/etc/passwd", "", "a\0b", "never"):
    row(f"downloadFiles of {name!r}", message("downloadFiles", {"files": [name]}), 400, 409)


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return packed.getvalue()


def listing(*entries: Any) -> tuple[str, bytes]:
    return "_meta", json.dumps(entries).encode()


def media(name: str, packed: bytes | Callable[[], bytes], *statuses: int) -> None:
    def send(client: Client) -> Reply:
        content = packed() if callable(packed) else packed
        return client.send("/msync/uploadChanges", iter([pack(content)]), client.header())

    row(f"media upload {name}", send, *statuses)


media("of nothing", b"")
media("of noise", bytes(range(256)) * 10)
media("of a zip cut off", media_zip([("a", b"x" * 1000)])[:-40])
media("without a list", zipped(("0", b"x")))
media("with a list that is not JSON", zipped(("_meta", b"[["), ("0", b"x")))
media("with a list that is an object", zipped(("_meta", b'{"a":"0"}'), ("0", b"x")))
media("with a list of numbers", zipped(listing(1, 2)))
media("with a list of three values", zipped(listing(["a", "0", 1]), ("0", b"x")))
media("with a number for a name", zipped(listing([5, "0"]), ("0", b"x")))
media("with a number for a member", zipped(listing(["a", 0]), ("0", b"x")))
media("with a member that is not there", zipped(listing(["a", "7"]), ("0", b"x")))
media("with a list of 1 MB", zipped(("_meta", b"[" + b" " * MIB + b"]")))
media("with a list nested deeply", zipped(("_meta", b"[" * 50_000)))
media("of 26 files", media_zip([(f"{n}", b"x") for n in range(26)]))
media("of an empty file", media_zip([("a", b"")]))
for bad in (
    "",
    ".",
    "..",
    "../a",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "..\\a",
    "C:\\x",
    "nul\0byte",
    "e\u0301",
    "x" * 256,
    "ü" * 128,
):
    label = bad if len(bad) < 20 else f"{bad[:3]}… ({len(bad)})"
    media(f"named {label!r}", media_zip([("good.txt", b"1"), (bad, b"x")]))
media("named with half a surrogate", zipped(("_meta", b'[["\\ud800","0"]]'), ("0", b"x")))
media("deleting '..'", media_zip([("..", None)]))
media("of a bomb of 1 GiB", lambda: _zip_bomb(1024))
media("of 25 bombs of 100 MiB", lambda: _zip_bomb(100, 25))
media("of a file of 101 MiB", lambda: media_zip([("big", bytes(101 * MIB))]), 400, 413)
media("with a wrong checksum", lambda: _with_wrong_checksum())
media("with a size that lies", lambda: _with_lying_size())
media(
    "packed with bzip2", zipped(listing(["a", "0"]), ("0", b"x" * 1000), method=zipfile.ZIP_BZIP2)
)
media("with an encrypted member", lambda: _encrypted())
media("with 70,000 members", lambda: zipped(listing(), *((f"{n}", b"x") for n in range(70_000))))
media("that is a bomb of zstd", lambda: b"")
ROWS[-1].send = lambda c: c.send("/msync/uploadChanges", zstd_zeros(1024 * MIB), c.header())
row("media upload as a form of noise", as_form("uploadChanges", form(b"noise", {"sk": "KEY"})))
row("media upload as a form without data", as_form("uploadChanges", form(None, {"sk": "KEY"})))


def _zip_bomb(mebibytes: int, count: int = 1) -> bytes:
    """Few bytes that unpack to many."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(count):
            with archive.open(str(number), "w", force_zip64=True) as member:
                for _ in range(mebibytes):
                    member.write(bytes(MIB))
        archive.writestr(*listing(*([f"{n}.bin", str(n)] for n in range(count))))
    return packed.getvalue()


def _with_wrong_checksum() -> bytes:
    packed = bytearray(media_zip([("a", b"the bytes")]))
    at = packed.index(b"the bytes")
    packed[at : at + 3] = b"THE"
    return bytes(packed)


def _with_lying_size() -> bytes:
    """The directory says 5 bytes, the member unpacks to 50 MiB."""
    packed = bytearray(_zip_bomb(50))
    entry = packed.index(b"PK\x01\x02")
    struct.pack_into("<I", packed, entry + 24, 5)
    return bytes(packed)


def _encrypted() -> bytes:
    packed = bytearray(media_zip([("a", b"x" * 20)]))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(mark) + offset] |= 1
    return bytes(packed)


# --- HTTP itself -------------------------------------------------------------------------

HEAD = b"POST /sync/meta HTTP/1.1\r\nHost: x\r\n"
row(
    "a request that is no HTTP",
    bytes_on_the_wire(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    400,
    0,
)
row("a length that is negative", bytes_on_the_wire(HEAD + b"Content-Length: -5\r\n\r\nhello"), 400)
row("a length that is a word", bytes_on_the_wire(HEAD + b"Content-Length: five\r\n\r\nhello"), 400)
row(
    "two lengths",
    bytes_on_the_wire(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    400,
)
row(
    "chunks of an impossible size",
    bytes_on_the_wire(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"),
    400,
)
row(
    "chunks that end in the middle",
    bytes_on_the_wire(HEAD + b"Transfer-Encoding: chunked\r\n\r\n40\r\nhello"),
    400,
    0,
)
row(
    "a body that ends in the middle",
    bytes_on_the_wire(HEAD + b"Content-Length: 500\r\n\r\nhello"),
    400,
    0,
)


# --- the tests ---------------------------------------------------------------------------


@dataclass
class Prepared:
    """A user with a collection and media, and the server that has them."""

    server: Server
    client: Client
    user: str

    def contents(self) -> dict[str, Any]:
        """Every row of the collection and of the media index, every media file."""
        folder = self.server.folder(self.user)
        files = {
            file.name: hashlib.sha1(file.read_bytes()).hexdigest()
            for file in (folder / "media").iterdir()
        }
        beside = sorted(
            entry.name
            for entry in folder.iterdir()
            if not entry.name.endswith(("-wal", "-shm", "-journal")) and entry.name != ".cardkeep"
        )
        with tempfile.TemporaryDirectory() as copies:
            collection = self.server.copy_of_collection(self.user, Path(copies))
            tables = _rows(collection)
            index = Path(copies) / "media.db"
            for file in folder.glob("media.db*"):
                if not file.name.endswith("-shm"):
                    (Path(copies) / file.name).write_bytes(file.read_bytes())
            tables.update({f"media.{name}": rows for name, rows in _rows(index).items()})
        return {"files": files, "beside": beside, **tables}

    def memory(self, *, peak: bool = False) -> int:
        """What the server has in memory now, or had at most since `forget_peak`; in MiB."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        wanted = "VmHWM" if peak else "VmRSS"
        (line,) = (line for line in status.splitlines() if line.startswith(wanted))
        return int(line.split()[1]) // 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.server.pid}/clear_refs").write_text("5")


def _rows(path: Path) -> dict[str, list[Any]]:
    connection = opened(path)
    names = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
    rows = {
        name: sorted(connection.execute(f"select * from {name}").fetchall(), key=repr)
        for (name,) in names
    }
    connection.close()
    return rows


@pytest.fixture(scope="module")
def limited_server(server_kind: str) -> Iterator[Server]:
    """A server whose limits are low enough to be passed quickly."""
    with running(server_kind, environment=LIMITS) as started:
        yield started


@pytest.fixture(scope="module")
def prepared(limited_server: Server) -> Prepared:
    server = limited_server
    user = server.next_user()
    client = Client(server.port).login(user, PASSWORD)
    assert client.upload(uploadable()) == "OK"
    client.upload_media(("kept.txt", b"kept"), ("gone.txt", b"gone"))
    client.upload_media(("gone.txt", None))
    # A day begins with the first sync; what it does to the collection is none of these tests'.
    client.new_session()
    client.start(FIRST_USN)
    client.abort()
    return Prepared(server, client, user)


# No answer at all, and addresses that are none of ours.
NOT_LOGGED = {0, 404}


@pytest.mark.parametrize("bad", ROWS, ids=lambda row: row.name)
def test_a_malformed_request_is_refused_and_changes_nothing(prepared: Prepared, bad: Row) -> None:
    """A refusal with a reason in the log; the same data, a small server that serves on."""
    before, told = prepared.contents(), prepared.server.log()
    prepared.client.new_session()
    prepared.forget_peak()
    memory = prepared.memory()
    reply = bad.send(prepared.client)
    if bad.words and reply.status == 200:
        assert _payload(reply) != b"OK"
        assert len(_payload(reply)) > 10
    else:
        assert reply.status in bad.statuses, (reply.status, reply.body[:200])
    assert prepared.contents() == before
    if reply.status not in NOT_LOGGED:
        assert prepared.server.log() != told, "no word of it in the log"
    assert prepared.memory(peak=True) - memory < GROWTH_MIB
    prepared.client.abort()
    prepared.client.new_session()
    prepared.client.start(FIRST_USN)
    prepared.client.abort()


def _payload(reply: Reply) -> bytes:
    if reply.headers["anki-original-size"] is None:
        return reply.body
    return zstandard.ZstdDecompressor().decompressobj().decompress(reply.body)


# Few bytes on the wire, many things in memory: they may be refused or not.
MANY = (700_000, 20_000_000)
DENSE = {
    "ids": ("applyGraves", b'{"chunk":{"notes":[],"decks":[],"cards":[1', b",1", b"]}}"),
    "ids as text": (
        "applyGraves",
        b'{"chunk":{"notes":[],"decks":[],"cards":["1"',
        b',"1"',
        b"]}}",
    ),
    "tags": (
        "applyChanges",
        b'{"changes":{"models":[],"decks":[[],[]],"tags":["a"',
        b',"a"',
        b"]}}",
    ),
    "notetypes": (
        "applyChanges",
        b'{"changes":{"decks":[[],[]],"tags":[],"models":[{}',
        b",{}",
        b"]}}",
    ),
    "lists in the configuration": (
        "applyChanges",
        b'{"changes":{"models":[],"decks":[[],[]],"tags":[],"crt":1,"conf":{"a":[[]',
        b",[]",
        b"]}}}",
    ),
    "notes": ("applyChunk", b'{"chunk":{"notes":[[]', b",[]", b"]}}"),
    "names of files": ("downloadFiles", b'{"files":["a"', b',"a"', b"]}"),
}


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("what", DENSE)
def test_millions_of_things_take_bounded_memory(prepared: Prepared, what: str, many: int) -> None:
    """A request that packs to a few kB does not make the server large, and changes nothing."""
    method, begins, element, ends = DENSE[what]
    before = prepared.contents()
    prepared.forget_peak()
    memory = prepared.memory()
    reply = in_sync(method, begins + element * many + ends)(prepared.client)
    assert reply.status in (200, 400, 413)
    assert prepared.memory(peak=True) - memory < GROWTH_MIB
    prepared.client.abort()
    assert prepared.contents() == before


def test_the_longest_chunk_takes_bounded_memory(prepared: Prepared) -> None:
    """90 MiB of notes, each with a character that makes a text four times as long in memory.

    They are taken, as a device with pictures within its notes may send them.
    """
    client = prepared.client
    client.new_session()
    client.start(FIRST_USN, newer=True)
    client.apply_changes()
    text = "\U0001f600" + "x" * 360_000
    notes = [
        [1000 + at, "g", BASIC, 1, 1, "", f"{text}\x1f{at}", "", "", 0, ""] for at in range(250)
    ]
    prepared.forget_peak()
    memory = prepared.memory()
    client.apply_chunk(notes=notes)
    count = len(NOTES) + len(notes)
    answer = client.sanity([[0, 0, 0], 2, count, 1, 0, 6, 3, 1 + 1])
    assert prepared.memory(peak=True) - memory < GROWTH_MIB
    assert answer["status"] == "bad"  # one preset too many: nothing of it is kept
    assert answer["s"][2] == count


def test_the_table_is_long_enough() -> None:
    """At least 80 rows, each with a name of its own."""
    assert len({row.name for row in ROWS}) == len(ROWS) >= 80


def test_many_slow_senders_take_little_memory(prepared: Prepared) -> None:
    """Hundreds of bodies that do not end, from nobody known, wait on disk."""
    head = (
        b"POST /sync/meta HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n'
    )
    prepared.forget_peak()
    memory = prepared.memory()
    with contextlib.ExitStack() as open_ones:
        for _ in range(400):
            connection = socket.create_connection(("127.0.0.1", prepared.server.port), timeout=30)
            open_ones.enter_context(connection)
            connection.sendall(head + b"x" * 250_000)
        prepared.client.meta()
        assert prepared.memory(peak=True) - memory < 70
    prepared.client.meta()


def test_many_slow_uploads_take_little_memory(prepared: Prepared) -> None:
    """Each frame asks for the largest window there is, and fills it; only some get it."""
    window = zstandard.ZstdCompressionParameters(window_log=23, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=window).compressobj()
    begun = packer.compress(random.Random(1).randbytes(10 * MIB)) + packer.flush(
        zstandard.COMPRESSOBJ_FLUSH_BLOCK
    )
    head = (
        f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * len(begun)}\r\n"
        f"anki-sync: {prepared.client.header()['anki-sync']}\r\n\r\n"
    ).encode()
    before = prepared.contents()
    prepared.forget_peak()
    memory = prepared.memory()
    with contextlib.ExitStack() as open_ones:
        for _ in range(30):
            connection = socket.create_connection(("127.0.0.1", prepared.server.port), timeout=30)
            open_ones.enter_context(connection)
            connection.sendall(head + begun)
        prepared.client.meta()
        assert prepared.memory(peak=True) - memory < 140
    prepared.client.meta()
    assert prepared.contents() == before


LONG_HEADS = {
    "one long header": {"anki-sync": "x" * 300_000},
    "many headers at once": {f"x-{n:04}": "y" * 20 for n in range(3000)},
}


@pytest.mark.parametrize("head", LONG_HEADS.values(), ids=list(LONG_HEADS))
def test_a_head_that_is_too_long_is_always_answered(
    prepared: Prepared, head: dict[str, str]
) -> None:
    """Also while the client is still sending it: it is not told of a broken connection."""
    for _ in range(40):
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", prepared.server.port, timeout=30)
        ) as connection:
            connection.request("POST", "/sync/meta", b"{}", head)
            assert connection.getresponse().status == 400
