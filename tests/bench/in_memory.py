"""Speed without a disk: matching, fills, replay, and whether a fill costs the same in a large ledger."""

import asyncio
import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from execution.model import Account, Trade
from portfolio.books import Books, rebuilt
from portfolio.fifo import LotEngine
from runtime.feeding import open_files
from runtime.replay import Replay, ReplayResult
from signals.bot_file import BotFile
from signals.sma_cross_file import SmaCrossFile
from tests.bench import least
from tests.bench.material import BTC, RICH, House, candle_file, settings_for, trades
from tests.bench.measure import Effort, Row, best_seconds, say, seconds

_ACCOUNT = Account("main")


# ---- the matching engine ------------------------------------------------------------------------------


def fifo(effort: Effort) -> list[Row]:
    """The FIFO engine: alone, streaming through the books, and as the batch that `verify` runs."""
    made = trades(effort.size(100_000, 2_000))
    integers = least.as_integers(made)
    count, tries = len(made), effort.repetitions
    bare = count / best_seconds(tries, lambda: least.bare_fifo(integers))
    is_ = "bare FIFO of integers, no fees"

    def row(what: str, took: float) -> Row:
        return Row(what, count / took, "trades/s", bare, is_)

    return [
        row("FIFO engine alone", best_seconds(tries, lambda: _engine(made))),
        row("FIFO streaming (books, one fact at a time)", best_seconds(tries, lambda: _stream(made))),
        row("FIFO batch (a symbol rebuilt)", best_seconds(tries, lambda: _batch(made))),
    ]


def _engine(made: Sequence[Trade]) -> None:
    engine = LotEngine(_ACCOUNT.mode)
    for trade in made:
        engine.apply(trade)


def _stream(made: Sequence[Trade]) -> None:
    books = Books({_ACCOUNT.name: _ACCOUNT})
    for trade in made:
        books.apply((trade,))


def _batch(made: Sequence[Trade]) -> None:
    rebuilt(_ACCOUNT, BTC, made, len(made))


# ---- fills --------------------------------------------------------------------------------------------


def fills(effort: Effort) -> list[Row]:
    """Requests through risk, paper exchange, ledger and portfolio, on a database in memory."""
    count = effort.size(10_000, 300)
    best, bare = float("inf"), float("inf")
    for number in range(effort.repetitions):
        say(f"fills in memory {number + 1}")
        took, rows = asyncio.run(_fill(count))
        best = min(best, took)
        bare = min(bare, rows.write(":memory:", 4096, synchronous="OFF"))
    return [
        Row(
            "fills in memory (execution + portfolio)", count / best, "fills/s", count / bare,
            "bare sqlite3 writes the same rows", aim=10_000,
        )
    ]  # fmt: skip


async def _fill(count: int) -> tuple[float, least.SameRows]:
    house = House()
    await house.open()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await house.trade(count)
    took = loop.time() - began
    rows = house.writer.submit(lambda c: least.SameRows(_driver(c.connection.dbapi_connection)))
    found = await rows
    house.close()
    return took, found


def _driver(connection: object) -> sqlite3.Connection:
    assert isinstance(connection, sqlite3.Connection)
    return connection


def growth(effort: Effort) -> list[Row]:
    """The cost of a fill after 1,000, 10,000 and 100,000 others: with few open lots, and with one each."""
    rows = []
    for buys_only in (False, True):
        marks = (100, 200, 400) if effort.quick else (1_000, 10_000, 100_000)
        window = marks[0] // 2
        what = "every fill leaves a lot" if buys_only else "buys and sells in turn"
        costs = asyncio.run(_grow(marks, window, buys_only, what))
        first = costs[0]
        rows += [
            Row(f"a fill after {mark:,}, {what}", cost, "us/fill", first, f"after {marks[0]:,}", None, True)
            for mark, cost in zip(marks, costs, strict=True)
        ]
        rows.append(
            Row(f"growth {marks[0]:,} -> {marks[-1]:,}, {what}", costs[-1] / first, "x", 1.0, "flat", 1.25, True)
        )
    return rows


async def _grow(marks: Sequence[int], window: int, buys_only: bool, what: str) -> list[float]:
    """Microseconds a fill behind each mark: the best of three windows, so that others disturb less."""
    house = House()
    await house.open()
    loop = asyncio.get_running_loop()
    costs = []
    for mark in marks:
        while house.done < mark:
            say(f"{what}: {house.done:,}")
            await house.trade(min(1_000, mark - house.done), buys_only=buys_only)
        found = []
        for _ in range(3):
            began = loop.time()
            await house.trade(window, buys_only=buys_only)
            found.append((loop.time() - began) / window * 1e6)
        costs.append(min(found))
    house.close()
    return costs


# ---- replay -------------------------------------------------------------------------------------------


def replay(effort: Effort) -> list[Row]:
    """The SMA cross over a candle file."""
    path = candle_file(effort.folder / "walk.csv", effort.size(100_000, 3_000))
    result, bare = _replays(effort, path, sma_cross())
    return [
        _candles("replay, SMA cross", result, bare, 100_000),
        Row("  of which trades", result.fills, "fills"),
    ]


def replay_trading(effort: Effort) -> list[Row]:
    """A bot that trades on every candle: averages of 1 and 2 closes over a zigzag."""
    path = candle_file(effort.folder / "zigzag.csv", effort.size(50_000, 1_000), zigzag=True)
    result, bare = _replays(effort, path, sma_cross(fast=1, slow=2))
    return [
        _candles("replay, a trade on every candle", result, bare, None),
        Row("  its fills", result.fills / result.seconds, "fills/s", aim=10_000),
    ]


def sma_cross(fast: int = 10, slow: int = 30) -> BotFile:
    """The shipped example with a small quantity."""
    made: BotFile = SmaCrossFile.model_validate(
        {
            "name": "sma-cross",
            "class": "sma-cross",
            "symbol": BTC,
            "fast": fast,
            "slow": slow,
            "quantity": Decimal("0.5"),
        }
    )
    return made


def _candles(what: str, result: ReplayResult, bare: float, aim: float | None) -> Row:
    speed = result.candles / result.seconds
    return Row(what, speed, "candles/s", result.candles / bare, "bare loop: csv, Decimal, two sums", aim)


def _replays(effort: Effort, path: Path, bot: BotFile) -> tuple[ReplayResult, float]:
    best: ReplayResult | None = None
    bare = float("inf")
    for number in range(effort.repetitions):
        say(f"replay {path.name} {number + 1}")
        result = asyncio.run(run_replay(path, bot))
        assert best is None or result.state_hash == best.state_hash, "two replays of one file differ"
        if best is None or result.seconds < best.seconds:
            best = result
        del result  # only one of them is kept: the peak of memory is measured too
        bare = min(bare, seconds(lambda: least.bare_candles(path)))
    assert best is not None
    return best, bare


async def run_replay(path: Path, bot: BotFile) -> ReplayResult:
    """One replay with books in memory."""
    return await Replay(settings_for(Path("unused")), [bot], open_files({BTC: path}), cash=RICH).run()
