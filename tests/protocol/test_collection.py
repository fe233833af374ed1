# SPDX-License-Identifier: AGPL-3.0-or-later
"""The methods of a collection sync, their order and their ends: sync-protocol.md, 4, 7 and 8."""

import time
from collections.abc import Callable

import pytest

from tests.protocol.client import Client
from tests.protocol.collections import (
    BASIC,
    CARDS,
    COUNTS,
    DECK,
    FIRST_USN,
    NOTES,
    opened,
    read,
    uploadable,
)
from tests.servers import PASSWORD, Server

SERVERS = ("cardkeep", "official")

NO_ROWS = [[0, 0, 0], 0, 0, 0, 0, 0, 0, 0]


def counts(cards: int, notes: int, reviews: int, kinds: int, decks: int, presets: int) -> list:  # type: ignore[type-arg]
    return [[0, 0, 0], cards, notes, reviews, 0, kinds, decks, presets]


def note(identity: int, usn: int, *, mod: int = 0, fields: str = "front\x1fback") -> list:  # type: ignore[type-arg]
    row = [identity, f"guid{identity}", BASIC, mod or int(time.time()), usn, "", fields]
    return [*row, "", "", 0, ""]


def card(identity: int, note_id: int, usn: int, *, mod: int = 0, did: int = DECK) -> list:  # type: ignore[type-arg]
    row = [identity, note_id, did, 0, mod or int(time.time()), usn]
    return [*row, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, ""]


# --- meta -------------------------------------------------------------------------------


def test_meta_of_a_new_account(client: Client) -> None:
    """`mod` is 0, `scm` the time of its creation, which stays; the clock is ours."""
    first = client.meta()
    assert first == {
        "mod": 0,
        "scm": first["scm"],
        "usn": 0,
        "ts": first["ts"],
        "msg": "",
        "cont": True,
        "hostNum": 0,
        "empty": True,
        "media_usn": 0,
    }
    assert abs(first["ts"] - time.time()) < 60
    assert abs(first["scm"] / 1000 - time.time()) < 600
    assert client.meta()["scm"] == first["scm"]


def test_meta_of_a_stocked_account(stocked: Client) -> None:
    """The numbers are those of the uploaded file."""
    answer = stocked.meta()
    assert (answer["usn"], answer["empty"]) == (FIRST_USN, False)
    assert answer["mod"] == answer["scm"] == 1795425543020


@pytest.mark.parametrize("version", [8, 9, 10, 11])
def test_versions_that_are_spoken(client: Client, version: int) -> None:
    """8 to 11; version 8 does not know the scheduler that a new account has."""
    answer = client.meta(version=version)
    assert answer["cont"] is (version > 8)
    assert bool(answer["msg"]) is (version == 8)


@pytest.mark.parametrize("version", [0, 7, 12, 99])
def test_versions_that_are_not_spoken(client: Client, version: int) -> None:
    """501: the client says that it is too old."""
    client.meta(check=501, version=version)


def test_a_time_zone_that_old_clients_do_not_know(device: Callable[..., Client]) -> None:
    """Version 9 is told in words when the collection counts days in the new way."""
    client = device(11)
    client.upload(uploadable())
    conf = {"schedVer": 2, "creationOffset": -60}
    client.sync(COUNTS, FIRST_USN, changes={"conf": conf, "crt": 1795406400}, newer=True)
    for version, proceeds in ((9, False), (10, True), (11, True)):
        answer = client.meta(version=version)
        assert answer["cont"] is proceeds
        assert bool(answer["msg"]) is not proceeds


@pytest.mark.official_fails("`meta` ends the running sync")
def test_meta_leaves_a_running_sync_alone(stocked: Client, device: Callable[..., Client]) -> None:
    """Another device looks at each step; the sync goes through."""
    looker = device(11)
    usn = stocked.meta()["usn"]
    steps: list[Callable[[], object]] = [
        lambda: stocked.start(usn),
        stocked.apply_changes,
        stocked.all_chunks,
        stocked.apply_chunk,
        lambda: stocked.sanity(counts(*COUNTS)),
        stocked.finish,
    ]
    for step in steps:
        step()
        looker.new_session()
        looker.meta()


# --- a session --------------------------------------------------------------------------


