# SPDX-License-Identifier: AGPL-3.0-or-later
"""Media on their way in and out: what is stored is what is listed, and the other way round."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cardkeep.backups.arrival import store_media
from cardkeep.backups.export import MediaListing
from cardkeep.backups.media_source import MediaSource
from cardkeep.errors import BadRequest, PackageError
from cardkeep.media.store import MediaStore
from tests.backups.test_package_reader import whole
from tests.backups.test_package_writer import Source, failing, file


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MediaStore]:
    made = MediaStore(tmp_path)
    yield made
    made.close()


@contextmanager
def listing_of(store: MediaStore, base: Path) -> Iterator[MediaListing]:
    """As an export makes it."""
    with store.earlier("ana") as opener, MediaListing(store.listing("ana"), opener, base) as made:
        yield made


def listed(store: MediaStore, base: Path) -> dict[str, bytes]:
    with listing_of(store, base) as listing:
        found = {}
        for each in listing:
            found[each.name] = whole(each.open())
            assert each.sha1 == hashlib.sha1(found[each.name]).digest()
        assert listing.files == len(found)
        assert listing.bytes == sum(map(len, found.values()))
        return found


def test_files_are_stored_and_listed(store: MediaStore, tmp_path: Path) -> None:
    """More than an upload may hold, and large ones."""
    files = {f"{n}.png": b"%d" % n for n in range(60)} | {"large": b"x" * 3_000_000}
    told: list[int] = []
    sources = [file(name, data) for name, data in files.items()]
    assert store_media(store, "ana", sources, most=5_000_000, progress=told.append) == (61, [])
    assert listed(store, tmp_path) == files
    assert sum(told) == sum(map(len, files.values()))
    assert store.last_usn("ana") == 61


def test_storing_again_changes_nothing(store: MediaStore, tmp_path: Path) -> None:
    """An import that was killed can be given again; no device has to fetch a file twice."""
    files = [file("a", b"a"), file("b", b"b" * 2_000_000)]
    store_media(store, "ana", files, most=5_000_000)
    store_media(store, "ana", files, most=5_000_000)
    assert store.last_usn("ana") == 2


def test_what_the_user_has_besides_stays(store: MediaStore, tmp_path: Path) -> None:
    """And a file of the same name is replaced."""
    store_media(store, "ana", [file("a", b"a"), file("b", b"b")], most=10)
    store_media(store, "ana", [file("b", b"B"), file("c", b"c")], most=10)
    assert listed(store, tmp_path) == {"a": b"a", "b": b"B", "c": b"c"}


def test_files_that_no_device_could_have_are_left_out(store: MediaStore, tmp_path: Path) -> None:
    names = ("a:b", "con", "x" * 121, "e\u0301", "a.", "../a", "\U0001fae0.png")
    files = [*(file(name, b"x") for name in names), file("empty", b""), file("large", b"x" * 11)]
    stored, left_out = store_media(store, "ana", [*files, file("good", b"x")], most=10)
    assert stored == 1
    assert [each.name for each in left_out] == [*names, "empty", "large"]
    assert [each.why for each in left_out[-2:]] == [
        "empty",
        "larger than 10 bytes (setting max_media_file)",
    ]
    assert listed(store, tmp_path) == {"good": b"x"}


def test_one_that_is_damaged_or_gone_ends_it(store: MediaStore, tmp_path: Path) -> None:
    """What was stored before stays; of its own lot nothing is."""
    first = [file(f"{n}", b"x") for n in range(25)]
    bad = Source(b"x")
    bad.read = refusing  # type: ignore[method-assign]
    for broken, error in (
        (MediaSource("broken", lambda: bad, None, 1), BadRequest),
        (MediaSource("gone", lambda: None, None, 1), PackageError),
    ):
        with pytest.raises(error):
            store_media(store, "ana", [*first, file("a", b"a"), broken], most=10)
        assert len(listed(store, tmp_path)) == 25
    assert bad.closed


def refusing(_: int) -> bytes:
    raise BadRequest("damaged")


def test_a_file_that_is_gone_is_listed_without_bytes(store: MediaStore, tmp_path: Path) -> None:
    store_media(store, "ana", [file("a", b"a"), file("b", b"b")], most=10)
    (tmp_path / "ana" / "media" / "a").unlink()
    (tmp_path / "ana" / "media" / "b").unlink()
    (tmp_path / "ana" / "media" / "b").symlink_to("/etc/passwd")
    with listing_of(store, tmp_path) as listing:
        assert [(each.name, each.open()) for each in listing] == [("a", None), ("b", None)]


def test_a_listing_is_of_one_moment(store: MediaStore, tmp_path: Path) -> None:
    """It can be read again, and what is stored meanwhile is not in it."""
    store_media(store, "ana", [file(f"{n}", b"x") for n in range(50)], most=10)
    with listing_of(store, tmp_path) as listing:
        for _ in listing:
            store_media(store, "ana", [file("new", b"x")], most=10)
        assert [each.name for each in listing] == sorted(map(str, range(50)))
        assert listing.files == 50


def test_a_user_without_media_has_an_empty_listing(store: MediaStore, tmp_path: Path) -> None:
    """Looking makes no folder."""
    with listing_of(store, tmp_path) as listing:
        assert list(listing) == []
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_is_not_taken_for_a_file_that_is_gone(
    store: MediaStore, tmp_path: Path
) -> None:
    bad = Source(b"x")
    bad.read = failing  # type: ignore[method-assign]
    with pytest.raises(Exception, match="broken disk"):
        store_media(store, "ana", [MediaSource("a", lambda: bad, None, 1)], most=10)
    assert listed(store, tmp_path) == {}
