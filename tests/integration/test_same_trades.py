"""The same candles give the same trades: in replay, through the daemon and its broker, over kills."""

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from config.exact import plain
from config.loading import load_settings
from execution.model import Trade
from portfolio.service import read_portfolios
from runtime.feeding import open_files
from runtime.replay import Replay, ReplayResult
from signals.loading import load_bots
from tests.integration.brokers import PATIENCE
from tests.integration.daemons import Books, Server

CANDLES = 2500
THROUGH_A_BROKER = 1500
CASH = "100000"
SMA = """
name = "{name}"
class = "sma-cross"
symbol = "{symbol}"
fast = {fast}
slow = {slow}
quantity = {quantity}
confirmation_minutes = 0
cooldown_minutes = 0
"""
WEIGHTED = """
name = "{name}"
symbol = "{symbol}"
timeframe = "1m"
threshold = {threshold}
confirmation_minutes = {confirmation}
cooldown_minutes = {cooldown}
notional = {notional}
exit = "{exit}"
[[signals]]
function = "RSI"
mapper = "band"
weight = 0.5
params = {{ timeperiod = 7, floor = 0, lo = 30, hi = 70, ceil = 100 }}
[[signals]]
function = "SMA"
mapper = "cross"
weight = 0.5
params = {{ fast = 5, slow = 12, scale = 1.5, bars = 5, strength = 0.8 }}
"""
BTC, ETH = "BTC-USD", "ETH-USD"


@dataclass(frozen=True)
class Case:
    """Bots and candle files in a folder."""

    folder: Path
    settings: tuple[str, ...]
    bots: Path


def write_candles(file: Path, seed: int, price: float, count: int, *, keep: int | None = None) -> None:
    """A noisy wave with gaps and candles without volume. After `keep` candles the prices are others."""
    rng, other = random.Random(seed), random.Random(seed + 999)
    time = datetime(2026, 1, 1, tzinfo=UTC)
    lines = ["time,open,high,low,close,volume"]
    last = price
    for number in range(count):
        if keep is not None and number >= keep:
            rng = other
        time += timedelta(minutes=1 if rng.random() > 0.02 else rng.randint(2, 40))
        wave = price * (1 + 0.04 * math.sin(number / 23) + 0.01 * math.sin(number / 5))
        close = max(0.01, wave * (1 + rng.gauss(0, 0.003)))
        high = max(last, close) * (1 + abs(rng.gauss(0, 0.001)))
        low = min(last, close) * (1 - abs(rng.gauss(0, 0.001)))
        volume = 0 if rng.random() < 0.03 else rng.uniform(1, 50)
        lines.append(
            f"{time:%Y-%m-%dT%H:%M:%SZ},{last:.2f},{high + 0.01:.2f},{low - 0.01:.2f},{close:.2f},{volume:.4f}"
        )
        last = round(close, 2)
    file.write_text("\n".join(lines) + "\n")


def make_case(folder: Path, *, count: int = CANDLES, keep: int | None = None) -> Case:
    """Two symbols and five bots: two of them fight over one position, one waits to be sure."""
    bots = folder / "bots"
    bots.mkdir(parents=True)
    write_candles(folder / "btc.csv", 1, 50_000, count, keep=keep)
    write_candles(folder / "eth.csv", 2, 2_500, count, keep=keep)
    weighted = WEIGHTED.format
    for text in (
        SMA.format(name="cross", symbol=BTC, fast=3, slow=8, quantity="0.05"),
        weighted(name="eager", symbol=BTC, threshold="0.2", confirmation=0, cooldown=0, notional=200, exit="size"),
        weighted(name="sure", symbol=BTC, threshold="0.1", confirmation=3, cooldown=15, notional=500, exit="close"),
        weighted(name="keen", symbol=ETH, threshold="0.1", confirmation=0, cooldown=5, notional=50, exit="size"),
        SMA.format(name="slow", symbol=ETH, fast=10, slow=30, quantity="2"),
    ):  # fmt: skip
        name = text.split('"')[1]
        (bots / f"{name}.toml").write_text(text)
    settings = (
        f'feed.candles={{"{BTC}" = "{folder / "btc.csv"}", "{ETH}" = "{folder / "eth.csv"}"}}',
        f"account.initial_deposit={CASH}",
        "log.level=warning",
        "signals.request_repeat_seconds=0.5",
    )
    return Case(folder, settings, bots)


async def replayed(case: Case, **options: Any) -> ReplayResult:
    """The case through Replay."""
    loaded = load_settings(config_file=None, overrides=case.settings, environ={}, cwd=case.folder)
    feed = open_files(loaded.settings.feed.candles)
    bots = load_bots([case.bots])
    return await Replay(loaded.settings, bots, feed, cash=Decimal(CASH), **options).run()