def test_a_sync_with_nothing_to_tell(stocked: Client) -> None:
    """Each answer has its exact form; `mod` and usn move on."""
    before = stocked.meta()
    assert stocked.start(before["usn"], newer=True) == {"cards": [], "decks": [], "notes": []}
    assert stocked.apply_changes() == {"models": [], "decks": [[], []], "tags": []}
    chunk = stocked.chunk()
    assert chunk["done"] is True
    assert not any(chunk.get(kind) for kind in ("revlog", "cards", "notes"))
    assert stocked.apply_chunk() is None
    answer = stocked.sanity([[3, 2, 1], 2, 2, 1, 7, 6, 3, 1])
    assert answer["status"] == "ok"
    assert answer["s"] == [[0, 0, 0], 2, 2, 1, 0, 6, 3, 1]
    mod = stocked.finish()
    after = stocked.meta()
    assert after["mod"] == mod > before["mod"]
    assert after["usn"] == before["usn"] + 1
    assert after["scm"] == before["scm"]


def test_everything_is_sent_to_a_client_that_has_nothing(stocked: Client) -> None:
    """From usn 0 on: every row once, configuration and creation day with it."""
    stocked.meta()
    stocked.start(0, newer=False)
    changes = stocked.apply_changes()
    assert len(changes["models"]) == 6
    assert {deck["name"] for deck in changes["decks"][0]} == {"Default", "Deck", "Deck::Sub"}
    assert [config["id"] for config in changes["decks"][1]] == [1]
    assert changes["crt"] == 1795406400
    assert changes["conf"]["schedVer"] == 2
    rows = stocked.all_chunks()
    assert sorted(row[0] for row in rows["notes"]) == sorted(NOTES)
    assert sorted(row[0] for row in rows["cards"]) == sorted(CARDS)
    assert len(rows["revlog"]) == 1
    for row in rows["notes"]:
        assert row[7:] == ["", "", 0, ""]
    stocked.abort()


def test_configuration_is_only_sent_by_the_newer_side(stocked: Client) -> None:
    """The keys are left out, not null, when the client is newer."""
    usn = stocked.meta()["usn"]
    stocked.start(usn, newer=True)
    assert set(stocked.apply_changes()) == {"models", "decks", "tags"}
    stocked.abort()


def test_what_one_tells_the_other_hears(stocked: Client, device: Callable[..., Client]) -> None:
    """Rows, graves and changes of one sync are what the next device gets from there on."""
    usn = stocked.meta()["usn"]
    told = {
        "notes": [note(5, usn), note(6, usn)],
        "cards": [card(7, 5, usn)],
        "revlog": [[8, 7, usn, 3, 1, 0, 2500, 1000, 0]],
    }
    stocked.sync(
        (2, 3, 2, 6, 3, 1),
        usn,
        graves={"cards": [CARDS[0]], "notes": [NOTES[0]]},
        changes={"tags": ["new"]},
        rows=told,
        newer=True,
    )
    for protocol in (11, 10):
        other = device(protocol)
        heard = other.sync((2, 3, 2, 6, 3, 1), usn)
        assert heard["graves"] == {"cards": [CARDS[0]], "notes": [NOTES[0]], "decks": []}
        assert heard["tags"] == ["new"]
        assert sorted(row[0] for row in heard["notes"]) == [5, 6]
        assert [row[0] for row in heard["cards"]] == [7]
        assert heard["revlog"] == told["revlog"]


def test_a_sync_is_invisible_until_it_is_finished(
    stocked: Client, device: Callable[..., Client]
) -> None:
    """A sync that is given up leaves no trace in what the next device gets."""
    usn = stocked.meta()["usn"]
    stocked.start(usn, newer=True)
    stocked.apply_graves(notes=NOTES)
    stocked.apply_changes(tags=["never"])
    stocked.all_chunks()
    stocked.apply_chunk(notes=[note(5, usn)])
    stocked.abort()
    other = device(11)
    heard = other.sync(COUNTS, 0)
    assert heard["tags"] == ["t"]
    assert heard["graves"]["notes"] == []
    assert sorted(row[0] for row in heard["notes"]) == sorted(NOTES)


