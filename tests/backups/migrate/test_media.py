# SPDX-License-Identifier: AGPL-3.0-or-later
"""Media of other servers become ours."""

import hashlib
from pathlib import Path

import pytest

from cardkeep.backups.migrate import media
from cardkeep.backups.migrate.source import MediaPlace
from cardkeep.errors import MigrationError
from cardkeep.media.store import MediaStore
from tests.backups.migrate.folders import database, left_alone, server_media
from tests.media.looking import download, listed


def sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Place:
    """Media as ankisyncd has them, and where they go: to a user `ana` of ours."""

    def __init__(self, tmp_path: Path) -> None:
        self.source = tmp_path / "source"
        self.folder = self.source / "collection.media"
        self.folder.mkdir(parents=True)
        self.index = self.source / "collection.media.server.db"
        self.base = tmp_path / "base"
        self.work = tmp_path / "work"
        self.user = self.base / "ana"
        for folder in (self.user, self.work):
            folder.mkdir(parents=True)
        self.done = 0

    def fill(self, *rows: tuple[str, int, str | None], files: dict[str, bytes]) -> None:
        server_media(self.index, list(rows))
        for name, data in files.items():
            (self.folder / name).write_bytes(data)

    def take(self) -> media.Outcome:
        place = MediaPlace(self.folder, self.index if self.index.exists() else None)
        self.done = 0

        def tick(size: int) -> None:
            self.done += size

        with left_alone(self.source):
            amount = media.amount(place, self.work)
            outcome = media.make_ready(place, self.user, self.work, tick)
        assert list(self.work.iterdir()) == []
        assert outcome.files <= amount.files
        assert outcome.bytes <= amount.bytes
        return outcome


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_devices_find_what_they_know(place: Place) -> None:
    """The same numbers, checksums and deletions, and the bytes."""
    place.fill(
        ("a.txt", 1, sha1(b"aa")),
        ("gone", 3, None),
        ("b.txt", 2, sha1(b"b")),
        files={"a.txt": b"aa", "b.txt": b"b", "of nobody": b"x"},
    )
    outcome = place.take()
    assert (outcome.files, outcome.bytes, outcome.left_out) == (2, 3, [])
    assert place.done == 3
    store = MediaStore(place.base)
    assert listed(store) == [
        ("a.txt", 1, sha1(b"aa")),
        ("b.txt", 2, sha1(b"b")),
        ("gone", 3, ""),
    ]
    assert store.last_usn("ana") == 3
    assert store.sanity("ana", 2)
    assert download(store, "b.txt", "a.txt") == [("b.txt", b"b"), ("a.txt", b"aa")]
    store.close()
    assert names_in(place.user / "media") == ["a.txt", "b.txt"]


def test_files_that_are_not_what_they_should_be_are_left_out(place: Place) -> None:
    """Each with its reason."""
    long, odd = "x" * 300, "\\"
    names = ["right", "missing", "empty", "spoilt", "link", "folder", "a/b", "..", long, odd]
    place.fill(
        *((name, number, sha1(b"right")) for number, name in enumerate(names, 1)),
        files={"right": b"right", "empty": b"", "spoilt": b"wrong", odd: b"right"},
    )
    (place.folder / "link").symlink_to(place.folder / "right")
    (place.folder / "folder").mkdir()
    outcome = place.take()
    assert (outcome.files, outcome.bytes) == (2, 10)
    assert outcome.left_out_in_all == 8
    assert dict(outcome.left_out) == {
        **dict.fromkeys(["missing", "link", "folder"], "the file is not there"),
        **dict.fromkeys(["a/b", "..", long], "clients cannot have a file of that name"),
        "empty": "the file is empty",
        "spoilt": "the file is not the one that was stored (its checksum differs)",
    }
    store = MediaStore(place.base)
    assert [(name, usn) for name, usn, _ in listed(store)] == [("right", 1), (odd, 11)]
    assert store.last_usn("ana") == 11
    assert store.sanity("ana", 2)
    store.close()
    assert names_in(place.user / "media") == [odd, "right"]


def test_names_of_a_mac_become_those_of_clients(place: Place) -> None:
    """Of two that are one name to clients, the first stays."""
    decomposed, composed = "e\u0301.png", "é.png"
    place.fill((decomposed, 1, sha1(b"a")), files={decomposed: b"a"})
    assert place.take().files == 1
    store = MediaStore(place.base)
    assert download(store, composed) == [(composed, b"a")]
    store.close()


def test_a_second_run_copies_what_is_missing_or_wrong(place: Place) -> None:
    """Right files stay as they are; what was left of others goes."""
    place.fill(
        *((name, number, sha1(name.encode())) for number, name in enumerate("abcd", 1)),
        files={name: name.encode() for name in "abcd"},
    )
    place.take()
    ready = place.user / "media"
    before = {name: (ready / name).stat().st_mtime_ns for name in "abcd"}
    inode = (ready / "a").stat().st_ino
    (ready / "b").write_bytes(b"x")
    (ready / "c").unlink()
    (ready / "strange").write_bytes(b"x")
    outcome = place.take()
    assert (outcome.files, outcome.left_out) == (4, [])
    assert place.done == 4
    assert {name: (ready / name).read_bytes() for name in names_in(ready)} == {
        name: name.encode() for name in "abcd"
    }
    for name in "ad":
        assert (ready / name).stat().st_mtime_ns == before[name]
    assert (ready / "a").stat().st_ino == inode


def test_a_folder_without_an_index(place: Place) -> None:
    """Every file in it is new to the devices."""
    for name in ("b", "a", ".hidden"):
        (place.folder / name).write_bytes(name.encode())
    outcome = place.take()
    assert (outcome.files, outcome.left_out) == (2, [])
    store = MediaStore(place.base)
    assert listed(store) == [("a", 1, sha1(b"a")), ("b", 2, sha1(b"b"))]
    store.close()


def test_an_index_without_a_folder(place: Place) -> None:
    """Nothing is there; what was deleted stays so."""
    place.fill(("a", 1, sha1(b"a")), ("b", 2, None), files={})
    place.folder.rmdir()
    outcome = place.take()
    assert (outcome.files, outcome.left_out) == (0, [("a", "the file is not there")])
    store = MediaStore(place.base)
    assert listed(store) == [("b", 2, "")]
    store.close()


@pytest.mark.parametrize("content", [b"garbage" * 1000, None])
def test_an_index_that_cannot_be_read(place: Place, content: bytes | None) -> None:
    """It is told, and nothing is made."""
    if content:
        place.index.write_bytes(content)
    else:
        database(place.index, "CREATE TABLE media (a)")
    with pytest.raises(MigrationError, match="its media cannot be used"):
        place.take()
    assert list(place.work.iterdir()) == []
    assert not (place.user / "media.db").exists()


def test_many_left_out_files_are_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them are told."""
    monkeypatch.setattr(media, "_TOLD", 3)
    place.fill(*((str(n), n, sha1(b"x")) for n in range(1, 10)), files={})
    outcome = place.take()
    assert (len(outcome.left_out), outcome.left_out_in_all) == (3, 9)
