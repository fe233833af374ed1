# SPDX-License-Identifier: AGPL-3.0-or-later
"""Schema 18 to 11, against files that the clients' engine downgraded."""

import json
from pathlib import Path
from typing import Any

import pytest

from cardkeep.collection.schema.downgrade import downgrade
from cardkeep.collection.schema.inspect import inspect
from cardkeep.collection.schema.tables import SCHEMA_11
from cardkeep.collection.schema.upgrade import upgrade
from cardkeep.errors import BadRequest
from tests.collection.schema.files import copied, edit, integrity, objects, rows, tables


def texts(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The `col` row with its JSON decoded."""
    return (*row[:8], *map(json.loads, row[8:]))


@pytest.mark.parametrize("name", ["rich", "small"])
def test_a_collection_is_downgraded_as_the_clients_do_it(tmp_path: Path, name: str) -> None:
    """Every row and every JSON object is the one that the engine makes."""
    path = copied(f"{name}-schema18", tmp_path)
    downgrade(path)
    ours, theirs = tables(path), tables(copied(f"{name}-schema11", tmp_path))
    assert texts(ours.pop("col")[0]) == texts(theirs.pop("col")[0])
    assert ours == theirs


def test_the_downgraded_file_suits_old_clients(tmp_path: Path) -> None:
    """It asks for a rollback journal, has the old tables and indexes only, no side file."""
    path = copied("rich-schema18", tmp_path)
    assert path.read_bytes()[18:20] == b"\2\2"
    downgrade(path)
    assert path.read_bytes()[18:20] == b"\1\1"
    assert list(tmp_path.iterdir()) == [path]
    assert objects(path) == {
        *(("table", name) for name in SCHEMA_11.tables),
        *(("index", name) for name in SCHEMA_11.indexes),
    }
    assert integrity(path) == "ok"


def test_the_way_down_and_up_again_keeps_what_schema_11_can_hold(tmp_path: Path) -> None:
    """Only collapsed tags and the usns and times of configuration entries are lost."""
    path = copied("rich-schema18", tmp_path)
    before = tables(path)
    downgrade(path)
    upgrade(path)
    after = tables(path)
    for table in before.keys() - {"config", "tags", "notetypes", "deck_config"}:
        assert after[table] == before[table], table
    assert [row[:2] for row in after["tags"]] == [row[:2] for row in before["tags"]]
    assert {row[0]: json.loads(row[3]) for row in after["config"]} == {
        row[0]: json.loads(row[3]) for row in before["config"]
    }


def test_an_accepted_upload_can_be_downgraded(tmp_path: Path) -> None:
    """What the inspection lets in can be given to every client."""
    path = copied("odd-schema11", tmp_path)
    inspect(path)
    downgrade(path)
    assert rows(path, "SELECT ver FROM col") == [(11,)]


def test_a_blob_that_does_not_decode_stops_it(tmp_path: Path) -> None:
    """Nothing is left out in silence."""
    path = edit(copied("small-schema18", tmp_path), "UPDATE decks SET kind = x'00'")
    with pytest.raises(BadRequest, match="deck 1"):
        downgrade(path)