@pytest.mark.parametrize(
    "without", ["apply_graves", "apply_changes", "chunk", "apply_chunk", "finish"]
)
def test_a_step_without_a_sync_is_a_conflict(stocked: Client, without: str) -> None:
    """409 before `start`; 409 with another session key than the open one."""
    getattr(stocked, without)(check=409)
    stocked.start(FIRST_USN)
    stocked.new_session()
    getattr(stocked, without)(check=409)


def test_a_sanity_check_without_a_sync_is_a_conflict(stocked: Client) -> None:
    """As every other step."""
    stocked.sanity(NO_ROWS, check=409)


def test_a_second_start_of_the_same_device_takes_over(
    stocked: Client, device: Callable[..., Client]
) -> None:
    """A client that starts anew is not held up by what it left behind."""
    stocked.start(FIRST_USN)
    first = stocked.session
    second = stocked.new_session()
    stocked.start(FIRST_USN)
    stocked.session = first
    stocked.apply_changes(check=409)
    stocked.session = second
    stocked.apply_changes()
    stocked.abort()


def test_an_abort_is_always_fine(stocked: Client) -> None:
    """Without a session, twice, and afterwards a sync is as good as ever."""
    stocked.abort()
    stocked.start(FIRST_USN)
    stocked.abort()
    stocked.abort()
    stocked.apply_changes(check=409)
    stocked.sync(COUNTS, FIRST_USN)


@pytest.mark.official_fails("an abort with any key ends the open sync")
def test_an_abort_ends_only_its_own_sync(stocked: Client, device: Callable[..., Client]) -> None:
    """Another device that gives up leaves this one's sync alone."""
    stocked.start(FIRST_USN)
    device(11).abort()
    stocked.apply_changes()
    stocked.abort()


def test_numbers_that_do_not_agree_roll_everything_back(
    stocked: Client, device: Callable[..., Client]
) -> None:
    """`bad` with both sides' numbers; nothing of the sync is kept."""
    usn = stocked.meta()["usn"]
    for wrong in range(6):
        stocked.new_session()
        stocked.start(usn, newer=True)
        stocked.apply_changes(tags=["never"])
        stocked.apply_chunk(notes=[note(5, usn)])
        mine = [2, 3, 1, 6, 3, 1]
        mine[wrong] += 1
        answer = stocked.sanity(counts(*mine))
        assert answer["status"] == "bad"
        assert answer["c"] == counts(*mine)
        assert answer["s"] == counts(2, 3, 1, 6, 3, 1)
        stocked.abort()
    assert device(11).sync(COUNTS, usn)["notes"] == []


@pytest.mark.official_fails("400")
def test_a_legacy_client_that_failed_its_own_check(stocked: Client) -> None:
    """A text instead of numbers: `bad`, and nothing is kept."""
    stocked.start(FIRST_USN)
    stocked.apply_changes(tags=["never"])
    assert stocked.sanity("failed")["status"] == "bad"
    stocked.finish(check=409)


def test_chunks_hold_at_most_250_and_end_with_done(
    stocked: Client, device: Callable[..., Client]
) -> None:
    """700 notes arrive in bounded chunks, each once, and calls after the last do no harm."""
    usn = stocked.meta()["usn"]
    rows = [note(n, usn) for n in range(1, 701)]
    stocked.start(usn, newer=True)
    stocked.apply_changes()
    for first in range(0, 700, 100):
        stocked.apply_chunk(done=first == 600, notes=rows[first : first + 100])
    assert stocked.sanity(counts(2, 702, 1, 6, 3, 1))["status"] == "ok"
    stocked.finish()
    other = device(10)
    other.start(usn)
    other.apply_changes()
    seen: list[int] = []
    sizes = []
    done = False
    while not done:
        chunk = other.chunk()
        sizes.append(len(chunk.get("notes", [])))
        seen += [row[0] for row in chunk.get("notes", [])]
        done = chunk["done"]
    assert max(sizes) <= 252
    assert sorted(seen) == list(range(1, 701))
    assert other.chunk()["done"] is True
    other.abort()


