# SPDX-License-Identifier: AGPL-3.0-or-later
"""What one user's work does to another user's `meta`.

`meta` is sent every 10 ms. An answer that takes longer stands for the requests that would have
been asked meanwhile, each 10 ms later, so that a long wait weighs by its length. Whoever
disturbs runs in a process of its own, at a lower priority, so that what is seen is the
server's doing.
"""

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench import PASSWORD, PEAK_AIM, Bench, Case
from benchmarks.cases.full import FIVE_HUNDRED, TEN
from benchmarks.client import Device, compressed, device, download, expect, meta, upload
from benchmarks.collections import Shape
from benchmarks.measure import percentile
from benchmarks.report import Aim
from benchmarks.servers import Server

EVERY = 0.010
SMALL = Shape(5000, 25_000, 150)
Work = Callable[[int, Any], None]


def probe(client: Device, until: Callable[[float], bool]) -> list[float]:
    """Latencies of `meta` until the function (given the seconds so far) says stop."""
    latencies = []
    begin = time.perf_counter()
    while not until((asked := time.perf_counter()) - begin):
        client.new_session()
        meta(client)
        latency = time.perf_counter() - asked
        latencies.append(latency)
        while (latency := latency - EVERY) > 0:
            latencies.append(latency)
        time.sleep(EVERY)
    return latencies


def _upload(port: int, argument: Any) -> None:
    with device(port, "ben", PASSWORD) as ben:
        upload(ben, argument)


def _download(port: int, argument: Any) -> None:
    with device(port, "ben", PASSWORD) as ben:
        download(ben, argument)


def _wrong_logins(port: int, argument: Any) -> None:
    """Four connections that try one wrong password after another."""
    deadline = time.monotonic() + argument
    threads = [threading.Thread(target=_guess, args=(port, deadline)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _guess(port: int, deadline: float) -> None:
    body = compressed(b'{"u":"ben","p":"wrong"}')
    with device(port, "ben", key="none") as ben:
        ben.key = ""
        while time.monotonic() < deadline:
            response = ben.post("sync/hostKey", body)
            expect(response.status in {403, 429}, "wrong password", response)
            if response.headers.get("connection") == "close":
                ben.reconnect()


def _niced(work: Work, port: int, argument: Any) -> None:
    os.nice(10)
    work(port, argument)


@contextlib.contextmanager
def _disturbance(work: Work, port: int, argument: Any) -> Iterator[Callable[[], bool]]:
    """Runs the work beside the block; the function given tells whether it still goes on."""
    process = multiprocessing.get_context("fork").Process(
        target=_niced, args=(work, port, argument)
    )
    process.start()
    try:
        yield process.is_alive
        process.join()
        expect(process.exitcode == 0, "the disturbing client failed")
    finally:
        process.kill()
        process.join()


def _measure(bench: Bench, server: Server, key: str, name: str, work: Work, argument: Any) -> None:
    with device(server.port, "ana", key=key) as ana:
        meta(ana)
        seconds = 1.0 if bench.quick else 5.0
        idle = probe(ana, lambda passed: passed > seconds)
        server.tree.reset_peak()
        with _disturbance(work, server.port, argument) as going_on:
            busy = probe(ana, lambda _: not going_on())
        server.tree.settle()
        afterwards = server.tree.peak_rss()
    low, high = percentile(idle, 0.99), percentile(busy, 0.99)
    bench.add(server, "idle p99", low, "ms")
    bench.add(server, f"{name}: median", percentile(busy, 0.5), "ms")
    bench.add(server, f"{name}: p99", high, "ms")
    bench.add(server, f"{name}: worst", max(busy), "ms")
    bench.add(server, f"{name}: p99 over idle p99", high / low, "x", Aim(3, 1.5, "value"))
    bench.add(server, f"{name}: peak RSS", afterwards, "MB", PEAK_AIM)


def _neighbour(bench: Bench) -> None:
    shape = TEN if bench.quick else FIVE_HUNDRED
    path = bench.store.collection(SMALL)
    frame: Path = bench.store.upload(shape)
    seconds = 2.0 if bench.quick else 8.0
    for _ in bench.turns(1, 1):
        with bench.running(["ana", "ben"], {"ana": path}) as servers:
            for server in servers:
                with device(server.port, "ana", PASSWORD) as ana:
                    key = ana.key
                target = bench.work / "download.zst"
                _measure(bench, server, key, "upload", _upload, frame)
                _measure(bench, server, key, "download", _download, target)
                _measure(bench, server, key, "wrong logins", _wrong_logins, seconds)


CASES = [
    Case(
        "neighbour",
        "Another user's meta during a 500 MB upload, download, wrong logins",
        _neighbour,
    )
]
