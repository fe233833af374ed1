# SPDX-License-Identifier: AGPL-3.0-or-later
"""Schema 11 to 18, against files that the clients' engine upgraded."""

import json
from pathlib import Path
from typing import Any

import pytest

from cardkeep.collection.schema.tables import SCHEMA_18
from cardkeep.collection.schema.upgrade import upgrade
from cardkeep.errors import NotAccepted
from cardkeep.records import deck_config, notetype
from tests.collection.schema.files import copied, edit, integrity, objects, opened, rows, tables

NOW = 1_795_425_999

Row = tuple[Any, ...]


def upgraded(path: Path) -> dict[str, list[Row]]:
    upgrade(path, now=NOW)
    return tables(path)


def with_json(path: Path, column: str, value: object) -> Path:
    """The file with one JSON text replaced; a dictionary is merged into what is there."""
    with opened(path) as connection:
        (stored,) = connection.execute(f"SELECT {column} FROM col").fetchone()
        if isinstance(value, dict):
            value = json.loads(stored) | value
        text = value if isinstance(value, str) else json.dumps(value)
        connection.execute(f"UPDATE col SET {column} = ?", (text,))
    return path


def one_of(path: Path, column: str) -> dict[str, Any]:
    """The first object of a JSON text."""
    [(text,)] = rows(path, f"SELECT {column} FROM col")
    first: dict[str, Any] = next(iter(json.loads(text).values()))
    return first


def without_order(table: str, found: list[Row]) -> Any:
    """What of a table is comparable: `other` in a blob is JSON, whose keys have no order."""
    if table == "config":
        return {key: json.loads(val) for key, _, _, val in found}
    if table == "deck_config":
        return [deck_config.to_json(deck_config.DeckConfig(*row)) for row in found]
    if table == "notetypes":
        return [notetype.to_json(notetype.Notetype(*row, [], [])) for row in found]
    return found


def test_a_rich_collection_is_upgraded_as_the_clients_do_it(tmp_path: Path) -> None:
    """Every row of every table is the one that the engine makes."""
    ours = upgraded(copied("rich-schema11", tmp_path))
    theirs = tables(copied("rich-schema11-upgraded-to-18", tmp_path))
    assert ours.keys() == theirs.keys()
    for table in ours:
        assert without_order(table, ours[table]) == without_order(table, theirs[table]), table


def test_faults_of_old_clients_are_put_right_as_the_clients_do_it(tmp_path: Path) -> None:
    """Names, ids and eases of a damaged file come out as the engine's, with usn 0 for -1."""
    ours = upgraded(copied("odd-schema11", tmp_path))
    theirs = tables(copied("odd-schema11-upgraded-to-18", tmp_path))
    for table in ("col", "notes", "revlog", "tags"):
        assert ours[table] == theirs[table], table
    # Of the entries for one deletion the engine keeps any, ours is the last.
    assert [row[:2] for row in ours["graves"]] == [row[:2] for row in theirs["graves"]]
    assert (1, 2, 6) in ours["graves"]
    for table in ("config", "deck_config"):
        assert without_order(table, ours[table]) == without_order(table, theirs[table])
    # The one card of low ease: its usn is the engine's "to be sent", ours is 0.
    differing = [
        (mine, other)
        for mine, other in zip(ours["cards"], theirs["cards"], strict=True)
        if mine != other
    ]
    assert [(*other[:5], 0, *other[6:]) for _, other in differing] == [differing[0][0]]
    assert [other[5] for _, other in differing] == [-1]
    # The engine's time of that day, and its usn for "to be sent".
    renamed = {502, 503, 504, 505, 507}
    assert {row[0] for row in ours["decks"] if row[2] == NOW} == renamed
    assert ours["decks"] == [
        (*row[:2], NOW, 0, *row[4:]) if row[0] in renamed else row for row in theirs["decks"]
    ]


def test_notetypes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Which of two keeps its name is open; the engine's order is arbitrary."""
    ours = upgraded(copied("odd-schema11", tmp_path))["notetypes"]
    theirs = tables(copied("odd-schema11-upgraded-to-18", tmp_path))["notetypes"]

    def folded(found: list[Row]) -> list[str]:
        return sorted(row[1].lower() for row in found)

    assert folded(ours) == folded(theirs)


def test_fields_and_cards_are_found_under_the_notetypes_id(tmp_path: Path) -> None:
    """Where inner id and key differ, the engine loses the fields; here they stay together."""
    found = upgraded(copied("odd-schema11", tmp_path))
    ids = {row[0] for row in found["notetypes"]}
    assert {row[0] for row in found["fields"]} == ids
    assert {row[0] for row in found["templates"]} == ids


