# SPDX-License-Identifier: AGPL-3.0-or-later
"""The file of a user's history: order, bounds, damage, and several writers at once."""

import fcntl
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest

from cardkeep.backups.history import History, Kind, Numbers, Row, gathered, numbers, replaced
from cardkeep.collection.folder import UserFolder
from cardkeep.messages import Counts

NOW = 1_800_000_000_000
MINUTE = 60_000
DAY = 86_400_000


@pytest.fixture
def folder(tmp_path: Path) -> UserFolder:
    made = UserFolder(tmp_path / "ana")
    made.make()
    return made


def row(number: int, *, kind: str = Kind.SYNC, device: str = "1") -> Row:
    """One that can be told from others by its time."""
    return Row(time=NOW + number, kind=kind, device=device, note=f"row {number}")


def numbers_of(rows: Iterable[Row]) -> list[int]:
    return [found.time - NOW for found in rows]


def written(history: History, folder: UserFolder) -> list[int]:
    """The numbers of all rows, as they come."""
    return numbers_of(history.rows(folder, NOW))


def sizes(folder: UserFolder) -> int:
    files = (folder.history, folder.old_history)
    return sum(file.stat().st_size for file in files if file.exists())


# --- rows -------------------------------------------------------------------------------


def test_rows_come_back_newest_first(folder: UserFolder) -> None:
    """Each field as it was written."""
    history = History()
    full = Row(
        NOW,
        Kind.SYNC,
        device="7",
        client="26.09.3,29bb700b,linux",
        address="2001:db8::1",
        cards=Numbers(1, 2, 3),
        notes=Numbers(4, 5, 6),
        reviews=numbers(7),
        decks=numbers(8),
        notetypes=numbers(9),
        deck_configs=numbers(10),
        tags=numbers(11),
        media=numbers(0, 0, 12),
        received=13,
        sent=14,
        took=15,
        copy="20261125-190501",
        note='"ü\n日本語',
    )
    history.add(folder, full)
    for n in range(1, 4):
        history.add(folder, row(n))
    assert list(history.rows(folder, NOW)) == [row(3), row(2), row(1), full]


def test_each_row_is_a_line_of_json_for_the_owner_alone(folder: UserFolder) -> None:
    """What is zero or empty takes no room."""
    History().add(folder, row(1))
    assert folder.history.read_text() == (
        '{"time":1800000000001,"kind":"sync","device":"1","note":"row 1"}\n'
    )
    assert stat.S_IMODE(folder.history.stat().st_mode) == 0o600


def test_without_a_file_there_are_no_rows(folder: UserFolder) -> None:
    """Nor is one made by looking."""
    assert written(History(), folder) == []
    assert not folder.history.exists()


def test_rows_of_a_newer_cardkeep_are_shown(folder: UserFolder) -> None:
    """With the kind that it wrote, and without fields that are not known here."""
    folder.history.write_text(f'{{"time":{NOW},"kind":"dance","partner":{{"name":"x"}}}}\n')
    assert list(History().rows(folder, NOW)) == [Row(NOW, "dance")]


def test_a_long_note_is_cut(folder: UserFolder) -> None:
    """A row stays a short write."""
    History().add(folder, Row(NOW, Kind.RESTORE, note="x" * 5000))
    (found,) = History().rows(folder, NOW)
    assert found.note == "x" * 1000 + "…"


def test_a_replaced_collection_is_deleted_and_added() -> None:
    """All of it, of each kind that is counted."""
    found = replaced(row(1), Counts(1, 2, 3, 4, 5, 6), Counts(10, 20, 30, 40, 50, 0))
    assert found.cards == Numbers(10, 0, 1)
    assert found.notes == Numbers(20, 0, 2)
    assert found.reviews == Numbers(30, 0, 3)
    assert found.notetypes == Numbers(40, 0, 4)
    assert found.decks == Numbers(50, 0, 5)
    assert found.deck_configs == Numbers(0, 0, 6)


def test_the_last_rows_cost_the_same_in_any_file(folder: UserFolder) -> None:
    """Reading the newest ten of 20,000 reads a block of the file, not all of it."""
    folder.history.write_bytes(
        b"".join(b'{"time":%d,"kind":"sync","note":"%d"}\n' % (NOW + n, n) for n in range(20_000))
    )

    def read_so_far() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["rchar"])

    before = read_so_far()
    found = numbers_of(islice(History().rows(folder, NOW), 10))
    assert found == list(range(19_999, 19_989, -1))
    assert read_so_far() - before < 80_000 < folder.history.stat().st_size


# --- where --------------------------------------------------------------------------------


def test_nothing_is_made_for_a_user_without_folder(tmp_path: Path) -> None:
    """Unless the user is about to get one: then the same that the first sync makes."""
    folder = UserFolder(tmp_path / "ana")
    History().add(folder, row(1))
    assert list(tmp_path.iterdir()) == []
    History().add(folder, row(2), make=True)
    assert written(History(), folder) == [2]
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700


