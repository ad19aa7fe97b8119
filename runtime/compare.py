"""Several replays side by side: each bot alone in books of its own, beside buying and holding.

Every run has the same cash and costs and its own books in memory; it sees the candles of its own symbols. The
runs know nothing of each other, so they may run on several cores; the rows are the same.
"""

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from config.exact import ZERO, divide, floor_to, plain
from config.instruments import default_instrument
from config.settings import Settings
from execution.model import OrderRequest, Responded, ResponseStatus, Side
from portfolio.equity import EquityCurve, EquityMeasures
from portfolio.valuation import RATIO_PLACES
from runtime.ctrl_c import run_inline
from runtime.log import configure_logging
from runtime.parallel import Progress, run_all
from runtime.replay import Replay, ReplayResult, saw_no_candle
from signals.bot_file import BotFile
from signals.feeds.candle_file import CandleFile
from signals.feeds.merge import FileFeed

WORTH_A_PROCESS = 50_000
"""Candles of all runs together from which on other processes are started: each takes half a second to begin."""


class Kind(StrEnum):
    """What a row is about."""

    BOT = "bot"
    TOGETHER = "together"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Contender:
    """One run: these bots (none for a hold) on the candles of these symbols."""

    kind: Kind
    name: str
    bots: tuple[BotFile, ...]
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a run came to, over all of its accounts. Money in their currency; None when a mark is missing."""

    candles: int
    fills: int
    cash: Decimal
    equity: Decimal | None
    realized_pnl: Decimal
    unrealized_pnl: Decimal | None
    fees: Decimal
    measures: EquityMeasures
    state_hash: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CompareRow:
    """A run's result; `totals` is None when it had no candle to run on, and `warnings` say why."""

    contender: Contender
    totals: Totals | None
    warnings: tuple[str, ...]

    def to_wire(self) -> dict[str, Any]:
        """The JSON of `fillbook replay --compare --json`. Per cents as plain decimals; unknown is null."""
        contender, totals = self.contender, self.totals
        return {
            "kind": str(contender.kind),
            "name": contender.name,
            "symbols": list(contender.symbols),
            **(_NOTHING if totals is None else _totals_wire(totals)),
            "warnings": list(self.warnings),
        }


def _totals_wire(totals: Totals) -> dict[str, Any]:
    measures = totals.measures
    return {
        "candles": totals.candles,
        "fills": totals.fills,
        "closing_fills": measures.closing_fills,
        "winning_fills": measures.winning_fills,
        "win_rate_pct": _text(win_rate_pct(measures)),
        "return_pct": _text(percent(measures.return_ratio)),
        "max_drawdown_pct": _text(percent(measures.max_drawdown)),
        "time_in_market_pct": _text(percent(measures.time_in_market)),
        "average_exposure_pct": _text(percent(measures.average_exposure)),
        "fees": plain(totals.fees),
        "realized_pnl": plain(totals.realized_pnl),
        "unrealized_pnl": _text(totals.unrealized_pnl),
        "cash": plain(totals.cash),
        "equity": _text(totals.equity),
        "state_hash": totals.state_hash,
        "seconds": round(totals.seconds, 6),
    }


_NOTHING: dict[str, None] = dict.fromkeys(
    (
        "candles", "fills", "closing_fills", "winning_fills", "win_rate_pct", "return_pct", "max_drawdown_pct",
        "time_in_market_pct", "average_exposure_pct", "fees", "realized_pnl", "unrealized_pnl", "cash", "equity",
        "state_hash", "seconds",
    )
)  # fmt: skip


def percent(ratio: Decimal | None) -> Decimal | None:
    """A fraction in per cent."""
    return None if ratio is None else ratio * 100


def win_rate_pct(measures: EquityMeasures) -> Decimal | None:
    """The share of the fills that realized a P&L which realized a profit, in per cent."""
    if not measures.closing_fills:
        return None
    return divide(Decimal(measures.winning_fills * 100), Decimal(measures.closing_fills), RATIO_PLACES)


def _text(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)


# ---- the runs -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """A contender with all that its run needs."""

    contender: Contender
    settings: Settings
    files: tuple[CandleFile, ...]
    cash: Decimal


def contenders(bots: Sequence[BotFile], symbols: Sequence[str], *, together: bool = False) -> list[Contender]:
    """Each bot alone; all of them in the same books when asked for; buying and holding of each symbol."""
    found = [Contender(Kind.BOT, bot.name, (bot,), (bot.symbol,)) for bot in bots]
    if together:
        known = tuple(sorted({bot.symbol for bot in bots}))
        found.append(Contender(Kind.TOGETHER, "all together", tuple(bots), known))
    return [*found, *(Contender(Kind.HOLD, f"hold {symbol}", (), (symbol,)) for symbol in symbols)]


