# SPDX-License-Identifier: AGPL-3.0-or-later
"""Any sequence of uploads, deletions and returns does what a very small model of it does."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cardkeep.errors import BadRequest, MissingMedia
from cardkeep.media.check import check_media
from cardkeep.media.store import DOWNLOAD_TARGET, MediaStore
from tests.media.looking import USER, download, on_disk, sha1, upload

NAMES = ["a", "b", "c.png", "Ä", "猫", "x" * 255]
NAME = st.sampled_from(NAMES)
# Few different bytes, so that the same ones come again; some large enough to be streamed.
BYTES = {
    "gone": None,
    "1": b"1",
    "2": b"2",
    "22": b"22",
    "x": b"x" * 1_000_000,
    "y": b"y" * 1_500_000,
}
ELEMENTS = st.lists(st.tuples(NAME, st.sampled_from(list(BYTES))), max_size=25)
Elements = list[tuple[str, str]]


def with_bytes(elements: Elements) -> list[tuple[str, bytes | None]]:
    return [(name, BYTES[key]) for name, key in elements]


class Media(RuleBasedStateMachine):
    """The model: name to (bytes or None for deleted, usn), and the last usn."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=_memory())
        self.base = Path(self.folder.name)
        self.store = MediaStore(self.base)
        self.model: dict[str, tuple[bytes | None, int]] = {}
        self.usn = 0
        self.lists: list[dict[str, bytes]] = []
        self.ever: set[bytes] = set()

    def teardown(self) -> None:
        assert list(check_media(self.store, USER)) == []
        self.store.close()
        self.folder.cleanup()

    @rule(elements=ELEMENTS)
    def upload(self, elements: Elements) -> None:
        for name, key in elements:
            data = BYTES[key]
            if self.model.get(name, (None, 0))[0] != data:
                self.usn += 1
                self.model[name] = (data, self.usn)
        # What an upload itself replaces again was never there.
        self.ever |= {data for data, _ in self.model.values() if data is not None}
        assert upload(self.store, *with_bytes(elements)) == (len(elements), self.usn)

    @rule(elements=ELEMENTS, bad=st.sampled_from([("..", b"x"), ("a", b""), ("C:\\x", b"x")]))
    def upload_with_something_bad(self, elements: Elements, bad: tuple[str, bytes]) -> None:
        try:
            upload(self.store, *with_bytes(elements), bad)
        except BadRequest:
            return
        raise AssertionError("taken")

    @rule(names=st.lists(NAME, min_size=1, max_size=6))
    def download(self, names: list[str]) -> None:
        stored = [self.model.get(name, (None, 0))[0] for name in names]
        total = 0
        expected: list[tuple[str, bytes]] | None = []
        for name, data in zip(names, stored, strict=True):
            if data is None:
                expected = None
                break
            expected.append((name, data))
            total += len(data)
            if total > DOWNLOAD_TARGET:
                break
        try:
            assert download(self.store, *names) == expected
        except MissingMedia:
            assert expected is None

    @rule(name=NAME)
    def lose_a_file(self, name: str) -> None:
        """From the folder, by whatever accident; noticed when it is asked for."""
        if self.model.get(name, (None, 0))[0] is None:
            return
        (self.base / USER / "media" / name).unlink()
        self.ever.discard(self.model[name][0])
        try:
            download(self.store, name)
        except MissingMedia:
            del self.model[name]
            return
        raise AssertionError("found")

    @rule()
    def keep_a_list(self) -> None:
        files = self.store.listing(USER)
        now = {name: data for name, (data, _) in self.model.items() if data is not None}
        assert files.last_usn == self.usn
        assert list(files) == sorted((n, sha1(d), len(d)) for n, d in now.items())
        self.lists.append(now)

    @precondition(lambda self: self.lists)
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        """All that were ever there are found, unless an accident took the only copy."""
        then = data.draw(st.sampled_from(self.lists))
        result = self.store.bring_back(USER, [(n, sha1(d), len(d)) for n, d in then.items()])
        for name, bytes_ in then.items():
            if self.model.get(name, (None, 0))[0] != bytes_ and name not in result.missing:
                self.usn += 1
                self.model[name] = (bytes_, self.usn)
        assert not any(then[name] in self.ever for name in result.missing)
        assert not result.refused

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = MediaStore(self.base)

    @invariant()
    def changes_are_those_of_the_model(self) -> None:
        changes = [(c.name, c.usn, c.sha1) for c in self.store.changes(USER, 0)]
        expected = [(n, u, "" if d is None else sha1(d)) for n, (d, u) in self.model.items()]
        assert changes == sorted(expected, key=lambda change: change[1])
        half = self.usn // 2
        later = [(c.name, c.usn, c.sha1) for c in self.store.changes(USER, half)]
        assert later == [change for change in changes if change[1] > half]

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        count = sum(data is not None for data, _ in self.model.values())
        assert self.store.sanity(USER, count)
        assert not self.store.sanity(USER, count + 1)
        assert self.store.last_usn(USER) == self.usn

    @invariant()
    def files_are_those_of_the_model(self) -> None:
        if self.usn:
            disk = on_disk(self.base)
            disk.check()
            assert disk.files == {n: d for n, (d, _) in self.model.items() if d is not None}
            assert all(disk.has(data) for data in self.ever)


def _memory() -> Path | None:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None


Media.TestCase.settings = settings(max_examples=40, stateful_step_count=15)
TestMedia = Media.TestCase