def told(trades: Sequence[Trade]) -> list[tuple[str, ...]]:
    """What must be the same of each trade."""
    return [
        (
            trade.executed_at.isoformat(), trade.symbol, trade.side, plain(trade.quantity), plain(trade.price),
            plain(trade.fee), trade.triggered_by,
        )
        for trade in trades
    ]  # fmt: skip


def finished(server: Server, since: int) -> bool:
    """Whether the feed is at its end, in the life of the daemon whose log begins at `since`.

    What an earlier one said does not count: it may have been killed before the last orders were filled.
    """
    return '"the feed is at its end"' in server.log[since:]


async def played(server: Server, kills: int = 0) -> Books:
    """The case through the daemon until its feed ends; killed now and then on the way."""
    rng = random.Random(3)
    server.settings = [*server.settings, "log.level=info"]
    try:
        await server.start()
        born = 0
        for _ in range(kills):
            await asyncio.sleep(rng.uniform(0.1, 0.6))
            if finished(server, born):
                break
            await server.kill()
            born = len(server.log)
            await server.start()
        async with asyncio.timeout(4 * PATIENCE):
            while not finished(server, born):
                assert server.running, server.log[-3000:]
                await asyncio.sleep(0.05)
        assert await server.stop() == 0
    finally:
        if server.running:
            await server.kill()
    assert server.books.problems() == []
    return server.books


def same_books(books: Books, expected: ReplayResult) -> None:
    """Trades, cash and positions."""
    assert told(books.trades) == told([trade for trade, _ in expected.trades])
    portfolio = books.read(read_portfolios)["main"]
    assert portfolio.cash == expected.portfolio.cash
    assert portfolio.realized_pnl == expected.portfolio.realized_pnl
    assert portfolio.equity == expected.portfolio.equity
    assert [(p.symbol, p.quantity, p.cost_basis) for p in portfolio.positions] == [
        (p.symbol, p.quantity, p.cost_basis) for p in expected.portfolio.positions
    ]


async def test_two_replays_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    case = make_case(tmp_path / "case")
    first = await replayed(case)
    assert {trade.triggered_by for trade, _ in first.trades} == {
        "bot:cross", "bot:eager", "bot:sure", "bot:keen", "bot:slow",
    }  # fmt: skip
    assert first.fills > 200
    second = await replayed(case, database=tmp_path / "kept.db")
    assert second.state_hash == first.state_hash
    assert told([trade for trade, _ in second.trades]) == told([trade for trade, _ in first.trades])
    assert Books(tmp_path / "kept.db").problems() == []
    same_books(Books(tmp_path / "kept.db"), first)


async def test_the_daemon_and_its_broker_trade_as_the_replay_does(tmp_path: Path) -> None:
    case = make_case(tmp_path / "case", count=THROUGH_A_BROKER)
    expected = await replayed(case)
    assert expected.fills > 200
    books = await played(Server(tmp_path / "data", settings=case.settings, bots=[case.bots]))
    same_books(books, expected)


@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=pytest.mark.long)])
async def test_the_daemon_trades_as_the_replay_does_when_it_is_killed_on_the_way(tmp_path: Path, kills: int) -> None:
    case = make_case(tmp_path / "case", count=THROUGH_A_BROKER if kills < 10 else 4 * CANDLES)
    expected = await replayed(case)
    books = await played(Server(tmp_path / "data", settings=case.settings, bots=[case.bots]), kills)
    same_books(books, expected)


async def test_later_candles_change_no_earlier_trade(tmp_path: Path) -> None:
    keep = 1200
    whole = await replayed(make_case(tmp_path / "whole"))
    changed = await replayed(make_case(tmp_path / "changed", keep=keep))
    lines = (tmp_path / "whole" / "btc.csv").read_text().splitlines()
    others = (tmp_path / "changed" / "btc.csv").read_text().splitlines()
    assert lines[keep] == others[keep]
    assert lines[keep + 2] != others[keep + 2]
    # Trades that were made when both had seen the same of both symbols.
    change = min(
        (tmp_path / "whole" / name).read_text().splitlines()[keep].split(",")[0] for name in ("btc.csv", "eth.csv")
    )
    change = change.replace("Z", "+00:00")
    before = [told([t])[0] for t, _ in whole.trades if t.executed_at.isoformat() < change]
    assert len(before) > 50
    assert before == [told([t])[0] for t, _ in changed.trades if t.executed_at.isoformat() < change]
    assert told([t for t, _ in whole.trades]) != told([t for t, _ in changed.trades])
