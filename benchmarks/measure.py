# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a process tree has used, read from /proc and the processes' CPU clocks (Linux only)."""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0..1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the command's name (index 0 is the state)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _numbers(pid: int, file: str) -> dict[str, int]:
    """The `name: number` lines of a file in /proc/PID; empty if the process is gone."""
    numbers = {}
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            numbers[name] = int(words[0])
    return numbers


class Tree:
    """A process and everything that it started."""

    def __init__(self, root: int) -> None:
        self.root = root

    def pids(self) -> list[int]:
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
                parents[int(entry.name)] = int(stat[1])
        found = [self.root]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def cpu(self) -> float:
        """CPU seconds so far, user and system, ended children included.

        The clock of a living process counts nanoseconds (and threads that ended); what
        reaped children used is known in ticks only.
        """
        total = 0.0
        for pid in self.pids():
            stat = _stat(pid)
            if stat is None:
                continue
            with contextlib.suppress(OSError):
                # CPUCLOCK_SCHED of another process: see clock_getcpuclockid(3).
                total += time.clock_gettime((~pid << 3) | 2)
            total += (int(stat[13]) + int(stat[14])) / TICKS
        return total

    def written(self) -> tuple[int, int]:
        """Bytes handed to write calls, and bytes sent on to the storage."""
        calls = stored = 0
        for pid in self.pids():
            numbers = _numbers(pid, "io")
            calls += numbers.get("wchar", 0)
            stored += numbers.get("write_bytes", 0)
        return calls, stored

    def rss(self) -> int:
        """Resident bytes now."""
        return sum(_numbers(pid, "status").get("VmRSS", 0) for pid in self.pids()) * 1024

    def peak_rss(self) -> int:
        """The processes' greatest resident bytes since the last reset, added up."""
        return sum(_numbers(pid, "status").get("VmHWM", 0) for pid in self.pids()) * 1024

    def reset_peak(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def settle(self, *, quiet: float = 0.25, limit: float = 10.0) -> None:
        """Waits until the tree has done nearly nothing for `quiet` seconds.

        Work that a server puts off until after its answer (a checkpoint, say) belongs to
        what the answer cost.
        """
        deadline = time.monotonic() + limit
        before = self.cpu()
        while time.monotonic() < deadline:
            time.sleep(quiet)
            now = self.cpu()
            if now - before < 0.01 * quiet:
                return
            before = now


@dataclass
class Usage:
    """What a stretch of work used: seconds and bytes."""

    cpu: float = 0.0
    wall: float = 0.0
    written: int = 0
    stored: int = 0
    peak_rss: int = 0


@contextlib.contextmanager
def measured(tree: Tree, *, settle: bool = True) -> Iterator[Usage]:
    """Fills in the `Usage` at the end of the block; `wall` leaves out the settling."""
    usage = Usage()
    tree.reset_peak()
    written, stored = tree.written()
    cpu = tree.cpu()
    begin = time.perf_counter()
    yield usage
    usage.wall = time.perf_counter() - begin
    if settle:
        tree.settle()
    usage.cpu = tree.cpu() - cpu
    after_written, after_stored = tree.written()
    usage.written = after_written - written
    usage.stored = after_stored - stored
    usage.peak_rss = tree.peak_rss()
