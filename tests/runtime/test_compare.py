"""Replays side by side: each row is what a replay of that bot alone gives."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from config.exact import round_to
from config.settings import PaperSettings, Settings
from execution.model import OrderRequest, Responded, ResponseStatus
from portfolio.equity import EquityCurve
from runtime.compare import BuyAndHold, Kind, compare, contenders, ranked, workers_for
from runtime.replay import Replay, ReplayResult
from signals.bot_file import BotFile
from signals.feeds.candle_file import CandleFile
from signals.feeds.merge import FileFeed
from signals.sma_cross_file import SmaCrossFile
from signals.weighted_file import WeightedFile
from tests.runtime.cli.terminal import candle_file

CASH = Decimal(10_000)
SETTINGS = Settings()


def cross(name: str, symbol: str = "BTC-USD", **keys: Any) -> BotFile:
    data = {"name": name, "class": "sma-cross", "symbol": symbol, "fast": 3, "slow": 8, "quantity": Decimal("0.05")}
    return SmaCrossFile.model_validate({**data, **keys})


def weighted(name: str, **keys: Any) -> BotFile:
    signals = [{"function": "RSI", "weight": 1, "params": {"timeperiod": 5}}]
    data = {"name": name, "symbol": "BTC-USD", "signals": signals, "threshold": Decimal("0.2"), "notional": 500}
    return WeightedFile.model_validate({**data, **keys})


def files(folder: Path) -> list[CandleFile]:
    return [
        CandleFile.open(candle_file(folder / f"{symbol}.csv", 600, symbol), symbol)
        for symbol in ("BTC-USD", "ETH-USD")
    ]


def alone(bot: BotFile, given: list[CandleFile]) -> ReplayResult:
    return asyncio.run(Replay(SETTINGS, [bot], FileFeed(given), cash=CASH).run())


def test_each_row_is_the_replay_of_that_bot_alone_on_all_the_candles(tmp_path: Path) -> None:
    given = files(tmp_path)
    bots = [cross("one"), cross("two", "ETH-USD", quantity=Decimal(1)), weighted("three")]
    rows = compare(SETTINGS, contenders(bots, []), given, cash=CASH)
    for bot, row in zip(bots, rows, strict=True):
        single = alone(bot, given)
        assert row.totals is not None
        assert single.fills > 4
        assert row.totals.state_hash == single.state_hash
        assert row.totals.fills == single.fills
        assert single.portfolio.equity is not None
        assert row.totals.equity == single.portfolio.equity == row.totals.measures.equity
        assert row.totals.measures.closing_fills == sum(pnl is not None for _, pnl in single.trades)
        assert row.totals.measures.return_ratio == round_to((single.portfolio.equity - CASH) / CASH, 8)
        assert row.totals.candles == 600


def test_two_cores_give_the_same_rows_as_one(tmp_path: Path) -> None:
    given = files(tmp_path)
    bots = [cross("one"), cross("two", "ETH-USD"), weighted("three")]
    chosen = contenders(bots, ["BTC-USD", "ETH-USD"], together=True)
    wires = []
    for workers in (1, 2):
        rows = compare(SETTINGS, chosen, given, cash=CASH, workers=workers)
        wires.append([{**row.to_wire(), "seconds": None} for row in rows])
    assert wires[0] == wires[1]
    assert [wire["kind"] for wire in wires[0]] == ["bot"] * 3 + ["together"] + ["hold"] * 2


def test_together_is_the_replay_of_all_bots_in_the_same_books(tmp_path: Path) -> None:
    given = files(tmp_path)
    bots = [cross("one"), weighted("three")]
    row = compare(SETTINGS, contenders(bots, [], together=True), given, cash=CASH)[-1]
    both = asyncio.run(Replay(SETTINGS, bots, FileFeed(given), cash=CASH).run())
    assert row.contender.kind is Kind.TOGETHER
    assert row.totals is not None
    assert row.totals.state_hash == both.state_hash


def flat_file(path: Path, closes: list[str], volume: str = "1000000") -> CandleFile:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    lines = ["time,open,high,low,close,volume"]
    for number, price in enumerate(closes):
        time = (start + timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines.append(f"{time},{price},{price},{price},{price},{volume}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CandleFile.open(path, "BTC-USD")


def hold(settings: Settings, file: CandleFile, cash: Decimal = CASH) -> Any:
    (row,) = compare(settings, contenders([], ["BTC-USD"]), [file], cash=cash)
    return row


def test_holding_buys_with_all_the_cash_at_the_open_after_the_first_candle(tmp_path: Path) -> None:
    free = Settings(
        paper=PaperSettings(
            taker_fee_bps=Decimal(0), half_spread_bps=Decimal(0), slippage_bps=Decimal(0), max_volume_share=Decimal(0)
        )
    )
    row = hold(free, flat_file(tmp_path / "a.csv", ["90", "100", "50", "150"]))
    assert row.totals.fills == 1
    assert row.totals.cash == 0
    assert row.totals.equity == 15_000
    assert row.totals.measures.max_drawdown == Decimal("0.5")
    assert row.totals.measures.time_in_market == Decimal("0.75")


def test_holding_pays_the_costs_that_the_bots_pay(tmp_path: Path) -> None:
    row = hold(SETTINGS, flat_file(tmp_path / "a.csv", ["100", "100", "100"]))
    assert row.totals.fees == pytest.approx(Decimal("59.64"), abs=Decimal("0.01"))  # 60 bp, fee included
    assert row.totals.cash < Decimal("0.01")
    assert row.totals.measures.return_ratio < Decimal("-0.0059")


def test_holding_asks_again_for_what_the_volume_did_not_allow(tmp_path: Path) -> None:
    """A tenth of 300 is 30 units of 100 a candle: 10,000 need four of them."""
    row = hold(SETTINGS, flat_file(tmp_path / "a.csv", ["100"] * 8, volume="300"))
    assert row.totals.fills == 4
    assert row.totals.cash < 1
    assert row.warnings == ()


def test_holding_never_asks_again_after_a_refusal() -> None:
    client = BuyAndHold("BTC-USD", "main", EquityCurve(CASH))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    first = client.ask(now)
    assert isinstance(first, OrderRequest)
    assert client.ask(now) is None  # one at a time
    client.answered(Responded("main", "another", ResponseStatus.REFUSED, final=True))
    assert client.ask(now) is None
    client.answered(Responded("main", first.request_id, ResponseStatus.REFUSED, final=True))
    assert client.ask(now + timedelta(minutes=1)) is None


def test_holding_with_nothing_buys_nothing(tmp_path: Path) -> None:
    row = hold(SETTINGS, flat_file(tmp_path / "a.csv", ["100"] * 4), cash=Decimal("0.50"))
    assert row.totals.fills == 0
    assert row.totals.measures.return_ratio == 0


def test_a_bot_that_sees_no_candle_is_a_row_that_says_why(tmp_path: Path) -> None:
    given = files(tmp_path)[:1]
    bots = [cross("far", "SOL-USD"), cross("slow-one", timeframe="1h"), cross("fine")]
    rows = compare(SETTINGS, contenders(bots, [], together=True), given, cash=CASH)
    assert rows[0].totals is rows[1].totals is None
    assert "no file of SOL-USD" in rows[0].warnings[0]
    assert "it wants 1h" in rows[1].warnings[0]
    assert rows[2].totals is not None
    assert rows[3].totals is not None
    assert len(rows[3].warnings) == 2
    wire = rows[0].to_wire()
    assert wire["equity"] is wire["return_pct"] is wire["state_hash"] is None
    assert wire.keys() == rows[2].to_wire().keys()


def test_the_best_return_stands_first_and_what_did_not_run_stands_behind_the_bots(tmp_path: Path) -> None:
    given = files(tmp_path)[:1]
    bots = [cross("far", "SOL-USD"), cross("one"), cross("often", fast=1, slow=2), weighted("three")]
    rows = ranked(compare(SETTINGS, contenders(bots, ["BTC-USD"], together=True), given, cash=CASH))
    kinds = [row.contender.kind for row in rows]
    assert kinds == [Kind.BOT] * 4 + [Kind.TOGETHER, Kind.HOLD]
    assert rows[3].contender.name == "far"
    returns = [row.totals.measures.return_ratio for row in rows[:3] if row.totals is not None]
    assert returns == sorted((value for value in returns if value is not None), reverse=True)


def test_little_work_starts_no_processes() -> None:
    assert workers_for(49_999, 10) == 1
    assert workers_for(50_000, 1) == 1


def test_bots_of_several_accounts_start_with_as_much_cash_each(tmp_path: Path) -> None:
    given = files(tmp_path)[:1]
    bots = [cross("one"), cross("two", account="second")]
    one, two, both = compare(SETTINGS, contenders(bots, [], together=True), given, cash=CASH)
    assert one.totals is not None
    assert two.totals is not None
    assert both.totals is not None
    assert one.totals.fills > 4
    assert both.totals.measures.opening == 2 * CASH
    assert both.totals.equity == both.totals.measures.equity == 2 * (one.totals.equity or 0)
    assert two.totals.equity == one.totals.equity
    assert both.totals.fees == 2 * one.totals.fees
    assert both.totals.measures.max_drawdown == one.totals.measures.max_drawdown
