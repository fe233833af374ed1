# SPDX-License-Identifier: AGPL-3.0-or-later
"""Generated objects, notes and texts: this room and the real engine make the same of them."""

import contextlib
import copy
import itertools
import json
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardkeep.errors import BadRequest
from cardkeep.records.note import NoteEntry, note_fields, note_row, sort_field_and_checksum
from cardkeep.records.note_text import strip
from tests.clients.environments import NEWEST, interpreter
from tests.records import objects
from tests.records.official import EMPTY, Official, Refused, stored
from tests.records.test_conversions import assert_same_row, exact
from tests.records.test_note_text import PIECES
from tests.records.vectors import MODULES
from tests.servers import running

IDS = itertools.count(10**12)


@pytest.fixture(scope="module")
def official() -> Iterator[Official]:
    with running("official") as server, contextlib.closing(Official(server)) as client:
        yield client


def changes(kind: str, sent: list[dict[str, Any]]) -> dict[str, Any]:
    places = {
        "deck": {"decks": [sent, []]},
        "deckconf": {"decks": [[], sent]},
        "notetype": {"models": sent},
    }
    return EMPTY | places[kind]


def returned(kind: str, answer: dict[str, Any]) -> dict[int, Any]:
    decks, configs = answer["decks"]
    found = {"deck": decks, "deckconf": configs, "notetype": answer["models"]}[kind]
    return {obj["id"]: obj for obj in found}


def unique(kind: str, obj: dict[str, Any]) -> dict[str, Any]:
    """The object under a new id, and under names that no other has: renaming is not tested."""
    id_ = next(IDS)
    obj = {**obj, "id": id_, "name": f"{id_}{obj['name']}", "usn": 0}
    if kind == "notetype":
        for parts in "flds", "tmpls":
            obj[parts] = [
                {**part, "name": f"{position}{part['name']}"}
                for position, part in enumerate(obj[parts])
            ]
    return obj


KINDS = {
    "deck": objects.DECKS,
    "deckconf": objects.DECK_CONFIGS,
    "notetype": objects.NOTETYPES,
}


@pytest.mark.parametrize("kind", KINDS)
def test_generated_objects_are_converted_as_by_the_official_server(
    official: Official, kind: str
) -> None:
    """Rows byte for byte, and the JSON that goes back."""

    @settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(KINDS[kind], min_size=1, max_size=10))
    def compare(generated: list[dict[str, Any]]) -> None:
        sent = [unique(kind, obj) for obj in generated]
        back = returned(kind, official.changes_back(changes(kind, sent)))
        with official.collection() as db:
            for obj in sent:
                theirs = stored(db, kind, obj["id"])
                assert_same_row(kind, MODULES[kind].from_json(obj), theirs)
                assert exact(MODULES[kind].to_json(theirs)) == exact(back[obj["id"]])

    compare()


ODD = st.sampled_from(
    [
        *[None, True, False, 0, 1, 2, -1, 5, 255, 256, 65535, 65536, 2**31, 2**32, 2**53, 0.0, 1.0],
        *[0.5, 1.5, 250.25, -0.0, -3.7, 1e9, "", "x", "0", "1", "+7", "-7", " 7", "1.0", "0x1"],
        *["true", "FALSE", "yes", "any", "none", [], {}, [0], [1, 2], [1, 2, 3], ["1"], [None]],
        *[[1.5, 2], [0, "any", [0]], [[0, "all", [1]]], [["s", 5, 1]], [["s", "5", 1]], [[]]],
        *[{"limit": 3, "today": 4}, {"limit": 3}, [3, 4], [[1]], {"a": 1}, [2**40, -1], [{}]],
    ]
)


