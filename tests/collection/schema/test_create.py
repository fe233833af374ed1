# SPDX-License-Identifier: AGPL-3.0-or-later
"""A new collection."""

import json
import time
from pathlib import Path

import pytest

from cardkeep.collection.schema.create import create
from cardkeep.collection.schema.inspect import inspect
from cardkeep.collection.schema.tables import SCHEMA_18
from tests.collection.schema.files import NOW_MS, fresh, integrity, objects, rows, tables

# docs/collection-format.md, 7.4
DEFAULT_CONFIG = (
    "0a080000803f00002041120400002041221c"
    + 7 * "0000803f"
    + "481450c8015d00002040656666a63f6d9a99993f7d0000803f8001949d0288010190010198010"
    + "4a80101b00108c0013cad026666663fc5026666663fe00201"
)


def test_a_new_collection_says_that_it_was_never_used(tmp_path: Path) -> None:
    """Its mod is 0 and stays so until the first sync, its scm is when it was made."""
    path = fresh(tmp_path)
    assert rows(path, "SELECT id, mod, scm, ver, dty, usn, ls FROM col") == [
        (1, 0, NOW_MS, 18, 0, 0, 0)
    ]


def test_a_new_collection_has_every_table_and_index(tmp_path: Path) -> None:
    """The file has exactly what belongs to schema 18, and is sound."""
    path = fresh(tmp_path)
    assert objects(path) == {
        *(("table", name) for name in SCHEMA_18.tables),
        *(("index", name) for name in SCHEMA_18.indexes),
    }
    assert integrity(path) == "ok"


def test_a_new_collection_has_what_clients_cannot_do_without(tmp_path: Path) -> None:
    """Default deck and deck options are byte for byte the clients' own; there are notetypes."""
    path = fresh(tmp_path)
    found = tables(path)
    assert [(id_, name, usn, c.hex(), k.hex()) for id_, name, _, usn, c, k in found["decks"]] == [
        (1, "Default", 0, "08011001", "0a020801")
    ]
    assert [(id_, config.hex()) for id_, _, _, _, config in found["deck_config"]] == [
        (1, DEFAULT_CONFIG)
    ]
    assert [name for _, name, *_ in found["notetypes"]] == [
        "Basic",
        "Basic (and reversed card)",
        "Basic (optional reversed card)",
        "Basic (type in the answer)",
        "Cloze",
    ]
    assert found["cards"] == found["notes"] == found["revlog"] == found["graves"] == []


def test_a_new_collection_has_the_clients_configuration(tmp_path: Path) -> None:
    """Values are JSON in blobs, and the creation offset is unknown."""
    found = {key: val for key, _, _, val in tables(fresh(tmp_path))["config"]}
    assert all(isinstance(val, bytes) for val in found.values())
    config = {key: json.loads(val) for key, val in found.items()}
    assert len(config) == 16
    assert config["schedVer"] == 2
    assert config["creationOffset"] is None
    assert config["activeDecks"] == [1]


@pytest.mark.parametrize(
    ("local", "start"),
    [
        ("2026-03-05 03:59:59", "2026-03-04 04:00:00"),
        ("2026-03-01 04:00:00", "2026-03-01 04:00:00"),
    ],
)
def test_its_first_day_began_at_four_in_the_morning(tmp_path: Path, local: str, start: str) -> None:
    """The creation day is the last 04:00 of local time."""
    form = "%Y-%m-%d %H:%M:%S"
    path = tmp_path / "new"
    create(path, int(time.mktime(time.strptime(local, form))) * 1000)
    [(crt,)] = rows(path, "SELECT crt FROM col")
    assert time.strftime(form, time.localtime(crt)) == start


def test_it_is_one_file_for_its_owner_alone(tmp_path: Path) -> None:
    """No side files are left, nobody else may read it, and a rollback journal is asked for."""
    path = fresh(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes()[18:20] == b"\1\1"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A file that is there already is left alone."""
    path = fresh(tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        create(path, NOW_MS + 1)
    assert path.read_bytes() == before


def test_a_new_collection_could_be_uploaded(tmp_path: Path) -> None:
    """It passes the inspection, unchanged."""
    path = fresh(tmp_path)
    before = tables(path)
    inspect(path)
    assert tables(path) == before
