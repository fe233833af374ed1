# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which kept copies stay."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardkeep.backups.retention import SAFE_FROM_CAP, Candidate, Rules, superfluous

NOW = datetime(2026, 11, 25, 18, 0, tzinfo=UTC)
NOTHING = Rules(newest=0, days=0, weeks=0, months=0, destructive_days=0)
DAY_MS = 86_400_000


def at(moment: datetime, **more: object) -> Candidate:
    values = {"id": f"{moment:%Y%m%d-%H%M%S}", "bytes": 10, **more}
    return Candidate(time=round(moment.timestamp() * 1000), **values)  # type: ignore[arg-type]


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def gone(copies: list[Candidate], rules: Rules) -> list[str]:
    return superfluous(copies, rules, round(NOW.timestamp() * 1000))


def kept(copies: list[Candidate], rules: Rules) -> list[str]:
    """Ids that stay, newest first."""
    left = {copy.id for copy in copies} - set(gone(copies, rules))
    return sorted(left, reverse=True)


def test_nothing_is_kept_without_a_rule() -> None:
    """And what goes is named oldest first."""
    copies = [at(ago(hours=hours)) for hours in (1, 2, 3)]
    assert gone(copies, NOTHING) == [copy.id for copy in reversed(copies)]


def test_the_newest_are_kept_whatever_their_age() -> None:
    """As many as the rule says."""
    copies = [at(ago(days=4000 + day)) for day in range(5)]
    rules = Rules(newest=3, days=0, weeks=0, months=0, destructive_days=0)
    assert kept(copies, rules) == [copy.id for copy in copies[:3]]


def test_the_last_copy_of_each_day_is_kept() -> None:
    """For as many days as the rule says, by UTC."""
    copies = [at(ago(days=day, hours=hour)) for day in range(20) for hour in (1, 5)]
    rules = Rules(newest=0, days=14, weeks=0, months=0, destructive_days=0)
    assert kept(copies, rules) == [at(ago(days=day, hours=1)).id for day in range(14)]


def test_the_last_copy_of_each_week_is_kept() -> None:
    """A week begins on Monday."""
    copies = [at(ago(days=day)) for day in range(100)]
    rules = Rules(newest=0, days=0, weeks=8, months=0, destructive_days=0)
    sundays = [day for day in range(3, 56) if ago(days=day).weekday() == 6]
    assert kept(copies, rules) == [copies[0].id, *(copies[day].id for day in sundays)]


def test_the_last_copy_of_each_month_is_kept() -> None:
    """For a year."""
    copies = [at(ago(days=day)) for day in range(600)]
    rules = Rules(newest=0, days=0, weeks=0, months=12, destructive_days=0)
    months = [f"{ago(days=day):%Y%m}" for day in range(366)]
    assert [identity[:6] for identity in kept(copies, rules)] == sorted(set(months), reverse=True)


def test_a_copy_before_a_destructive_step_is_kept_for_its_time() -> None:
    """However many there are, and no longer."""
    copies = [at(ago(days=day / 10), destructive=True) for day in range(400)]
    rules = Rules(newest=0, days=0, weeks=0, months=0, destructive_days=30)
    assert kept(copies, rules) == [copy.id for copy in copies[:300]]


def test_a_pinned_copy_is_always_kept() -> None:
    """Whatever its age, and whatever the cap."""
    pinned = at(ago(days=9000), pinned=True, bytes=10**12)
    others = [at(ago(days=day)) for day in range(6)]
    assert kept([pinned, *others], Rules(most_bytes=1)) == [
        *(copy.id for copy in others[:SAFE_FROM_CAP]),
        pinned.id,
    ]


def test_the_cap_takes_ordinary_copies_first() -> None:
    """The oldest of them; then the oldest of those before a destructive step."""
    ordinary = [at(ago(days=day)) for day in range(8)]
    before_upload = at(ago(days=9), destructive=True)
    copies = [*ordinary, before_upload]
    assert gone(copies, Rules(most_bytes=90)) == []
    assert gone(copies, Rules(most_bytes=89)) == [ordinary[7].id]
    assert gone(copies, Rules(most_bytes=40)) == [copy.id for copy in reversed(ordinary[3:])]
    assert gone(copies, Rules(most_bytes=39)) == [
        before_upload.id,
        *(copy.id for copy in reversed(ordinary[3:])),
    ]


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        id=st.uuids().map(str),
        time=st.integers(0, round(NOW.timestamp() * 1000)),
        bytes=st.integers(0, 1000),
        pinned=st.booleans(),
        destructive=st.booleans(),
    ),
    max_size=60,
    unique_by=lambda copy: copy.id,
)
RULES = st.builds(
    Rules,
    newest=st.integers(0, 12),
    days=st.integers(0, 20),
    weeks=st.integers(0, 10),
    months=st.integers(0, 15),
    destructive_days=st.integers(0, 40),
    most_bytes=st.integers(0, 20_000),
)


@given(CANDIDATES, RULES)
def test_what_is_kept_stays_kept(copies: list[Candidate], rules: Rules) -> None:
    """Applying the rules again removes nothing; pinned and the newest copies are never removed."""
    removed = set(gone(copies, rules))
    left = [copy for copy in copies if copy.id not in removed]
    assert gone(left, rules) == []
    assert not [copy for copy in copies if copy.pinned and copy.id in removed]
    newest = sorted(copies, key=lambda copy: (copy.time, copy.id), reverse=True)
    safe = newest[: min(rules.newest, SAFE_FROM_CAP)]
    assert not [copy for copy in safe if copy.id in removed]


@given(CANDIDATES, RULES)
def test_the_cap_holds(copies: list[Candidate], rules: Rules) -> None:
    """What is left fits, or is pinned or among the newest three."""
    removed = set(gone(copies, rules))
    left = sorted(
        (copy for copy in copies if copy.id not in removed),
        key=lambda copy: (copy.time, copy.id),
        reverse=True,
    )
    total = sum(copy.bytes for copy in left)
    if rules.most_bytes and total > rules.most_bytes:
        assert all(copy.pinned for copy in left[SAFE_FROM_CAP:])


@pytest.mark.parametrize("copies", [0, 1])
def test_few_copies_are_no_trouble(copies: int) -> None:
    """None or one."""
    assert gone([at(NOW)] * copies, Rules()) == []
