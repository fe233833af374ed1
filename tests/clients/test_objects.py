# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every kind of object travels both ways between all releases on one account.

In each test every device of the family does the thing, so that each is once the one that
tells and six times one that is told; then all must hold the same, field by field.
"""

import pytest

from tests.clients.device import Device, version
from tests.clients.story import FAMILY, Account


@pytest.fixture(params=["family", pytest.param("old first", marks=pytest.mark.long)])
def family(request: pytest.FixtureRequest, account: Account) -> list[Device]:
    """One device of each release, in sync; the first in the list acts and syncs first."""
    return account.in_sync(*(FAMILY if request.param == "family" else reversed(FAMILY)))


def test_notes_arrive_with_their_fields_and_tags(account: Account, family: list[Device]) -> None:
    """A note made on any device is on all, with its text, its tags and its guid."""
    texts = [
        "plain",
        "<b>Ünïcödé</b> 日本語 العربية",
        " 42 ",
        "a\nb\tc",
        '<img src="x y.jpg">',
        "",
        "007",
    ]
    made = {
        device.add_note(f"{device}", text, tags=["all", f"by::{device.release}"]): text
        for device, text in zip(family, texts, strict=False)
    }
    holds = account.assert_converged()
    assert {int(note): row["flds"].split("\x1f")[1] for note, row in holds["notes"].items()} == made
    for device in family:
        assert f"by::{device.release}" in holds["tags"]


def test_an_edited_note_is_replaced_everywhere(account: Account, family: list[Device]) -> None:
    """Each device in turn edits the same note after having synced; the last edit stays."""
    note = family[0].add_note("first", "edit")
    family[0].sync()
    for device in family:
        device.sync()
        device.edit_note(note, f"edited on {device}", tags=[device.release])
        device.sync()
    holds = account.assert_converged()
    row = holds["notes"][str(note)]
    assert row["flds"].split("\x1f")[0] == f"edited on {family[-1]}"
    assert row["tags"].split() == [family[-1].release]


def test_reviews_and_the_cards_they_change_arrive(account: Account, family: list[Device]) -> None:
    """An answer on any device is in the log of all, once, and its card is in the same state."""
    notes = [family[0].add_note(f"card {n}", "back") for n in range(len(family))]
    family[0].sync()
    answered = {}
    for device, note, ease in zip(family, notes, [1, 2, 3, 4, 3, 1, 3], strict=False):
        device.sync()
        card = device.cards_of(note)[0]
        # The oldest scheduler has three buttons for a new card.
        answered[card] = device.answer(card, min(ease, 3))
        device.sync()
    holds = account.assert_converged()
    assert sorted(entry["cid"] for entry in holds["revlog"].values()) == sorted(answered)
    for card, state in answered.items():
        assert holds["cards"][str(card)]["due"] == state["due"]
        assert holds["cards"][str(card)]["reps"] == 1


def test_flags_suspension_burying_due_dates_and_moves_arrive(
    account: Account, family: list[Device]
) -> None:
    """What a device does to a card without answering it is on all devices."""
    deeds = {}
    for number, device in enumerate(family):
        cards = [
            device.cards_of(device.add_note(f"{deed} on {device}", "back"))[0]
            for deed in ("flag", "suspend", "bury", "due", "move")
        ]
        device.flag(cards[0], flag=number % 4 + 1)
        device.suspend(cards[1])
        device.bury(cards[2])
        device.make_due(cards[3], days=number + 1)
        device.move(cards[4], deck=f"Moved by {number}")
        deeds[number] = cards
        device.sync()
    holds = account.assert_converged()["cards"]
    for number, (flagged, suspended, buried, due, _) in deeds.items():
        assert holds[str(flagged)]["flags"] == number % 4 + 1
        assert holds[str(suspended)]["queue"] == -1
        assert holds[str(buried)]["queue"] in (-2, -3)
        assert holds[str(due)]["type"] == 2


def test_custom_data_of_a_card_arrives(account: Account, family: list[Device]) -> None:
    """The data that a custom scheduler keeps on a card is on all devices that know of it."""
    for device in family:
        if version(device.release) >= (2, 1, 60):
            card = device.cards_of(device.add_note(f"data on {device}", ""))[0]
            device.set_custom_data(card, '{"x":1}')
            device.sync()
    holds = account.assert_converged()
    kept = [card["data"]["cd"] for card in holds["cards"].values() if card["data"].get("cd")]
    assert kept == ['{"x":1}'] * sum(version(d.release) >= (2, 1, 60) for d in family)


def test_decks_arrive_with_their_settings(account: Account, family: list[Device]) -> None:
    """Nested decks, descriptions, own daily limits and names in any script are on all devices."""
    names = ["Ä::Ö::ü", "日本::語", "كتاب", "a:b", "Français", "Ελληνικά::ς", "x"]
    for device, name in zip(family, names, strict=False):
        deck = device.add_deck(name)
        device.edit_deck(deck, desc=f"made on {device}", extendNew=5)
        if version(device.release) >= (2, 1, 60):
            device.edit_deck(deck, reviewLimit=77, newLimit=7)
        device.sync()
    decks = {deck["name"]: deck for deck in account.assert_converged()["decks"].values()}
    for device, name in zip(family, names, strict=False):
        assert decks[name]["desc"] == f"made on {device}"
        assert decks[name]["extendNew"] == 5


def test_a_renamed_deck_is_renamed_everywhere(account: Account, family: list[Device]) -> None:
    """Each device in turn gives the same deck, and thereby its child, another name."""
    deck = family[0].add_deck("Parent")
    child = family[0].add_deck("Parent::Child")
    family[0].sync()
    for device in family:
        device.sync()
        device.rename_deck(deck, f"Renamed on {device.release}")
        device.sync()
    decks = account.assert_converged()["decks"]
    assert decks[str(deck)]["name"] == f"Renamed on {family[-1].release}"
    assert decks[str(child)]["name"] == f"Renamed on {family[-1].release}::Child"


def test_filtered_decks_arrive_built_rebuilt_and_emptied(
    account: Account, family: list[Device]
) -> None:
    """A filtered deck holds the same cards on all devices, whoever built it."""
    notes = {
        device: family[0].add_note(f"for {device}", "", tags=[f"f{n}"], deck="Home")
        for n, device in enumerate(family)
    }
    family[0].sync()
    for device in family:
        device.sync()
    filtered = {
        device: device.add_filtered(f"Filtered {n}", f"tag:f{n}") for n, device in enumerate(family)
    }
    for device in family:
        device.sync()
    holds = account.assert_converged()
    for device in family:
        card = holds["cards"][str(device.cards_of(notes[device])[0])]
        assert card["did"] == filtered[device]
        assert card["odid"] == family[0].decks()["Home"]
    family[1].empty_filtered(filtered[family[0]])
    family[2].rebuild_filtered(filtered[family[2]])
    family[3].delete_deck(filtered[family[1]])
    holds = account.assert_converged()
    for emptied in family[:2]:
        assert holds["cards"][str(emptied.cards_of(notes[emptied])[0])]["odid"] == 0
    assert str(filtered[family[1]]) not in holds["decks"]


def test_presets_arrive_with_every_setting(account: Account, family: list[Device]) -> None:
    """A preset made or changed on any device is the same on all."""
    made = {}
    for device in family:
        made[device] = device.add_options(
            f"Preset of {device}",
            new={"delays": [1.5, 10, 60], "perDay": 33, "bury": True},
            rev={"ivlFct": 1.25, "maxIvl": 1000},
            lapse={"leechFails": 4, "mult": 0.5},
            maxTaken=120,
        )
        deck = device.add_deck(f"Deck of {device}")
        device.edit_deck(deck, conf=made[device])
        device.sync()
    for device, other in zip(family, reversed(family), strict=True):
        device.sync()
        device.edit_options(made[other], maxTaken=61, replayq=False)
        device.sync()
    options = account.assert_converged()["options"]
    for preset in made.values():
        assert options[str(preset)]["new"]["delays"] == [1.5, 10, 60]
        assert options[str(preset)]["maxTaken"] == 61
        assert options[str(preset)]["replayq"] is False


def test_notetypes_arrive_with_fields_templates_and_css(
    account: Account, family: list[Device]
) -> None:
    """A notetype made on one device, restyled on another, is the same on all."""
    made = {}
    for device in family:
        made[device] = device.add_notetype(
            f"Kind of {device}",
            ["Wort", "意味", "Note"],
            [("A", "{{Wort}}", "{{意味}}"), ("B", "{{#Note}}{{意味}}{{/Note}}", "{{Wort}}")],
            changes={"css": ".card { color: teal }", "sortf": 1},
        )
        device.add_note("eins", "一", "n", notetype=f"Kind of {device}")
        device.sync()
    for device, other in zip(family, reversed(family), strict=True):
        device.sync()
        device.edit_notetype(
            made[other],
            css=f".card {{ /* {device} */ }}",
            tmpls=[{"qfmt": "Q {{Wort}}"}],
            flds=[{"font": "Noto", "size": 24, "rtl": True}],
        )
        device.sync()
    holds = account.assert_converged()
    for device, other in zip(family, reversed(family), strict=True):
        kind = holds["notetypes"][str(made[other])]
        assert str(device) in kind["css"]
        assert kind["tmpls"][0]["qfmt"] == "Q {{Wort}}"
        assert (kind["flds"][0]["size"], kind["flds"][0]["rtl"]) == (24, True)
    assert len(holds["cards"]) == 2 * len(family)


def test_cloze_notes_arrive_with_all_their_cards(account: Account, family: list[Device]) -> None:
    """Clozes added to another device's note make cards on all devices."""
    notes = {d: d.add_note("{{c1::one}} {{c2::two}}", notetype="Cloze") for d in family}
    account.settle()
    for device, other in zip(family, reversed(family), strict=True):
        device.sync()
        device.edit_note(notes[other], "{{c1::one}} {{c2::two}} {{c5::five}}")
        device.sync()
    holds = account.assert_converged()
    orders = sorted((card["nid"], card["ord"]) for card in holds["cards"].values())
    assert orders == sorted((note, order) for note in notes.values() for order in (0, 1, 4))


