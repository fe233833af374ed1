# SPDX-License-Identifier: AGPL-3.0-or-later
"""Takes users over, one after the other.

A user's things are made ready in `BASE/.cardkeep/migrate/NAME/user` and renamed to `BASE/NAME`
when all of them are there and on disk; then comes the account. What a run that was killed has made
ready is used by the next. `NAME/.cardkeep/migrated` says where a user came from, so that the next
run knows its own.
"""

import contextlib
import errno
import fcntl
import os
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from cardkeep.accounts import passwords
from cardkeep.accounts.names import check_name, folded
from cardkeep.accounts.store import AccountStore
from cardkeep.backups.history import History, Kind, Row, numbers
from cardkeep.backups.migrate import collection, copying, media
from cardkeep.backups.migrate.source import COLLECTION, Found, Secret, Source
from cardkeep.collection.folder import UserFolder
from cardkeep.disk import flush, give_all_to_owner, give_to_owner
from cardkeep.errors import AccountError, MigrationError

_MARK = Path(".cardkeep", "migrated")
# What is left free of a disk.
_SPARE = 64 * 1024 * 1024
_CLAIMED = {"own", "environment"}

# How a password gets the form in which accounts store it.
_STORED: dict[str, Callable[[str], str]] = {
    "plain": passwords.hash_password,
    "phc": str,
    "ankisyncd": passwords.from_ankisyncd,
}

State = Literal["new", "half", "here", "refused"]


class Progress(Protocol):
    """Who is told how far it is."""

    def begin(self, what: str, total: int) -> None:
        """Something of `total` bytes begins."""

    def advance(self, done: int) -> None:
        """So many bytes of it are done."""


class Prospect(msgspec.Struct):
    """A user, as far as is known before anything is done.

    `half`: the data were taken over before, and the account was not. `reason` says why the user
    is refused, or is here already. `password` is for people.
    """

    found: Found
    name: str
    state: State = "new"
    reason: str = ""
    notes: int = 0
    cards: int = 0
    reviews: int = 0
    media: int = 0
    media_bytes: int = 0
    bytes: int = 0
    secret: Secret | None = None
    password: str = ""

    @property
    def waits(self) -> bool:
        """Whether there is anything to be done."""
        return self.state in {"new", "half"}


class Taken(msgspec.Struct, frozen=True):
    """What became of a user: media that were left out, and whether anybody can log in."""

    media: media.Outcome
    can_log_in: bool
    logins: int


class Mark(msgspec.Struct, frozen=True):
    """Where a user came from; what of the media was left out, by name and reason.

    `account`: the account was made too. Whoever removes it later is not to find it here again.
    """

    server: str
    folder: str
    name: str
    time: int
    left_out: list[tuple[str, str]] = []
    account: bool = False


class Staging:
    """The folder in which users are made ready. One run at a time has it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def user(self, name: str) -> Path:
        """What becomes the user's folder."""
        return self.root / name / "user"

    def work(self, name: str) -> Path:
        """For what is needed on the way."""
        return self.root / name / "work"

    def make(self, name: str) -> tuple[Path, Path]:
        """Both of them."""
        user, work = self.user(name), self.work(name)
        for folder in (user, user / ".cardkeep", work):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return user, work

    def drop(self, name: str) -> None:
        """Removes what was made ready of a user."""
        copying.remove(self.root / name)


@contextlib.contextmanager
def staging(base: Path) -> Iterator[Staging]:
    """The staging folder of a base folder, which is made; what is empty at the end goes.

    Raises MigrationError if another run has it.
    """
    root = base / ".cardkeep" / "migrate"
    made = [folder for folder in (base, root.parent, root) if not folder.exists()]
    for folder in made:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        give_all_to_owner(folder, base)
    lock = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MigrationError(f"another `cardkeep migrate` into {base} is under way") from None
        try:
            yield Staging(root)
        finally:
            with contextlib.suppress(OSError):
                for folder in reversed([*made, *([] if root in made else [root])]):
                    folder.rmdir()
    finally:
        os.close(lock)


@contextlib.contextmanager
def passing_staging(base: Path) -> Iterator[Staging]:
    """A folder for a trial, on the same disk if it can be; nothing of it stays."""
    near = base
    while not near.is_dir():
        near = near.parent
    with tempfile.TemporaryDirectory(dir=near, prefix=".cardkeep-trial-") as folder:
        yield Staging(Path(folder))


