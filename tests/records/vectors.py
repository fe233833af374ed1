# SPDX-License-Identifier: AGPL-3.0-or-later
"""The recorded data of tests/vectors (see the README there) as this room's values."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf.message import Message

from cardkeep.records import deck, deck_config, notetype, protobuf
from cardkeep.records.deck import Deck
from cardkeep.records.deck_config import DeckConfig
from cardkeep.records.notetype import Field, Notetype, Template

FOLDER = Path(__file__).parent.parent / "vectors"

MODULES: dict[str, ModuleType] = {"deck": deck, "deckconf": deck_config, "notetype": notetype}

Row = Deck | DeckConfig | Notetype


def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def row(kind: str, recorded: dict[str, Any], id_: int) -> Row:
    """A recorded row, whose blobs are hexadecimal, as the record of its kind."""
    head = (id_, recorded["name"], recorded["mtime_secs"], recorded["usn"])
    if kind == "deck":
        return Deck(*head, bytes.fromhex(recorded["common"]), bytes.fromhex(recorded["kind"]))
    config = bytes.fromhex(recorded["config"])
    if kind == "deckconf":
        return DeckConfig(*head, config)
    return Notetype(
        *head,
        config,
        [Field(each["name"], bytes.fromhex(each["config"])) for each in recorded["fields"]],
        [Template(each["name"], bytes.fromhex(each["config"])) for each in recorded["templates"]],
    )


def comparable(blob: bytes, message: type[Message]) -> tuple[bytes, str]:
    """A blob without field 255, which is given apart, its keys in order.

    The official server writes those keys in the order of a hash table, another one each time.
    """
    decoded: Any = protobuf.decode(message, blob, "blob")
    assert decoded.SerializeToString() == blob
    other = json.loads(decoded.other or b"{}")
    decoded.other = b""
    return decoded.SerializeToString(), json.dumps(other, sort_keys=True)
