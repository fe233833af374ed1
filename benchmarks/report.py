# SPDX-License-Identifier: AGPL-3.0-or-later
"""From measured values to a table and a file."""

import json
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.clients.environments import NEWEST

from benchmarks.servers import REPOSITORY

UNITS = {
    "ms": 1e3,
    "s": 1.0,
    "MB": 1e-6,
    "x": 1.0,
}
PEAK = "peak RSS"
"""How the names of figures end whose greatest value counts."""

BASE_UNITS = {"ms": "seconds", "s": "seconds", "MB": "bytes", "x": "number"}
"""What values are kept in."""


@dataclass(frozen=True)
class Aim:
    """What issue 2 wants of a figure: of the ratio cardkeep/official, or of cardkeep alone."""

    must: float
    hoped: float
    of: str = "ratio"


@dataclass
class Figure:
    """One measured quantity of a case: its values for each server, a value a round."""

    name: str
    unit: str
    aim: Aim | None = None
    values: dict[str, list[float]] = field(default_factory=dict)

    def middle(self, label: str) -> float | None:
        values = self.values.get(label)
        return median(values) if values else None


@dataclass
class CaseResult:
    name: str
    title: str
    figures: dict[str, Figure] = field(default_factory=dict)

    def add(self, label: str, name: str, value: float, unit: str, aim: Aim | None = None) -> None:
        """Notes a value in base units (seconds, bytes, or a plain number)."""
        figure = self.figures.setdefault(name, Figure(name, unit, aim))
        figure.values.setdefault(label, []).append(value)


def shown(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    value *= UNITS[unit]
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}".replace(" x", "")


def ratio(figure: Figure, labels: Sequence[str]) -> float | None:
    """The second server's middle value over the first's."""
    first, second = figure.middle(labels[0]), figure.middle(labels[-1])
    if len(labels) < 2 or not first or second is None:
        return None
    return second / first


def _verdict(figure: Figure, labels: Sequence[str]) -> str:
    aim = figure.aim
    if aim is None or len(labels) < 2 or not labels[-1].startswith("cardkeep"):
        return ""
    if aim.of == "ratio":
        found = ratio(figure, labels)
    else:
        middle = figure.middle(labels[-1])
        found = None if middle is None else middle * UNITS[figure.unit]
    if found is None:
        return ""
    word = "hoped" if found <= aim.hoped else "must" if found <= aim.must else "**missed**"
    unit = "" if aim.of == "ratio" or figure.unit == "x" else f" {figure.unit}"
    return f"{aim.must:g} / {aim.hoped:g}{unit}: {word}"


def case_table(result: CaseResult, labels: Sequence[str]) -> str:
    """A markdown table of one case."""
    lines = [
        f"### {result.title} (`{result.name}`)",
        "",
        "| | " + " | ".join(labels) + " | ratio | must / hoped |",
        "| --- |" + " ---: |" * (len(labels) + 1) + " --- |",
    ]
    lines += [_line(figure.name, figure, labels) for figure in result.figures.values()]
    return "\n".join(lines) + "\n"


def summary(results: Iterable[CaseResult], labels: Sequence[str]) -> str:
    """One markdown table of every figure that something is wanted of."""
    lines = [
        "| | " + " | ".join(labels) + " | ratio | must / hoped |",
        "| --- |" + " ---: |" * (len(labels) + 1) + " --- |",
    ]
    greatest: Figure | None = None
    for result in results:
        for figure in result.figures.values():
            if figure.aim is None:
                continue
            if figure.name.endswith(PEAK):
                greatest = greatest or Figure(f"{PEAK}, the greatest of all", "MB", figure.aim)
                for label, values in figure.values.items():
                    before = greatest.values.get(label, [0.0])[0]
                    greatest.values[label] = [max(before, *values)]
                continue
            lines.append(_line(f"{result.title}: {figure.name}", figure, labels))
    if greatest is not None:
        lines.append(_line(greatest.name, greatest, labels))
    return "\n".join(lines) + "\n"


def _line(name: str, figure: Figure, labels: Sequence[str]) -> str:
    found = ratio(figure, labels)
    cells = [shown(figure.middle(label), figure.unit) for label in labels]
    cells += ["" if found is None else f"{found:.2f}", _verdict(figure, labels)]
    return f"| {name} | " + " | ".join(cells) + " |"


def _revision() -> str:
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def circumstances() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "cardkeep": _revision(),
        "anki": NEWEST,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processor": _processor(),
    }


def write(results: Iterable[CaseResult], labels: Sequence[str], folder: Path) -> Path:
    """Writes the markdown and the JSON of a run; gives the path of the markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    results = list(results)
    facts = circumstances()
    stem = folder / time.strftime("%Y%m%d-%H%M%S")
    text = ", ".join(f"{name} {value}" for name, value in facts.items()) + "\n\n"
    text += summary(results, labels) + "\n"
    text += "\n".join(case_table(result, labels) for result in results)
    markdown = stem.with_suffix(".md")
    markdown.write_text(text)
    record = {
        "circumstances": facts,
        "servers": list(labels),
        "cases": [
            {
                "name": result.name,
                "title": result.title,
                "figures": [
                    {
                        "name": figure.name,
                        "unit": BASE_UNITS[figure.unit],
                        "values": figure.values,
                        "ratio": ratio(figure, labels),
                    }
                    for figure in result.figures.values()
                ],
            }
            for result in results
        ],
    }
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1))
    return markdown
