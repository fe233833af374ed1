# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `unicase` order, against the table and the sorting of the real engine."""

import itertools
import sqlite3
import sys

from hypothesis import given
from hypothesis import strategies as st

from cardkeep.records.unicase import compare, fold
from tests.records import vectors

RECORDED = vectors.load("unicase.json")
FOLDS = {
    chr(int(code, 16)): "".join(chr(int(each, 16)) for each in folded)
    for code, folded in RECORDED["fold"].items()
}
# Characters that fold, their folds, and some that do not.
LETTERS = st.sampled_from(sorted(set("".join([*FOLDS, *FOLDS.values(), "aZ_-é\x1fÿ日😀"]))))
NAMES = st.text(LETTERS, max_size=6)


def test_every_code_point_folds_as_recorded() -> None:
    """What the table does not name folds to itself, alone and beside others."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        expected = FOLDS.get(character, character)
        assert fold(character) == expected
        assert fold(f"é{character}") == f"é{expected}"


@given(NAMES, NAMES)
def test_names_compare_by_their_folded_characters(left: str, right: str) -> None:
    """Code point by code point, whatever mixture of scripts, the shorter of equals first."""

    def folded(name: str) -> list[int]:
        return [ord(each) for character in name for each in FOLDS.get(character, character)]

    expected = (folded(left) > folded(right)) - (folded(left) < folded(right))
    assert compare(left, right) == expected
    assert compare(right, left) == -expected


def test_groups_sort_as_in_the_engine() -> None:
    """Members of a group are equal, and each group comes before the next."""
    groups = RECORDED["sorted"]
    for group in groups:
        assert {compare(left, right) for left in group for right in group} == {0}
    for before, after in itertools.pairwise(groups):
        assert {compare(left, right) for left in before for right in after} == {-1}


def test_sqlite_sorts_with_it_as_the_engine_does() -> None:
    """As the collation of a column it gives the recorded order."""
    groups = RECORDED["sorted"]
    db = sqlite3.connect(":memory:")
    db.create_collation("unicase", compare)
    db.execute("CREATE TABLE names (name TEXT COLLATE unicase UNIQUE)")
    db.executemany("INSERT INTO names VALUES (?)", [(group[0],) for group in reversed(groups)])
    found = [name for (name,) in db.execute("SELECT name FROM names ORDER BY name")]
    db.close()
    assert found == [group[0] for group in groups]
