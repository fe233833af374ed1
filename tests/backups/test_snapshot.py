# SPDX-License-Identifier: AGPL-3.0-or-later
"""One kept copy on disk."""

import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from cardkeep.backups.snapshot import Cause, Copy, Reason, Snapshots, State
from cardkeep.collection.folder import UserFolder
from cardkeep.collection.header import Header
from cardkeep.errors import CopyError, NoSuchCopy
from cardkeep.messages import Counts

NOW = 1_795_000_000_000
CONTENT = random.Random(1).randbytes(3_000_000) + bytes(1_500_000)
MEDIA = [(f"file {n}.jpg", f"{n:040x}", n + 1) for n in range(450)]


class Bytes:
    """A source over bytes that says when it was closed."""

    def __init__(self, content: bytes, size: int | None = None) -> None:
        self._file = io.BytesIO(content)
        self.size = len(content) if size is None else size
        self.closed = 0

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        self.closed += 1


def state(content: bytes = CONTENT, *, mod: int = 1, size: int | None = None) -> State:
    counts = Counts(cards=3, notes=2, revlog=1, notetypes=1, decks=1, deck_configs=1)
    return State(Bytes(content, size), Header(1, mod, 3, 4, 5), counts, 9, iter(MEDIA))


@pytest.fixture
def copies(tmp_path: Path) -> Snapshots:
    return Snapshots(UserFolder(tmp_path / "ana"))


def read_back(copies: Snapshots, copy: Copy) -> bytes:
    target = io.BytesIO()
    copies.write_collection(copy, target)
    return target.getvalue()


def test_a_copy_holds_what_was_copied(copies: Snapshots) -> None:
    """Byte for byte, with the list of media and a manifest that people can read."""
    taken = state()
    copy = copies.take(taken, Cause(Reason.UPLOAD, "7", "26.09", "127.0.0.1"), NOW)
    assert taken.source.closed == 1  # type: ignore[attr-defined]
    assert copies.all() == [copy]
    assert read_back(copies, copy) == CONTENT
    assert list(copies.media(copy)) == MEDIA
    assert copy.id == "20261118-110640"
    assert (copy.cards, copy.notes, copy.reviews) == (3, 2, 1)
    assert (copy.size, copy.media_files, copy.media_usn) == (len(CONTENT), 450, 9)
    manifest = json.loads((copies.path / copy.id / "manifest.json").read_text())
    assert manifest["reason"] == "upload"
    assert manifest["client"] == "26.09"
    on_disk = sum(file.stat().st_size for file in (copies.path / copy.id).glob("*.zst"))
    assert copy.bytes == on_disk < len(CONTENT)


def test_copies_of_one_second_have_ids_of_their_own(copies: Snapshots) -> None:
    """And the newest comes first."""
    taken = [copies.take(state(mod=mod), Cause(Reason.MANUAL), NOW + mod) for mod in range(1, 4)]
    assert [copy.id for copy in taken] == [
        "20261118-110640",
        "20261118-110640-2",
        "20261118-110640-3",
    ]
    assert copies.all() == taken[::-1]
    assert copies.newest() == taken[-1]


def test_the_same_state_is_kept_once(copies: Snapshots) -> None:
    """But counts as kept for the weightier cause, from then on."""
    first = copies.take(state(), Cause(Reason.DAILY), NOW)
    again = copies.take(state(), Cause(Reason.MANUAL), NOW + 5)
    assert again == first
    copies.pin(first)
    promoted = copies.take(state(), Cause(Reason.UPLOAD, "7"), NOW + 10)
    assert (promoted.id, promoted.reason, promoted.time) == (first.id, Reason.UPLOAD, NOW + 10)
    assert promoted.pinned
    assert copies.all() == [promoted]
    kept = copies.take(state(), Cause(Reason.RESTORE), NOW + 20)
    assert kept == promoted
    assert read_back(copies, kept) == CONTENT


def test_a_source_that_ends_early_leaves_nothing(copies: Snapshots) -> None:
    """Nor does one that fails."""
    with pytest.raises(CopyError, match="ended before"):
        copies.take(state(size=len(CONTENT) + 1), Cause(Reason.DAILY), NOW)
    assert copies.all() == []
    assert [path.name for path in copies.path.iterdir()] == [".lock"]


def test_a_pin_is_put_in_and_taken_out(copies: Snapshots) -> None:
    """Any number of times."""
    copy = copies.take(state(), Cause(Reason.DAILY), NOW)
    for _ in range(2):
        copies.pin(copy)
        assert copies.get(copy.id).pinned
    for _ in range(2):
        copies.unpin(copy)
        assert not copies.get(copy.id).pinned


