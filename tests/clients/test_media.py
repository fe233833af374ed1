# SPDX-License-Identifier: AGPL-3.0-or-later
"""Media travel both ways between all releases on one account."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardkeep.media.check import check_media
from cardkeep.media.store import MediaStore
from tests.clients.device import ClientError, Device
from tests.clients.proxy import Proxy
from tests.clients.story import FAMILY, PAIR, Account


def sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def settle(*devices: Device) -> None:
    for _ in range(2):
        for device in devices:
            device.sync_media()


def test_files_of_each_device_are_on_all(account: Account) -> None:
    """Names in any script, small and large files, from each release to each other."""
    family = [account.device(release) for release in FAMILY]
    names = ["a.txt", "ü é.png", "日本語.mp3", "x'y&z.jpg", "UPPER.TXT", "no-extension", "ﬁ.svg"]
    expected = {}
    for number, (device, name) in enumerate(zip(family, names, strict=True)):
        data = f"of {device}".encode() * (1 + number * 20000)
        expected[device.add_media(name, data)] = sha1(data)
        device.sync_media()
    settle(*family)
    for device in family:
        assert device.media() == expected, device


def test_deleted_and_replaced_files_follow(account: Account) -> None:
    """A file deleted on one device goes from all; one replaced has its new bytes on all."""
    family = [account.device(release) for release in FAMILY]
    family[0].add_media("goes.txt", b"goes")
    family[0].add_media("changes.txt", b"before")
    settle(*family)
    for number, device in enumerate(family):
        device.delete_media(*{"goes.txt", f"of {number - 1}.txt"} & set(device.media()))
        device.add_media(f"of {number}.txt", b"x")
        device.replace_media("changes.txt", f"changed by {number}".encode())
        device.sync_media()
        for other in family:
            other.sync_media()
    last = len(family) - 1
    for device in family:
        assert device.media() == {
            "changes.txt": sha1(f"changed by {last}".encode()),
            f"of {last}.txt": sha1(b"x"),
        }, device


@pytest.mark.parametrize("release", ["26.9.3", "2.1.60", "2.1.54", "2.1.39"])
def test_more_files_than_one_request_carries(account: Account, release: str) -> None:
    """120 files in several uploads, fetched in several downloads, and deleted again."""
    sender = account.device(release)
    receiver = account.device("2.1.54" if release == "26.9.3" else "26.9.3")
    expected = {}
    for n in range(120):
        data = bytes([n]) * (60_000 if n % 4 == 0 else 50)
        expected[sender.add_media(f"{n}.bin", data)] = sha1(data)
    sender.sync_media()
    receiver.sync_media()
    assert receiver.media() == expected
    receiver.delete_media(*[f"{n}.bin" for n in range(100)])
    settle(receiver, sender)
    assert sender.media() == {f"{n}.bin": expected[f"{n}.bin"] for n in range(100, 120)}


@pytest.mark.parametrize("release", PAIR)
def test_the_same_name_with_other_bytes_on_two_devices(account: Account, release: str) -> None:
    """Both end with the bytes that reached the server first."""
    one, two = account.device(release), account.device("24.11")
    one.add_media("same.txt", b"one")
    two.add_media("same.txt", b"two")
    one.sync_media()
    settle(two, one)
    assert one.media() == two.media() == {"same.txt": sha1(b"one")}


def test_media_follow_a_collection_sync(account: Account) -> None:
    """New clients take the media usn from the collection's `meta` and skip `begin`."""
    devices = account.in_sync(*FAMILY[:4])
    for number, device in enumerate(devices):
        device.add_media(f"{number}.txt", str(number).encode())
        device.add_note(f"{number}", "")
        device.sync(media=True)
    for device in devices:
        device.sync(media=True)
        assert set(device.media()) == {"0.txt", "1.txt", "2.txt", "3.txt"}


@pytest.mark.parametrize(
    "method", ["mediaChanges", "uploadChanges", "downloadFiles", "mediaSanity"]
)
@pytest.mark.parametrize("release", PAIR)
def test_a_media_sync_cut_off_goes_on_later(
    account: Account, proxy: Proxy, release: str, method: str
) -> None:
    """Whatever answer or request is lost, a later media sync brings all files everywhere."""
    device, other = account.device(release), account.device("24.11")
    for n in range(40):
        other.add_media(f"other {n}", b"o" * 5000)
    other.sync_media()
    device.through(proxy.url)
    for n in range(60):
        device.add_media(f"own {n}", bytes([n]) * 3000)
    for number, break_it in enumerate((proxy.lose_answer, proxy.cut_request, proxy.lose_request)):
        device.add_media(f"again {number}", b"a")
        broken = break_it(method)
        with pytest.raises(ClientError):
            device.sync_media()
        assert broken.happened.is_set()
        proxy.well_again()
    settle(device, other)
    assert len(device.media()) == 103
    assert device.media() == other.media()


