# SPDX-License-Identifier: AGPL-3.0-or-later
"""What real clients of both protocols do stands in the user's history, truly numbered."""

import os
import random
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cardkeep.backups.history import NONE, History, Kind, Numbers, Row, gathered
from cardkeep.collection.folder import UserFolder
from cardkeep.http.sync_routes import LARGE
from tests.cli.serving import children
from tests.clients.device import ClientError, Device
from tests.clients.proxy import Proxy
from tests.clients.story import PAIR, Account, account_on
from tests.protocol.client import NOTHING, Client, Reply
from tests.protocol.collections import BASIC, COUNTS, FIRST_USN, uploadable
from tests.servers import PASSWORD, Server, running

RANDOM = random.Random(11)
COUNTED = [name for name in Row.__struct_fields__ if isinstance(getattr(Row(0, ""), name), Numbers)]


@pytest.fixture(scope="module")
def workers() -> Iterator[Server]:
    """Two processes that serve the same users."""
    with running("cardkeep", users=12, environment={"CARDKEEP_WORKERS": "2"}) as server:
        yield server


@pytest.fixture
def account(workers: Server, tmp_path: Path) -> Iterator[Account]:
    """An account that no other test uses."""
    with account_on(workers, tmp_path) as account:
        yield account


def rows_of(server: Server, user: str) -> list[Row]:
    """Oldest first, with media in a row as one."""
    now = time.time_ns() // 1_000_000
    return list(gathered(History().rows(UserFolder(server.folder(user)), now)))[::-1]


def rows(account: Account) -> list[Row]:
    return rows_of(account.server, account.user)


def new_rows(account: Account, before: list[Row], *, at_least: int = 1) -> list[Row]:
    """Those since `before`; the row of a download is written just after its last byte."""
    for _ in range(500):
        found = rows(account)[len(before) :]
        if len(found) >= at_least:
            return found
        time.sleep(0.01)
    raise AssertionError("no row came")


def changed(row: Row) -> dict[str, Numbers]:
    """The numbers that are not zero."""
    return {name: getattr(row, name) for name in COUNTED if getattr(row, name) != NONE}


def is_of(row: Row, device: Device) -> bool:
    """Whether the row names this release, and a login."""
    shown = device.release if device.release != "26.9.3" else "26.09.3"
    return shown in row.client and row.device.isdigit() and row.address == "127.0.0.1"


@pytest.mark.parametrize("release", PAIR)
def test_each_thing_that_a_device_does_is_a_row(account: Account, release: str) -> None:
    """Login, upload, syncs both ways, media, and a download, each with its numbers."""
    device = account.device(release)
    (login,) = rows(account)
    assert (login.kind, login.device.isdigit(), login.address) == (Kind.LOGIN, True, "127.0.0.1")

    notes = [device.add_note(f"{n}", "x", tags=["t"]) for n in range(10)]
    device.upload()
    (upload,) = new_rows(account, [login])
    assert upload.kind == Kind.UPLOAD
    assert (upload.device, upload.address) == (login.device, "127.0.0.1")
    assert (upload.notes, upload.cards) == (Numbers(10), Numbers(10))
    assert upload.received > 1000

    before = rows(account)
    assert device.asks_for() == "none"
    device.sync_status()
    assert rows(account) == before  # a look is no row

    device.add_note("new", "note", tags=["u"])
    device.edit_note(notes[0], "edited")
    device.delete_notes(notes[1], notes[2])
    device.answer(device.cards_of(notes[3])[0])
    device.add_deck("A deck")
    device.sync()
    (sync,) = new_rows(account, before)
    assert sync.kind == Kind.SYNC
    assert is_of(sync, device)
    assert sync.notes == Numbers(1, 1, 2)
    assert sync.cards == Numbers(1, 1, 2)
    assert sync.reviews == Numbers(1)
    assert sync.decks.added == 1
    assert sync.tags == Numbers(1)
    assert 0 < sync.took < 60_000
    assert min(sync.received, sync.sent) > 50

    before = rows(account)
    for n in range(40):
        device.add_media(f"{n}.bin", RANDOM.randbytes(3000))
    device.sync_media()
    media = new_rows(account, before)
    assert [(row.kind, changed(row)) for row in media] == [(Kind.MEDIA, {"media": Numbers(40)})]
    assert is_of(media[0], device)
    assert media[0].received > 40 * 3000

    before = rows(account)
    other = account.device(release)
    other.download()
    second_login, download = new_rows(account, before, at_least=2)
    assert (second_login.kind, download.kind) == (Kind.LOGIN, Kind.DOWNLOAD)
    assert download.device == second_login.device != login.device
    assert download.sent > 1000
    assert (changed(download), download.note) == ({}, "")


def test_each_device_has_its_own_rows(account: Account) -> None:
    """Old and new on one account: who changed what, and in which order."""
    new, old = account.in_sync(*PAIR)
    before = rows(account)
    for device in (new, old, new):
        device.add_note(f"of {device}", "")
        device.sync()
    found = new_rows(account, before, at_least=3)
    assert [changed(row)["notes"] for row in found] == [Numbers(1)] * 3
    assert [is_of(row, device) for row, device in zip(found, (new, old, new), strict=True)] == [
        True
    ] * 3
    assert found[0].device == found[2].device != found[1].device
    assert found[0].time <= found[1].time <= found[2].time