def test_a_deleted_copy_is_gone(copies: Snapshots) -> None:
    """Whoever still holds its manifest is told."""
    copy = copies.take(state(), Cause(Reason.DAILY), NOW)
    copies.delete(copy)
    assert copies.all() == []
    for act in (copies.delete, copies.pin):
        with pytest.raises(NoSuchCopy):
            act(copy)
    with pytest.raises(CopyError):
        read_back(copies, copy)


@pytest.mark.parametrize("identity", ["", ".", "..", "../..", ".lock", "x/../y", "nothing"])
def test_an_id_is_the_name_of_a_copy_and_nothing_else(copies: Snapshots, identity: str) -> None:
    """No path leads out of the folder."""
    copies.take(state(), Cause(Reason.DAILY), NOW)
    with pytest.raises(NoSuchCopy):
        copies.get(identity)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda packed: packed[: len(packed) // 2],
    "empty": lambda packed: b"",
    "a bit": lambda packed: packed[:5000] + bytes([packed[5000] ^ 1]) + packed[5001:],
    "no zstd": lambda packed: b"x" * 100,
    "longer": lambda packed: packed + packed,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed(copies: Snapshots, damage: str) -> None:
    """Before anybody takes the bytes for the collection."""
    copy = copies.take(state(), Cause(Reason.DAILY), NOW)
    packed = copies.path / copy.id / "collection.anki2.zst"
    packed.write_bytes(DAMAGES[damage](packed.read_bytes()))
    with pytest.raises(CopyError, match=copy.id):
        read_back(copies, copy)


def test_an_unreadable_manifest_hides_one_copy_alone(copies: Snapshots) -> None:
    """It is named, and nothing removes it."""
    good = copies.take(state(mod=1), Cause(Reason.DAILY), NOW)
    bad = copies.take(state(mod=2), Cause(Reason.DAILY), NOW + 1)
    (copies.path / bad.id / "manifest.json").write_text("{")
    assert copies.all() == [good]
    assert copies.unreadable() == [bad.id]
    with pytest.raises(CopyError, match="manifest"):
        copies.get(bad.id)


TAKE = """
import sys
from pathlib import Path
from tests.backups.test_snapshot import NOW, state
from cardkeep.backups.snapshot import Cause, Reason, Snapshots
from cardkeep.collection.folder import UserFolder

copies = Snapshots(UserFolder(Path(sys.argv[1])))
print("ready", flush=True)
for n in range(1000):
    copy = copies.take(state(mod=n + 10), Cause(Reason.DAILY), NOW + n * 1000)
    if n % 2:
        copies.delete(copy)
"""


@pytest.fixture
def taker(copies: Snapshots) -> Iterator[subprocess.Popen[str]]:
    """A process that takes and deletes copies until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE, str(copies.path.parent.parent)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("moment", range(12))
def test_a_kill_leaves_whole_copies_only(
    copies: Snapshots, taker: subprocess.Popen[str], moment: int
) -> None:
    """Each that is listed reads back; the rest is swept when the next is taken."""
    time.sleep(0.02 + moment * 0.017)
    taker.kill()
    taker.wait()
    for copy in copies.all():
        assert read_back(copies, copy) == CONTENT
        assert len(list(copies.media(copy))) == len(MEDIA)
    assert copies.unreadable() == []
    copies.take(state(mod=5000), Cause(Reason.MANUAL), NOW + 10_000_000)
    names = {path.name for path in copies.path.iterdir()}
    assert names == {".lock", *(copy.id for copy in copies.all())}


def test_several_take_one_copy(copies: Snapshots) -> None:
    """Processes that keep the same state at once wait for each other, and keep it once."""
    code = TAKE.replace("range(1000)", "range(1)")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(copies.path.parent.parent)],
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(copies.all()) == 1


def test_a_manifest_of_a_later_version_is_read(copies: Snapshots) -> None:
    """Keys that this version does not know are no harm."""
    copy = copies.take(state(), Cause(Reason.DAILY), NOW)
    path = copies.path / copy.id / "manifest.json"
    path.write_bytes(msgspec.json.encode({**json.loads(path.read_bytes()), "colour": "red"}))
    assert copies.get(copy.id) == copy


def test_copies_are_for_the_servers_eyes_only(copies: Snapshots) -> None:
    """Nobody else on the machine can read them."""
    copy = copies.take(state(), Cause(Reason.DAILY), NOW)
    for path in (copies.path, copies.path / copy.id):
        assert os.stat(path).st_mode & 0o077 == 0  # noqa: PTH116
