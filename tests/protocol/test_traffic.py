# SPDX-License-Identifier: AGPL-3.0-or-later
"""Recorded syncs of real clients, sent again byte for byte, are answered as they were.

The recordings (tests/vectors/traffic) are of a user ``u`` with the password ``p``, whose key
any server knows that takes both from its environment. Times are the server's own, hence left
out; so is the order of rows, and how many come in one chunk.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.protocol.client import Client, Reply, read_media_zip, unpack
from tests.servers import Server, running

SERVERS = ("cardkeep", "official")
TRAFFIC = Path(__file__).parents[1] / "vectors" / "traffic"

# What each server writes into its own configuration, or that tells the time.
OWN = {"lastUnburied", "rollover", "mod", "scm", "ts", "sk", "key"}

# Of the hand-made requests: steps that follow from what the official server has in a new
# account (its six notetypes and their ids).
STOCK = (
    "applyChanges with changed number of fields",
    "legacy: applyChunk with empty arrays",
    "legacy: sanityCheck2",
    "legacy: finish",
    "start with string graves",
)
# And what cardkeep answers otherwise on purpose: docs/sync-protocol.md marks these REC.
OTHERWISE = {
    "unknown method": {400, 404},
    "header version 12": {400, 501},
    "start": {200, 409},
}


@pytest.fixture(params=["v11", "v10", "errors-and-legacy"])
def recording(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def recorded_user(server_kind: str) -> Iterator[Server]:
    """A server of its own, since the user's name and password are part of the recording."""
    with running(server_kind, environment={"SYNC_USER1": "u:p"}) as server:
        yield server


@dataclass
class Replay:
    """Sends a recording again and collects what is answered differently."""

    server: Server
    folder: Path
    differences: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def all(self, *, statuses_only: bool) -> list[str]:
        index = json.loads((self.folder / "index.json").read_text())
        for exchange in index["exchanges"]:
            step = exchange["step"]
            if statuses_only and step.startswith(STOCK):
                continue
            reply = self._send(exchange)
            allowed = {exchange["status"]}
            if statuses_only:
                allowed = OTHERWISE.get(step, allowed)
            if reply.status not in allowed:
                self.differences.append(f"{self._name(exchange)}: status {reply.status}")
            elif reply.status == 200 and not statuses_only:
                self._compare(exchange, reply)
        return self.differences

    def _name(self, exchange: dict[str, Any]) -> str:
        return f"{exchange['n']} {exchange['request_line']} ({exchange['step']})"

    def _send(self, exchange: dict[str, Any]) -> Reply:
        verb, path, _ = exchange["request_line"].split(" ")
        name = exchange["request_body"]
        body = (self.folder / name).read_bytes() if name else b""
        headers = {
            key: value
            for key, value in exchange["request_headers"]
            if key.lower() in ("anki-sync", "content-type")
        }
        chunked = exchange["request_framing"] == "chunked"
        return Client(self.server.port).send(
            path, iter([body]) if chunked else body, headers, verb=verb
        )

    def _compare(self, exchange: dict[str, Any], reply: Reply) -> None:
        method = exchange["request_line"].split(" ")[1].partition("?")[0].rpartition("/")[2]
        name = exchange["response_body"]
        recorded = (self.folder / name).read_bytes() if name else b""
        answered = reply.body
        if "anki_sync" in exchange:
            recorded, answered = unpack(recorded), unpack(answered)
            if reply.headers["anki-original-size"] != str(len(answered)):
                self.differences.append(f"{self._name(exchange)}: its size")
        expected, got = self._told(method, recorded), self._told(method, answered)
        if method == "chunk":
            self._collect(exchange, expected, got)
        elif expected != got:
            self.differences.append(f"{self._name(exchange)}:\n  {expected}\n  {got}")

    def _collect(self, exchange: dict[str, Any], *chunks: dict[str, Any]) -> None:
        """Compares the rows of a whole sync once both have sent their last chunk."""
        for side, chunk in zip(("expected", "got"), chunks, strict=True):
            rows = self.rows.setdefault(side, {"done": False})
            rows["done"] = rows["done"] or chunk["done"]
            for kind in ("revlog", "cards", "notes"):
                rows.setdefault(kind, []).extend(map(_row, chunk.get(kind, [])))
        sides = list(self.rows.values())
        if all(rows["done"] for rows in sides):
            for kind in ("revlog", "cards", "notes"):
                expected, got = (sorted(rows[kind]) for rows in sides)
                if expected != got:
                    self.differences.append(f"{self._name(exchange)}: {kind}\n {expected}\n {got}")
            self.rows.clear()

    def _told(self, method: str, payload: bytes) -> Any:
        """The part of an answer that does not depend on the hour."""
        if method == "download":
            return payload[:16]
        if method == "upload":
            return payload
        if method == "downloadFiles":
            return read_media_zip(payload)
        answer = json.loads(payload)
        if method == "finish":
            return type(answer)
        if method == "start":
            return {kind: sorted(ids) for kind, ids in answer.items()}
        if method == "applyChanges":
            return _changes(answer)
        return _without_own(answer) if method != "chunk" else answer


def _without_own(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {key: _without_own(value) for key, value in thing.items() if key not in OWN}
    return thing


def _changes(answer: dict[str, Any]) -> dict[str, Any]:
    def by_id(things: list[Any]) -> dict[int, Any]:
        return {thing["id"]: thing for thing in things}

    return {
        **answer,
        "models": by_id(answer["models"]),
        "decks": [by_id(things) for things in answer["decks"]],
        "tags": sorted(answer["tags"]),
        "conf": _without_own(answer.get("conf")),
    }


def _row(row: list[Any]) -> str:
    """Comparable, with a card's data as what it means."""
    if len(row) == 18:
        with contextlib.suppress(ValueError):
            row = [*row[:17], json.loads(row[17] or "{}")]
    return json.dumps(row, sort_keys=True)


def test_recorded_syncs_are_answered_as_they_were(recorded_user: Server, recording: str) -> None:
    """Two devices with all that they did, of each protocol; and errors with their statuses."""
    replay = Replay(recorded_user, TRAFFIC / recording)
    different = replay.all(statuses_only=recording == "errors-and-legacy")
    assert not different, "\n".join(different)
