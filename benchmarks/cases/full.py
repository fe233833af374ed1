# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole collections: full uploads and downloads."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import PASSWORD, PEAK_AIM, Bench, Case
from benchmarks.client import Device, device, download, expect, meta, upload
from benchmarks.collections import Shape, expand, replica
from benchmarks.measure import measured
from benchmarks.report import Aim

TEN = Shape(3850, 19_250, 600)
HUNDRED = Shape(38_500, 192_500, 600)
FIVE_HUNDRED = Shape(193_000, 965_000, 600)


def full(shape: Shape, aims: tuple[Aim | None, Aim | None]) -> Callable[[Bench], None]:
    """The case for one size: an upload, then a download of the same, on fresh servers."""

    def run(bench: Bench) -> None:
        frame = bench.store.upload(shape)
        start = replica(bench.store.collection(shape))
        for _ in bench.turns(2, 1):
            with bench.running(["ana"]) as servers:
                for server in servers:
                    with device(server.port, "ana", PASSWORD) as ana:
                        with measured(server.tree) as usage:
                            upload(ana, frame)
                        expect(meta(ana)["mod"] == start.mod, "mod after the upload")
                        took = ana.latencies.by_method["upload"][0]
                    bench.add(server, "upload CPU", usage.cpu, "s", aims[0])
                    bench.add(server, "upload took", took, "s")
                    bench.add(server, "upload written", usage.written, "MB")
                    bench.add(server, "upload peak RSS", usage.peak_rss, "MB", PEAK_AIM)
                for server in servers:
                    target = server.base.with_name("download.zst")
                    with device(server.port, "ana", PASSWORD) as ana:
                        with measured(server.tree) as usage:
                            size = download(ana, target)
                        _check(ana, target, size, shape)
                        took = ana.latencies.by_method["download"][0]
                    bench.add(server, "download CPU", usage.cpu, "s", aims[1])
                    bench.add(server, "download took", took, "s")
                    bench.add(server, "download body", target.stat().st_size, "MB")
                    bench.add(server, "download written", usage.written, "MB")
                    bench.add(server, "download peak RSS", usage.peak_rss, "MB", PEAK_AIM)
                    target.unlink()

    return run


def _check(ana: Device, frame: Path, size: int, shape: Shape) -> None:
    """What came down is a collection with everything in it, in the server's present state."""
    plain = frame.with_suffix(".anki2")
    expect(expand(frame, plain) == size, "anki-original-size", size)
    with contextlib.closing(sqlite3.connect(f"file:{plain}?immutable=1", uri=True)) as db:
        [mod] = db.execute("SELECT mod FROM col").fetchone()
        expect(mod == meta(ana)["mod"], "mod of the download", mod)
        for table, count in (
            ("notes", shape.notes),
            ("cards", shape.notes),
            ("revlog", shape.reviews),
        ):
            [found] = db.execute(f"SELECT count(*) FROM {table}").fetchone()
            expect(found == count, f"rows of {table}", found)
    plain.unlink()


DOWN = Aim(1.1, 0.9)
CASES = [
    Case("full-10", "Full upload and download, 10 MB", full(TEN, (None, None))),
    Case(
        "full-100",
        "Full upload and download, 100 MB",
        full(HUNDRED, (Aim(0.4, 0.2), DOWN)),
        quick=False,
    ),
    Case(
        "full-500",
        "Full upload and download, 500 MB",
        full(FIVE_HUNDRED, (Aim(0.1, 0.05), DOWN)),
        quick=False,
    ),
]