def test_image_occlusion_notes_arrive(account: Account, family: list[Device], tmp_path) -> None:  # type: ignore[no-untyped-def]
    """An image occlusion note, which old releases do not know, passes through them unharmed."""
    image = tmp_path / "image.png"
    image.write_bytes(PNG)
    occlusions = "{{c1::image-occlusion:rect:left=.1:top=.1:width=.2:height=.2:oi=1}}<br>"
    makers = [device for device in family if version(device.release) >= (23, 12)]
    made = []
    for device in makers:
        device.sync()
        made.append(device.add_image_occlusion(image, occlusions, header=str(device)))
        device.sync()
        device.sync_media()
    holds = account.assert_converged()
    assert sorted(map(int, holds["notes"])) == sorted(made)
    for device in family:
        device.sync_media()
        assert len(device.media()) >= 1


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


def test_tags_arrive_added_renamed_and_in_a_tree(account: Account, family: list[Device]) -> None:
    """Tags of all devices come together; the first spelling of a tag stays."""
    for device in family:
        note = device.add_note(f"of {device}", "")
        device.tag(note, tags=f"tree::{device.release} Grün shared")
        device.sync()
    family[0].sync()
    family[0].rename_tag("shared", "common")
    holds = account.assert_converged()
    for device in family:
        assert f"tree::{device.release}" in holds["tags"]
    for row in holds["notes"].values():
        assert "common" in row["tags"].split()
        assert "shared" not in row["tags"].split()