def compare(
    settings: Settings,
    chosen: Sequence[Contender],
    files: Sequence[CandleFile],
    *,
    cash: Decimal,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[CompareRow]:
    """Run every contender on the candles of its symbols, on `workers` cores; the rows in their order.

    `progress` is told (index of the contender, candles done). Raises CandleFileInvalid where a file is bad.
    """
    jobs = [Job(one, settings, tuple(f for f in files if f.symbol in one.symbols), cash) for one in chosen]
    return run_all(_run, jobs, workers, progress)


def workers_for(candles: int, runs: int) -> int:
    """On how many cores to run so many runs with so many candles altogether."""
    return 1 if candles < WORTH_A_PROCESS else min(runs, os.cpu_count() or 1)


def ranked(rows: Sequence[CompareRow]) -> list[CompareRow]:
    """Bots with the best return first, those without candles after them; then together, then holding."""
    order = list(Kind)

    def key(row: CompareRow) -> tuple[int, bool, Decimal]:
        ratio = None if row.totals is None else row.totals.measures.return_ratio
        return order.index(row.contender.kind), ratio is None, -(ratio or ZERO)

    return sorted(rows, key=key)


def _run(job: Job, progress: Progress | None) -> CompareRow:
    """One contender's run, from an empty database to its row."""
    contender = job.contender
    timeframes = {file.symbol: file.timeframe for file in job.files}
    deaf = [why for bot in contender.bots if (why := saw_no_candle(bot, timeframes)) is not None]
    if not job.files or (deaf and len(deaf) == len(contender.bots)):
        return CompareRow(contender, None, tuple(deaf))
    configure_logging(job.settings.log)  # this may be a process of its own
    try:
        return run_inline(_replay(job, progress))
    finally:
        gc.unfreeze()  # what this run kept from the collector is of no use to the next one


async def _replay(job: Job, progress: Progress | None) -> CompareRow:
    contender = job.contender
    accounts = {bot.account for bot in contender.bots}
    curve = EquityCurve(job.cash * max(len(accounts), 1))  # replay opens each account with as much cash
    client = BuyAndHold(contender.symbols[0], job.settings.account.name, curve) if not contender.bots else None
    run = Replay(
        job.settings, contender.bots, FileFeed(job.files), cash=job.cash, curve=curve, client=client
    )  # fmt: skip
    result = await run.run(progress)
    totals = _totals(result, curve.measures())
    return CompareRow(contender, totals, result.warnings)


def _totals(result: ReplayResult, measures: EquityMeasures) -> Totals:
    portfolios = (result.portfolio, *result.others)
    return Totals(
        candles=result.candles,
        fills=result.fills,
        cash=sum((one.cash for one in portfolios), ZERO),
        equity=_sum([one.equity for one in portfolios]),
        realized_pnl=sum((one.realized_pnl for one in portfolios), ZERO),
        unrealized_pnl=_sum([one.unrealized_pnl for one in portfolios]),
        fees=sum((one.fees for one in portfolios), ZERO),
        measures=measures,
        state_hash=result.state_hash,
        seconds=result.seconds,
    )


def _sum(values: Sequence[Decimal | None]) -> Decimal | None:
    """The sum; unknown when a part of it is."""
    known = [value for value in values if value is not None]
    return sum(known, ZERO) if len(known) == len(values) else None


class BuyAndHold:
    """Buys with all the cash at the first candle's close and never sells.

    The paper exchange fills it as it fills the bots: at the next open, with fee, spread and slippage, and not
    more than a share of the bar's volume; for what is left it asks again, until less than a minimum is left.
    """

    def __init__(self, symbol: str, account: str, curve: EquityCurve) -> None:
        self._symbol = symbol
        self._account = account
        self._curve = curve
        instrument = default_instrument(symbol)
        self._cent = Decimal(1).scaleb(-instrument.quote_decimals)
        self._least = max(instrument.minimum_notional, self._cent)
        self._waiting: str | None = None
        self._refused = False

    def ask(self, now: datetime) -> OrderRequest | None:
        """A request for all the cash, unless one is under way."""
        notional = floor_to(max(self._curve.cash, ZERO), self._cent)
        if self._refused or self._waiting is not None or notional < self._least:
            return None
        self._waiting = f"hold-{self._symbol}-{now:%Y%m%dT%H%M%SZ}"
        return OrderRequest(
            request_id=self._waiting,
            account=self._account,
            symbol=self._symbol,
            side=Side.BUY,
            triggered_by="manual:hold",
            notional=notional,
            decided_at=now,
        )

    def answered(self, response: Responded) -> None:
        """After a fill or a cancelled rest it may ask again; a refusal would only be repeated."""
        if response.request_id == self._waiting and response.final:
            self._waiting = None
            self._refused = response.status is ResponseStatus.REFUSED