def test_a_file_lost_by_one_client_is_fetched_by_the_next(account: Account) -> None:
    """A wiped device that logs in again has all files after one sync."""
    first = account.device("25.9.2")
    for n in range(30):
        first.add_media(f"{n}.txt", b"%d" % n)
    first.sync_media()
    for release in ("26.9.3", "2.1.39"):
        assert len(account.device(release).sync_media().media()) == 30


# --- what was deleted comes back --------------------------------------------------------


@contextlib.contextmanager
def media_of(account: Account) -> Iterator[MediaStore]:
    """What a command of the operator has, beside the running server."""
    store = MediaStore(account.server.base)
    yield store
    store.close()


def folder_of(account: Account) -> Path:
    return account.server.folder(account.user) / "media"


@pytest.mark.parametrize("release", ["26.9.3", "2.1.60", "2.1.54", "2.1.39"])
def test_what_one_device_spoilt_comes_back_on_all(account: Account, release: str) -> None:
    """Deleted files are there again, replaced ones have their old bytes; new ones stay."""
    one, two = account.device(release), account.device("24.11")
    for n in range(40):
        one.add_media(f"{n}.txt", b"old %d" % n)
    settle(one, two)
    before = one.media()
    with media_of(account) as store:
        kept = list(store.listing(account.user))
        one.delete_media(*[f"{n}.txt" for n in range(35)])
        one.add_media("new.txt", b"new")
        one.replace_media("36.txt", b"spoilt")
        one.replace_media("37.txt", b"spoilt too")
        settle(one, two)
        assert set(two.media()) == {*[f"{n}.txt" for n in range(35, 40)], "new.txt"}
        assert store.bring_back(account.user, kept) == (37, 3, [], [])
        settle(two, one)
        assert two.media() == one.media() == before | {"new.txt": sha1(b"new")}
        assert account.device("25.9.2").sync_media().media() == one.media()
        assert list(check_media(store, account.user)) == []


def test_a_change_of_a_device_made_meanwhile_counts_after_it(account: Account) -> None:
    """A device replaced a file and has not synced yet when the files come back: the protocol
    lets the server win; what the device had is deleted there, as with two devices.
    """
    one, two = account.device("26.9.3"), account.device("2.1.54")
    one.add_media("a.txt", b"first")
    settle(one, two)
    with media_of(account) as store:
        kept = list(store.listing(account.user))
        one.replace_media("a.txt", b"second")
        settle(one, two)
        two.add_media("b.txt", b"of two")
        two.replace_media("a.txt", b"third")
        store.bring_back(account.user, kept)
        settle(two, one)
    assert one.media() == two.media()
    assert one.media() == {"a.txt": sha1(b"first"), "b.txt": sha1(b"of two")}


def sync_until_well(*devices: Device) -> int:
    """As users do: again when it failed. How often it failed."""
    failures = 0
    for _ in range(4):
        for device in devices:
            try:
                device.sync_media()
            except ClientError:
                failures += 1
    settle(*devices)
    return failures


@pytest.mark.parametrize("release", PAIR)
def test_a_device_sends_again_what_the_server_has_lost(account: Account, release: str) -> None:
    """As the check says of a file that is missing, and of one with wrong bytes moved away."""
    one, two = account.device(release), account.device("24.11")
    for name in ("lost.txt", "rotten.txt", "well.txt"):
        one.add_media(name, name.encode())
    one.sync_media()
    expected = one.media()
    (folder_of(account) / "lost.txt").unlink()
    (folder_of(account) / "rotten.txt").write_bytes(b"ROTTEN.TXT")
    with media_of(account) as store:
        found = [finding.kind for finding in check_media(store, account.user, repair=True)]
        assert found == ["media-missing", "media-changed"]
        (folder_of(account) / "rotten.txt").unlink()
        one.add_media("another.txt", b"x")
        assert sync_until_well(two, one) > 0
        assert one.media() == two.media() == expected | {"another.txt": sha1(b"x")}
        assert list(check_media(store, account.user)) == []


@pytest.mark.parametrize("release", PAIR)
def test_files_that_an_operator_put_there_reach_the_devices(account: Account, release: str) -> None:
    """After a repair, and with no device noticing anything unusual."""
    one, two = account.device(release), account.device("25.9.2")
    one.add_media("a.txt", b"a")
    one.add_media("b.txt", b"b")
    settle(one, two)
    (folder_of(account) / "put there.txt").write_bytes(b"by hand")
    (folder_of(account) / "b.txt").unlink()
    one.delete_media("a.txt")
    one.add_media("c.txt", b"b")
    one.sync_media()
    with media_of(account) as store:
        repaired = [finding.repaired for finding in check_media(store, account.user, repair=True)]
    assert repaired == [True, True]
    settle(one, two)
    expected = {"b.txt": sha1(b"b"), "c.txt": sha1(b"b"), "put there.txt": sha1(b"by hand")}
    assert one.media() == two.media() == expected
