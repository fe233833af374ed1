# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a client was told is stored is on disk: a trace of the server's system calls shows it.

At each answer that says "stored", no file in the user's folder has bytes that were not flushed,
and no folder there has entries that were not. Not looked at is what a crash may take: SQLite's
shared memory, and the running sync's own notes, in which no client believes.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.durability.trace import COMMAND, Trace
from tests.protocol.client import Client
from tests.protocol.collections import BASIC, COUNTS, FIRST_USN, uploadable
from tests.servers import PASSWORD, running

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")

USER = "user1"


def sync(client: Client) -> None:
    """Two commits, each with a new note."""
    client.upload(uploadable())
    cards, notes, *others = COUNTS
    for n in (1, 2):
        row = [n, f"guid{n}", BASIC, int(time.time()), FIRST_USN, "", "a\x1fb", "", "", 0, ""]
        counts = [cards, notes + n, *others]
        client.sync(counts, FIRST_USN, rows={"notes": [row]}, newer=True)


def upload(client: Client) -> None:
    """The first collection, and one that replaces it after a sync."""
    client.upload(uploadable(18 if client.protocol == 11 else 11))
    client.new_session()
    client.sync(COUNTS, FIRST_USN)
    client.new_session()
    client.upload(uploadable(18 if client.protocol == 11 else 11))


def download(client: Client) -> None:
    """Counts the usn up, which the client is told."""
    client.upload(uploadable())
    client.new_session()
    client.download()


def media(client: Client) -> None:
    """New files, a replaced, a deleted and a brought back one."""
    client.begin()
    client.upload_media(("a", b"1"), ("b", b"2" * 100_000), ("c", b"3"))
    client.upload_media(("a", b"4"), ("b", None))
    client.upload_media(("b", b"2" * 100_000), ("d", b"5"))


def is_data(path: str, folder: Path) -> bool:
    inside = path == str(folder) or path.startswith(f"{folder}/")
    own = path.startswith(f"{folder}/.cardkeep") or path.endswith("-shm")
    return inside and not own


@pytest.mark.parametrize("protocol", [11, 10])
@pytest.mark.parametrize(
    ("story", "method", "times"),
    [
        (sync, "sanityCheck2", 2),
        (sync, "finish", 2),
        (upload, "upload", 2),
        (download, "download", 1),
        (media, "uploadChanges", 3),
    ],
    ids=["commit", "finish", "upload", "download", "media upload"],
)
def test_all_is_on_disk_before_the_answer_is_sent(
    tmp_path: Path, protocol: int, story: Callable[[Client], None], method: str, times: int
) -> None:
    """Every byte and every name that the request brought into the user's folder."""
    trace = tmp_path / "trace"
    base = tmp_path / "base"
    with running("cardkeep", base=base, wrapper=[*COMMAND, "-o", str(trace)]) as server:
        story(Client(server.port, protocol).login(USER, PASSWORD))
        assert server.stop() == 0
    answers = [answer for answer in Trace(trace, set()).answers() if answer.method == method]
    assert [answer.status for answer in answers] == [200] * times
    for number, answer in enumerate(answers, start=1):
        left = {path for path in answer.unflushed if is_data(path, base / USER)}
        assert not left, f"answer {number} to {method}"


def test_the_trace_sees_what_is_not_flushed(tmp_path: Path) -> None:
    """The journal of a running sync, in which nobody believes, is seen as not flushed."""
    trace = tmp_path / "trace"
    base = tmp_path / "base"
    with running("cardkeep", base=base, wrapper=[*COMMAND, "-o", str(trace)]) as server:
        sync(Client(server.port).login(USER, PASSWORD))
        assert server.stop() == 0
    answers = [answer for answer in Trace(trace, set()).answers() if answer.method == "applyChunk"]
    assert len(answers) == 2
    assert all(any(".cardkeep" in path for path in answer.unflushed) for answer in answers)
