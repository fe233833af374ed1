# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole collections travel up and down, in schema 18 and in schema 11."""

from pathlib import Path

import pytest

from tests.clients.device import ClientError, FullSyncRequired
from tests.clients.proxy import Proxy
from tests.clients.story import FAMILY, PAIR, Account, differences

COLLECTIONS = Path(__file__).parents[1] / "vectors" / "collections"


def rich(release: str) -> Path:
    """A collection with every kind of object, in a schema that this release opens."""
    old = tuple(map(int, release.split("."))) < (2, 1, 50)
    return COLLECTIONS / ("rich-schema11.anki2" if old else "rich-schema18.anki2")


@pytest.mark.parametrize("uploader", FAMILY)
def test_an_upload_is_downloaded_as_it_was(account: Account, uploader: str) -> None:
    """Whichever release uploads, a new, a middle and an old release download the same."""
    first = account.device(uploader, rich(uploader))
    first.upload()
    others = [account.device(release) for release in ("26.9.3", "2.1.60", "2.1.54", "2.1.39")]
    for other in others:
        assert other.asks_for() == "download"
        other.download()
    holds = account.assert_converged()
    assert len(holds["notes"]) == 9
    assert len(holds["notetypes"]) == 7


def test_schema_18_is_given_back_field_by_field(account: Account, tmp_path: Path) -> None:
    """What one new device uploads, the next downloads: every row of every table, byte for byte."""
    first = account.device("26.9.3", rich("26.9.3"))
    first.upload()
    second = account.device("26.9.3").download()
    tables = [
        name
        for (name,) in first.sql("select name from sqlite_master where type = 'table'")
        if not name.startswith(("sqlite_", "col"))
    ]
    assert len(tables) >= 11
    for table in tables:
        columns = [column[1] for column in first.sql(f"pragma table_info({table})")]
        picked = ", ".join(f"quote({column})" for column in columns)
        statement = f"select {picked} from {table} order by 1, 2, 3"
        assert second.sql(statement) == first.sql(statement), table


@pytest.mark.parametrize("release", PAIR)
def test_a_new_account_asks_for_nothing(account: Account, release: str) -> None:
    """A brand-new client and a brand-new account agree that there is nothing to do."""
    assert account.device(release).asks_for() == "none"


@pytest.mark.parametrize("release", PAIR)
def test_the_side_with_cards_is_taken(account: Account, release: str) -> None:
    """An empty account is uploaded to, an empty client downloads, without asking the user."""
    first = account.device(release)
    first.add_note("a", "b")
    assert first.asks_for() == "upload"
    first.upload()
    assert first.asks_for() == "none"
    assert account.device(release).asks_for() == "download"


@pytest.mark.parametrize("release", ["26.9.3", "2.1.60", "2.1.54", "2.1.39"])
def test_a_changed_layout_is_a_full_sync_for_all_and_then_over(
    account: Account, release: str
) -> None:
    """After one device added a field, all are asked; once they have downloaded, all merge again."""
    changer, other, old = devices = account.in_sync(release, "24.11", "2.1.54")
    changer.add_note("front", "back")
    account.settle()
    changer.add_field(changer.notetypes()["Basic"], "Third")
    assert changer.asks_for() == "full"
    changer.upload()
    for device in (other, old):
        with pytest.raises(FullSyncRequired, match="full"):
            device.sync()
        device.download()
    for device in devices:
        device.add_note("1", "2", f"third on {device}")
        device.sync()
    holds = account.assert_converged()
    assert {row["flds"].count("\x1f") for row in holds["notes"].values()} == {2}


@pytest.mark.parametrize("release", PAIR)
def test_an_upload_cut_off_changes_nothing(account: Account, proxy: Proxy, release: str) -> None:
    """The server keeps what it had; the next upload replaces it."""
    (device,) = account.in_sync(release)
    before = account.contents()
    for n in range(50):
        device.add_note(f"{n}", "x" * 500)
    device.through(proxy.url)
    for share in (0.0, 0.3, 0.99):
        proxy.cut_request("upload", share=share)
        with pytest.raises(ClientError):
            device.upload()
        assert differences(account.contents(), before) == []
    device.upload()
    assert len(account.contents()["notes"]) == 50


@pytest.mark.parametrize("release", PAIR)
def test_a_lost_answer_to_an_upload_loses_nothing(
    account: Account, proxy: Proxy, release: str
) -> None:
    """The collection has arrived; the client may upload again, or others download it."""
    (device,) = account.in_sync(release)
    note = device.add_note("a", "b")
    device.through(proxy.url)
    proxy.lose_answer("upload")
    with pytest.raises(ClientError):
        device.upload()
    other = account.device("23.12").download()
    assert other.notes() == [note]
    assert device.asks_for() in ("full", "upload", "none")
    device.upload()
    assert device.asks_for() == "none"


@pytest.mark.parametrize("release", PAIR)
def test_a_download_cut_off_changes_nothing_on_the_device(
    account: Account, proxy: Proxy, release: str
) -> None:
    """The device keeps its collection and can download afterwards."""
    first, *_ = account.in_sync("26.9.3")
    note = first.add_note("a", "b")
    first.sync()
    device = account.device(release)
    own = device.add_note("own", "note")
    device.through(proxy.url)
    proxy.lose_answer("download")
    with pytest.raises(ClientError):
        device.download()
    assert device.notes() == [own]
    device.download()
    assert device.notes() == [note]
    account.assert_converged()


def test_each_device_goes_on_after_another_downloaded(account: Account) -> None:
    """A download counts up the usn; the devices that synced before still merge normally."""
    first, second = account.in_sync(*PAIR)
    first.add_note("1", "")
    for release in FAMILY[1:4]:
        account.device(release).download()
        second.add_note(f"after {release}", "")
        second.sync()
        first.sync()
    account.assert_converged()


def test_a_wrong_password_is_an_authentication_error(account: Account) -> None:
    """Old and new clients understand the refusal as such, and the right password works after."""
    for release in PAIR:
        device = account.device(release)
        with pytest.raises(ClientError) as refused:
            device.log_in(account.server, account.user, "wrong")
        assert (
            "AUTH" in refused.value.kind
            or "auth" in str(refused.value).lower()
            or (refused.value.kind == "1")
        )
        device.log_in(account.server, account.user)
        assert device.asks_for() == "none"


def test_two_users_never_see_each_other(account: Account, tmp_path: Path) -> None:
    """What one user syncs is not in the other's collection."""
    from tests.clients.story import account_on

    with account_on(account.server, tmp_path / "other") as other:
        (mine,), (theirs,) = account.in_sync("26.9.3"), other.in_sync("2.1.54")
        note = mine.add_note("mine", "")
        mine.add_media("mine.txt", b"mine")
        mine.sync(media=True)
        theirs.sync(media=True)
        assert theirs.notes() == []
        assert theirs.media() == {}
        assert mine.notes() == [note]
