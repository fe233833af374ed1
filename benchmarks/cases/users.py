# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many users: what each one leaves behind in memory, and how long a start takes."""

import time

from benchmarks.bench import PASSWORD, PEAK_AIM, Bench, Case
from benchmarks.cases.daily import Pair
from benchmarks.client import Latencies, device, media_begin
from benchmarks.collections import Author, Shape, replica
from benchmarks.report import Aim
from benchmarks.servers import Server, running

SHAPE = Shape(2000, 10_000, 150)


def _memory(bench: Bench) -> None:
    """RSS after 200 users have each synced once (a push, a fetch, media begin)."""
    count = 20 if bench.quick else 200
    path = bench.store.collection(SHAPE)
    start = replica(path)
    users = [f"ana{n}" for n in range(count)]
    pending = Author(path, 4).reviews(50)
    for _ in bench.turns(1, 1):
        with bench.running(users, dict.fromkeys(users, path)) as servers:
            for server in servers:
                idle = server.tree.rss()
                server.tree.reset_peak()
                for user in users:
                    pair = Pair(server, start, user)
                    pair.push_and_fetch(pending, (Latencies(), Latencies()), settle=False)
                    with device(server.port, user, PASSWORD) as ana:
                        media_begin(ana)
                server.tree.settle()
                after = server.tree.rss()
                bench.add(server, "RSS idle", idle, "MB")
                bench.add(
                    server, "RSS afterwards, over idle", after - idle, "MB", Aim(20, 5, "value")
                )
                bench.add(server, "over idle, a user", (after - idle) / count, "MB")
                bench.add(server, "peak RSS", server.tree.peak_rss(), "MB", PEAK_AIM)


def _start(bench: Bench) -> None:
    """From the start of the process to its first answer, with 1,000 users to know."""
    count = 30 if bench.quick else 1000
    users = [f"ana{n}" for n in range(1, count + 1)]
    for _ in bench.turns(2, 1):
        for server in bench.servers(users):
            begin = time.perf_counter()
            with running([server], settle=False):
                healthy = time.perf_counter() - begin
                with device(server.port, users[-1], PASSWORD) as ana:
                    media_begin(ana)
                login = time.perf_counter() - begin
                _note_start(bench, server, healthy, login)


def _note_start(bench: Bench, server: Server, healthy: float, login: float) -> None:
    bench.add(server, "first answer (GET /health)", healthy, "s", Aim(1.0, 0.4, "value"))
    bench.add(server, "first login and media begin", login, "s")
    server.tree.settle()
    bench.add(server, "CPU", server.tree.cpu(), "s")
    bench.add(server, "RSS", server.tree.rss(), "MB")
    bench.add(server, "peak RSS", server.tree.peak_rss(), "MB", PEAK_AIM)


CASES = [
    Case("memory", "Memory after 200 different users have synced once", _memory),
    Case("start", "Start with 1,000 users", _start),
]
