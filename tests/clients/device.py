# SPDX-License-Identifier: AGPL-3.0-or-later
"""A device of a test's story: ``phone.add_note("front", "back")``, ``phone.sync()``.

Each device is one driver process (`driver.py`) that runs a real Anki engine in the environment
of its release, with a collection of its own. Processes are kept and lent again, since starting
one costs more than most tests.
"""

import atexit
import base64
import contextlib
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from tests.clients.environments import NEWEST, interpreter
from tests.servers import PASSWORD, Server

DRIVER = Path(__file__).with_name("driver.py")
ANSWER_SECONDS = 90.0

Json = dict[str, Any]


class ClientError(Exception):
    """What the engine raised; `type` and `kind` are the engine's own names."""

    def __init__(self, error: Json) -> None:
        super().__init__(f"{error['type']}: {error['text']}")
        self.type: str = error["type"]
        self.kind: str = error["kind"]
        self.text: str = error["text"]
        self.add_note(error["trace"])


class Gone(Exception):
    """The driver process has ended (a test killed it)."""


class FullSyncRequired(Exception):
    """The client says that it cannot merge; `action` is full, upload or download."""

    def __init__(self, action: str, message: str) -> None:
        super().__init__(f"{action} {message}".strip())
        self.action = action


class Answer:
    """The outcome of a verb that is still running."""

    def __init__(self, driver: "Driver") -> None:
        self._driver = driver
        self._value: Json | None = None

    def result(self, timeout: float = ANSWER_SECONDS) -> Any:
        """Waits; raises `ClientError` as the engine raised it, `Gone` if it was killed."""
        if self._value is None:
            self._value = self._driver.next_answer(timeout)
        if "error" in self._value:
            raise ClientError(self._value["error"])
        return self._value["ok"]


