# SPDX-License-Identifier: AGPL-3.0-or-later
"""A sync with nothing to do, which is what most syncs are; and a login."""

import json
import time

from benchmarks.bench import PASSWORD, PEAK_AIM, Bench, Case
from benchmarks.client import (
    FILES_PER_BATCH,
    Device,
    Response,
    compressed,
    decompressed,
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

META = b'{"v":11,"cv":"anki,26.09.3 (29bb700b),linux"}'
BEGIN = b'{"v":"26.09.3,29bb700b,linux"}'
SHAPE = Shape(5000, 25_000, 150)


def _unchanged(bench: Bench) -> None:
    """`meta` and media `begin`: one after the other as fast as they are answered, and rarely.

    The second way finds the processor's caches full of other things, as in life; then even
    a short path through a program is expensive.
    """
    path = bench.store.collection(SHAPE)
    # Short turns, and many: what else the machine does then falls on both alike.
    count, rare = (100, 20) if bench.quick else (250, 40)
    mod = replica(path).mod
    files = [(f"{n}.jpg", bytes([n]) * 1000) for n in range(FILES_PER_BATCH)]
    with bench.running(["ana"], {"ana": path}) as servers:
        keys = {}
        for server in servers:
            with device(server.port, "ana", PASSWORD) as ana:
                keys[server.label] = ana.key
                media_upload(ana, compressed(media_zip(files)), files=len(files), usn=len(files))
                meta(ana)
        for _ in bench.turns(30, quick=6):
            for server in servers:
                with device(server.port, "ana", key=keys[server.label]) as ana:
                    with measured(server.tree) as usage:
                        answers = _ask(ana, count)
                for answer in answers:
                    _check(answer, mod, len(files))
                bench.add(server, "CPU a sync", usage.cpu / count, "ms", Aim(1.0, 0.6))
                for method in ("meta", "begin"):
                    values = ana.latencies.by_method[method]
                    bench.add(server, f"{method} median", percentile(values, 0.5), "ms")
                    bench.add(server, f"{method} p99", percentile(values, 0.99), "ms")
                bench.add(server, "peak RSS", usage.peak_rss, "MB", PEAK_AIM)
            for server in servers:
                with measured(server.tree) as usage:
                    for _ in range(rare):
                        with device(server.port, "ana", key=keys[server.label]) as ana:
                            expect(meta(ana)["mod"] == mod, "meta mod")
                            expect(media_begin(ana) == len(files), "begin usn")
                        time.sleep(0.01)
                cost = usage.cpu / rare
                bench.add(server, "CPU a sync, each on its own", cost, "ms")


def _ask(ana: Device, count: int) -> list[tuple[Response, Response]]:
    """Asks so many times; what is sent is made beforehand, and looked at afterwards."""
    bodies = (compressed(META), compressed(BEGIN))
    return [
        (ana.post("sync/meta", bodies[0]), ana.post("msync/begin", bodies[1])) for _ in range(count)
    ]


def _check(answer: tuple[Response, Response], mod: int, media_usn: int) -> None:
    told, begun = (json.loads(decompressed(response)) for response in answer)
    expect(told["mod"] == mod and told["media_usn"] == media_usn, "meta", told)
    expect(begun["data"]["usn"] == media_usn, "begin", begun)


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
