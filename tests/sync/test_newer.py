# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which side wins."""

import pytest

from cardkeep.sync.newer import server_keeps

SEEN, UNSEEN, CLIENT_AT = 4, 5, 5


@pytest.mark.parametrize(
    ("stored_mod", "stored_usn", "received_mod", "kept"),
    [
        (100, UNSEEN, 99, True),
        (100, SEEN, 99, True),
        (100, UNSEEN, 101, False),
        (100, SEEN, 101, False),
        (100, UNSEEN, 100, True),
        (100, SEEN, 100, False),
    ],
)
def test_server_keeps(stored_mod: int, stored_usn: int, received_mod: int, kept: bool) -> None:
    """The later one wins; on a tie the server keeps what the client has not seen."""
    assert server_keeps(stored_mod, stored_usn, received_mod, CLIENT_AT) is kept
