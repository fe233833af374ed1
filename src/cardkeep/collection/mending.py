# SPDX-License-Identifier: AGPL-3.0-or-later
"""Mending a stored collection as a change of the server's own, which every device gets.

A device asks for everything with a usn from its own on, and after a sync its own is the
collection's. So what is mended gets the collection's usn as it is: it is above all that any
device has asked from, and with a later `mod` each of them asks. The usn itself stays: a
client that got it from `meta` a moment ago is then still right.

Statements, not rows: a damaged collection may have any number of them. The caller holds the
user's lock and a transaction.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from cardkeep.collection import cards, config, days, deck_configs, decks, graves, header
from cardkeep.collection.schema import create
from cardkeep.errors import Unavailable
from cardkeep.records.deck import Deck
from cardkeep.records.names import deck_human, deck_native, free_name

_BATCH = 1000


@dataclass(slots=True)
class Mending:
    """One transaction of mending: times in ms, the usn that what is mended gets.

    `is_news` says whether devices have to hear of it.
    """

    db: sqlite3.Connection
    usn: int
    now_ms: int
    is_news: bool = False

    @property
    def now(self) -> int:
        """In s."""
        return self.now_ms // 1000

    def update(self, table: str, change: str, where: str) -> None:
        """Changes rows, which count as changed now."""
        time = "mod" if table in ("cards", "notes") else "mtime_secs"
        self.send(table, where, f"{change}, {time} = {self.now:d}, ")

    def send(self, table: str, where: str, change: str = "") -> None:
        """Has rows sent to every device, as they are."""
        done = self.db.execute(f"UPDATE {table} SET {change}usn = {self.usn:d} WHERE {where}")
        self.is_news |= done.rowcount > 0

    def delete_cards(self, where: str) -> None:
        """Deletes cards everywhere."""
        self.db.execute(
            f"""
            INSERT INTO graves (oid, type, usn)
            SELECT id, {graves.CARD}, {self.usn:d} FROM cards WHERE {where}
            ON CONFLICT (oid, type) DO UPDATE SET usn = excluded.usn
            """
        )
        self.is_news |= self.db.execute(f"DELETE FROM cards WHERE {where}").rowcount > 0

    def give_decks(self, where: str) -> None:
        """Gives cards whose deck does not exist one that does."""
        for ids in _batches(self.db, where):
            cards.give_deck(self.db, ids, mod=self.now, usn=self.usn)
            self.is_news = True


def begin(db: sqlite3.Connection, now_ms: int) -> Mending:
    """Opens the transaction. Raises Unavailable if the collection's own numbers are none."""
    db.execute("BEGIN IMMEDIATE")
    found = header.read(db)
    if not all(isinstance(number, int) for number in (found.crt, found.mod, found.usn)):
        raise Unavailable("the table “col” cannot be read")
    return Mending(db, found.usn, now_ms)


def commit(mending: Mending) -> None:
    """Commits, so that every device asks for what is new."""
    if mending.is_news:
        # Later than before even if the clock went back: equal would read as "no changes".
        header.set_mod(mending.db, max(mending.now_ms, header.read(mending.db).mod + 1))
    mending.db.execute("COMMIT")


# --- single faults ----------------------------------------------------------------------


def add_default_deck(mending: Mending) -> None:
    """Gives a collection the deck that each has."""
    mending.is_news = True
    made = create.default_deck()
    name = free_name(made.name, lambda name: decks.named(mending.db, name) is not None)
    decks.put(
        mending.db,
        Deck(made.id, name, mending.now, mending.usn, made.common, made.kind),
    )


def add_default_options(mending: Mending) -> None:
    """Gives a collection the preset that each has."""
    mending.is_news = True
    made = create.default_options()
    deck_configs.put(
        mending.db,
        type(made)(made.id, made.name, mending.now, mending.usn, made.config),
    )


def add_parents(mending: Mending) -> None:
    """Adds the decks that others are below of."""
    mending.is_news = True
    missing = list(decks.missing_parents(decks.names(mending.db)))
    decks.add(mending.db, missing, now_ms=mending.now_ms, usn=mending.usn)


def rename_decks(mending: Mending) -> None:
    """Gives decks the names under which every client stores them."""
    mending.is_news = True
    db = mending.db
    for deck_id, name in db.execute("SELECT id, name FROM decks").fetchall():
        cleaned = deck_native(deck_human(name))
        if cleaned != name:
            free = free_name(cleaned, lambda n, own=deck_id: _has_other(db, n, own))  # type: ignore[misc]
            decks.rename(db, deck_id, free, mtime=mending.now, usn=mending.usn)


def make_due(mending: Mending) -> None:
    """Brings positions and days back into the range in which clients keep them."""
    conf = config.get_some(mending.db, days.KEYS)
    today = days.today(header.read(mending.db).crt, mending.now, conf)
    mending.update("cards", "due = 1000000 + due % 1000000", NEW_TOO_HIGH)
    mending.update("cards", f"due = {today:d}", REVIEW_TOO_HIGH)
    mending.update("cards", "odue = 0", HOME_DUE_WITHOUT_HOME)


#: Conditions of `make_due`: they are those of the clients' own check.
NEW_TOO_HIGH = "type = 0 AND queue NOT IN (2, 4) AND due >= 2000000"
REVIEW_TOO_HIGH = "queue = 2 AND due > 100000"
HOME_DUE_WITHOUT_HOME = "odid = 0 AND odue > 0 AND (type = 1 OR queue = 2)"


def _has_other(db: sqlite3.Connection, name: str, own: int) -> bool:
    found = decks.named(db, name)
    return found is not None and found.id != own


def _batches(db: sqlite3.Connection, where: str) -> Iterator[list[int]]:
    last = -(2**63)
    while ids := [
        row[0]
        for row in db.execute(
            f"SELECT id FROM cards WHERE id > ? AND ({where}) ORDER BY id LIMIT ?", (last, _BATCH)
        )
    ]:
        yield ids
        last = ids[-1]
