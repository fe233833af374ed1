# SPDX-License-Identifier: AGPL-3.0-or-later
"""What has a name is on disk: shown by a trace of system calls."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cardkeep.backups.archive.file import save
from tests.backups.archive.conftest import unseen

CALLS = "openat,write,fsync,fdatasync,syncfs,rename,renameat,renameat2,mkdir,unlink,rmdir"
SCRIPT = """
import sys
from pathlib import Path
from cardkeep.backups.archive.file import save
from cardkeep.backups.archive.restore import restore
from tests.backups.archive.conftest import unseen
{"save": save, "restore": restore}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), unseen)
"""


def traced(action: str, base: Path, file: Path, trace: Path) -> list[tuple[str, str]]:
    """Call and file, in order, of those that succeeded; both paths of a rename."""
    subprocess.run(
        [
            *("strace", "-f", "-y", "-s", "16", "-e", f"trace={CALLS}", "-o", trace),
            *(sys.executable, "-c", SCRIPT, action, base, file),
        ],
        check=True,
    )
    calls = []
    for line in trace.read_text(errors="replace").splitlines():
        found = re.match(r"^\d+ +(\w+)\((.*)\) += (-?\d+)", line)
        if found and int(found[3]) >= 0:
            name, arguments = found[1], found[2]
            by_descriptor = re.match(r"\d+<([^>]*)>", arguments)
            paths = [by_descriptor[1]] if by_descriptor else re.findall(r'"([^"]*)"', arguments)
            calls.append((name, " ".join(paths)))
    return calls


pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


def test_a_backup_is_flushed_before_it_has_its_name(base: Path, tmp_path: Path) -> None:
    """Its bytes, then the rename, then the folder."""
    disk = tmp_path / "disk"
    disk.mkdir()
    file = disk / "b.tar.zst"
    calls = traced("save", base, file, tmp_path / "trace")
    [renamed] = [
        place
        for place, (name, paths) in enumerate(calls)
        if name.startswith("rename") and paths.endswith(f" {file}")
    ]
    aside = calls[renamed][1].split(" ")[0]
    last_write = max(place for place, call in enumerate(calls) if call == ("write", aside))
    assert last_write < calls.index(("fsync", aside), last_write) < renamed
    assert ("fsync", str(disk)) in calls[renamed:]


def test_a_restore_is_flushed_before_anything_is_in_its_place(base: Path, tmp_path: Path) -> None:
    """The whole file system once, since a flush for each of 100,000 files would take hours."""
    file, target = tmp_path / "b.tar.zst", tmp_path / "restored"
    save(base, file, unseen)
    calls = traced("restore", target, file, tmp_path / "trace")
    moves = [place for place, (name, _) in enumerate(calls) if name.startswith("rename")]
    last_write = max(
        place
        for place, (name, path) in enumerate(calls)
        if name == "write" and path.startswith(f"{target}/")
    )
    place = f"{target}/.cardkeep-restore"
    [flushed] = [number for number, call in enumerate(calls) if call == ("syncfs", place)]
    assert last_write < flushed < moves[0]
    assert len(moves) == 4
    for folder, since in ((place, moves[0]), (str(target), moves[-1])):
        assert ("fsync", folder) in calls[since:]
