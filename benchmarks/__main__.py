# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m benchmarks`: the options, and the run."""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench, Case
from benchmarks.cases import bulk, copies, daily, full, media, neighbour, unchanged, users
from benchmarks.client import AnswerError
from benchmarks.collections import Store
from benchmarks.report import CaseResult
from benchmarks.servers import KINDS, REPOSITORY

ALL: list[Case] = [
    *unchanged.CASES,
    *daily.CASES,
    *bulk.CASES,
    *full.CASES,
    *media.CASES,
    *copies.CASES,
    *users.CASES,
    *neighbour.CASES,
]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small versions, under two minutes")
    parser.add_argument(
        "--case", action="append", metavar="NAME", help="only this case (can be repeated)"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--rounds", type=int, help="rounds for each case")
    parser.add_argument(
        "--servers",
        default="official,cardkeep",
        help="which two to compare (default: %(default)s); one is possible too;"
        " cardkeep@FOLDER runs the package that is in that folder",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "cardkeep-bench",
        help="where generated collections are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--results", type=Path, default=REPOSITORY / "bench-results", help="where results go"
    )
    return parser.parse_args()


def server_kinds(text: str) -> dict[str, str]:
    """Labels and kinds; a kind that is named twice is compared with itself."""
    kinds: dict[str, str] = {}
    for kind in text.split(","):
        if kind.partition("@")[0] not in KINDS:
            raise SystemExit(f"no such server: {kind} (there are {', '.join(KINDS)})")
        kinds[f"{kind}-again" if kind in kinds else kind] = kind
    return kinds


def chosen(names: list[str] | None, *, quick: bool) -> list[Case]:
    if not names:
        return [case for case in ALL if case.quick or not quick]
    by_name = {case.name: case for case in ALL}
    for name in names:
        if name not in by_name:
            raise SystemExit(f"no such case: {name} (there are {', '.join(by_name)})")
    return [by_name[name] for name in names]


def main() -> int:
    args = options()
    if args.list:
        print("\n".join(f"{case.name:20} {case.title}" for case in ALL))
        return 0
    kinds = server_kinds(args.servers)
    cases = chosen(args.case, quick=args.quick)
    args.cache.mkdir(parents=True, exist_ok=True)
    # On ext4 the folders in it then lie far apart, and far from those of an earlier run: without a
    # journal, a new file where many were deleted within six minutes costs either server several
    # times as much, since each inode freed in that time is looked at and passed over.
    subprocess.run(["chattr", "+T", str(args.cache)], check=False, capture_output=True)
    # Beside the cache: a real disk, where a flush costs what it costs.
    work = Path(tempfile.mkdtemp(prefix="run-", dir=args.cache))
    bench = Bench(kinds, Store(args.cache), work, args.quick, args.rounds)
    try:
        for case in cases:
            begin = time.monotonic()
            title = f"{case.title} [a small version]" if args.quick else case.title
            bench.result = CaseResult(case.name, title)
            case.run(bench)
            bench.tidy()
            if bench.result.figures:
                bench.done[case.name] = bench.result
                print(report.case_table(bench.result, bench.labels), flush=True)
            print(f"[{case.name}: {time.monotonic() - begin:.0f} s]", file=sys.stderr, flush=True)
    except (AnswerError, OSError):
        for log in sorted(work.glob(f"{bench.folders:03}/*/base.log")):
            print(f"--- the end of {log.parent.name}'s log", file=sys.stderr)
            print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if bench.done:
            print(report.summary(bench.done.values(), bench.labels))
            print(report.write(bench.done.values(), bench.labels, args.results), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