class Driver:
    """One process with one engine."""

    def __init__(self, release: str) -> None:
        self.release = release
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [interpreter(release), "-W", "ignore", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            encoding="utf-8",
            env={**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "PYTHONPATH": ""},
        )
        self._killed = False
        self.unanswered = 0
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def begin(self, verb: str, *args: Any, **kwargs: Any) -> Answer:
        """Starts a verb without waiting for its end."""
        assert self._process.stdin is not None
        request = {"verb": verb, "args": args, "kwargs": kwargs}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Gone(self.release) from None
        self.unanswered += 1
        return Answer(self)

    def next_answer(self, timeout: float) -> Json:
        """The next line; answers come in the order of the requests."""
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(
                f"no answer from {self.release} in {timeout} s\n{self._tail()}"
            ) from None
        if not line:
            raise Gone(f"{self.release}\n{self._tail()}")
        self.unanswered -= 1
        answer: Json = json.loads(line)
        return answer

    def _tail(self) -> str:
        self.log.seek(0)
        return self.log.read()[-2000:].decode(errors="replace")

    def do(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return self.begin(verb, *args, **kwargs).result()

    def kill(self) -> None:
        self._killed = True
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.log.close()

    @property
    def alive(self) -> bool:
        # While another thread waits for its end, `poll` says that it has not ended.
        return not self._killed and self._process.poll() is None


_idle: dict[str, list[Driver]] = defaultdict(list)
_all: list[Driver] = []
_KEPT = 3


def borrow(release: str) -> Driver:
    """A driver of this release, idle or new."""
    while _idle[release]:
        driver = _idle[release].pop()
        if driver.alive:
            return driver
    driver = Driver(release)
    _all.append(driver)
    return driver


def give_back(driver: Driver) -> None:
    """Keeps a few of each release for the next test."""
    if driver.alive and len(_idle[driver.release]) < _KEPT:
        _idle[driver.release].append(driver)
    else:
        driver.end()
        _all.remove(driver)


@atexit.register
def _end_all() -> None:
    for driver in _all:
        driver.end()


def dump(collection: Path) -> Json:
    """A collection file (which is changed by it) in the canonical form of `Device.contents`."""
    judge = borrow(NEWEST)
    try:
        content: Json = judge.do("dump", str(collection))
    finally:
        give_back(judge)
    return content


class Device:
    """One client program with its own collection, logged in to one account.

    `collection` is a file to begin with instead of an empty collection.
    """

    def __init__(
        self, release: str, folder: Path, name: str = "", collection: Path | None = None
    ) -> None:
        self.release = release
        self.folder = folder
        self.name = name or f"device {release}"
        self.server: Server | None = None
        self.user = ""
        self.key = ""
        folder.mkdir(parents=True)
        if collection:
            shutil.copy(collection, self.path)
        self._driver = borrow(release)
        self._driver.do("open", str(self.path))

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def path(self) -> Path:
        return self.folder / "collection.anki2"

    @property
    def protocol(self) -> int:
        """The protocol version of this release."""
        return 11 if version(self.release) >= (2, 1, 57) else 10

    # --- process -----------------------------------------------------------------------

    def close(self) -> None:
        """Ends the client; its process is lent to others afterwards."""
        if self._driver.unanswered:
            # A failed test did not wait for it; nobody else is to get its answer.
            self._driver.kill()
        if self._driver.alive:
            try:
                self._driver.do("close")
            except (ClientError, Gone, TimeoutError):
                self._driver.kill()
        give_back(self._driver)

    def kill(self) -> None:
        """SIGKILL in the middle of whatever it is doing."""
        self._driver.kill()

    def restart(self) -> None:
        """Starts again after `kill`, on the same collection, still logged in."""
        give_back(self._driver)
        self._driver = borrow(self.release)
        self._driver.do("open", str(self.path))
        if self.server is not None:
            self.use_key(self.server, self.user, self.key)

    def reopen(self) -> None:
        """Ends and starts the program in good order."""
        self._do("reopen")

    def begin(self, verb: str, *args: Any, **kwargs: Any) -> Answer:
        """Any verb of `driver.Client`, without waiting for its end."""
        return self._driver.begin(verb, *args, **kwargs)

    def _do(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return self._driver.do(verb, *args, **kwargs)

    # --- account and syncing -----------------------------------------------------------

    def log_in(self, server: Server, user: str, password: str = PASSWORD) -> str:
        """Logs in; the host key that the server gave."""
        self.server, self.user = server, user
        self.key = self._do("login", user, password, server.url)
        return self.key

    def use_key(self, server: Server, user: str, key: str) -> None:
        """Goes on with a host key that it already had."""
        self.server, self.user, self.key = server, user, key
        self._do("use_key", key, server.url)

    def through(self, url: str) -> None:
        """Sends later requests to this base URL (a proxy's, or another server's)."""
        self._do("point", url)

    def directly(self) -> None:
        """Sends later requests to the server itself."""
        assert self.server is not None
        self._do("point", self.server.url)

    def sync(self, *, media: bool = False) -> Self:
        """A normal sync of the collection; raises if the client asks for a full one."""
        _expect_normal(self._do("sync", media=media))
        return self

    def begin_sync(self, *, media: bool = False) -> "RunningSync":
        """Starts a normal sync and returns at once."""
        return RunningSync(self.begin("sync", media=media))

    def sync_outcome(self) -> Json:
        """Syncs; `action` as in `asks_for`, `message` is what the user is shown."""
        outcome: Json = self._do("sync")
        return outcome

    def asks_for(self) -> str:
        """Syncs and says what the client then asks for: none, full, upload or download."""
        action: str = self._do("sync")["action"]
        return action

    def upload(self) -> Self:
        """Replaces the server's collection."""
        self._do("upload")
        return self

    def download(self) -> Self:
        """Replaces its own collection by the server's."""
        self._do("download")
        return self

    def sync_media(self) -> Self:
        self._do("sync_media")
        return self

    def sync_status(self) -> int:
        """The background check: what a sync would do, from `meta` alone."""
        status: int = self._do("sync_status")
        return status

    # --- looking -----------------------------------------------------------------------

    def contents(self, *, as_it_lies: bool = False) -> Json:
        """Everything in the collection, comparable across releases and devices.

        The device's own engine writes a schema-11 copy, the newest engine reads it; or it
        reads the file as it lies on disk.
        """
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.anki2"
            self._do("copy" if as_it_lies else "export", str(copy))
            return dump(copy)

    def damage(self) -> list[str]:
        """What this release's database check finds; the collection stays as it is."""
        found: list[str] = self._do("damage")
        return found

    def header(self) -> Json:
        header: Json = self._do("header")
        return header

    def sql(self, statement: str, *values: Any) -> list[list[Any]]:
        rows: list[list[Any]] = self._do("sql", statement, *values)
        return rows

    def copy(self, path: Path) -> Path:
        """A copy of the collection file as it lies on disk."""
        self._do("copy", str(path))
        return path

    def notes(self) -> list[int]:
        notes: list[int] = self._do("notes")
        return notes

    def note(self, note: int) -> Json:
        found: Json = self._do("note", note)
        return found

    def cards(self) -> list[int]:
        cards: list[int] = self._do("cards")
        return cards

    def cards_of(self, note: int) -> list[int]:
        cards: list[int] = self._do("cards_of", note)
        return cards

    def card(self, card: int) -> Json:
        found: Json = self._do("card", card)
        return found

    def decks(self) -> dict[str, int]:
        """Ids by name."""
        decks: dict[str, int] = self._do("decks")
        return decks

    def deck(self, name: str) -> Json:
        found: Json = self._do("deck", name)
        return found

    def notetypes(self) -> dict[str, int]:
        """Ids by name."""
        found: dict[str, int] = self._do("notetypes")
        return found

    def tags(self) -> list[str]:
        tags: list[str] = self._do("tags")
        return tags

    def get_config(self, key: str) -> Any:
        return self._do("get_config", key)

    # --- doing -------------------------------------------------------------------------

    def add_note(
        self,
        *fields: str,
        notetype: str = "Basic",
        deck: str = "Default",
        tags: Sequence[str] = (),
    ) -> int:
        """Its id."""
        note: int = self._do("add_note", fields, notetype=notetype, deck=deck, tags=tags)
        return note

    def edit_note(self, note: int, *fields: str, tags: Sequence[str] | None = None) -> Json:
        """Replaces the first fields, and the tags if given."""
        changed: Json = self._do("edit_note", note, fields=fields or None, tags=tags)
        return changed

    def delete_notes(self, *notes: int) -> None:
        self._do("delete_notes", notes)

    def delete_cards(self, *cards: int) -> None:
        self._do("delete_cards", cards)

    def answer(self, card: int, ease: int = 3) -> Json:
        """A review (1 again to 4 easy); the card afterwards."""
        answered: Json = self._do("answer", card, ease)
        return answered

    def flag(self, *cards: int, flag: int) -> None:
        self._do("flag", cards, flag)

    def suspend(self, *cards: int) -> None:
        self._do("suspend", cards)

    def unsuspend(self, *cards: int) -> None:
        self._do("unsuspend", cards)

    def bury(self, *cards: int) -> None:
        self._do("bury", cards)

    def move(self, *cards: int, deck: str) -> None:
        self._do("move", cards, deck)

    def make_due(self, *cards: int, days: int = 0) -> None:
        self._do("make_due", cards, days)

    def set_custom_data(self, card: int, text: str) -> None:
        self._do("set_custom_data", card, text)

    def add_deck(self, name: str) -> int:
        deck: int = self._do("add_deck", name)
        return deck

    def edit_deck(self, deck: int, **changes: Any) -> Json:
        changed: Json = self._do("edit_deck", deck, changes)
        return changed

    def rename_deck(self, deck: int, name: str) -> None:
        self._do("rename_deck", deck, name)

    def delete_deck(self, deck: int) -> None:
        self._do("delete_deck", deck)

    def add_filtered(self, name: str, search: str, **terms: Any) -> int:
        deck: int = self._do("add_filtered", name, search, **terms)
        return deck

    def rebuild_filtered(self, deck: int) -> None:
        self._do("rebuild_filtered", deck)

    def empty_filtered(self, deck: int) -> None:
        self._do("empty_filtered", deck)

    def add_options(self, name: str, **changes: Any) -> int:
        options: int = self._do("add_options", name, changes)
        return options

    def edit_options(self, options: int, **changes: Any) -> Json:
        changed: Json = self._do("edit_options", options, changes)
        return changed

    def add_notetype(
        self,
        name: str,
        fields: Sequence[str] = ("Front", "Back"),
        templates: Sequence[tuple[str, str, str]] = (("Card 1", "{{Front}}", "{{Back}}"),),
        **kwargs: Any,
    ) -> int:
        notetype: int = self._do("add_notetype", name, fields, templates, **kwargs)
        return notetype

    def edit_notetype(self, notetype: int, **changes: Any) -> Json:
        changed: Json = self._do("edit_notetype", notetype, changes)
        return changed

    def add_field(self, notetype: int, name: str) -> None:
        self._do("add_field", notetype, name)

    def delete_notetype(self, notetype: int) -> None:
        self._do("delete_notetype", notetype)

    def tag(self, *notes: int, tags: str) -> None:
        self._do("tag", notes, tags)

    def untag(self, *notes: int, tags: str) -> None:
        self._do("untag", notes, tags)

    def rename_tag(self, old: str, new: str) -> None:
        self._do("rename_tag", old, new)

    def set_config(self, key: str, value: Any) -> None:
        self._do("set_config", key, value)

    def add_image_occlusion(self, image: Path, occlusions: str, header: str = "") -> int:
        note: int = self._do("add_image_occlusion", str(image), occlusions, header)
        return note

    def add_media(self, name: str, data: bytes) -> str:
        """The name that it got."""
        given: str = self._do("add_media", name, base64.b64encode(data).decode())
        return given

    def replace_media(self, name: str, data: bytes) -> None:
        self._do("replace_media", name, base64.b64encode(data).decode())

    def delete_media(self, *names: str) -> None:
        self._do("delete_media", names)

    def media(self) -> dict[str, str]:
        """SHA-1 of each file by name."""
        media: dict[str, str] = self._do("media")
        return media

    def export_package(self, path: Path, *, media: bool = True, legacy: bool = False) -> Path:
        """Its collection as a .colpkg."""
        self._do("export_package", str(path), media=media, legacy=legacy)
        return path

    def import_package(self, path: Path) -> Self:
        """Replaces its collection by that of a .colpkg."""
        self._do("import_package", str(path))
        return self


class RunningSync:
    """A normal sync that has been started."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def result(self, timeout: float = ANSWER_SECONDS) -> None:
        """Waits for its end; raises as `Device.sync`."""
        _expect_normal(self._answer.result(timeout))


def _expect_normal(outcome: Json) -> None:
    if outcome["action"] != "none":
        raise FullSyncRequired(outcome["action"], outcome["message"])


def version(release: str) -> tuple[int, ...]:
    """``"2.1.54"`` as a tuple that compares."""
    return tuple(map(int, release.split(".")))


def in_same_second(*deeds: Callable[[], Any], tries: int = 20) -> list[Any]:
    """Does all within one second of the clock, again from the start if it took longer."""
    for _ in range(tries):
        if time.time() % 1 > 0.3:
            time.sleep(1.001 - time.time() % 1)
        before = int(time.time())
        done = [deed() for deed in deeds]
        if int(time.time()) == before:
            return done
    raise TimeoutError("the machine is too slow to do it within a second")
