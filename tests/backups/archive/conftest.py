# SPDX-License-Identifier: AGPL-3.0-or-later
"""A data folder with something of everything, and what is in it."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cardkeep.accounts.store import AccountStore
from cardkeep.backups import retention
from cardkeep.backups.archive.records import Progress
from cardkeep.backups.archive.stream import ignore
from cardkeep.backups.keeper import Keeper
from cardkeep.backups.snapshot import Cause, Reason
from cardkeep.collection.library import Library
from cardkeep.media.store import MediaStore
from cardkeep.records import unicase
from tests.media.looking import upload

COLLECTIONS = Path(__file__).parents[2] / "vectors" / "collections"
# Longer than what is held in memory.
LARGE = b"0123456789abcdef" * 400_000
MEDIA = {
    "a.txt": b"a",
    "ü 日本語.mp3": b"\xff\xfb" * 50_000,
    "x" * 200 + ".jpg": b"long name",
    "large.bin": LARGE,
}


@contextmanager
def unseen(_title: str, _total: int) -> Iterator[Progress]:
    """Progress that nobody watches."""
    yield ignore


def now_ms() -> int:
    return int(time.time() * 1000)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `base`, made once."""
    base = tmp_path_factory.mktemp("filled") / "base"
    fill(base)
    return base


@pytest.fixture
def base(filled: Path, tmp_path: Path) -> Path:
    """Ana has everything, Ben a new collection; both have accounts, and a third nothing yet."""
    return shutil.copytree(filled, tmp_path / "base")


def fill(base: Path) -> None:
    base.mkdir()
    (base / "ana").mkdir()
    shutil.copy(COLLECTIONS / "rich-schema18.anki2", base / "ana" / "collection.anki2")
    library, media = Library(base, now_ms=now_ms), MediaStore(base)
    spool = base / ".cardkeep" / "spool"
    spool.mkdir(parents=True)
    keeper = Keeper(library, media, spool, retention.Rules(), now_ms=now_ms)
    upload(media, *MEDIA.items(), ("deleted.txt", b"deleted"))
    upload(media, ("deleted.txt", None))
    keeper.take("ana", Cause(Reason.MANUAL))
    with library.lend("ben"):
        pass
    keeper.close()
    library.close()
    media.close()
    own = base / "ana" / ".cardkeep"
    (own / "history").write_text('{"what":"sync"}\n')
    (own / "trash").mkdir(exist_ok=True)
    # What belongs to a running server alone.
    for name in ("session", "journal", "counts", "brought-7", "notice.12-34", "new.anki2"):
        (own / name).write_text("live")
    (own / "incoming").mkdir(exist_ok=True)
    (own / "incoming" / "0.1").write_text("live")
    (spool / "body-1").write_text("live")
    with closing(AccountStore(base)) as accounts:
        for name in ("ana", "ben", "eva"):
            accounts.add_user(name, "secret")


def rows(path: Path, statement: str) -> list[tuple[object, ...]]:
    """What SQLite reads, without a trace in the folder of the file."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        connection.create_collation("unicase", unicase.compare)
        return connection.execute(statement).fetchall()


def tree(base: Path) -> dict[str, bytes | None]:
    """All files with their bytes, all folders with None."""
    return {
        str(path.relative_to(base)): path.read_bytes() if path.is_file() else None
        for path in sorted(base.rglob("*"))
    }
