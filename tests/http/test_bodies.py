# SPDX-License-Identifier: AGPL-3.0-or-later
"""What bodies may have in memory together."""

from cardkeep.http.bodies import MEDIA_IN_MEMORY, MEMORY, Memory


def test_memory_is_reserved_while_much_is_left() -> None:
    """All or nothing; and never so much that short bodies would have to go to files."""
    memory = Memory()
    taken = 0
    while size := memory.reserve(MEDIA_IN_MEMORY):
        taken += size
        assert memory.used == taken
    assert MEDIA_IN_MEMORY <= taken <= MEMORY // 2
    assert not memory.is_scarce
    memory.used -= MEDIA_IN_MEMORY
    assert memory.reserve(MEDIA_IN_MEMORY) == MEDIA_IN_MEMORY
