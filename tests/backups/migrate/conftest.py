# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small folder of the official server, without the server."""

from pathlib import Path

import pytest

from cardkeep.collection.schema.create import create
from cardkeep.media.store import MediaStore
from tests.collection.schema.files import edit
from tests.media.looking import upload

NOW_MS = 1_795_423_254_765


def make_user(root: Path, name: str, media: dict[str, bytes] | None = None) -> Path:
    """A user with an empty collection of usn 7, a deletion, and media of which one is deleted."""
    folder = root / name
    folder.mkdir(parents=True)
    path = folder / "collection.anki2"
    create(path, NOW_MS)
    edit(path, "UPDATE col SET usn = 7", "INSERT INTO graves VALUES (5, 0, 6)")
    store = MediaStore(root)
    files = {"a.txt": b"aa", "é.png": b"ee", "gone": b"g"} if media is None else media
    if files:
        upload(store, *files.items(), user=name)
        if media is None:
            upload(store, ("gone", None), user=name)
    store.close()
    for ours in (folder / ".cardkeep").rglob("*"):
        if ours.is_file():
            ours.unlink()
    return folder


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Two users."""
    root = tmp_path / "official"
    make_user(root, "ana")
    make_user(root, "ben", {})
    return root