@pytest.mark.parametrize("release", PAIR)
def test_an_upload_the_wrong_way_is_seen(account: Account, release: str) -> None:
    """What it held, and what it took the place of."""
    (device,) = account.in_sync(release)
    for n in range(30):
        device.add_note(f"{n}", "")
    device.sync()
    before = rows(account)
    wiped = account.device(release)
    wiped.add_note("the only one", "")
    wiped.upload()
    _, upload = new_rows(account, before, at_least=2)
    assert (upload.kind, upload.notes, upload.cards) == (
        Kind.UPLOAD,
        Numbers(1, 0, 30),
        Numbers(1, 0, 30),
    )


@pytest.mark.parametrize("release", PAIR)
def test_a_sync_whose_end_was_lost_is_a_row(account: Account, release: str) -> None:
    """It was committed: the device sends the same again, which then is no change of notes."""
    (device,) = account.in_sync(release)
    before = rows(account)
    device.add_note("a", "b")
    with Proxy(account.server.port) as proxy:
        device.through(proxy.url)
        proxy.lose_answer("finish")
        with pytest.raises(ClientError):
            device.sync()
    device.directly()
    device.sync()
    first, second = new_rows(account, before, at_least=2)
    assert (first.notes, first.cards) == (Numbers(1), Numbers(1))
    assert (second.notes.added, second.cards.added) == (0, 0)


@pytest.mark.parametrize("release", PAIR)
def test_a_sync_that_came_to_nothing_is_no_row(account: Account, release: str) -> None:
    """The server was told of a note, and did not take it."""
    (device,) = account.in_sync(release)
    before = rows(account)
    device.add_note("a", "b")
    with Proxy(account.server.port) as proxy:
        device.through(proxy.url)
        proxy.lose_answer("applyChunk")
        with pytest.raises(ClientError):
            device.sync()
    assert rows(account) == before


# --- bytes ------------------------------------------------------------------------------


class Counting(Client):
    """Knows how many bytes of bodies it has sent and received."""

    def send(
        self,
        path: str,
        body: bytes | Iterator[bytes] = b"",
        headers: Mapping[str, str] = NOTHING,
        *,
        verb: str = "POST",
    ) -> Reply:
        data = body if isinstance(body, bytes) else b"".join(body)
        given = data if isinstance(body, bytes) else iter([data])
        reply = super().send(path, given, headers, verb=verb)
        method = path.rpartition("/")[2]
        self.asked[method] = self.asked.get(method, 0) + len(data)
        self.answered[method] = self.answered.get(method, 0) + len(reply.body)
        return reply

    def forget(self) -> None:
        self.asked: dict[str, int] = {}
        self.answered: dict[str, int] = {}


# What comes before `sanityCheck2`, which commits.
BEFORE = ("meta", "start", "applyGraves", "applyChanges", "chunk", "applyChunk")


@pytest.mark.parametrize("protocol", [11, 10])
def test_the_bytes_are_those_that_travelled(protocol: int) -> None:
    """To the byte: those of a sync until the request that commits."""
    with running("cardkeep") as server:
        (user,) = server.users
        client = Counting(server.port, protocol)
        client.forget()
        client.login(user, PASSWORD)
        client.upload(uploadable(18 if protocol == 11 else 11))
        upload = rows_of(server, user)[-1]
        assert upload.received == client.asked["upload"]
        client.forget()
        client.sync(COUNTS, FIRST_USN - 1)
        sync = rows_of(server, user)[-1]
        assert sync.received == sum(client.asked.get(method, 0) for method in BEFORE)
        assert sync.sent == sum(client.answered.get(method, 0) for method in BEFORE)
        client.new_session()
        client.forget()
        client.download()
        for _ in range(500):
            download = rows_of(server, user)[-1]
            if download.kind == Kind.DOWNLOAD:
                break
            time.sleep(0.01)
        assert (download.kind, download.sent) == (Kind.DOWNLOAD, client.answered["download"])


class ByTurns(Counting):
    """Has `chunk` answered by one of two worker processes, and all else by the other."""

    workers: Sequence[int] = ()

    def send(self, path: str, *arguments: Any, **more: Any) -> Reply:
        idle, busy = self.workers if path.endswith("/chunk") else self.workers[::-1]
        os.kill(idle, signal.SIGSTOP)
        os.kill(busy, signal.SIGCONT)
        try:
            return super().send(path, *arguments, **more)
        finally:
            os.kill(idle, signal.SIGCONT)


def test_a_large_answer_of_another_worker_is_not_missed(tmp_path: Path) -> None:
    """What a device fetched is counted, whichever process sent it."""
    with running("cardkeep", environment={"CARDKEEP_WORKERS": "2"}) as server:
        (user,) = server.users
        client = ByTurns(server.port)
        client.workers = children(server.pid)
        client.forget()
        client.login(user, PASSWORD)
        client.upload(uploadable())
        texts = [f"{n}\x1f{RANDOM.randbytes(500).hex()}" for n in range(400)]
        notes = [
            [n, f"g{n}", BASIC, 1, 0, "", text, "", "", 0, ""] for n, text in enumerate(texts, 1)
        ]
        cards, there, *others = COUNTS
        counts = [cards, there + len(notes), *others]
        client.sync(counts, FIRST_USN, rows={"notes": notes}, newer=True)
        client.forget()
        client.sync(counts, 0)
        sync = rows_of(server, user)[-1]
        assert client.answered["chunk"] > 2 * LARGE
        assert sync.sent == sum(client.answered.get(method, 0) for method in BEFORE)
        assert sync.received == sum(client.asked.get(method, 0) for method in BEFORE)
