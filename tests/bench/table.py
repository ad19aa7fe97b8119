"""The table that a person reads."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.bench.measure import Row


@dataclass(frozen=True, slots=True)
class Finding:
    """What one benchmark found. `others`: cores that other processes used meanwhile."""

    name: str
    rows: list[Row]
    megabytes: float
    others: float
    seconds: float
    failed: bool


def print_table(findings: Sequence[Finding], quick: bool) -> None:
    """Every row beside its aim and its baseline."""
    # Not narrower than its columns: a pipe has no width.
    console = Console(width=None if sys.stdout.isatty() else 170)
    table = Table(title=_title(quick), caption=_CAPTION, title_justify="left", caption_justify="left")
    table.add_column("benchmark", overflow="fold")
    for name in ("measured", "unit", "aim", "", "baseline", "cost"):
        table.add_column(name, justify="left" if name in ("unit", "") else "right", no_wrap=True)
    table.add_column("the baseline is")
    table.add_column("others' CPU", justify="right")
    for finding in findings:
        if finding.failed:
            table.add_row(f"{finding.name}: FAILED, see above", style="red")
        for row in finding.rows:
            table.add_row(*_cells(row), f"{finding.others:.1f}")
        if finding.megabytes >= 1:
            table.add_row(f"  {finding.name}: peak memory above the start", f"{finding.megabytes:,.0f}", "MB")
        table.add_section()
    console.print(table)


_CAPTION = (
    "cost: how many times what the baseline needs. Best of several repetitions. others' CPU: cores that other "
    "processes kept busy meanwhile; above 0.2 the figures are too low."
)


def _title(quick: bool) -> str:
    cores, load = os.cpu_count(), os.getloadavg()[0]
    note = "  --quick: a smoke test, the figures mean nothing" if quick else ""
    return f"fillbook bench, Python {platform.python_version()}, {cores} cores, load {load:.1f}{note}"


def _cells(row: Row) -> tuple[str, ...]:
    verdict = {None: "", True: "ok", False: "MISSED"}[row.meets_aim]
    aim = "" if row.aim is None else ("<= " if row.lower_is_better else ">= ") + _number(row.aim)
    cost = row.cost
    return (
        row.what,
        _number(row.measured),
        row.unit,
        aim,
        verdict,
        "" if row.baseline is None else _number(row.baseline),
        "" if cost is None else f"{cost:.2g} x" if cost < 10 else f"{cost:.0f} x",
        row.baseline_is,
    )


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}"