def test_a_folder_of_the_official_server_gets_ours(tmp_path: Path) -> None:
    """Below what is there."""
    folder = UserFolder(tmp_path / "ana")
    folder.root.mkdir()
    History().add(folder, row(1))
    assert written(History(), folder) == [1]


def test_what_cannot_be_written_is_only_logged(
    folder: UserFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """No sync fails for the sake of a row."""
    folder.history.mkdir()
    with caplog.at_level(logging.WARNING):
        History().add(folder, row(1))
    assert "a row could not be written" in caplog.text
    assert list(folder.history.iterdir()) == []


def test_a_full_disk_is_only_logged(folder: UserFolder, caplog: pytest.LogCaptureFixture) -> None:
    """The device that is always full stands for it."""
    folder.history.symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING):
        History().add(folder, row(1))
    assert "No space left on device" in caplog.text


# --- bounds -----------------------------------------------------------------------------


def test_the_size_is_bounded(folder: UserFolder) -> None:
    """Of ten times more rows than fit, the newest are kept without a gap: at least half."""
    history = History(most_bytes=20_000)
    each = 70
    for n in range(3000):
        history.add(folder, row(n))
        assert sizes(folder) <= 20_000
    found = written(history, folder)
    assert found == list(range(2999, 2999 - len(found), -1))
    assert len(found) >= 20_000 // each // 2 - 1


def test_a_bound_smaller_than_a_row_keeps_the_last_two(folder: UserFolder) -> None:
    """Whatever the setting says, writing comes to an end."""
    history = History(most_bytes=10)
    for n in range(5):
        history.add(folder, row(n))
    assert written(history, folder) == [4, 3]


def test_old_rows_are_not_shown(folder: UserFolder) -> None:
    """Those older than the setting says, in the middle of others too."""
    history = History(days=10)
    for n in (-11 * DAY, -9 * DAY, -10 * DAY - 1, 0):
        with folder.history.open("ab") as file:
            file.write(b'{"time":%d,"kind":"sync"}\n' % (NOW + n))
    assert written(history, folder) == [0, -9 * DAY]


