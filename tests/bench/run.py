"""Runs the benchmarks, each in a process of its own, and prints one table."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import catalogue
from tests.bench.measure import Effort, PeakMemory, Row, say
from tests.bench.table import Finding, print_table


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Exit code 1 when a benchmark failed; a missed aim is no failure."""
    parser = argparse.ArgumentParser(
        prog="./run bench",
        description="Speed and memory, each beside the least work that any solution must do. Best of several "
        "repetitions; a busy machine shows in the column of the others' CPU.",
        epilog="benchmarks: " + "; ".join(f"{name}: {about}" for name, about in catalogue.descriptions().items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="a smoke test: too short to mean anything")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--folder", type=Path, help="where to put databases, so that its disk is measured")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in catalogue.NAMES]
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; there are: {', '.join(catalogue.NAMES)}")
    if given.child:
        _child(given.names[0], Effort(given.quick, given.folder))
        return
    with tempfile.TemporaryDirectory(prefix="fillbook-bench-", dir=given.folder) as folder:
        findings = [_run(name, given.quick, Path(folder)) for name in given.names or catalogue.NAMES]
    say("")
    if given.json:
        print(json.dumps(_wire(findings, given.quick), indent=2))
    else:
        print_table(findings, given.quick)
    sys.exit(any(finding.failed for finding in findings))


def _child(name: str, effort: Effort) -> None:
    """One benchmark, in this process; the rows as JSON on stdout."""
    benchmark = catalogue.load(name)
    memory = PeakMemory()  # after the imports
    rows = benchmark(effort)
    print(json.dumps({"rows": [asdict(row) for row in rows], "megabytes": memory.growth}))


def _run(name: str, quick: bool, folder: Path) -> Finding:
    say(f"{name} ...")
    place = folder / name
    place.mkdir()
    command = [sys.executable, "-P", "-m", "tests.bench", "--child", name, "--folder", str(place)]
    busy, own, began = _busy_seconds(), _own_seconds(), time.monotonic()
    environment = {**os.environ, **({"FILLBOOK_BENCH_PROGRESS": "1"} if sys.stderr.isatty() else {})}
    process = subprocess.run(
        [*command, *(["--quick"] if quick else [])], stdout=subprocess.PIPE, env=environment, check=False
    )
    wall = time.monotonic() - began
    others = max(0.0, (_busy_seconds() - busy) - (_own_seconds() - own)) / wall
    found: dict[str, Any] = {"rows": [], "megabytes": 0.0}
    with suppress(ValueError):
        found = json.loads(process.stdout)
    return Finding(
        name=name,
        rows=[Row(**row) for row in found["rows"]],
        megabytes=found["megabytes"],
        others=others,
        seconds=wall,
        failed=process.returncode != 0,
    )


def _busy_seconds() -> float:
    """CPU seconds that all processes of the machine used so far; 0 where nobody says."""
    with suppress(OSError, ValueError, IndexError):
        ticks = [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _own_seconds() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _wire(findings: Sequence[Finding], quick: bool) -> dict[str, Any]:
    rows = [
        {
            "benchmark": finding.name,
            **asdict(row),
            "cost": row.cost,
            "meets_aim": row.meets_aim,
            "others_cpu": round(finding.others, 2),
        }
        for finding in findings
        for row in finding.rows
    ]
    failed = [finding.name for finding in findings if finding.failed]
    memory = {finding.name: round(finding.megabytes, 1) for finding in findings}
    return {"quick": quick, "cores": os.cpu_count(), "items": rows, "megabytes": memory, "failed": failed}