class Migration:
    """One source, and where it goes.

    `accounts` may be None until something is taken over, if the base folder has none yet.
    """

    def __init__(
        self, source: Source, base: Path, accounts: AccountStore | None, staging: Staging
    ) -> None:
        self.accounts = accounts
        self._source = source
        self._base = base
        self._staging = staging

    # --- looking ------------------------------------------------------------------------

    def open_files(self) -> list[Path]:
        """The databases of users that a server has open now, as far as can be seen."""
        return [
            path
            for user in self._source.users
            for path in (user.collection, user.media and user.media.index)
            if path and copying.is_open(path)
        ]

    def room_for_collections(self) -> int:
        """Bytes that `look` needs at most."""
        sizes = [
            _bytes_of(user.collection)
            for user in self._source.users
            if user.collection and not (self._staging.user(user.name) / COLLECTION).exists()
        ]
        return sum(sizes) + 2 * max(sizes, default=0)

    def look(self, progress: Progress, *, keep: bool) -> list[Prospect]:
        """All users, checked; with `keep`, their collections stay ready for `take`."""
        prospects = [self._judged(user) for user in self._source.users]
        self._refuse_twins(prospects)
        for prospect in prospects:
            if prospect.state == "new":
                try:
                    self._measure(prospect, progress)
                except MigrationError as error:
                    prospect.state, prospect.reason = "refused", str(error)
                if not keep or prospect.state == "refused":
                    self._staging.drop(prospect.name)
            elif prospect.state in {"half", "here"}:
                # What a run that was killed at its end has left.
                self._staging.drop(prospect.name)
        return prospects

    def room_for_media(self, prospects: Sequence[Prospect]) -> int:
        """Bytes that `take` still needs for users who are new."""
        wanted = [each for each in prospects if each.state == "new"]
        copied = sum(
            path.stat().st_size
            for each in wanted
            for path in (self._staging.user(each.name) / "media").glob("*")
        )
        return max(sum(each.media_bytes for each in wanted) - copied, 0)

    def check_room(self, needed: int) -> None:
        """Raises MigrationError if the disk has not so many bytes left."""
        status = os.statvfs(self._staging.root)
        free = status.f_bavail * status.f_frsize
        if free < needed + _SPARE:
            raise MigrationError(
                f"the disk of {self._base} has {_megabytes(free)} left; {_megabytes(needed)} are "
                f"needed, and {_megabytes(_SPARE)} to spare"
            )

    def give_up(self, prospects: Sequence[Prospect]) -> None:
        """Removes what was made ready of these users."""
        for prospect in prospects:
            if prospect.state != "refused":
                self._staging.drop(prospect.name)

    def _judged(self, user: Found) -> Prospect:
        prospect = Prospect(user, user.name, secret=user.password)
        try:
            prospect.name = check_name(user.name)
        except AccountError as error:
            prospect.state, prospect.reason = "refused", str(error)
            return prospect
        self._judge_password(prospect)
        folder = self._base / prospect.name
        mark = _read_mark(folder)
        account = self._account(prospect.name)
        if account:
            prospect.password = "stays the one that it is here"  # noqa: S105 - words
            prospect.secret = None
        if mark and (mark.folder, mark.name) == (copying.printable(self._source.folder), user.name):
            prospect.state = "half" if prospect.secret and not mark.account else "here"
            prospect.reason = "was taken over before"
            if not account:
                prospect.reason += ", has no account now"
        elif account and not (user.collection or user.media):
            prospect.state, prospect.reason = "here", "has an account here, and no data there"
        elif folder.exists() and any(folder.iterdir()):
            prospect.state = "refused"
            prospect.reason = f"there is a user of that name here ({folder})"
        elif twin := self._twin(prospect.name):
            prospect.state = "refused"
            prospect.reason = f"the name differs only in case from {twin}, who is here"
        return prospect

    def _judge_password(self, prospect: Prospect) -> None:
        secret = prospect.secret
        if secret is None:
            prospect.password = "none"  # noqa: S105 - words
            return
        prospect.password = f"taken over ({secret.origin})"
        if secret.kind == "ankisyncd":
            if prospect.name != prospect.found.name:
                problem = "was hashed with a name of combining characters"
            elif not passwords.is_of_ankisyncd(secret.text):
                problem = "is stored in an unknown way"
            else:
                return
            prospect.password, prospect.secret = f"none ({problem})", None

    def _refuse_twins(self, prospects: list[Prospect]) -> None:
        names = Counter(folded(each.name) for each in prospects)
        for each in prospects:
            if names[folded(each.name)] > 1 and each.state == "new":
                twins = [
                    other.found.name
                    for other in prospects
                    if other is not each and folded(other.name) == folded(each.name)
                ]
                each.state = "refused"
                each.reason = f"the name differs only in case from {' and '.join(twins)}"

    def _measure(self, prospect: Prospect, progress: Progress) -> None:
        user, work = self._staging.make(prospect.name)
        found = prospect.found
        if found.collection:
            size = _bytes_of(found.collection)
            progress.begin(f"{prospect.name}: collection", size)
            ready = collection.make_ready(
                found.collection, user / COLLECTION, work, progress.advance
            )
            prospect.notes, prospect.cards = ready.notes, ready.cards
            prospect.reviews = ready.reviews
            prospect.bytes = (user / COLLECTION).stat().st_size
        if found.media:
            amount = media.amount(found.media, work)
            prospect.media, prospect.media_bytes = amount.files, amount.bytes
            prospect.bytes += amount.bytes

    # --- taking over --------------------------------------------------------------------

    def take(self, prospect: Prospect, progress: Progress) -> Taken:
        """Puts a user who waits into place. Raises MigrationError or AccountError."""
        outcome = media.Outcome()
        found = prospect.found
        if prospect.state == "new" and (found.collection or found.media):
            outcome = self._place(prospect, progress)
        logins = self._make_account(prospect)
        can_log_in = self._account(prospect.name) in _CLAIMED
        if can_log_in:
            self._mark_account(self._base / prospect.name)
        self._staging.drop(prospect.name)
        return Taken(outcome, can_log_in, logins)

    def _place(self, prospect: Prospect, progress: Progress) -> media.Outcome:
        user, work = self._staging.make(prospect.name)
        found, outcome, begun = prospect.found, media.Outcome(), time.time_ns()
        if found.collection:
            collection.make_ready(found.collection, user / COLLECTION, work, lambda _: None)
        if found.media:
            progress.begin(f"{prospect.name}: media", prospect.media_bytes)
            outcome = media.make_ready(found.media, user, work, progress.advance)
        self._write_down(prospect, user, outcome, begun // 1_000_000)
        give_all_to_owner(user, self._base)
        copying.flush_all(user)
        try:
            user.rename(self._base / prospect.name)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            raise MigrationError("meanwhile there is a user of that name here") from None
        flush(self._base)
        return outcome

    def _write_down(
        self, prospect: Prospect, user: Path, outcome: media.Outcome, begun_ms: int
    ) -> None:
        """What the user's folder is to know of where it came from."""
        now = time.time_ns() // 1_000_000
        folder = copying.printable(self._source.folder)
        mark = Mark(self._source.kind, folder, prospect.found.name, now // 1000, outcome.left_out)
        (user / _MARK).write_bytes(msgspec.json.encode(mark))
        row = Row(
            time=now,
            kind=Kind.IMPORT,
            cards=numbers(prospect.cards),
            notes=numbers(prospect.notes),
            reviews=numbers(prospect.reviews),
            media=numbers(outcome.files),
            took=now - begun_ms,
            note=f"taken over from {self._source.kind} in {folder}",
        )
        place = UserFolder(user)
        place.history.unlink(missing_ok=True)
        History().add(place, row)

    def _make_account(self, prospect: Prospect) -> int:
        """How many devices stay logged in."""
        secret = prospect.secret
        if secret is None or self.accounts is None or self._account(prospect.name):
            return 0
        stored = _STORED[secret.kind](secret.text)
        keys = prospect.found.keys
        self.accounts.take_over(prospect.name, stored, keys, client=self._source.kind)
        return len(keys)

    def _mark_account(self, folder: Path) -> None:
        mark = _read_mark(folder)
        if mark is None or mark.account:
            return
        path = folder / _MARK
        aside = path.with_name(path.name + ".new")
        aside.write_bytes(msgspec.json.encode(msgspec.structs.replace(mark, account=True)))
        give_to_owner(aside, folder)
        flush(aside)
        aside.rename(path)
        flush(path.parent)

    def _account(self, name: str) -> str:
        """Where the account of that name comes from, if somebody claims it."""
        for user in self.accounts.users() if self.accounts else ():
            if user.name == name and user.source in _CLAIMED:
                return user.source
        return ""

    def _twin(self, name: str) -> str:
        """Who is here, and cannot be told from that name by some file systems."""
        here = [user.name for user in self.accounts.users()] if self.accounts else []
        if self._base.is_dir():
            here += [path.name for path in self._base.iterdir() if path.is_dir()]
        same = [each for each in here if folded(each) == folded(name)]
        return next((each for each in same if _nfc(each) != name), "")


def _read_mark(folder: Path) -> Mark | None:
    try:
        return msgspec.json.decode((folder / _MARK).read_bytes(), type=Mark)
    except (OSError, msgspec.MsgspecError):
        return None


def _bytes_of(path: Path) -> int:
    return sum(size for _, _, size, _ in copying.stamp(path))


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.0f} MB"
