# SPDX-License-Identifier: AGPL-3.0-or-later
"""The official server as a converter: objects in, rows and objects out.

Speaks protocol 11 (docs/sync-protocol.md, 1.3 and 4) as far as that takes.
"""

import contextlib
import http.client
import itertools
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from cardkeep.records.deck import Deck
from cardkeep.records.deck_config import DeckConfig
from cardkeep.records.notetype import Field, Notetype, Template
from cardkeep.records.unicase import compare
from tests.records.vectors import Row
from tests.servers import PASSWORD, Server

# Where objects of a kind stand in the changes: list of lists, or one list.
EMPTY = {"models": [], "decks": [[], []], "tags": []}


class Refused(Exception):
    """The server answered 400."""


class Official:
    """One user's syncs."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._user = server.next_user()
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self._sessions = itertools.count(1)
        self._session = ""
        self._key = ""
        self._key = self._call("hostKey", {"u": self._user, "p": PASSWORD})["key"]

    def close(self) -> None:
        self._connection.close()

    def changes_back(self, changes: dict[str, Any]) -> dict[str, Any]:
        """All that the server has after a sync that brought these changes; Refused on 400."""
        self.sync(changes)
        return self.sync(EMPTY, min_usn=0)

    def sync(
        self,
        changes: dict[str, Any],
        *,
        notes: list[list[Any]] | None = None,
        min_usn: int = 10**6,
    ) -> dict[str, Any]:
        """One normal sync; the server's own changes since `min_usn`."""
        self._session = f"s{next(self._sessions)}"
        self._call("meta", {"v": 11, "cv": "26.09.3,0,linux"})
        self._call("start", {"minUsn": min_usn, "lnewer": True, "graves": None})
        answer: dict[str, Any] = self._call("applyChanges", {"changes": changes})
        if notes is not None:
            self._call("applyChunk", {"chunk": {"done": True, "notes": notes}})
        self._call("finish", {})
        return answer

    @contextlib.contextmanager
    def collection(self) -> Iterator[sqlite3.Connection]:
        """A copy of what the server has on disk."""
        with tempfile.TemporaryDirectory() as folder:
            path = self._server.copy_of_collection(self._user, Path(folder))
            with contextlib.closing(sqlite3.connect(path)) as db:
                db.create_collation("unicase", compare)
                yield db

    def _call(self, method: str, payload: Any) -> Any:
        header = {"v": 11, "k": self._key, "c": "26.09.3,0,linux", "s": self._session}
        body = zstandard.compress(json.dumps(payload).encode())
        self._connection.request("POST", f"/sync/{method}", body, {"anki-sync": json.dumps(header)})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status == 400:
            raise Refused(method)
        assert response.status == 200, (method, response.status)
        return json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(answer))


def stored_deck(db: sqlite3.Connection, id_: int) -> Deck:
    return Deck(*_one(db, "SELECT id, name, mtime_secs, usn, common, kind FROM decks", id_))


def stored_deck_config(db: sqlite3.Connection, id_: int) -> DeckConfig:
    row = _one(db, "SELECT id, name, mtime_secs, usn, config FROM deck_config", id_)
    return DeckConfig(*row)


def stored_notetype(db: sqlite3.Connection, id_: int) -> Notetype:
    head = _one(db, "SELECT id, name, mtime_secs, usn, config FROM notetypes", id_)
    fields = db.execute("SELECT name, config FROM fields WHERE ntid = ? ORDER BY ord", (id_,))
    templates = db.execute("SELECT name, config FROM templates WHERE ntid = ? ORDER BY ord", (id_,))
    return Notetype(*head, [Field(*row) for row in fields], [Template(*row) for row in templates])


STORED = {"deck": stored_deck, "deckconf": stored_deck_config, "notetype": stored_notetype}


def stored(db: sqlite3.Connection, kind: str, id_: int) -> Row:
    return STORED[kind](db, id_)


def _one(db: sqlite3.Connection, query: str, id_: int) -> tuple[Any, ...]:
    row: tuple[Any, ...] = db.execute(f"{query} WHERE id = ?", (id_,)).fetchone()
    return row
