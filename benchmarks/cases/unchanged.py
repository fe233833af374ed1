# SPDX-License-Identifier: AGPL-3.0-or-later
"""A sync with nothing to do, which is what most syncs are; and a login."""

from benchmarks.bench import PASSWORD, PEAK_AIM, Bench, Case
from benchmarks.client import (
    FILES_PER_BATCH,
    compressed,
    device,
    expect,
    media_begin,
    media_upload,
    media_zip,
    meta,
)
from benchmarks.collections import Shape, replica
from benchmarks.measure import measured, percentile
from benchmarks.report import Aim

SHAPE = Shape(5000, 25_000, 150)


def _unchanged(bench: Bench) -> None:
    """`meta` and media `begin`, over one connection and over a new one for each sync."""
    path = bench.store.collection(SHAPE)
    count = 200 if bench.quick else 1000
    mod = replica(path).mod
    files = [(f"{n}.jpg", bytes([n]) * 1000) for n in range(FILES_PER_BATCH)]
    with bench.running(["ana"], {"ana": path}) as servers:
        keys = {}
        for server in servers:
            with device(server.port, "ana", PASSWORD) as ana:
                keys[server.label] = ana.key
                media_upload(ana, compressed(media_zip(files)), files=len(files), usn=len(files))
                meta(ana)
        for _ in bench.turns(7):
            for server in servers:
                with device(server.port, "ana", key=keys[server.label]) as ana:
                    with measured(server.tree) as usage:
                        for _ in range(count):
                            ana.new_session()
                            expect(meta(ana)["mod"] == mod, "meta mod")
                            expect(media_begin(ana) == len(files), "begin usn")
                    bench.add(server, "CPU a sync", usage.cpu / count, "ms", Aim(1.0, 0.6))
                    for method in ("meta", "begin"):
                        values = ana.latencies.by_method[method]
                        bench.add(server, f"{method} median", percentile(values, 0.5), "ms")
                        bench.add(server, f"{method} p99", percentile(values, 0.99), "ms")
                    bench.add(server, "peak RSS", usage.peak_rss, "MB", PEAK_AIM)
            for server in servers:
                with measured(server.tree) as usage:
                    for _ in range(count // 4):
                        with device(server.port, "ana", key=keys[server.label]) as ana:
                            meta(ana)
                            media_begin(ana)
                cost = usage.cpu / (count // 4)
                bench.add(server, "CPU a sync, new connection", cost, "ms")


def _login(bench: Bench) -> None:
    """`hostKey` with the right password."""
    count = 5 if bench.quick else 20
    with bench.running(["ana"]) as servers:
        for _ in bench.turns(5):
            for server in servers:
                latencies = []
                with measured(server.tree) as usage:
                    for _ in range(count):
                        with device(server.port, "ana", PASSWORD) as ana:
                            latencies += ana.latencies.all()
                bench.add_usage(server, "", usage, per=count)
                bench.add(server, "median", percentile(latencies, 0.5), "ms")
                bench.add(server, "p99", percentile(latencies, 0.99), "ms")


CASES = [
    Case("unchanged", "No-change sync: meta and media begin, 5,000 notes", _unchanged),
    Case("login", "A login", _login),
]
