# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which kept copies stay: a function of their list, the rules and the time.

A copy stays if any rule wants it: it is pinned; it is one of the newest; it is the last of a day,
week or month of late; or it was made before a destructive step not long ago. What all of
them take together is capped: then the oldest go first, those of an ordinary day before those
of a destructive step, and never a pinned one or one of the newest three.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_DAY = timedelta(days=1)
#: So many are never removed for the room that they take.
SAFE_FROM_CAP = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """How many copies stay of each kind; `most_bytes` is for all of a user, 0 for no bound."""

    newest: int = 10
    days: int = 14
    weeks: int = 8
    months: int = 12
    destructive_days: int = 30
    most_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """What counts of a copy; `time` in ms, `bytes` on disk."""

    id: str
    time: int
    bytes: int
    pinned: bool = False
    destructive: bool = False


def superfluous(candidates: Sequence[Candidate], rules: Rules, now_ms: int) -> list[str]:
    """Ids of the copies that no rule keeps, oldest first. Days, weeks and months are UTC's."""
    copies = sorted(candidates, key=lambda copy: (copy.time, copy.id), reverse=True)
    wanted = set(_wanted(copies, rules, _moment(now_ms)))
    gone = [copy.id for copy in copies if copy.id not in wanted]
    left = [copy for copy in copies if copy.id in wanted]
    gone += _over_the_cap(left, rules.most_bytes)
    order = {copy.id: place for place, copy in enumerate(copies)}
    return sorted(gone, key=order.__getitem__, reverse=True)


def _wanted(copies: Sequence[Candidate], rules: Rules, now: datetime) -> Iterator[str]:
    """Ids that a rule keeps; `copies` are the newest first."""
    for place, copy in enumerate(copies):
        fresh = _moment(copy.time) > now - rules.destructive_days * _DAY
        if copy.pinned or place < rules.newest or (copy.destructive and fresh):
            yield copy.id
    for period, since in (
        (_day, now - rules.days * _DAY),
        (_week, now - rules.weeks * 7 * _DAY),
        (_month, now - rules.months * 365 / 12 * _DAY),
    ):
        yield from _last_of_each(copies, period, since)


def _last_of_each(
    copies: Sequence[Candidate], period: Callable[[datetime], object], since: datetime
) -> Iterator[str]:
    seen = set()
    for copy in copies:
        moment = _moment(copy.time)
        if moment > since and period(moment) not in seen:
            seen.add(period(moment))
            yield copy.id


def _over_the_cap(copies: Sequence[Candidate], most_bytes: int) -> list[str]:
    """`copies` are the newest first."""
    total = sum(copy.bytes for copy in copies)
    victims = [copy for copy in copies[SAFE_FROM_CAP:] if not copy.pinned]
    gone = []
    for copy in sorted(victims, key=lambda copy: (copy.destructive, copy.time, copy.id)):
        if not most_bytes or total <= most_bytes:
            break
        total -= copy.bytes
        gone.append(copy.id)
    return gone


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _day(moment: datetime) -> object:
    return moment.date()


def _week(moment: datetime) -> object:
    return moment.isocalendar()[:2]


def _month(moment: datetime) -> object:
    return moment.year, moment.month