def test_legacy_graves_come_with_the_start(stocked: Client, device: Callable[..., Client]) -> None:
    """As numbers and, from old AnkiMobile, as texts."""
    usn = stocked.meta()["usn"]
    graves = {"cards": [str(CARDS[0])], "notes": [str(NOTES[0])], "decks": []}
    stocked.start(usn, newer=True, graves=graves)
    stocked.apply_changes()
    stocked.all_chunks()
    stocked.apply_chunk()
    assert stocked.sanity(counts(1, 1, 1, 6, 3, 1))["status"] == "ok"
    stocked.finish()
    other = device(11)
    assert other.start(usn)["cards"] == [CARDS[0]]
    other.abort()


def test_the_usn_of_rows_is_the_sessions(stocked: Client, device: Callable[..., Client]) -> None:
    """What a device is sent, it is sent once: the next sync from its new usn on is empty."""
    usn = stocked.meta()["usn"]
    stocked.sync((2, 3, 1, 6, 3, 1), usn, rows={"notes": [note(5, usn)]}, newer=True)
    other = device(11)
    assert [row[0] for row in other.sync((2, 3, 1, 6, 3, 1), usn)["notes"]] == [5]
    assert other.sync((2, 3, 1, 6, 3, 1), usn + 2)["notes"] == []


@pytest.mark.official_fails("the usn of `meta` is stored, though another sync came between")
def test_a_row_with_an_outdated_usn_reaches_all(
    stocked: Client, device: Callable[..., Client]
) -> None:
    """The client took the usn from `meta`, then another device finished a whole sync."""
    usn = stocked.meta()["usn"]
    other = device(11)
    other.sync(COUNTS, usn)
    stocked.start(usn, newer=True)
    stocked.apply_changes(tags=["late"])
    stocked.apply_chunk(notes=[note(5, usn)])
    assert stocked.sanity(counts(2, 3, 1, 6, 3, 1))["status"] == "ok"
    stocked.finish()
    heard = other.sync((2, 3, 1, 6, 3, 1), usn + 1)
    assert [row[0] for row in heard["notes"]] == [5]
    assert heard["tags"] == ["late"]


# --- merging ----------------------------------------------------------------------------


def test_newer_rows_win_and_older_ones_do_not(stocked: Client) -> None:
    """Against a row that changed since the client's usn, the later `mod` stays."""
    usn = stocked.meta()["usn"]
    now = int(time.time())
    stocked.sync(
        (2, 3, 1, 6, 3, 1),
        usn,
        rows={"notes": [note(5, usn, mod=now, fields="stored\x1f")]},
        newer=True,
    )

    def offered(mod: int, text: str, seen: int) -> str:
        row = note(5, usn + 1, mod=mod, fields=f"{text}\x1f")
        stocked.sync((2, 3, 1, 6, 3, 1), seen, rows={"notes": [row]}, newer=True)
        return _notes(stocked)[5]

    assert offered(now - 10, "older", usn) == "stored\x1f"
    assert offered(now + 10, "newer", usn) == "newer\x1f"
    # A row that the client has seen is replaced whatever its time.
    assert offered(now - 20, "seen", stocked.meta()["usn"]) == "seen\x1f"


@pytest.mark.official_fails("keeps its own on a tie")
def test_on_a_tie_the_clients_note_and_card_win(stocked: Client) -> None:
    """Clients keep their own note or card then, so the server takes it."""
    usn = stocked.meta()["usn"]
    now = int(time.time())
    size = (3, 3, 1, 6, 3, 1)
    for text, due in (("first", 1), ("second", 2)):
        row = card(7, 5, usn, mod=now)
        row[8] = due
        stocked.sync(
            size,
            usn,
            rows={"notes": [note(5, usn, mod=now, fields=f"{text}\x1f")], "cards": [row]},
            newer=True,
        )
    assert _notes(stocked)[5] == "second\x1f"


@pytest.mark.official_fails("takes the client's on a tie")
def test_on_a_tie_the_servers_deck_stays(stocked: Client) -> None:
    """Clients take the server's deck then, so the server keeps it."""
    usn = stocked.meta()["usn"]
    stocked.start(0)
    deck = next(d for d in stocked.apply_changes()["decks"][0] if d["name"] == "Deck")
    stocked.abort()
    now = int(time.time())
    for text in ("first", "second"):
        changed = {**deck, "mod": now, "desc": text, "usn": usn}
        stocked.sync(COUNTS, usn, changes={"decks": [changed]}, newer=True)
    assert _deck(stocked, deck["id"])["desc"] == "first"


