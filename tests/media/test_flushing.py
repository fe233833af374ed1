# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an upload answers is on disk: shown by a trace of its system calls."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
from cardkeep.media.store import MediaStore
from tests.media.looking import upload
store = MediaStore(Path(sys.argv[1]))
uploads = [
    [("a", b"1"), ("b", b"2"), ("large", b"x" * 3_000_000)],
    [("a", b"3"), ("b", None), ("c", b"5")],
    [("c", None)],
]
for elements in uploads:
    upload(store, *elements)
    os.write(1, b"answered")
os._exit(0)
"""
CALLS = "mkdir,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,linkat,openat,unlinkat"
CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
DESCRIPTOR = re.compile(r"^\d+<([^>]*)>")


def traced(base: Path, trace: Path) -> list[tuple[str, str]]:
    """Call and file, in order, of calls that succeeded; renames have the new path."""
    subprocess.run(
        [
            *("strace", "-f", "-y", "-s", "16", "-e", f"trace={CALLS}", "-o", trace),
            *(sys.executable, "-c", SCRIPT, base),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    calls = []
    for line in trace.read_text().splitlines():
        found = CALL.match(line)
        if not found or int(found[3]) < 0:
            continue
        name, arguments = found[1], found[2]
        if name == "renameat":
            parts = re.findall(r'<([^>]*)>, "([^"]*)"', arguments)
            (old_folder, old), (new_folder, new) = parts
            calls.append(("rename", f"{old_folder}/{old} {new_folder}/{new}"))
        elif name == "linkat" and "/proc/self/fd/" in arguments:
            folder, new = re.findall(r'<([^>]*)>, "([^"]*)"', arguments)[-1]
            calls.append(("name", f"{folder}/{new}"))
        elif "answered" in arguments:
            calls.append(("answered", ""))
        elif file := DESCRIPTOR.match(arguments):
            calls.append((name, file[1]))
        elif name == "mkdir":
            calls.append((name, arguments.split('"')[1]))
    return [call for call in calls if call[0] == "answered" or str(base) in call[1]]


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_bytes_names_and_index_are_flushed_before_the_answer(tmp_path: Path) -> None:
    """In this order: the bytes, what is about to be done, the names, the index, the answer."""
    base = tmp_path / "base"
    base.mkdir()
    calls = traced(base, tmp_path / "trace")
    media, wal = f"{base}/ana/media", f"{base}/ana/media.db-wal"
    incoming, trash = f"{base}/ana/.cardkeep/incoming", f"{base}/ana/.cardkeep/trash"
    flushed: set[str] = set()
    written: set[str] = set()
    moved = named = trashed = answers = 0
    for call, file in calls:
        if call in ("fsync", "fdatasync"):
            flushed.add(file)
            written.discard(file)
        elif call in ("write", "pwrite64"):
            written.add(file)
            if file == wal:
                assert media not in written, "the index is written before the names are on disk"
        elif call == "mkdir":
            written.add(str(Path(file).parent))
        elif call == "name":
            assert Path(file).parent == Path(media)
            assert f"{incoming}/0" in flushed - written
            assert not any("/#" in path for path in written), "bytes without a name"
            written.add(media)
            named += 1
        elif call == "rename":
            old, new = file.split(" ")
            if new.startswith(media):
                assert {old, f"{incoming}/0"} <= flushed - written
                written.add(media)
                moved += 1
                continue
            # Replaced bytes need not be in the trash yet: what is in `incoming` still counts.
            assert new.startswith(trash)
            trashed += 1
            if old.startswith(media):
                written |= {media, trash}
        elif call == "answered":
            answers += 1
            # A blank journal, and the shared memory of the index, need not be there tomorrow.
            assert written <= {f"{incoming}/0", f"{base}/ana/media.db-shm"}
            assert wal in flushed
            flushed.clear()
    assert (named, moved, trashed, answers) == (3, 2, 3, 3)
