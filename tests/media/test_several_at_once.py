# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several threads and processes over one base folder."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cardkeep.errors import BadRequest, MissingMedia
from cardkeep.media.store import MediaStore
from cardkeep.messages import MediaEntry
from tests.media.looking import USER, download, element, listed, on_disk, upload

WORKER = """
import json, sys
from pathlib import Path
from cardkeep.media.store import MediaStore
from tests.media.looking import download, listed, upload
base, number, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = MediaStore(base)
seen = []
for n in range(rounds):
    mine, shared = f"{number}-{n}", f"shared-{n}"
    others = (shared, b"of %d" % number), (f"{number}-{n-1}", None)
    _, usn = upload(store, (mine, b"%d" % n), *others)
    seen.append(usn)
    assert download(store, mine) == [(mine, b"%d" % n)]
    usns = [usn for _, usn, _ in listed(store)]
    assert usns == sorted(set(usns))
store.close()
print(json.dumps(seen))
"""


def test_processes_that_serve_one_user_never_give_a_usn_twice(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, tmp_path, f"{n}", "12"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in range(3)
    ]
    ends = []
    for worker in workers:
        output, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()
        ends += json.loads(output)
    assert len(set(ends)) == len(ends)
    disk = on_disk(tmp_path)
    disk.check()
    assert disk.totals[0] == max(ends)
    assert set(disk.files) == {f"{n}-11" for n in range(3)} | {f"shared-{n}" for n in range(12)}


def run_all(jobs: list[Callable[[], None]]) -> None:
    errors: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []


def test_a_file_that_is_replaced_again_and_again_is_always_found_whole(
    store: MediaStore, tmp_path: Path
) -> None:
    """Never missing, never forgotten, never half of the old and half of the new."""
    upload(store, ("a", b"0"), ("z", b"z"))
    done = threading.Event()

    def write() -> None:
        for n in range(40):
            upload(store, ("a", bytes([n]) * (n + 1)))
        done.set()

    def read() -> None:
        while not done.is_set():
            ((_, data), _) = download(store, "a", "z")
            assert len(set(data)) == 1
            assert len(data) in (1, data[0] + 1)
            assert store.last_usn(USER) >= 2

    run_all([write, read, read])
    on_disk(tmp_path).check()
    assert store.last_usn(USER) == 42


def test_a_file_that_comes_and_goes_is_either_there_or_not(
    store: MediaStore, tmp_path: Path
) -> None:
    upload(store, ("z", b"z"))
    done = threading.Event()

    def write() -> None:
        for _ in range(20):
            upload(store, ("a", b"bytes"))
            upload(store, ("a", None))
        done.set()

    def read() -> None:
        while not done.is_set():
            with contextlib.suppress(MissingMedia):
                assert download(store, "a") == [("a", b"bytes")]
            assert [change for change in listed(store) if change[0] == "z"]

    run_all([write, read])
    on_disk(tmp_path).check()
    # Nothing was taken for lost meanwhile: each of the forty changes has its number.
    assert store.last_usn(USER) == 41


def test_users_do_not_wait_for_each_other(store: MediaStore) -> None:
    """One user's upload stands still in the middle; everybody else's goes through."""
    inside, go_on = threading.Event(), threading.Event()
    upload(store, ("a", b"1"))

    class Stuck:
        size = 4

        def read(self, size: int) -> bytes:
            inside.set()
            assert go_on.wait(30)
            return b""

        def close(self) -> None:
            pass

    def stuck() -> None:
        with pytest.raises(BadRequest):
            store.upload(USER, [element("b", b"2"), MediaEntry("c", Stuck)])

    thread = threading.Thread(target=stuck)
    thread.start()
    assert inside.wait(30)
    for n in range(20):
        assert upload(store, ("a", b"1"), user=f"user{n}") == (1, 1)
        assert store.last_usn(f"user{n}") == 1
    go_on.set()
    thread.join()
    assert store.last_usn(USER) == 1
