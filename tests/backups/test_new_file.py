# SPDX-License-Identifier: AGPL-3.0-or-later
"""Large files appear whole or not at all, and never in the place of others."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cardkeep.backups.new_file import new_file
from cardkeep.backups.scratch import scratch_folder
from cardkeep.errors import Unavailable


def write(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    with new_file(path, overwrite=overwrite) as descriptor:
        os.write(descriptor, content)
        assert not path.exists() or overwrite


def write_half(path: Path, error: BaseException) -> None:
    with new_file(path, overwrite=True) as descriptor:
        os.write(descriptor, b"half")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_has_its_name_at_the_end(tmp_path: Path) -> None:
    """And is nobody else's to read."""
    write(tmp_path / "a", b"one")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert names(tmp_path) == ["a"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    write(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError, match="a"):
        write(tmp_path / "a", b"two")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        write(tmp_path / "link", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    write(tmp_path / "a", b"two", overwrite=True)
    assert (tmp_path / "a").read_bytes() == b"two"
    assert names(tmp_path) == ["a", "link"]


def test_somebody_who_is_faster_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), new_file(tmp_path / "a", overwrite=False):
        (tmp_path / "a").write_bytes(b"theirs")
    assert (tmp_path / "a").read_bytes() == b"theirs"
    assert names(tmp_path) == ["a"]


def test_without_hard_links_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a memory stick."""

    def no_link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_link)
    write(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError), new_file(tmp_path / "b", overwrite=False):
        (tmp_path / "b").write_bytes(b"theirs")
    assert names(tmp_path) == ["a", "b"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    for error in (OSError(errno.ENOSPC, "full"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write_half(tmp_path / "a", error)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_two_do_not_write_the_same_file(tmp_path: Path) -> None:
    with new_file(tmp_path / "a", overwrite=True) as descriptor:
        with pytest.raises(Unavailable, match="another"):
            write(tmp_path / "a", b"two", overwrite=True)
        os.write(descriptor, b"one")
    assert (tmp_path / "a").read_bytes() == b"one"


def test_a_leftover_is_removed(tmp_path: Path) -> None:
    """Also where it is a second name of the finished file, which must not be written to."""
    (tmp_path / ".a.part").write_bytes(b"half of something longer")
    write(tmp_path / "a", b"one")
    assert names(tmp_path) == ["a"]
    (tmp_path / ".a.part").hardlink_to(tmp_path / "a")
    with pytest.raises(OSError), new_file(tmp_path / "a", overwrite=True):
        raise OSError
    assert (tmp_path / "a").read_bytes() == b"one"


# --- folders of commands ----------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from cardkeep.backups.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "large").write_bytes(b"x")
    print(folder.name, flush=True)
    time.sleep(100)
"""


def holding(spool: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, spool], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_folder_goes_with_its_command(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        (folder / "deeper").mkdir()
        (folder / "deeper" / "a").touch()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with pytest.raises(KeyError), scratch_folder(tmp_path):
        raise KeyError
    assert names(tmp_path) == []


def test_the_folder_of_a_killed_command_goes_with_the_next(tmp_path: Path) -> None:
    """That of a living one stays, and so does what is none of ours."""
    (tmp_path / "body-1").touch()
    living, kept = holding(tmp_path)
    killed, left = holding(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    try:
        assert names(tmp_path) == sorted(["body-1", kept, left])
        with scratch_folder(tmp_path) as own:
            assert names(tmp_path) == sorted(["body-1", kept, own.name])
    finally:
        living.kill()
        living.wait()
    with scratch_folder(tmp_path):
        pass
    assert names(tmp_path) == ["body-1"]
    for process in (living, killed):
        assert process.stdout is not None
        process.stdout.close()
