# SPDX-License-Identifier: AGPL-3.0-or-later
"""The daily sync: one device pushes 200 reviews, a second one fetches them."""

from collections.abc import Callable

from benchmarks.bench import PASSWORD, PEAK_AIM, Bench, Case
from benchmarks.client import Device, Latencies, Pending, Received, Replica, device, expect, sync
from benchmarks.collections import Author, Shape, replica
from benchmarks.measure import Usage, measured, percentile
from benchmarks.report import Aim
from benchmarks.servers import Server

REVIEWS = 200
SMALL = Shape(5000, 25_000, 150)
MEDIUM = Shape(30_000, 150_000, 150)
LARGE = Shape(200_000, 1_000_000, 150)
HUGE = Shape(500_000, 2_500_000, 150)


class Pair:
    """Two devices of one user on one server."""

    def __init__(self, server: Server, start: Replica, user: str = "ana") -> None:
        self.server = server
        self.user = user
        self.keys = []
        for _ in range(2):
            with device(server.port, user, PASSWORD) as client:
                self.keys.append(client.key)
        self.replicas = [start, start]

    def step(
        self, number: int, pending: Pending, latencies: Latencies, *, settle: bool = True
    ) -> tuple[Usage, Received]:
        """A whole sync of one of the devices, over a connection of its own."""
        with measured(self.server.tree, settle=settle) as usage:
            with device(self.server.port, self.user, key=self.keys[number]) as client:
                client.latencies = latencies
                self.replicas[number], received = _timed_sync(
                    client, self.replicas[number], pending
                )
        return usage, received

    def push_and_fetch(
        self, pending: Pending, latencies: tuple[Latencies, Latencies], *, settle: bool = True
    ) -> tuple[Usage, Usage]:
        """The first device's changes reach the second, and nothing else does."""
        push, back = self.step(0, pending, latencies[0], settle=settle)
        expect(not (back.revlog or back.cards or back.notes), "rows sent to their sender")
        fetch, received = self.step(1, Pending(), latencies[1], settle=settle)
        for sent, came in (
            (pending.revlog, received.revlog),
            (pending.cards, received.cards),
            (pending.notes, received.notes),
        ):
            expect({row[0] for row in sent} == {row[0] for row in came}, "ids that came")
            expect(len(sent) == len(came), "rows that came", len(sent), len(came))
        mods = {row[0]: row[4] for row in received.cards}
        expect(all(mods[row[0]] == row[4] for row in pending.cards), "card mods")
        decks = {deck["id"] for deck in received.changes["decks"][0]}
        expect(decks == {deck["id"] for deck in pending.decks}, "decks", decks)
        expect(self.replicas[0].counts == self.replicas[1].counts, "counts")
        # The first device hears of the second one's (empty) sync, as it would in life.
        self.replicas[0] = self.replicas[1]
        return push, fetch


def _timed_sync(client: Device, start: Replica, pending: Pending) -> tuple[Replica, Received]:
    before = sum(client.latencies.all())
    answer = sync(client, start, pending)
    client.latencies.add("whole sync", sum(client.latencies.all()) - before)
    return answer


def daily(shape: Shape, aim: Aim | None) -> Callable[[Bench], None]:
    """The case for one size of collection."""

    def run(bench: Bench) -> None:
        path = bench.store.collection(shape)
        each = 2 if bench.quick else 4
        authors = {label: Author(path, 1) for label in bench.labels}
        start = replica(path)
        with bench.running(["ana"], {"ana": path}) as servers:
            pairs = [Pair(server, start) for server in servers]
            for pair in pairs:
                # Whatever is done once for a collection that a server has not seen before.
                latencies = (Latencies(), Latencies())
                usages = pair.push_and_fetch(authors[pair.server.label].reviews(10), latencies)
                cost = sum(usage.cpu for usage in usages)
                bench.add(pair.server, "CPU, first pair after the start", cost, "ms")
            for _ in bench.turns(5):
                for pair in pairs:
                    author = authors[pair.server.label]
                    _round(bench, pair, [author.reviews(REVIEWS) for _ in range(each)], aim)

    return run


def _round(bench: Bench, pair: Pair, days: list[Pending], aim: Aim | None) -> None:
    server = pair.server
    latencies = (Latencies(), Latencies())
    pushes, fetches = zip(
        *(pair.push_and_fetch(pending, latencies) for pending in days), strict=True
    )
    push = sum(usage.cpu for usage in pushes) / len(days)
    fetch = sum(usage.cpu for usage in fetches) / len(days)
    bench.add(server, "CPU, push and fetch", push + fetch, "ms", aim)
    bench.add(server, "CPU, push", push, "ms")
    bench.add(server, "CPU, fetch", fetch, "ms")
    for name, values in (("push", latencies[0]), ("fetch", latencies[1])):
        wholes = values.by_method["whole sync"]
        bench.add(server, f"waited in a {name}, median", percentile(wholes, 0.5), "ms")
        bench.add(server, f"waited in a {name}, worst", max(wholes), "ms")
    slowest = max(
        (max(times), method)
        for values in latencies
        for method, times in values.by_method.items()
        if method != "whole sync"
    )
    bench.add(server, "slowest single answer", slowest[0], "ms")
    written = sum(usage.written for usage in pushes) / len(days)
    bench.add(server, "written, push", written, "MB")
    peak = max(usage.peak_rss for usage in (*pushes, *fetches))
    bench.add(server, "peak RSS", peak, "MB", PEAK_AIM)


def _growth(bench: Bench) -> None:
    """From the two cases' figures; no work of its own."""
    small, huge = bench.done.get("daily-5k"), bench.done.get("daily-500k")
    if small is None or huge is None:
        return
    for step, aim in (("push", Aim(6, 3, of="value")), ("fetch", Aim(2, 1.3, of="value"))):
        for label in bench.labels:
            name = f"CPU, {step}"
            low, high = small.figures[name].middle(label), huge.figures[name].middle(label)
            if low and high:
                bench.result.add(label, f"{step}, 500,000 over 5,000 notes", high / low, "x", aim)


CASES = [
    Case("daily-5k", "Daily sync, 5,000 notes", daily(SMALL, Aim(1.2, 0.8))),
    Case("daily-30k", "Daily sync, 30,000 notes", daily(MEDIUM, Aim(0.8, 0.5))),
    Case(
        "daily-200k",
        "Daily sync, 200,000 notes and 1,000,000 reviews",
        daily(LARGE, Aim(0.5, 0.25)),
        quick=False,
    ),
    Case("daily-500k", "Daily sync, 500,000 notes", daily(HUGE, None), quick=False),
    Case("daily-growth", "How the daily sync's own cost grows", _growth, quick=False),
]
