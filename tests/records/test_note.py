# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notes: the array of the wire, and what the official server stores of it."""

import json
import sqlite3
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.errors import BadRequest
from cardkeep.records.note import (
    NoteEntry,
    note_entry,
    note_fields,
    note_row,
    sort_field_and_checksum,
    stored_tags,
)
from tests.records import vectors

RECORDED = vectors.load("note-fields.json")
DECODER = msgspec.json.Decoder(NoteEntry)
GOOD = [1, "guid", 2, 3, 4, " a b ", "front\x1fback", "", "", 0, ""]


def entry(**changes: Any) -> NoteEntry:
    return msgspec.structs.replace(NoteEntry(*GOOD), **changes)


def test_all_recorded_cases_are_there() -> None:
    """None may go missing."""
    assert len(RECORDED) == 162


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case['fields'][0]!a:.40}")
def test_note_is_stored_as_on_the_official_server(case: dict[str, Any]) -> None:
    """Fields, checksum, and the sort field as SQLite keeps it in its integer column."""
    row = note_row(entry(flds="\x1f".join(case["fields"])))
    fields = note_fields(row[6])
    assert fields == case["stored_flds"]
    sort_field, checksum = sort_field_and_checksum(fields, case["sortf"])
    assert checksum == case["csum"]
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE notes (sfld INTEGER NOT NULL)")
    db.execute("INSERT INTO notes VALUES (?)", (sort_field,))
    stored = db.execute("SELECT typeof(sfld), sfld, sfld || '' FROM notes").fetchone()
    db.close()
    kind, value, text = stored
    assert (kind, text) == (case["sfld_type"], case["sfld_text"])
    # JSON has no infinity; it was recorded as null.
    assert value == (float("inf") if case["sfld"] is None else case["sfld"])


def test_array_becomes_a_row_and_a_row_an_array() -> None:
    """Seven columns are kept; the wire's other four are always the same."""
    row = note_row(DECODER.decode(json.dumps(GOOD)))
    assert row == (1, "guid", 2, 3, 4, " a b ", "front\x1fback")
    assert list(note_entry(row)) == GOOD
    assert note_row(DECODER.decode(msgspec.json.encode(note_entry(row)))) == row


@pytest.mark.parametrize(
    ("position", "value"),
    [
        *[(position, "1") for position in (0, 2, 3, 4, 9)],
        *[(position, 1.0) for position in (0, 2, 3, 4, 9)],
        *[(position, None) for position in range(11)],
        *[(position, 1) for position in (1, 5, 6, 7, 8, 10)],
        (0, 2**63),
        (0, -(2**63) - 1),
        (4, 2**31),
        (9, -1),
        (9, 2**32),
        (0, True),
    ],
)
def test_other_types_and_ranges_are_refused(position: int, value: Any) -> None:
    """Nothing is converted that the official server refuses."""
    wrong = [*GOOD[:position], value, *GOOD[position + 1 :]]
    with pytest.raises(msgspec.ValidationError):
        DECODER.decode(json.dumps(wrong))


@pytest.mark.parametrize("array", [GOOD[:-1], [*GOOD, ""], []])
def test_other_lengths_are_refused(array: list[Any]) -> None:
    """A note has eleven elements."""
    with pytest.raises(msgspec.ValidationError):
        DECODER.decode(json.dumps(array))


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("", ""),
        ("   ", ""),
        (" a b ", " a b "),
        ("a", " a "),
        ("a b", " a b "),
        (" b  a ", " b a "),
        (" a\u3000b ", " a b "),
        (" a a A ", " a a A "),
        (" a\xa0b\tc ", " a\xa0b\tc "),
    ],
)
def test_tags_take_the_stored_form(sent: str, stored: str) -> None:
    """Split at space and U+3000, in the order and number in which they came."""
    assert stored_tags(sent) == stored
    assert note_row(entry(tags=sent))[5] == stored


@given(st.text(st.sampled_from("ab \u3000\t\n:日"), max_size=10))
def test_stored_tags_stay_as_they_are(tags: str) -> None:
    """The stored form is its own stored form and holds the same tags."""
    stored = stored_tags(tags)
    assert stored_tags(stored) == stored
    assert stored.split(" ")[1:-1] == [tag for tag in tags.replace("\u3000", " ").split(" ") if tag]


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_control_characters_leave_fields(flds: str) -> None:
    """All of ASCII's but newline, tab and the separator; nothing else changes."""
    kept = "".join(
        character
        for character in flds
        if character in "\n\t\x1f" or not (character < " " or character == "\x7f")
    )
    assert note_row(entry(flds=flds))[6] == kept


@pytest.mark.parametrize("column", ["guid", "tags", "flds"])
def test_half_a_surrogate_pair_is_no_text(column: str) -> None:
    """It could not be stored, so it is refused."""
    with pytest.raises(BadRequest, match="surrogate"):
        note_row(entry(**{column: "a\ud800"}))


def test_half_a_surrogate_pair_has_no_checksum() -> None:
    """Not even as an entity, which stays undecoded."""
    with pytest.raises(BadRequest, match="surrogate"):
        sort_field_and_checksum(["a\ud800"], 0)
    assert sort_field_and_checksum(["&#xd800;"], 0)[0] == "&#xd800;"


def test_sort_index_beyond_the_fields_gives_no_text() -> None:
    """As in clients: an empty sort field, while the checksum is the first field's."""
    assert sort_field_and_checksum(["a", "b"], 5) == ("", sort_field_and_checksum(["a"], 0)[1])
    assert sort_field_and_checksum(["a", "<b>b</b>"], 1)[0] == "b"
