# SPDX-License-Identifier: AGPL-3.0-or-later
"""2,000 media files up, and down to a second device, in batches of 25."""

import hashlib
import random

from benchmarks.bench import PASSWORD, Bench, Case
from benchmarks.client import (
    FILES_PER_BATCH,
    Device,
    compressed,
    device,
    expect,
    media_begin,
    media_download,
    media_upload,
    media_zip,
)
from benchmarks.measure import measured, percentile
from benchmarks.report import Aim

SMALLEST, LARGEST = 5_000, 60_000


def _media(bench: Bench) -> None:
    """Files of 5 to 60 kB that do not compress, as pictures and recordings are."""
    count = 200 if bench.quick else 2000
    rng = random.Random(3)
    files = [
        (f"bild-{n:05}-{rng.getrandbits(64):x}.jpg", rng.randbytes(rng.randint(SMALLEST, LARGEST)))
        for n in range(count)
    ]
    batches = [files[n : n + FILES_PER_BATCH] for n in range(0, count, FILES_PER_BATCH)]
    zips = [compressed(media_zip(batch)) for batch in batches]
    wanted = {name: hashlib.sha1(data).hexdigest() for name, data in files}
    users = [f"ana{n}" for n in bench.turns(8)]
    with bench.running(users) as servers:
        for user in users:
            for server in servers:
                with device(server.port, user, PASSWORD) as ana:
                    with measured(server.tree) as usage:
                        expect(media_begin(ana) == 0, "begin")
                        usn = 0
                        for batch, zipped in zip(batches, zips, strict=True):
                            usn += len(batch)
                            media_upload(ana, zipped, files=len(batch), usn=usn)
                        expect(ana.media("mediaSanity", {"local": count}) == "OK", "mediaSanity")
                    times = ana.latencies.by_method["uploadChanges"]
                bench.add_usage(server, "up: ", usage, aim=Aim(1.2, 0.8))
                bench.add(server, "up: took", usage.wall, "s")
                bench.add(server, "up: batch median", percentile(times, 0.5), "ms")
                bench.add(server, "up: batch p99", percentile(times, 0.99), "ms")
            for server in servers:
                with device(server.port, user, PASSWORD) as ana:
                    with measured(server.tree) as usage:
                        _fetch_all(ana, wanted)
                    times = ana.latencies.by_method["downloadFiles"]
                bench.add_usage(server, "down: ", usage, aim=Aim(1.2, 0.8))
                bench.add(server, "down: took", usage.wall, "s")
                bench.add(server, "down: batch median", percentile(times, 0.5), "ms")
                bench.add(server, "down: batch p99", percentile(times, 0.99), "ms")


def _fetch_all(ana: Device, wanted: dict[str, str]) -> None:
    """What a new device does: list every change, fetch the files, compare the number."""
    listed: dict[str, str] = {}
    usn = 0
    while changes := ana.media("mediaChanges", {"lastUsn": usn}):
        listed |= {name: sha1 for name, _, sha1 in changes}
        usn = changes[-1][1]
    expect(listed == wanted, "mediaChanges", len(listed), len(wanted))
    names = list(listed)
    while names:
        batch = {name: wanted[name] for name in names[:FILES_PER_BATCH]}
        del names[: media_download(ana, batch)]
    expect(ana.media("mediaSanity", {"local": len(wanted)}) == "OK", "mediaSanity")


CASES = [Case("media", "2,000 media files up and down", _media)]
