# SPDX-License-Identifier: AGPL-3.0-or-later
"""Collections of any size, made once and kept for the next run.

The template is what the official server gives a fresh account to download (schema 18);
notes, cards and reviews are added by SQL. The files are what a client would upload: all usn
0, indexes rebuilt, vacuumed.
"""

import contextlib
import hashlib
import json
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from tests.clients.environments import NEWEST

from benchmarks.client import Counts, Pending, Replica, Row, device, download
from benchmarks.servers import Server, running

GENERATION = 1
"""Raised when the files made here change; part of their names."""

FIRST_NOTE = 1_600_000_000_000
FIRST_CARD = 1_600_000_000_500
FIRST_REVIEW = 1_650_000_000_000
DECKS = 20
LETTERS = "aeioubcdfghklmnprstvz"
GUID_LETTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&()*+,-./:;<=>?@[]^_`{|}~"
)


@dataclass(frozen=True)
class Shape:
    """`field_bytes` is about the length of each of a note's two fields."""

    notes: int
    reviews: int
    field_bytes: int

    @property
    def name(self) -> str:
        return f"{self.notes}-{self.reviews}-{self.field_bytes}-v{GENERATION}"


class Store:
    """The folder with what was made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def template(self) -> Path:
        """A fresh collection as the official server makes it."""
        target = self.folder / f"template-{NEWEST}.anki2"
        if not target.exists():
            frame = target.with_suffix(".zst")
            server = Server("template", "official", self.folder / "template", {"u": "p"})
            with running([server]), device(server.port, "u", "p") as client:
                download(client, frame)
            partial = target.with_suffix(".partial")
            expand(frame, partial)
            partial.rename(target)
        return target

    def collection(self, shape: Shape) -> Path:
        target = self.folder / f"collection-{shape.name}.anki2"
        if not target.exists():
            partial = target.with_suffix(".partial")
            partial.write_bytes(self.template().read_bytes())
            with contextlib.closing(_connect(partial)) as db:
                _fill(db, shape)
            partial.rename(target)
        return target

    def upload(self, shape: Shape) -> Path:
        """The collection as a client puts it on the wire: one zstd frame."""
        target = self.folder / f"collection-{shape.name}.zst"
        if not target.exists():
            partial = target.with_suffix(".partial")
            packer = zstandard.ZstdCompressor(level=3).compressobj()
            with self.collection(shape).open("rb") as source, partial.open("wb") as sink:
                while piece := source.read(1 << 20):
                    sink.write(packer.compress(piece))
                sink.write(packer.flush())
            partial.rename(target)
        return target


def expand(frame: Path, target: Path) -> int:
    """Decompresses a zstd frame; gives the size of what was in it."""
    with frame.open("rb") as source, target.open("wb") as sink:
        return zstandard.ZstdDecompressor().copy_stream(source, sink)[1]


def _compare(one: str, other: str) -> int:
    """`unicase` for the names that occur here, which are ASCII."""
    one, other = one.lower(), other.lower()
    return (one > other) - (one < other)


def _connect(path: Path, mode: str = "") -> sqlite3.Connection:
    db = sqlite3.connect(f"file:{path}{mode}", uri=True, isolation_level=None)
    db.create_collation("unicase", _compare)
    return db


def _fill(db: sqlite3.Connection, shape: Shape) -> None:
    db.execute("PRAGMA journal_mode = MEMORY")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    indexes = db.execute(
        "SELECT name, sql FROM sqlite_schema"
        " WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN ('notes', 'cards', 'revlog')"
    ).fetchall()
    for name, _ in indexes:
        db.execute(f"DROP INDEX {name}")
    rng = random.Random(shape.name)
    [notetype] = db.execute("SELECT id FROM notetypes WHERE name = 'Basic'").fetchone()
    db.executemany(
        "INSERT INTO decks (id, name, mtime_secs, usn, common, kind) VALUES (?, ?, ?, 0, ?, ?)",
        (
            (deck_id(n), f"Deck {n:02}", 1_600_000_000, b"\x08\x01\x10\x01", b"\x0a\x02\x08\x01")
            for n in range(DECKS)
        ),
    )
    places = ", ".join("?" * 11)
    db.executemany(f"INSERT INTO notes VALUES ({places})", _notes(shape, rng, notetype))
    places = ", ".join("?" * 18)
    db.executemany(f"INSERT INTO cards VALUES ({places})", _cards(shape, rng))
    places = ", ".join("?" * 9)
    db.executemany(f"INSERT INTO revlog VALUES ({places})", _reviews(shape, rng))
    for _, sql in indexes:
        db.execute(sql)
    now = int(time.time() * 1000) - 86_400_000
    db.execute("UPDATE col SET mod = ?, scm = ?, ls = ?, usn = 1", (now, now, now))
    db.execute("COMMIT")
    db.execute("ANALYZE")
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute("VACUUM")
    # Clients' files say WAL in their header and come without one.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def deck_id(number: int) -> int:
    return FIRST_NOTE + number


def vocabulary(rng: random.Random, size: int = 4000) -> list[str]:
    return ["".join(rng.choices(LETTERS, k=rng.randint(2, 10))) for _ in range(size)]


def text(rng: random.Random, words: Sequence[str], size: int) -> str:
    return " ".join(rng.choices(words, k=max(1, size // 7)))


def note_row(
    rng: random.Random, words: Sequence[str], note: int, notetype: int, size: int, *, mod: int
) -> Row:
    """A note as it is stored, with sort field and checksum."""
    front, back = text(rng, words, size), text(rng, words, size)
    guid = "".join(rng.choices(GUID_LETTERS, k=10))
    checksum = int(hashlib.sha1(front.encode()).hexdigest()[:8], 16)
    return [note, guid, notetype, mod, 0, "", f"{front}\x1f{back}", front, checksum, 0, ""]


def _notes(shape: Shape, rng: random.Random, notetype: int) -> Iterator[Row]:
    words = vocabulary(rng)
    for n in range(shape.notes):
        yield note_row(
            rng, words, FIRST_NOTE + 1000 * n, notetype, shape.field_bytes, mod=1_600_000_000 + n
        )


def _cards(shape: Shape, rng: random.Random) -> Iterator[Row]:
    for n in range(shape.notes):
        interval = rng.randint(1, 400)
        data = {
            "s": round(rng.uniform(0.5, 300), 4),
            "d": round(rng.uniform(1, 10), 3),
            "dr": 0.9,
            "decay": 0.2,
            "lrt": 1_750_000_000 + rng.randrange(10_000_000),
        }
        yield [
            FIRST_CARD + 1000 * n,
            FIRST_NOTE + 1000 * n,
            deck_id(n * DECKS // shape.notes),
            0,
            1_750_000_000 + rng.randrange(10_000_000),
            0,
            2,
            2,
            1000 + rng.randint(0, 400),
            interval,
            2500,
            rng.randint(1, 30),
            rng.randint(0, 4),
            0,
            0,
            0,
            0,
            json.dumps(data, separators=(",", ":")),
        ]


def _reviews(shape: Shape, rng: random.Random) -> Iterator[Row]:
    for n in range(shape.reviews):
        card = FIRST_CARD + 1000 * rng.randrange(shape.notes)
        interval = rng.randint(1, 400)
        yield [
            FIRST_REVIEW + 30_000 * n,
            card,
            0,
            rng.randint(1, 4),
            interval,
            interval // 2,
            2500,
            rng.randint(1000, 60_000),
            1,
        ]


# --- what a device knows of such a collection -------------------------------------------


def replica(path: Path) -> Replica:
    """What a device knows that has just uploaded this file."""
    with contextlib.closing(_connect(path, "?immutable=1")) as db:
        usn, mod = db.execute("SELECT usn, mod FROM col").fetchone()
        numbers = [
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("cards", "notes", "revlog", "notetypes", "decks", "deck_config")
        ]
        last = [
            db.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0]
            for table in ("cards", "notes", "revlog")
        ]
    return Replica(usn, mod, Counts(*numbers), (last[0], last[1], last[2]))


class Author:
    """Makes changes to a collection, as its owner would; the same ones for each server."""

    def __init__(self, path: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.path = path
        self.next_id = int(time.time() * 1000)
        with contextlib.closing(_connect(self.path, "?immutable=1")) as db:
            [self.cards] = db.execute("SELECT count(*) FROM cards").fetchone()
            [self.notetype] = db.execute("SELECT id FROM notetypes WHERE name = 'Basic'").fetchone()
            self.conf = {
                key: json.loads(value) for key, value in db.execute("SELECT key, val FROM config")
            }
            [self.crt] = db.execute("SELECT crt FROM col").fetchone()
        # What a client's own look at the day leaves in its configuration.
        self.conf |= {"rollover": 4, "lastUnburied": (int(time.time()) - self.crt) // 86_400}
        self.words = vocabulary(self.rng)

    def _ids(self, count: int) -> list[int]:
        """New ids: milliseconds, above all earlier ones."""
        self.next_id = max(self.next_id, int(time.time() * 1000))
        self.next_id += count
        return list(range(self.next_id - count, self.next_id))

    def reviews(self, count: int) -> Pending:
        """A day's work: each of `count` cards from all over the collection reviewed once."""
        now = int(time.time())
        chosen = sorted(self.rng.sample(range(self.cards), count))
        cards = []
        with contextlib.closing(_connect(self.path, "?immutable=1")) as db:
            for n in chosen:
                [row] = db.execute(
                    "SELECT * FROM cards WHERE id = ?", (FIRST_CARD + 1000 * n,)
                ).fetchall()
                cards.append(self._reviewed(list(row), now))
        revlog: list[Row] = [
            [id, card[0], 0, 3, card[9], max(1, card[9] // 2), 2500, 7000, 1]
            for id, card in zip(self._ids(count), cards, strict=True)
        ]
        decks = [self._deck(n, now, count) for n in sorted({_deck_number(card) for card in cards})]
        return Pending(revlog, cards, (), decks, self.conf, self.crt)

    def _reviewed(self, card: Row, now: int) -> Row:
        card[4] = now
        card[8] += 10
        card[9] += 10
        card[11] += 1
        memory = json.loads(card[17])
        memory |= {"s": round(self.rng.uniform(0.5, 300), 4), "lrt": now}
        card[17] = json.dumps(memory, separators=(",", ":"))
        return card

    def _deck(self, number: int, now: int, studied: int) -> dict[str, Any]:
        day = 2000
        return {
            "id": deck_id(number),
            "mod": now,
            "name": f"Deck {number:02}",
            "usn": -1,
            "lrnToday": [day, 0],
            "revToday": [day, studied],
            "newToday": [day, 0],
            "timeToday": [day, studied * 7000],
            "collapsed": True,
            "browserCollapsed": True,
            "desc": "",
            "dyn": 0,
            "conf": 1,
            "extendNew": 0,
            "extendRev": 0,
            "reviewLimit": None,
            "newLimit": None,
            "reviewLimitToday": None,
            "newLimitToday": None,
            "desiredRetention": None,
        }

    def new_notes(self, count: int, size: int) -> Pending:
        """Notes with a card each, in the form of the wire (no sort field, no checksum)."""
        now = int(time.time())
        note_ids, card_ids = self._ids(count), self._ids(count)
        notes, cards = [], []
        for position, (note, card) in enumerate(zip(note_ids, card_ids, strict=True)):
            row = note_row(self.rng, self.words, note, self.notetype, size, mod=now)
            notes.append([*row[:7], "", "", 0, ""])
            deck = deck_id(position % DECKS)
            cards.append([card, note, deck, 0, now, 0, 0, 0, position, *[0] * 8, ""])
        return Pending((), cards, notes, (), self.conf, self.crt)


def _deck_number(card: Row) -> int:
    return int(card[2]) - FIRST_NOTE