def test_notes_decide_between_two_ids_of_a_notetype(tmp_path: Path) -> None:
    """A notetype whose inner id nobody uses gets the id that its notes have."""
    path = copied("small-schema11", tmp_path)
    [(used,)] = rows(path, "SELECT DISTINCT mid FROM notes")
    obj = json.loads(rows(path, "SELECT models FROM col")[0][0])[str(used)]
    upgrade(with_json(path, "models", {str(used): obj | {"id": 12345}}), NOW)
    ids = {row[0] for row in rows(path, "SELECT id FROM notetypes")}
    assert used in ids
    assert 12345 not in ids


def test_notes_of_a_notetype_without_id_follow_it(tmp_path: Path) -> None:
    """A notetype under key 0 gets a new id, and its notes with it."""
    path = copied("small-schema11", tmp_path)
    obj = one_of(path, "models")
    edit(path, "UPDATE notes SET mid = 0")
    upgrade(with_json(path, "models", {"0": obj | {"id": 0, "name": "nobody's"}}), NOW)
    [(ntid,)] = rows(path, "SELECT id FROM notetypes WHERE name = 'nobody''s'")
    assert 1 < ntid < 2**32
    assert rows(path, "SELECT DISTINCT mid FROM notes") == [(ntid,)]


def test_no_deck_is_lost_to_another_with_its_id(tmp_path: Path) -> None:
    """Of two decks with one inner id, the one whose key it is keeps it."""
    path = copied("small-schema11", tmp_path)
    obj = one_of(path, "decks")
    upgrade(
        with_json(
            path,
            "decks",
            {"71": obj | {"id": 72, "name": "first"}, "72": obj | {"id": 72, "name": "second"}},
        ),
        NOW,
    )
    assert rows(path, "SELECT id, name FROM decks WHERE id IN (71, 72) ORDER BY id") == [
        (71, "first"),
        (72, "second"),
    ]


def test_the_last_of_duplicate_keys_counts(tmp_path: Path) -> None:
    """As for the clients."""
    path = copied("small-schema11", tmp_path)
    obj = one_of(path, "dconf")
    both = ",".join(f'"1": {json.dumps(obj | {"name": name})}' for name in ("early", "late"))
    upgrade(with_json(path, "dconf", "{" + both + "}"), NOW)
    assert rows(path, "SELECT id, name FROM deck_config") == [(1, "late")]


def test_tags_that_differ_in_case_are_one(tmp_path: Path) -> None:
    """The first spelling stays; all are collapsed, none is normalized."""
    path = with_json(
        copied("small-schema11", tmp_path), "tags", {"Tag": 3, "tAG": 4, "e\u0301 ": 5}
    )
    found = upgraded(path)["tags"]
    assert ("Tag", 3, 1, None) in found
    assert ("e\u0301 ", 5, 1, None) in found
    assert not any(row[0] == "tAG" for row in found)


def test_the_upgraded_file_is_complete_and_sound(tmp_path: Path) -> None:
    """All tables and indexes of schema 18 are there, and no side file."""
    path = copied("rich-schema11", tmp_path)
    upgrade(path)
    assert list(tmp_path.iterdir()) == [path]
    assert objects(path) == {
        *(("table", name) for name in SCHEMA_18.tables),
        *(("index", name) for name in SCHEMA_18.indexes),
    }
    assert integrity(path) == "ok"


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("models", "", "notetypes"),
        ("models", "[]", "notetypes"),
        ("models", "null", "notetypes"),
        ("models", '{"1": []}', "1 is no object"),
        ("models", '{"x": {}}', "'x' is no id"),
        ("models", '{"1": {"id": 1}}', "missing"),
        ("models", '{"1": {"id": 1.5, "name": 7}}', "name"),
        ("models", '{"1": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
        ("decks", '{"1": {"id": 1, "name": "x", "dyn": "maybe"}}', "deck"),
        ("decks", "{", "truncated"),
        ("dconf", '{"1": {"id": 1, "mod": 0, "name": null}}', "name"),
        ("conf", '{"a": 1e999}', "out of range"),
        ("conf", '{"a": NaN}', "malformed"),
        ("tags", '{"a": "b"}', "int"),
        ("tags", '{"a": 1.5}', "int"),
        ("tags", "[" + '"a",' * 700_000 + '"b"]', "parts"),
    ],
)
def test_json_that_cannot_be_read_is_refused_in_words(
    tmp_path: Path, column: str, value: str, reason: str
) -> None:
    """The user is told what to do, the log what is wrong."""
    path = with_json(copied("small-schema11", tmp_path), column, value)
    with pytest.raises(NotAccepted) as refused:
        upgrade(path)
    assert "Tools > Check Database" in refused.value.words
    assert reason in refused.value.reason


def test_hundreds_of_namesakes_are_refused(tmp_path: Path) -> None:
    """Lengthening names without end would take time and memory without end."""
    path = copied("small-schema11", tmp_path)
    obj = one_of(path, "decks")
    many = {str(id_): obj | {"id": id_, "name": "same"} for id_ in range(100, 500)}
    with pytest.raises(NotAccepted, match="more than 200 have one name"):
        upgrade(with_json(path, "decks", many))