def test_old_rows_go_although_there_is_room(folder: UserFolder) -> None:
    """A file that begins with an old row is set aside, and goes with the next one that does.

    It is looked at every four KiB, here every four days.
    """
    history = History(days=10)
    for day in range(100):
        history.add(folder, Row(NOW + day * DAY, Kind.SYNC, note="x" * 960))
        left = [(time - NOW) // DAY for time in (*_raw(folder.old_history), *_raw(folder.history))]
        assert left == list(range(left[0], day + 1))
        assert left[0] <= max(day - 10, 0)
        assert left[0] >= day - 2 * (10 + 5)


def _raw(file: Path) -> list[int]:
    if not file.exists():
        return []
    return [int(line.split(":")[1].split(",")[0]) for line in file.read_text().splitlines()]


# --- damage -----------------------------------------------------------------------------

DAMAGE = {
    "half a row": b'{"time":1800000000001,"kin',
    "a row that ends with the disk": b'{"time":1800000000001,"kind":"sync"',
    "zeros of a crash": b"\0" * 5000,
    "more zeros than a block": b"\0" * 300_000,
    "no JSON": b"hello",
    "other JSON": b"[1, 2, 3]",
    "a text for a number": b'{"time":"1800000000001","kind":"sync"}',
    "a number for a text": b'{"time":1800000000001,"kind":5}',
    "a time that no clock shows": b'{"time":99999999999999999,"kind":"sync"}',
    "a time before all": b'{"time":-5,"kind":"sync"}',
    "no time": b'{"kind":"sync"}',
    "no UTF-8": b'{"time":1800000000001,"kind":"sync","note":"\xff\xfe"}',
    "deep nesting": b"[" * 100_000,
    "empty lines": b"\n\n\n",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("newline", [b"", b"\n"], ids=["torn", "whole line"])
def test_damage_takes_no_other_row_with_it(
    folder: UserFolder, damage: bytes, newline: bytes
) -> None:
    """At the beginning, in the middle and at the end of the file."""
    history = History()
    folder.history.write_bytes(damage + newline)
    history.add(folder, row(1))
    history.add(folder, row(2))
    with folder.history.open("ab") as file:
        file.write(damage + newline)
    history.add(folder, row(3))
    with folder.history.open("ab") as file:
        file.write(damage + newline)
    assert written(history, folder) == [3, 2, 1]


def test_a_file_cut_off_anywhere_goes_on(folder: UserFolder) -> None:
    """Whatever part of the last row a crash leaves, the rows before and after are whole."""
    history = History()
    for n in (1, 2):
        history.add(folder, row(n))
    whole = folder.history.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        folder.history.write_bytes(whole[:length])
        history.add(folder, row(3))
        found = written(history, folder)
        assert found in ([3, 1], [3, 2, 1]), length
        assert found == [3, 1] or length == len(whole) - 1


# --- several at once --------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from cardkeep.backups.history import History, Row
from cardkeep.collection.folder import UserFolder

who, count, most = map(int, sys.argv[2:])
folder, history = UserFolder(Path(sys.argv[1])), History(most_bytes=most)
sys.stdin.readline()
for n in range(count):
    history.add(folder, Row({now} + n, "sync", device=str(who), note="x" * (n % 300)))
"""


def _write_at_once(folder: UserFolder, writers: int, count: int, most: int) -> None:
    script = WRITER.replace("{now}", str(NOW))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder.root), str(who), str(count), str(most)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for who in range(writers)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, b"")


def _by_device(rows: Iterator[Row]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in rows:
        found.setdefault(one.device, []).append(one.time - NOW)
    return found


def test_rows_of_several_processes_never_mix(folder: UserFolder) -> None:
    """Each row of each is there once, in the order in which its process wrote it."""
    _write_at_once(folder, writers=4, count=1000, most=1 << 30)
    found = _by_device(History().rows(folder, NOW))
    assert found == {str(who): list(range(999, -1, -1)) for who in range(4)}


def test_several_processes_keep_the_bound(folder: UserFolder) -> None:
    """However often the file is full, no row but the oldest is lost."""
    most = 40_000
    _write_at_once(folder, writers=4, count=3000, most=most)
    # A row that was on its way while another process set the file aside lands in the older one.
    assert sizes(folder) <= most + 4 * 500
    found = _by_device(History().rows(folder, NOW))
    for times in found.values():
        assert sorted(times, reverse=True) == list(range(max(times), min(times) - 1, -1))
    assert 2999 in {times[0] for times in found.values()}


def test_a_full_file_is_set_aside_once(folder: UserFolder) -> None:
    """Not a second time by a process that saw it full, too, and had to wait for the first."""
    for n in range(15):
        History().add(folder, row(n))
    history = History(most_bytes=2 * sizes(folder))
    with folder.history.open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=history.add, args=(folder, row(16)))
        second.start()
        _wait_for_a_waiter(folder.history)
        folder.history.rename(folder.old_history)
        History().add(folder, row(15))
    second.join()
    assert written(history, folder) == list(range(16, -1, -1))


def _wait_for_a_waiter(file: Path) -> None:
    inode = f":{file.stat().st_ino} "
    for _ in range(1000):
        if any("->" in line and inode in line for line in _locks()):
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits for the file's lock")


def test_a_file_set_aside_while_it_is_read_is_read_to_its_end(folder: UserFolder) -> None:
    """And no row twice."""
    history = History(most_bytes=200_000)
    for n in range(500):
        history.add(folder, row(n))
    rows = history.rows(folder, NOW)
    first = next(rows)
    folder.history.rename(folder.old_history)
    history.add(folder, row(500))
    assert numbers_of([first, *rows]) == list(range(499, -1, -1))
    assert written(history, folder)[:2] == [500, 499]


def test_a_file_set_aside_before_it_is_opened_a_second_time_is_read_once(
    folder: UserFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the newer and the older file another process may exchange them."""
    history = History()
    for n in range(5):
        history.add(folder, row(n))
    opened = os.open

    def exchanging(path: Path, *arguments: int) -> int:
        fd = opened(path, *arguments)
        if path == folder.history:
            folder.history.rename(folder.old_history)
        return fd

    monkeypatch.setattr(os, "open", exchanging)
    assert written(history, folder) == [4, 3, 2, 1, 0]


def _locks() -> list[str]:
    return Path("/proc/locks").read_text().splitlines()


# --- media ------------------------------------------------------------------------------


def _media(minute: float, device: str = "1", *, added: int = 25) -> Row:
    return Row(
        NOW + round(minute * MINUTE),
        Kind.MEDIA,
        device=device,
        media=Numbers(added, 1, 2),
        received=100,
        sent=10,
        took=5,
    )


def test_uploads_of_media_in_a_row_are_shown_as_one() -> None:
    """With the time of the last, and the sums."""
    oldest_first = [_media(0), _media(9), _media(18), _media(27, added=3)]
    assert list(gathered(reversed(oldest_first))) == [
        Row(
            NOW + 27 * MINUTE,
            Kind.MEDIA,
            device="1",
            media=Numbers(78, 4, 8),
            received=400,
            sent=40,
            took=20,
        )
    ]


@pytest.mark.parametrize(
    "between",
    [
        [_media(11)],
        [_media(1, "2")],
        [row(MINUTE)],
    ],
    ids=["a pause", "another device", "a sync"],
)
def test_uploads_of_media_that_are_apart_stay_apart(between: list[Row]) -> None:
    """Each row as it is."""
    oldest_first = [_media(0), *between, _media(between[0].time // MINUTE - NOW // MINUTE + 11)]
    rows = list(reversed(oldest_first))
    assert list(gathered(rows)) == rows
    assert all(newer.time > older.time for newer, older in pairwise(rows))


def test_other_rows_are_never_put_together() -> None:
    """Two syncs of one device within a second are two."""
    rows = [row(2), row(1)]
    assert list(gathered(rows)) == rows
