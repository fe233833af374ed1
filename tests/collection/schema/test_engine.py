# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files that the server makes, judged by the real engine of several releases."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cardkeep.collection import database
from cardkeep.collection.schema.downgrade import downgrade
from cardkeep.collection.schema.inspect import inspect
from cardkeep.collection.schema.tables import SCHEMA_17
from cardkeep.collection.schema.upgrade import upgrade
from cardkeep.records.deck_config import DeckConfig, with_initial_ease
from tests.clients.environments import NEWEST, interpreter
from tests.collection.schema.files import copied, edit, fresh, integrity, opened, rows

# The last with schema 11 at rest, and the last engine that syncs with schema 11.
OLD = ("2.1.49", "2.1.54")
# Releases between, whose engines read more or less of the newest objects.
NEW = ("23.12", NEWEST)

# Opens a collection as the application does, tells what is in it, lets the engine check it,
# and adds a note of each notetype.
ENGINE = """
import json, sys
from anki.collection import Collection

collection = Collection(sys.argv[1])
rows = {
    table: collection.db.all(f"SELECT * FROM {table} ORDER BY id")
    for table in ("notes", "cards", "revlog")
}
found = {
    "col": collection.db.first("SELECT crt, mod, scm, usn, ls FROM col"),
    "rows": rows,
    "graves": sorted(collection.db.all("SELECT oid, type, usn FROM graves")),
    "tags": sorted(collection.db.all("SELECT tag, usn FROM tags")),
    "config": {
        key: json.loads(bytes(val)) for key, val in collection.db.all("SELECT KEY, val FROM config")
    },
    "decks": sorted(collection.decks.all(), key=lambda each: each["id"]),
    "deck configs": sorted(collection.decks.all_config(), key=lambda each: each["id"]),
    "notetypes": sorted(collection.models.all(), key=lambda each: each["id"]),
}
found["check"] = collection.fix_integrity()
cards = {}
for notetype in collection.models.all():
    note = collection.new_note(notetype)
    note.fields = [f"{{{{c1::{name}}}}}" for name in note.keys()]
    collection.add_note(note, 1)
    texts = [(card.question(), card.answer()) for card in note.cards()]
    cards[notetype["name"]] = texts
found["cards"] = cards
found["check again"] = collection.fix_integrity()
collection.close()
json.dump(found, sys.stdout)
"""

# What the engine's check says when it found nothing to repair.
FINE = ["Database rebuilt and optimized.", True]


