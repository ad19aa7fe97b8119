"""One scenario, played twice: in the simulation, and with a real daemon on a real broker. The books are the same."""

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from config.exact import plain
from config.loading import load_settings
from execution import ledger, orders
from execution.model import Candle, Order, Trade
from portfolio.service import read_portfolios
from runtime import wire
from runtime.database import open_database, read, sqlite_url
from runtime.topics import Topics
from tests.integration.daemons import Ear, Listener, serving
from tests.simulation.broker import Broker, NetworkFaults
from tests.simulation.bus import SimBus
from tests.simulation.daemon import BEGINNING, SimDaemon
from tests.simulation.loop import Process, SimLoop, in_process
from tests.simulation.people import TIMEFRAME, next_candle
from tests.simulation.run import quiet
from tests.simulation.setting import SETTINGS, SYMBOLS, bot_files, bot_texts
from tests.simulation.storage import Disk, File

BEFORE = 8
"""Candles, of a second each, before the scenario begins: they warm the bots."""
DURING = 8
"""Candles while it is played."""
LEAD = timedelta(seconds=100)
"""How long after the start the first of them opens, by its own time: all are told ahead of the clock, so that an
order is there before a candle opens that may fill it, however slow the machine is."""
PATIENT = (*SETTINGS, "execution.request_expiry_seconds=3600")
BOTS = ("crosser", "weigher")
"""Each on a symbol of its own: of two that decide on one candle either may be the first to ask."""
TOPICS = Topics()


def market() -> dict[int, list[Candle]]:
    """The candles of each second, in the simulation's time."""
    dice = random.Random("one scenario")
    closes = dict.fromkeys(SYMBOLS, Decimal(100))
    seconds: dict[int, list[Candle]] = {}
    for number in range(-BEFORE, DURING + 1):
        seconds[number] = [next_candle(symbol, dice, number, closes[symbol]) for symbol in SYMBOLS]
        closes.update({candle.symbol: candle.close for candle in seconds[number]})
    return seconds


@dataclass
class Scenario:
    """Somebody who tells the market's candles and trades by hand between them."""

    ear: Listener
    begin: datetime
    """When candle 0 opens."""
    candles: dict[int, list[Candle]] = field(default_factory=market)
    answers: dict[str, Any] = field(default_factory=dict)

    async def play(self) -> None:
        """From the first candle to the last answer."""
        await self.ear.until(lambda: len(self.ear.all("main/portfolio")) > 0, "a daemon")
        for number in range(-BEFORE, DURING):
            await self.tell(number)
            await self.between(number)
        for bot in BOTS:
            await self.ear.say(f"bot/{bot}/set", b"stop")
            await self.ear.on(f"bot/{bot}/state", lambda heard: heard.body["status"] == "STOPPED")
        await self.tell(DURING, advised=False)
        await self.ear.until(self.all_final, "the final answer of every order")
        last = await self.ask("deposit", "last-word", amount="1")
        await self.ear.on("main/portfolio", lambda heard: heard.body["sequence"] >= last["sequence"])

    def all_final(self) -> bool:
        """Whether every request that was answered at all has its final answer."""
        answers = {heard.last: heard.body for heard in self.ear.heard if "/response/" in heard.topic}
        return all(answer["final"] for answer in answers.values())

    async def tell(self, number: int, *, advised: bool = True) -> None:
        """The candles of a second; returns when every bot has said what it thinks of its own, and what it asked for
        has an answer."""
        heard = {bot: len(self.ear.all(f"bot/{bot}/recommendation")) for bot in BOTS}
        for candle in self.candles[number]:
            moved = candle._replace(time=self.begin + (candle.time - BEGINNING))
            await self.ear.bus.publish(TOPICS.candle(moved.symbol, TIMEFRAME), wire.encode(wire.candle_wire(moved)))
        for bot in BOTS if advised else ():
            await self.ear.more(f"bot/{bot}/recommendation", heard[bot])
        await self.ask("cancel", f"barrier{number}", order_id="nobody")
        await self.ear.until(self.bots_answered, "an answer for each bot")

    def bots_answered(self) -> bool:
        """Whether every request of a bot that was heard has an answer."""
        asked = {heard.body["request_id"] for heard in self.ear.heard if "/request/trade/bot/" in heard.topic}
        return asked <= {heard.last for heard in self.ear.heard if "/response/" in heard.topic}

    async def between(self, number: int) -> None:
        """What is wanted after a second's candles, each answered before the next."""
        if number == 0:
            await self.ask("deposit", "more", amount="500")
            await self.buy("some", "BTC-USD", notional="250")
        elif number == 1:
            await self.buy("coins", "ETH-USD", quantity="1.5")
            await self.sell("too-much", "BTC-USD", quantity="99999")
        elif number == 2:
            low = min(candle.low for candle in self.candles[3] if candle.symbol == "ETH-USD")
            await self.rest("patient", "ETH-USD", limit_price=plain(low + Decimal("0.05")))
        elif number == 3:
            await self.rest("hopeless", "BTC-USD", limit_price="50")
            await self.ask("cancel", "give-up", order_id="hopeless")
            self.answers["hopeless"] = await self.ear.answer("hopeless")
        elif number == 4:
            await self.ask("halt", "stop-it", note="enough")
            await self.buy("in-vain", "BTC-USD", quantity="1")
            await self.ask("resume", "go-on", note="all is well")
        elif number == 5:
            await self.sell("a-few", "ETH-USD", quantity="0.7")
            await self.sell("a-few", "ETH-USD", quantity="0.7")
        elif number == 6:
            await self.ask("withdraw", "out", amount="100")
            await self.ear.say("main/request/withdraw", {"request_id": "out", "amount": "999"})
        elif number == 7:
            await self.sell("all", "BTC-USD", close=True)

    async def buy(self, request_id: str, symbol: str, **size: Any) -> None:
        """A market order."""
        await self.ask("trade", request_id, symbol=symbol, side="BUY", **size)

    async def sell(self, request_id: str, symbol: str, **size: Any) -> None:
        """A market order."""
        await self.ask("trade", request_id, symbol=symbol, side="SELL", **size)

    async def rest(self, request_id: str, symbol: str, limit_price: str) -> None:
        """A limit order to buy, which may stay open."""
        body = {"request_id": request_id, "symbol": symbol, "side": "BUY", "quantity": "1"}
        await self.ear.say("main/request/trade", {**body, "limit_price": limit_price, "time_in_force": "GTC"})
        await self.ear.on(f"main/response/{request_id}")

    async def ask(self, command: str, request_id: str, **body: Any) -> Any:
        """A request and its final answer."""
        answer = await self.ear.ask({"request_id": request_id, **body}, command)
        self.answers[request_id] = answer
        return answer

    # ---- what came of it ------------------------------------------------------------------------------

    def outcome(self, connection: Connection) -> dict[str, Any]:
        """Everything that must be the same, with times counted from the beginning."""
        known = {order.id: order for order in orders.orders(connection)}
        portfolio = read_portfolios(connection)["main"]
        return {
            "answers": {key: (said["status"], _code(said)) for key, said in self.answers.items()},
            "orders": sorted(self._order(order) for order in known.values()),
            "trades": [self._trade(trade, known[trade.order_id or ""]) for trade in ledger.trades(connection)],
            "flows": [(flow.kind, plain(flow.amount)) for flow in ledger.cash_flows(connection)],
            "cash": plain(portfolio.cash),
            "positions": [
                (p.symbol, plain(p.quantity), plain(p.cost_basis), plain(p.realized_pnl), str(p.mark_price))
                for p in portfolio.positions
            ],
        }

    def _request(self, order: Order) -> str:
        """A request's id; that of a bot's with the time of its decision counted from the beginning."""
        if order.decided_at is None:
            return order.request_id
        return f"{order.triggered_by} at {(order.decided_at - self.begin).total_seconds():g} s"

    def _order(self, order: Order) -> tuple[str, ...]:
        reason = "" if order.reason is None else order.reason.code
        return (self._request(order), order.symbol, order.side, order.status, reason)

    def _trade(self, trade: Trade, order: Order) -> tuple[str, ...]:
        """One by hand is filled when it arrives; a bot's at the open of a candle."""
        when = "" if order.decided_at is None else f"{(trade.executed_at - self.begin).total_seconds():g}"
        figures = map(plain, (trade.quantity, trade.price, trade.fee, trade.cash_effect))
        return (self._request(order), when, trade.symbol, trade.side, trade.triggered_by, *figures)


