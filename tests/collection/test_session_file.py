# SPDX-License-Identifier: AGPL-3.0-or-later
"""The live sync on disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cardkeep.collection.folder import UserFolder
from cardkeep.collection.session_file import Kind, Locked, SessionFile, State
from cardkeep.messages import Chunk, Graves

STATE = State(
    key="k",
    device="d",
    client="",
    protocol=11,
    min_usn=1,
    usn=2,
    mod=3,
    scm=4,
    local_newer=True,
    opened=5,
    active=5,
)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[SessionFile]:
    with SessionFile(UserFolder(tmp_path / "ana"), wait=True) as opened:
        yield opened


def test_no_sync_yet(session: SessionFile) -> None:
    """A user who never synced has no state."""
    assert session.read() is None


def test_state_survives_the_process(session: SessionFile, tmp_path: Path) -> None:
    """The state is on disk, and read back the same."""
    session.begin(STATE)
    session.__exit__(None, None, None)
    with SessionFile(UserFolder(tmp_path / "ana"), wait=False) as again:
        assert again.read() == STATE
    session.__enter__()


def test_a_half_written_state_is_none(session: SessionFile) -> None:
    """What a crash of the machine left is no sync, and no error."""
    session.begin(STATE)
    session.folder.session.write_bytes(b'{"key": "k", "dev')
    assert session.read() is None


def test_one_holder(session: SessionFile) -> None:
    """A second request of the user finds the lock held, in the same process too."""
    with pytest.raises(Locked), SessionFile(session.folder, wait=False):
        pass


def test_frames_come_back_in_order(session: SessionFile) -> None:
    """The journal keeps what came, in the order in which it came; a new sync empties it."""
    session.begin(STATE)
    session.append(Kind.GRAVES, Graves(cards=[1]))
    session.append(Kind.CHUNK, Chunk(done=True, cards=[(1, "ü")]))
    session.write(STATE)
    assert [kind for kind, _ in session.frames()] == [Kind.GRAVES, Kind.CHUNK]
    session.begin(STATE)
    assert list(session.frames()) == []


def test_what_was_appended_counts_once_the_state_is_written(session: SessionFile) -> None:
    """A process that was killed between the two has changed nothing."""
    session.begin(STATE)
    session.append(Kind.GRAVES, Graves(cards=[1]))
    assert session.read() == STATE
    assert list(session.frames()) == []
    session.append(Kind.GRAVES, Graves(cards=[2]))
    session.write(STATE)
    assert session.read() is not None
    assert len(list(session.frames())) == 1


def test_a_large_journal_is_not_left_behind(session: SessionFile) -> None:
    """The next sync gives the space back."""
    session.begin(STATE)
    session.append(Kind.CHUNK, Chunk(done=True, cards=[("x" * 2_000_000,)]))
    session.write(STATE)
    session.begin(STATE)
    assert session.folder.journal.stat().st_size == 0


def test_outgoing_is_a_slice(session: SessionFile) -> None:
    """Ids are read from any position, and none beyond the last."""
    session.begin(STATE)
    session.append(Kind.GRAVES, Graves())
    at = session.keep_outgoing([5, -7, 2**62, 9])
    session.append(Kind.GRAVES, Graves())
    assert session.outgoing(at, 1, 2) == [-7, 2**62]
    assert session.outgoing(at, 3, 9) == [9]
    assert session.outgoing(at, 9, 9) == []


def test_layout(session: SessionFile) -> None:
    """No layout is known before the changes were exchanged."""
    session.begin(STATE)
    assert session.layout() is None
    session.keep_layout({1: 2})
    assert session.layout() == {1: 2}