def paths(obj: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(obj, dict):
        inner: Any = obj.items()
    elif isinstance(obj, list):
        inner = enumerate(obj)
    else:
        return
    for key, value in inner:
        yield (*path, key)
        yield from paths(value, (*path, key))


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """A good object of which some values are odd ones or missing."""
    obj: dict[str, Any] = json.loads(json.dumps(unique(kind, draw(KINDS[kind]))))
    for _ in range(draw(st.integers(1, 3))):
        # The id tells the row.
        *way, last = draw(st.sampled_from([path for path in paths(obj) if path != ("id",)]))
        owner: Any = obj
        for key in way:
            owner = owner[key]
        if isinstance(owner, dict) and draw(st.booleans()):
            del owner[last]
        else:
            # A copy: a later turn may change what this one put in.
            owner[last] = copy.deepcopy(draw(ODD))
    return obj


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_objects_end_as_on_the_official_server(official: Official, kind: str) -> None:
    """Refused by both, or taken by both and made the same of."""

    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(damaged(kind))
    def compare(sent: dict[str, Any]) -> None:
        try:
            official.sync(changes(kind, [sent]))
        except Refused:
            with pytest.raises(BadRequest):
                MODULES[kind].from_json(sent)
            return
        ours = MODULES[kind].from_json(sent)
        with official.collection() as db:
            theirs = stored(db, kind, sent["id"])
        if theirs.name != ours.name and theirs.name.endswith("+"):
            return
        assert_same_row(kind, ours, theirs)

    compare()


NOTETYPE = next(IDS)
TEXTS = (
    PIECES
    | st.text(st.sampled_from("<>&;#x&amp;lt12e.\t\n\x01\x7f \xa0é\u0301日 \u3000"), max_size=12)
    | objects.TEXT.filter(lambda text: "\x1f" not in text)
)
TAGS = st.text(st.sampled_from("ab: \u3000\t\x00é\u0301"), max_size=10)


def test_notes_are_stored_as_by_the_official_server(official: Official) -> None:
    """Fields, tags, checksum and the sort field, which SQLite may turn into a number."""
    notetype = {
        "id": NOTETYPE,
        "name": f"{NOTETYPE}",
        "mod": 1,
        "usn": 0,
        "type": 0,
        "sortf": 1,
        "css": "",
        "did": None,
        "flds": [
            {"name": name, "sticky": False, "rtl": False, "font": "", "size": 20} for name in "ab"
        ],
        "tmpls": [{"name": "t", "qfmt": "{{a}}"}],
    }
    official.sync(changes("notetype", [notetype]))

    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(TEXTS, TEXTS, TAGS), min_size=1, max_size=20))
    def compare(texts: list[tuple[str, str, str]]) -> None:
        notes = [
            [next(IDS), "guid", NOTETYPE, 1, 0, tags, f"{first}\x1f{second}", "", "", 0, ""]
            for first, second, tags in texts
        ]
        official.sync(EMPTY, notes=notes)
        with official.collection() as db:
            for note in notes:
                row = note_row(NoteEntry(*note))
                sort_field, checksum = sort_field_and_checksum(note_fields(row[6]), 1)
                theirs = db.execute(
                    "SELECT id, guid, mid, mod, usn, tags, flds, sfld, csum FROM notes"
                    " WHERE id = ?",
                    (note[0],),
                ).fetchone()
                assert theirs[:7] == row
                assert theirs[8] == checksum
                db.execute("UPDATE notes SET sfld = ? WHERE id = ?", (sort_field, note[0]))
                (ours,) = db.execute("SELECT sfld FROM notes WHERE id = ?", (note[0],)).fetchone()
                assert (type(ours), ours) == (type(theirs[7]), theirs[7])
            db.rollback()

    compare()


ENGINE = """
import json, sys
from anki.collection import Collection

col = Collection(sys.argv[1] + "/collection.anki2")
for line in sys.stdin:
    text = json.loads(line)
    print(json.dumps(col._backend.strip_html(text=text, mode=1)), flush=True)
col.close()
"""


def test_texts_are_stripped_as_by_the_engine() -> None:
    """Thousands of texts with markup, whole and broken."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(interpreter(NEWEST)), "-c", ENGINE, folder]
        engine = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert engine.stdin is not None
        assert engine.stdout is not None
        asked, answers = engine.stdin, engine.stdout

        @settings(max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
        @given(TEXTS)
        def compare(text: str) -> None:
            asked.write(json.dumps(text) + "\n")
            assert strip(text) == json.loads(answers.readline())

        with engine:
            compare()
            asked.close()
            assert engine.wait() == 0
