# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a case is, and what it is given."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.collections import Store
from benchmarks.measure import Usage
from benchmarks.report import Aim, CaseResult
from benchmarks.servers import Server, running

PASSWORD = "secret"
LARGE_FILE = 1 << 20
PEAK_AIM = Aim(120, 80, of="value")


@dataclass
class Bench:
    """`work` is a folder for one run; `store` keeps what was made."""

    kinds: Mapping[str, str]
    store: Store
    work: Path
    quick: bool
    rounds: int | None = None
    folders: int = 0
    result: CaseResult = field(default_factory=lambda: CaseResult("", ""))
    done: dict[str, CaseResult] = field(default_factory=dict)

    @property
    def labels(self) -> Sequence[str]:
        return list(self.kinds)

    def turns(self, normal: int, quick: int = 2) -> range:
        """The rounds of a case."""
        return range(self.rounds or (quick if self.quick else normal))

    def servers(self, users: Sequence[str]) -> list[Server]:
        """One of each kind, not started yet, on empty folders."""
        made = []
        self.folders += 1
        folder = self.work / f"{self.folders:03}"
        for label, kind in self.kinds.items():
            base = folder / label.replace("/", "_") / "base"
            base.mkdir(parents=True)
            made.append(Server(label, kind, base, dict.fromkeys(users, PASSWORD)))
        return made

    def tidy(self) -> None:
        """Takes away the large files of a case that is over.

        Not the thousands of small ones: where file systems look for names and inodes that
        were freed a moment ago, that would slow down whoever comes next.
        """
        for path in self.work.rglob("*"):
            if path.is_file() and path.stat().st_size > LARGE_FILE:
                path.unlink()

    @contextlib.contextmanager
    def running(
        self, users: Sequence[str], collections: Mapping[str, Path] | None = None
    ) -> Iterator[Sequence[Server]]:
        """Both servers, each with its own copies of the users' collections."""
        servers = self.servers(users)
        for server in servers:
            for user, path in (collections or {}).items():
                server.place(user, path)
        with running(servers):
            yield servers

    def add(
        self, server: Server, name: str, value: float, unit: str, aim: Aim | None = None
    ) -> None:
        self.result.add(server.label, name, value, unit, aim)

    def add_usage(
        self, server: Server, prefix: str, usage: Usage, *, per: int = 1, aim: Aim | None = None
    ) -> None:
        """CPU, written bytes and peak memory of a stretch of work, which did `per` things."""
        self.add(server, f"{prefix}CPU", usage.cpu / per, "ms", aim)
        self.add(server, f"{prefix}written", usage.written / per, "MB")
        self.add(server, f"{prefix}peak RSS", usage.peak_rss, "MB", PEAK_AIM)


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    run: Callable[[Bench], None]
    quick: bool = True
    """Whether `--quick` runs it."""
