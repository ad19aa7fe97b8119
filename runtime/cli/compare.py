"""`fillbook replay --compare`: several bots side by side."""

from typing import TYPE_CHECKING

from runtime.cli.base import Place, say
from runtime.cli.inputs import Inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from runtime.cli.output import Cell
    from runtime.compare import CompareRow

_SHOWN_HASH = 12


def show_comparison(place: Place, inputs: Inputs, cash: "Decimal", *, together: bool, jobs: int | None) -> None:
    """Run them all and print a row for each."""
    from runtime.cli.bars import CountBar
    from runtime.cli.books import page
    from runtime.cli.output import show_json
    from runtime.compare import compare, contenders, ranked, workers_for

    counts = {summary.symbol: summary.candles for summary in inputs.summaries}
    chosen = contenders(inputs.bots, sorted(counts), together=together)
    total = sum(counts.get(symbol, 0) for one in chosen for symbol in one.symbols)
    workers = workers_for(total, len(chosen)) if jobs is None else jobs
    with CountBar(f"{len(chosen)} runs", total) as bar:
        progress = None if bar.listener is None else _Sum(len(chosen), bar.listener).tell
        rows = ranked(compare(place.settings, chosen, inputs.files, cash=cash, workers=workers, progress=progress))
    for warning in dict.fromkeys(_warnings(rows)):
        say(f"fillbook: warning: {warning}")
    if place.json:
        show_json(page(row.to_wire() for row in rows))
    else:
        _show(rows, cash)


class _Sum:
    """The progress of several runs as one number."""

    def __init__(self, runs: int, update: "Callable[[int], None]") -> None:
        self._done = [0] * runs
        self._update = update

    def tell(self, index: int, done: int) -> None:
        """So much of one run is done."""
        self._done[index] = done
        self._update(sum(self._done))


def _warnings(rows: "Sequence[CompareRow]") -> list[str]:
    """A bot's warnings name it; those of the run of all say that they are of that run."""
    from runtime.compare import Kind

    found = []
    for row in rows:
        prefix = f"{row.contender.name}: " if row.contender.kind is Kind.TOGETHER else ""
        found += [f"{prefix}{warning}" for warning in row.warnings]
    return found


def _show(rows: "Sequence[CompareRow]", cash: "Decimal") -> None:
    from runtime.cli.output import money, show, show_table

    show_table(
        [
            "run", ">fills", "wins", ">return %", ">max drawdown %", ">in market %", ">avg exposure %", ">fees",
            ">realized P&L", ">unrealized P&L", ">equity", "state hash",
        ],
        [_cells(row) for row in rows],
        empty="no bots",
    )  # fmt: skip
    show()
    show(f"Every run starts with {money(cash)} and pays the same costs.")


def _cells(row: "CompareRow") -> "list[Cell]":
    from runtime.cli.output import MISSING, money, number, signed
    from runtime.compare import percent

    totals = row.totals
    if totals is None:
        return [row.contender.name, *[MISSING] * 10, "no candles"]
    measures = totals.measures
    return [
        row.contender.name,
        f"{totals.fills:,}",
        f"{measures.winning_fills:,} of {measures.closing_fills:,}" if measures.closing_fills else MISSING,
        signed(percent(measures.return_ratio)),
        number(percent(measures.max_drawdown), least=2, most=2),
        number(percent(measures.time_in_market), least=1, most=1),
        number(percent(measures.average_exposure), least=1, most=1),
        money(totals.fees),
        signed(totals.realized_pnl),
        signed(totals.unrealized_pnl),
        money(totals.equity),
        totals.state_hash[:_SHOWN_HASH],
    ]
