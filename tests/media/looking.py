# SPDX-License-Identifier: AGPL-3.0-or-later
"""What lies on disk for a user, seen without the code under test."""

import contextlib
import hashlib
import io
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cardkeep.media import index
from cardkeep.media.index import Fingerprint
from cardkeep.media.store import MediaStore
from cardkeep.messages import MediaEntry

USER = "ana"


class Bytes:
    """A source in memory."""

    def __init__(self, data: bytes, step: int = 1 << 30) -> None:
        self._data = io.BytesIO(data)
        self._step = step
        self.size = len(data)

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, self._step))

    def close(self) -> None:
        self._data.close()


def element(name: str, data: bytes | None) -> MediaEntry:
    return MediaEntry(name, None if data is None else lambda: Bytes(data))


def upload(
    store: MediaStore, *elements: tuple[str, bytes | None], user: str = USER
) -> tuple[int, int]:
    """Processed elements and last usn."""
    answer = store.upload(user, [element(name, data) for name, data in elements])
    return answer.processed, answer.usn


def download(store: MediaStore, *names: str, user: str = USER) -> list[tuple[str, bytes]]:
    files = []
    for name, source in store.download(user, names):
        data = b""
        while piece := source.read(1 << 20):
            data += piece
        assert len(data) == source.size
        source.close()
        files.append((name, data))
    return files


def listed(store: MediaStore, after: int = 0, user: str = USER) -> list[tuple[str, int, str]]:
    return [(c.name, c.usn, c.sha1) for c in store.changes(user, after)]


def seed(base: Path, files: Mapping[str, bytes], user: str = USER) -> None:
    """Adds files in one go, however many."""
    media = base / user / "media"
    media.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (media / name).write_bytes(data)
    uploaded = [(name, Fingerprint(hashlib.sha1(d).digest(), len(d))) for name, d in files.items()]
    with contextlib.closing(index.connect(base / user / "media.db", create=True)) as db:
        with index.writing(db):
            index.write(db, index.merge(index.totals(db), {}, uploaded), 0)


def sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@dataclass(frozen=True)
class Disk:
    """`rows`: checksum, size and usn by name. `totals`: last usn, bytes, files.

    The `trash` does not count when two are compared: whatever is in it does no harm.
    """

    rows: Mapping[str, tuple[str, int, int]]
    totals: tuple[int, int, int]
    files: Mapping[str, bytes]
    waiting: Sequence[str]
    trash: Mapping[str, bytes] = field(default_factory=dict, compare=False)

    def live(self) -> dict[str, str]:
        return {name: csum for name, (csum, size, _) in self.rows.items() if size}

    def check(self) -> None:
        """Index and folder agree, totals are exact, nothing lies about."""
        self.check_listed_files()
        assert set(self.files) == set(self.live())
        assert self.waiting == []
        self.check_trash()

    def check_trash(self) -> None:
        for name, data in self.trash.items():
            assert name == sha1(data)

    def has(self, data: bytes) -> bool:
        """Whether bytes are among the media or in the trash."""
        return data in self.files.values() or self.trash.get(sha1(data)) == data

    def check_listed_files(self) -> None:
        """What a server that knows the official layout alone relies upon."""
        sizes = [size for _, size, _ in self.rows.values() if size]
        usns = [usn for _, _, usn in self.rows.values()]
        assert self.totals[1:] == (sum(sizes), len(sizes))
        assert len(set(usns)) == len(usns)
        assert all(0 < usn <= self.totals[0] for usn in usns)
        assert set(self.live()) <= set(self.files)


def on_disk(base: Path, user: str = USER) -> Disk:
    folder = base / user
    with contextlib.closing(sqlite3.connect(folder / "media.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA user_version").fetchone() == (4,)
        rows = {
            name: (csum.hex(), size, usn)
            for name, csum, size, usn in db.execute("SELECT fname, csum, size, usn FROM media")
        }
        ((*totals,),) = db.execute("SELECT last_usn, total_bytes, total_nonempty_files FROM meta")
    incoming = folder / ".cardkeep" / "incoming"
    return Disk(
        rows,
        (totals[0], totals[1], totals[2]),
        {path.name: path.read_bytes() for path in (folder / "media").iterdir()},
        sorted(path.name for path in incoming.glob("*") if not _is_blank(path)),
        trash_of(base, user),
    )


def trash_of(base: Path, user: str = USER) -> dict[str, bytes]:
    """The bytes in the trash, by the names that they have there."""
    folder = base / user / ".cardkeep" / "trash"
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def _is_blank(path: Path) -> bool:
    """A journal that waits for the next upload."""
    return path.name.isdecimal() and path.read_bytes().strip() in (b"", b"[]")
