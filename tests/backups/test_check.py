# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether kept copies can be put back."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cardkeep.backups.check import check_copies, size
from cardkeep.backups.snapshot import Cause, Reason, Snapshots
from cardkeep.collection.folder import UserFolder
from cardkeep.messages import Finding
from tests.backups.test_snapshot import CONTENT, NOW, state


@pytest.fixture
def copies(tmp_path: Path) -> Snapshots:
    """Two copies of a user."""
    copies = Snapshots(UserFolder(tmp_path / "ana"))
    for mod in (1, 2):
        copies.take(state(mod=mod), Cause(Reason.MANUAL), NOW + 1000 * mod)
    return copies


def found(copies: Snapshots, **how: bool) -> list[Finding]:
    return list(check_copies(copies, **how))


def test_sound_copies(copies: Snapshots) -> None:
    """Nothing is said of them; the progress adds up to their size."""
    told: list[int] = []
    assert list(check_copies(copies, progress=told.append)) == []
    assert sum(told) == size(copies) == 2 * len(CONTENT)
    assert found(copies, quick=True) == []


def test_a_user_without_copies(tmp_path: Path) -> None:
    """There is nothing to check, and nothing is made."""
    assert found(Snapshots(UserFolder(tmp_path / "ana")), repair=True) == []
    assert list(tmp_path.iterdir()) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def other(old: str, new: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(path.read_text().replace(old, new))


# The file, what happens to it, what is found, and whether a quick check finds it.
DAMAGES: dict[str, tuple[str, Callable[[Path], object], str, bool]] = {
    "a byte": ("collection.anki2.zst", flip, "copy-damaged", False),
    "the end": ("collection.anki2.zst", cut, "copy-damaged", True),
    "the whole": ("collection.anki2.zst", Path.unlink, "copy-damaged", True),
    "a byte of the list": ("media.zst", flip, "copy-damaged", False),
    "the list": ("media.zst", Path.unlink, "copy-damaged", True),
    "a media file": ("manifest.json", other('files": 450', 'files": 451'), "copy-damaged", False),
    "the checksum": ("manifest.json", other('m": "', 'm": "0'), "copy-damaged", False),
    "the manifest": ("manifest.json", cut, "copy-unreadable", True),
    "no manifest": ("manifest.json", Path.unlink, "copy-unreadable", True),
}


@pytest.mark.parametrize(("file", "spoil", "kind", "quick"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage(
    copies: Snapshots, file: str, spoil: Callable[[Path], object], kind: str, quick: bool
) -> None:
    """It is found in that copy alone, and no copy is ever removed for it."""
    damaged, sound = copies.all()
    spoil(copies.path / damaged.id / file)
    (told,) = found(copies, repair=True)
    assert (told.kind, told.repairable, told.repaired, told.harmless) == (kind, False, False, False)
    assert damaged.id in told.what
    assert sound.id not in told.what.split()
    assert [each.kind for each in found(copies, quick=True)] == ([kind] if quick else [])


def test_half_made_copies(copies: Snapshots) -> None:
    """Those of a killed process go; one that somebody is making may stay."""
    for name, age in ((".making-old", 4000), (".making-new", 0)):
        (copies.path / name).mkdir()
        (copies.path / name / "collection.anki2.zst").write_bytes(b"x")
        moment = time.time() - age
        os.utime(copies.path / name, (moment, moment))
    (told,) = found(copies)
    assert told.what == "1 half-made kept copy of a killed process."
    assert (told.kind, told.repairable, told.harmless) == ("leftover", True, True)
    (told,) = found(copies, repair=True)
    assert told.repaired
    assert not (copies.path / ".making-old").exists()
    assert found(copies) == []