def test_an_older_deck_is_ignored_and_a_newer_one_taken(stocked: Client) -> None:
    """By `mod`, whoever has seen what."""
    usn = stocked.meta()["usn"]
    stocked.start(0)
    deck = next(d for d in stocked.apply_changes()["decks"][0] if d["name"] == "Deck")
    stocked.abort()
    for mod, text, stays in (
        (deck["mod"] + 10, "newer", "newer"),
        (deck["mod"] + 5, "older", "newer"),
    ):
        changed = {**deck, "mod": mod, "desc": text, "usn": usn}
        stocked.sync(COUNTS, usn, changes={"decks": [changed]}, newer=True)
        assert _deck(stocked, deck["id"])["desc"] == stays


def test_a_name_that_is_taken_gets_a_plus(stocked: Client) -> None:
    """Two decks of one name stay two; every device is told the same names."""
    usn = stocked.meta()["usn"]
    stocked.start(0)
    deck = next(d for d in stocked.apply_changes()["decks"][0] if d["name"] == "Deck")
    stocked.abort()
    changed = {**deck, "id": 77, "name": "DECK", "mod": int(time.time()), "usn": usn}
    stocked.sync((2, 2, 1, 6, 4, 1), usn, changes={"decks": [changed]}, newer=True)
    names = {d["id"]: d["name"] for d in _changes(stocked)["decks"][0]}
    assert sorted([names[77].casefold(), names[deck["id"]].casefold()]) == ["deck", "deck+"]


def test_reviews_are_only_added(stocked: Client) -> None:
    """An id that exists is left as it is."""
    usn = stocked.meta()["usn"]
    size = (2, 2, 2, 6, 3, 1)
    for ease in (1, 4):
        row = [1000, CARDS[0], usn, ease, 1, 0, 2500, 1000, 0]
        stocked.sync(size, usn, rows={"revlog": [row]}, newer=True)
    log = {row[0]: row for row in stocked.sync(size, 0)["revlog"]}
    assert log[1000][3] == 1


def test_tags_are_normalized_and_told(stocked: Client, device: Callable[..., Client]) -> None:
    """Spaces and empty parts go, a tag that differs in case alone is the same."""
    usn = stocked.meta()["usn"]
    tags = ["a b", "x::::y", "Same", "same"]
    stocked.sync(COUNTS, usn, changes={"tags": tags}, newer=True)
    assert sorted(device(11).sync(COUNTS, usn)["tags"]) == ["Same", "ab", "x::blank::y"]


def test_text_is_stored_without_control_characters(stocked: Client) -> None:
    """Line breaks and tabs stay; the rest of ASCII's controls go."""
    usn = stocked.meta()["usn"]
    row = note(5, usn, fields="a\x00b\nc\td\x1b\x1fback\x7f")
    stocked.sync((2, 3, 1, 6, 3, 1), usn, rows={"notes": [row]}, newer=True)
    assert _notes(stocked)[5] == "ab\nc\td\x1fback"


@pytest.mark.official_fails("drops what it does not know")
def test_unknown_keys_in_a_cards_data_are_kept(stocked: Client) -> None:
    """A newer client's data passes through."""
    usn = stocked.meta()["usn"]
    row = card(7, NOTES[0], usn)
    row[17] = '{"pos":3,"cd":"{\\"a\\":1}","future":[1,2]}'
    stocked.sync((3, 2, 1, 6, 3, 1), usn, rows={"cards": [row]}, newer=True)
    cards = {row[0]: row for row in stocked.sync((3, 2, 1, 6, 3, 1), 0)["cards"]}
    assert cards[7][17] == row[17]


def _notes(client: Client) -> dict[int, str]:
    client.new_session()
    client.start(0)
    client.apply_changes()
    found = {row[0]: row[6] for row in client.all_chunks()["notes"]}
    client.abort()
    return found


def _changes(client: Client) -> dict:  # type: ignore[type-arg]
    client.new_session()
    client.start(0)
    found: dict = client.apply_changes()  # type: ignore[type-arg]
    client.abort()
    return found


def _deck(client: Client, identity: int) -> dict:  # type: ignore[type-arg]
    decks = {deck["id"]: deck for deck in _changes(client)["decks"][0]}
    found: dict = decks[identity]  # type: ignore[type-arg]
    return found