def test_settings_of_the_newer_side_win(account: Account, family: list[Device]) -> None:
    """The whole configuration of the device that changed it last is on all devices."""
    for number, device in enumerate(family):
        device.sync()
        device.set_config("lastWriter", str(device))
        device.set_config(f"key {number}", {"deep": [1, 2.5, None, "ü"]})
        device.sync()
    holds = account.assert_converged()["config"]
    assert holds["lastWriter"] == str(family[-1])
    for number in range(len(family)):
        assert holds[f"key {number}"] == {"deep": [1, 2.5, None, "ü"]}


def test_deletions_arrive(account: Account, family: list[Device]) -> None:
    """Notes, cards and decks deleted on any device are gone from all."""
    doomed = []
    for device in family:
        device.sync()
        doomed.append(
            (
                device.add_note("note to go", "", deck="Stays"),
                device.add_note("{{c1::a}} {{c2::b}}", notetype="Cloze", deck="Stays"),
                device.add_note("goes with its deck", "", deck=f"Goes {device}::Sub"),
            )
        )
        device.sync()
    account.settle()
    for device, (note, cloze, _), other in zip(family, doomed, reversed(family), strict=True):
        device.sync()
        device.delete_notes(note)
        device.delete_cards(device.cards_of(cloze)[0])
        device.delete_deck(device.decks()[f"Goes {other}"])
        device.sync()
    holds = account.assert_converged()
    assert sorted(map(int, holds["notes"])) == sorted(cloze for _, cloze, _ in doomed)
    assert {card["ord"] for card in holds["cards"].values()} == {1}
    assert not [deck for deck in holds["decks"].values() if deck["name"].startswith("Goes")]


@pytest.mark.parametrize("release", ["26.9.3", "2.1.54", "2.1.39"])
def test_many_objects_travel_in_many_pieces(account: Account, release: str) -> None:
    """Hundreds of notes, reviews and deletions in one sync, more than a chunk holds."""
    sender, other = account.in_sync(release, "2.1.60" if release == "26.9.3" else "26.9.3")
    notes = [sender.add_note(f"note {n}", "x" * 200) for n in range(600)]
    for note in notes[:20]:
        sender.answer(sender.cards_of(note)[0])
    sender.sync()
    other.sync()
    assert other.notes() == sorted(notes)
    other.delete_notes(*notes[50:580])
    account.assert_converged()
    assert sender.notes() == sorted(notes[:50] + notes[580:])
