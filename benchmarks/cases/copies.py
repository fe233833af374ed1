# SPDX-License-Identifier: AGPL-3.0-or-later
"""What it costs to keep a copy, of the user's own and of everybody else's time.

The official server keeps none, so there is nothing to compare with. The copy is the day's first:
one review is pushed, and the server packs the state before it beside its other work.
"""

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import PASSWORD, PEAK_AIM, Bench, Case
from benchmarks.cases.daily import Pair
from benchmarks.cases.full import FIVE_HUNDRED, HUNDRED, TEN
from benchmarks.cases.neighbour import SMALL, probe
from benchmarks.client import Latencies, device, expect
from benchmarks.collections import Author, Shape, replica
from benchmarks.measure import measured, percentile
from benchmarks.report import Aim
from benchmarks.servers import Server

WAIT = 120.0


def copies(shape: Shape) -> Callable[[Bench], None]:
    """The case for one size."""

    def run(bench: Bench) -> None:
        chosen = TEN if bench.quick else shape
        path, small = bench.store.collection(chosen), bench.store.collection(SMALL)
        for _ in bench.turns(3, 1):
            with bench.running(["ana", "ben"], {"ana": small, "ben": path}) as servers:
                for server in servers:
                    if server.kind.startswith("cardkeep"):
                        _keep(bench, server, path)

    return run


def _keep(bench: Bench, server: Server, path: Path) -> None:
    pair = Pair(server, replica(path), "ben")
    kept = server.base / "ben" / ".cardkeep" / "snapshots"
    with device(server.port, "ana", PASSWORD) as ana:
        idle = probe(ana, lambda passed: passed > 2.0)
        with measured(server.tree) as usage:
            begin = time.perf_counter()
            pair.step(0, Author(path, 1).reviews(1), Latencies(), settle=False)
            synced = time.perf_counter() - begin
            busy = probe(ana, lambda passed: _is_there(kept) or passed > WAIT)
    expect(_is_there(kept), "no copy was kept")
    packed = sum(file.stat().st_size for file in kept.glob("[0-9]*/*"))
    over = percentile(busy, 0.99) / percentile(idle, 0.99)
    bench.add(server, "CPU, sync and copy", usage.cpu, "s")
    bench.add(server, "the sync took", synced, "s")
    bench.add(server, "size of the copy", packed, "MB")
    bench.add(server, "peak RSS", usage.peak_rss, "MB", PEAK_AIM)
    bench.add(server, "another's meta, p99 over idle", over, "x", Aim(3, 1.5, "value"))


def _is_there(kept: Path) -> bool:
    return any(kept.glob("[0-9]*"))


CASES = [
    Case("copy-100", "Keeping a copy of 100 MB", copies(HUNDRED)),
    Case("copy-500", "Keeping a copy of 500 MB", copies(FIVE_HUNDRED), quick=False),
]