# --- whole collections -------------------------------------------------------------------


def test_an_upload_is_downloaded_as_it_was(stocked: Client) -> None:
    """In the schema of the protocol; usn and `mod` move on, `scm` and `crt` stay."""
    before = stocked.meta()
    got = stocked.download()
    schema = 18 if stocked.protocol == 11 else 11
    row = read(got, lambda c: c.execute("select ver, usn, scm, crt, mod from col").fetchone())
    after = stocked.meta()
    assert row == (schema, before["usn"] + 1, before["scm"], 1795406400, after["mod"])
    assert after["usn"] == before["usn"] + 1
    assert after["mod"] > before["mod"]
    sizes = read(
        got,
        lambda c: [
            c.execute(f"select count() from {table}").fetchone()[0]
            for table in ("cards", "notes", "revlog", "graves")
        ],
    )
    assert sizes == [2, 2, 1, 0]
    assert read(got, lambda c: c.execute("pragma integrity_check").fetchone()) == ("ok",)


def test_protocol_10_gets_a_file_of_its_time(device: Callable[..., Client]) -> None:
    """Whatever was uploaded, the header says rollback journal and the objects are JSON."""
    new, old = device(11), device(10)
    new.upload(uploadable())
    got = old.download()
    assert got[18:20] == b"\x01\x01"
    tables = read(got, lambda c: {n for (n,) in c.execute("select name from sqlite_master")})
    assert "notetypes" not in tables
    assert {"col", "notes", "cards", "revlog", "graves"} <= tables
    kept = new.download()
    assert read(kept, lambda c: c.execute("select ver from col").fetchone()) == (18,)


def test_a_new_account_can_be_downloaded(client: Client) -> None:
    """There is a notetype, the default deck and the default preset in it."""
    got = client.download()
    if client.protocol == 11:
        found = read(
            got,
            lambda c: [
                c.execute(f"select count() from {table} where {what}").fetchone()[0]
                for table, what in (
                    ("notetypes", "1"),
                    ("decks", "id = 1"),
                    ("deck_config", "id = 1"),
                )
            ],
        )
        assert found[0] >= 1
        assert found[1:] == [1, 1]


def test_an_upload_ends_a_running_sync(stocked: Client) -> None:
    """Of the same device, at once; the sync gets 409 from then on."""
    stocked.start(FIRST_USN)
    running = stocked.session
    stocked.new_session()
    assert stocked.upload(uploadable(18 if stocked.protocol == 11 else 11)) == "OK"
    stocked.session = running
    stocked.apply_changes(check=409)


def test_an_upload_starts_afresh(stocked: Client, device: Callable[..., Client]) -> None:
    """What was before is gone; the next sync counts from the new file."""
    usn = stocked.meta()["usn"]
    stocked.sync((2, 3, 1, 6, 3, 1), usn, rows={"notes": [note(5, usn)]}, newer=True)
    stocked.new_session()
    assert stocked.upload(uploadable(18 if stocked.protocol == 11 else 11)) == "OK"
    assert sorted(_notes(device(11))) == sorted(NOTES)


@pytest.mark.official_fails("keeps usn -1, and every later sync fails")
def test_an_upload_with_pending_rows_is_put_in_order(device: Callable[..., Client]) -> None:
    """A careless client's usn of -1 becomes 0, and so does one beyond the collection's."""
    from tests.protocol.collections import spoiled

    client = device(11)
    pending = spoiled("update notes set usn = -1", "update cards set usn = 999")
    assert client.upload(pending) == "OK"
    client.sync(COUNTS, client.meta()["usn"])


def test_the_file_on_disk_is_a_collection(server: Server, user: str) -> None:
    """In the user's folder, under the name and in the schema that Anki uses."""
    client = Client(server.port).login(user, PASSWORD)
    client.upload(uploadable())
    client.sync((2, 3, 1, 6, 3, 1), FIRST_USN, rows={"notes": [note(5, FIRST_USN)]}, newer=True)
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        copy = server.copy_of_collection(user, Path(folder))
        connection = opened(copy)
        assert connection.execute("select ver, usn from col").fetchone() == (18, FIRST_USN + 1)
        assert connection.execute("select count() from notes").fetchone() == (3,)
        connection.close()
