# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many new notes at once: an import on one device, fetched by a second one."""

from benchmarks.bench import PEAK_AIM, Bench, Case
from benchmarks.cases.daily import SMALL, Pair
from benchmarks.client import Latencies
from benchmarks.collections import Author, replica
from benchmarks.measure import percentile
from benchmarks.report import Aim

FIELD_BYTES = 150


def _bulk(bench: Bench) -> None:
    """20,000 notes and cards into a collection of 5,000, in chunks of 250 rows."""
    path = bench.store.collection(SMALL)
    count = 2000 if bench.quick else 20_000
    start = replica(path)
    for _ in bench.turns(3):
        pending = Author(path, 2).new_notes(count, FIELD_BYTES)
        with bench.running(["ana"], {"ana": path}) as servers:
            for server in servers:
                pair = Pair(server, start)
                latencies = (Latencies(), Latencies())
                push, fetch = pair.push_and_fetch(pending, latencies)
                bench.add(server, "CPU, push and fetch", push.cpu + fetch.cpu, "s", Aim(1.5, 0.9))
                bench.add(server, "CPU, push", push.cpu, "s")
                bench.add(server, "CPU, fetch", fetch.cpu, "s")
                bench.add(server, "written, push", push.written, "MB", Aim(0.3, 0.15))
                bench.add(server, "to storage, push", push.stored, "MB")
                bench.add(server, "took, push", push.wall, "s")
                bench.add(server, "took, fetch", fetch.wall, "s")
                for method, values in latencies[0].by_method.items():
                    if method in {"applyChunk", "sanityCheck2", "finish"}:
                        bench.add(server, f"{method} worst", max(values), "ms")
                chunks = latencies[1].by_method["chunk"]
                bench.add(server, "chunk median", percentile(chunks, 0.5), "ms")
                bench.add(server, "chunk worst", max(chunks), "ms")
                peak = max(push.peak_rss, fetch.peak_rss)
                bench.add(server, "peak RSS", peak, "MB", PEAK_AIM)


CASES = [Case("bulk", "20,000 new notes and cards pushed, then fetched", _bulk)]