def _code(answer: dict[str, Any]) -> str | None:
    return None if answer["reason"] is None else answer["reason"]["code"]


def simulated() -> dict[str, Any]:
    """The scenario in a simulated world."""
    with quiet() as folder:
        loop = SimLoop(11)
        broker = Broker(loop, random.Random("calm"), NetworkFaults(slow=0.0))
        file = File(folder)
        open_database(sqlite_url(file.path), synchronous="OFF").dispose()
        ends: list[BaseException | None] = []
        daemon = SimDaemon(
            "daemon",
            loop=loop,
            settings=load_settings(config_file=None, overrides=PATIENT, environ={}, cwd=folder).settings,
            bots=[bot for bot in bot_files() if bot.name in BOTS],
            broker=broker,
            file=file,
            disk=Disk(),
            exchanges={},
            seed=11,
            slow=0.0,
            on_made=lambda _daemon: None,
            on_end=lambda _daemon, error: ends.append(error),
        )
        ear = Listener(SimBus(broker, "ear", ["fillbook/#"]))
        scenario = Scenario(ear, BEGINNING + LEAD)
        try:
            daemon.start()
            task = loop.create_task(_heard(ear, scenario.play()), context=in_process(Process("somebody")))
            loop.run_until_complete(task)
            assert not ends, ends
            return read(file.read_engine(), scenario.outcome)
        finally:
            daemon.kill()
            loop.dispose()
            file.close()


async def real(folder: Path) -> dict[str, Any]:
    """The scenario with a daemon in a process of its own, and with the clock of this machine."""
    bots = folder / "bots"
    bots.mkdir()
    for bot, text in zip(bot_files(), bot_texts(), strict=True):
        if bot.name in BOTS:
            (bots / f"{bot.name}.toml").write_text(text)
    async with serving(folder / "data", settings=PATIENT, bots=[bots]) as server, Ear(server.port) as ear:
        scenario = Scenario(ear, datetime.now(UTC) + LEAD)
        await scenario.play()
        return server.books.read(scenario.outcome)


async def _heard(ear: Listener, play: Coroutine[Any, Any, None]) -> None:
    async with ear:
        await play


async def test_a_scenario_ends_in_the_same_books_simulated_and_for_real(tmp_path: Path) -> None:
    found = await real(tmp_path)
    wanted = await asyncio.to_thread(simulated)
    assert found == wanted
    tags = {trade[4] for trade in wanted["trades"]}
    assert tags == {"manual", "bot:crosser", "bot:weigher", "stop:weigher"}, "not everybody traded"
    assert len(wanted["trades"]) > 12, "hardly anything to compare"