def engine(release: str, path: Path) -> dict[str, Any]:
    """What the engine of a release says about a copy of the file."""
    copy = path.parent / "for-the-engine" / "collection.anki2"
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir()
    shutil.copy(path, copy)
    done = subprocess.run(
        [interpreter(release), "-c", ENGINE, copy],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(path.parent), "LANG": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["check again"] == FINE
    return found


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for what in ours.keys() - {"cards"}:
        assert ours[what] == theirs[what], what


@pytest.mark.parametrize("release", NEW)
def test_a_new_collection_is_sound_to_clients(tmp_path: Path, release: str) -> None:
    """The engine's own check finds nothing; each notetype makes the cards that it promises."""
    found = engine(release, fresh(tmp_path))
    assert found["check"] == FINE
    assert {name: len(cards) for name, cards in found["cards"].items()} == {
        "Basic": 1,
        "Basic (and reversed card)": 2,
        "Basic (optional reversed card)": 2,
        "Basic (type in the answer)": 1,
        "Cloze": 1,
    }
    [(question, answer)] = found["cards"]["Basic"]
    assert question.endswith("{{c1::Front}}")
    assert answer.endswith('{{c1::Front}}\n<hr id="answer">\n{{c1::Back}}')
    [(question, answer)] = found["cards"]["Cloze"]
    assert ">[...]</span>" in question
    assert ">Text</span>" in answer
    assert found["decks"][0]["name"] == "Default"


@pytest.mark.parametrize("release", NEW)
def test_the_engine_agrees_which_fields_a_card_needs(tmp_path: Path, release: str) -> None:
    """Saving a new collection's notetypes would change nothing in them."""
    path = fresh(tmp_path)
    script = """
import json, sys
from anki.collection import Collection
collection = Collection(sys.argv[1])
before = {each["name"]: each["req"] for each in collection.models.all()}
for each in collection.models.all():
    collection.models.update_dict(each)
print(before == {each["name"]: each["req"] for each in collection.models.all()})
collection.close()
"""
    done = subprocess.run(
        [interpreter(release), "-c", script, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("release", OLD)
def test_a_new_collection_can_be_given_to_old_clients(tmp_path: Path, release: str) -> None:
    """Downgraded, it is sound to them too."""
    path = fresh(tmp_path)
    downgrade(path)
    found = engine(release, path)
    assert found["check"] == FINE
    assert len(found["cards"]) == 5
    assert len(found["notetypes"]) == 5


@pytest.mark.parametrize("release", OLD)
@pytest.mark.parametrize("name", ["rich", "small"])
def test_old_clients_get_what_the_engine_would_have_given(
    tmp_path: Path, release: str, name: str
) -> None:
    """To an old engine, our schema-11 file and the newest engine's are one collection."""
    path = copied(f"{name}-schema18", tmp_path)
    downgrade(path)
    same(engine(release, path), engine(release, copied(f"{name}-schema11", tmp_path)))


def test_upgraded_by_us_or_by_the_engine_is_the_same(tmp_path: Path) -> None:
    """To the engine, the file that we upgraded is the one that it would have upgraded."""
    path = copied("rich-schema11", tmp_path)
    theirs = engine(NEWEST, path)
    upgrade(path)
    same(engine(NEWEST, path), theirs)


# What 2.1.39 leaves behind when it does not go back to schema 11 at its end, as servers did not.
LEAVE = """
import sys
from anki.collection import Collection
collection = Collection(sys.argv[1], server=True)
collection.close(downgrade=False)
"""


def left_by_2_1_39(folder: Path, version: int) -> Path:
    """The rich collection in schema 16, or made 15 or 17 of it by what is told of them."""
    path = copied("rich-schema11", folder)
    edit(path, "DELETE FROM graves")
    edit(path, "INSERT INTO graves VALUES (3, 77, 1)", "INSERT INTO graves VALUES (4, 77, 1)")
    subprocess.run(
        [interpreter("2.1.39"), "-W", "ignore", "-c", LEAVE, path], check=True, capture_output=True
    )
    assert rows(path, "SELECT ver FROM col") == [(16,)]
    if version == 15:
        with opened(path) as connection:
            for row in connection.execute("SELECT * FROM deck_config").fetchall():
                percent = with_initial_ease(DeckConfig(*row), lambda ease: ease * 100)
                connection.execute(
                    "UPDATE deck_config SET config = ? WHERE id = ?", (percent.config, row[0])
                )
            connection.execute("UPDATE col SET ver = 15")
    if version == 17:
        edit(
            path,
            "ALTER TABLE tags RENAME TO old",
            SCHEMA_17.tables["tags"].sql,
            "INSERT INTO tags SELECT tag, usn, 1, NULL FROM old",
            "DROP TABLE old",
            "UPDATE col SET ver = 17",
        )
    return path


@pytest.mark.parametrize("version", [15, 16, 17])
def test_files_of_schemas_between_are_upgraded(tmp_path: Path, version: int) -> None:
    """To the engine, the file that we upgraded is the one that it would have upgraded."""
    path = left_by_2_1_39(tmp_path, version)
    theirs = engine(NEWEST, path)
    inspect(path, of_server=True)
    assert rows(path, "SELECT ver FROM col") == [(18,)]
    assert integrity(path) == "ok"
    ours = engine(NEWEST, path)
    assert [row[:2] for row in ours["graves"]] == [[77, 1]] == [row[:2] for row in theirs["graves"]]
    usn = theirs["col"][3]
    sent = json.loads(json.dumps(theirs).replace('"usn": -1', f'"usn": {usn}'))
    for table, at in {"notes": 4, "cards": 5, "revlog": 2}.items():
        for row in sent["rows"][table]:
            row[at] = usn if row[at] == -1 else row[at]
    sent["graves"] = ours["graves"]
    sent["tags"] = [[name, usn if each == -1 else each] for name, each in theirs["tags"]]
    same(ours, sent)


def test_a_damaged_old_file_becomes_sound(tmp_path: Path) -> None:
    """Only a card without deck is left for the engine's check; every notetype can be used.

    (Upgraded by the engine itself, a notetype with two ids loses its fields.)
    """
    path = copied("odd-schema11", tmp_path)
    inspect(path)
    found = engine(NEWEST, path)
    assert "missing deck" in found["check"][0]
    assert len(found["check"][0].splitlines()) == 2
    assert all(each["flds"] and each["tmpls"] for each in found["notetypes"])
    assert all(found["cards"].values())


@pytest.mark.parametrize("release", NEW)
def test_an_inspected_upload_is_the_uploaded_collection(tmp_path: Path, release: str) -> None:
    """Clients find in it what was in it, but for rows to be sent and deletions."""
    path = copied("rich-schema18", tmp_path)
    theirs = engine(release, path)
    inspect(path)
    ours = engine(release, path)
    sent = json.loads(json.dumps(theirs).replace('"usn": -1', '"usn": 0'))
    assert ours["check"] == theirs["check"]
    for what in ("col", "config", "decks", "deck configs", "notetypes"):
        assert ours[what] == sent[what], what
    usn = {"notes": 4, "cards": 5, "revlog": 2}
    for table, at in usn.items():
        assert ours["rows"][table] == [
            [*row[:at], max(row[at], 0), *row[at + 1 :]] for row in theirs["rows"][table]
        ]
    assert ours["graves"] == []


def test_clients_open_the_live_form(tmp_path: Path) -> None:
    """A collection that was in use here, with a write-ahead log, is theirs once it is closed."""
    path = fresh(tmp_path)
    connection = database.connect(path)
    connection.execute("INSERT INTO tags VALUES ('Straße', 0, 1, NULL)")
    connection.execute("INSERT INTO tags VALUES ('ﬃ', 0, 1, NULL)")
    database.close(connection)
    found = engine(NEWEST, path)
    assert sorted(tag for tag, _ in found["tags"]) == ["Straße", "ﬃ"]
    assert found["check"] == FINE
