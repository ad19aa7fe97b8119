"""A daemon's voice for the screen's tests: messages as it publishes them, a broker in memory, a painted screen."""

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from textual.app import App
from textual.pilot import Pilot

from runtime.bus import MemoryBroker, MemoryBus
from runtime.topics import Topics
from runtime.watch.feed import Desk
from runtime.watch.model import Watch
from runtime.watch.screen import WatchApp
from tests.integration.brokers import PATIENCE

TOPICS = Topics()
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
FEED = "2026-03-02T11:59:00Z"


def new_watch() -> Watch:
    """A state that has heard nothing."""
    return Watch(TOPICS, default_account="main", broker="127.0.0.1:1883", feed="candle files of BTC-USD 1m")


def position(symbol: str = "BTC-USD", **other: Any) -> dict[str, Any]:
    """A position inside a portfolio message."""
    return {
        "symbol": symbol, "quantity": "0.5", "cost_basis": "30000", "average_cost": "60000", "mark_price": "61000",
        "mark_time": FEED, "market_value": "30500", "unrealized_pnl": "500", "pnl_percent": "1.6667",
        "realized_pnl": "12.5", "fees": "3", "incomplete": False, "unmatched_quantity": "0", "lot_count": 1,
        "open_lots": [], **other,
    }  # fmt: skip


def portfolio(*positions: dict[str, Any], **other: Any) -> dict[str, Any]:
    """A portfolio message."""
    return {
        "account": "main", "currency": "USD", "cash": "9500.25", "net_flows": "40000", "income": "0",
        "market_value": "30500", "equity": "40000.25", "realized_pnl": "12.5", "unrealized_pnl": "500",
        "total_pnl": "512.5", "return": "0.0128125", "fees": "3", "incomplete": False,
        "positions": list(positions), "sequence": 7, **other,
    }  # fmt: skip


def trade(sequence: int, **other: Any) -> dict[str, Any]:
    """A trade message."""
    return {
        "id": f"trd_{sequence}", "sequence": sequence, "account": "main", "symbol": "BTC-USD", "side": "BUY",
        "quantity": "0.5", "price": "60000.5", "fee": "1.5", "executed_at": FEED, "triggered_by": "bot:trend",
        **other,
    }  # fmt: skip


def advice(**other: Any) -> dict[str, Any]:
    """A recommendation."""
    return {
        "bot": "trend", "symbol": "BTC-USD", "account": "main", "timeframe": "1m", "side": "BUY", "score": 0.75,
        "temperature": "HOT", "signals": [], "confirmed_since": None, "cooldown_until": None,
        "ready_to_trade": False, "time": "2026-03-02T11:58:00Z", "decided_at": FEED, "threshold": 0.3,
        "confirmation_due": None, "waiting_for": None, **other,
    }  # fmt: skip


def bot(name: str = "trend", **other: Any) -> dict[str, Any]:
    """A bot's state."""
    return {
        "bot": name, "status": "RUNNING", "symbol": "BTC-USD", "timeframe": "1m", "account": "main", "since": FEED,
        "last_error": None, "last_recommendation": advice(bot=name), "stops": None, **other,
    }  # fmt: skip


def halt(account: str = "main", **other: Any) -> dict[str, Any]:
    """A halt."""
    return {"account": account, "halted": True, "by": "manual:ann", "reason": "lunch", "at": FEED, **other}


class Told:
    """A state and what it is told."""

    def __init__(self) -> None:
        self.watch = new_watch()

    def __call__(self, topic: str, body: Any, *, retained: bool = False, at: datetime = NOW) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.watch.take(topic, payload, retained=retained, at=at)


class House:
    """A broker in memory, and a daemon of whom the test decides what he says and answers."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.broker = MemoryBroker()
        self.buses: list[MemoryBus] = []
        self.asked: list[tuple[str, Any]] = []
        self.answers = answers or {}
        self._names = itertools.count()
        self._daemon = MemoryBus(self.broker, "daemon", [f"{TOPICS.root}/+/request/+", f"{TOPICS.root}/bot/+/set"])
        self._now = NOW
        self._task: asyncio.Task[None] | None = None

    def now(self) -> datetime:
        """The wall's time: a second later at each look, so that each look may paint anew."""
        self._now += timedelta(seconds=1)
        return self._now

    def make_bus(self, subscriptions: Sequence[str]) -> MemoryBus:
        """A connection of the screen's; the first one is the one it listens on."""
        self.buses.append(MemoryBus(self.broker, f"screen-{next(self._names)}", subscriptions))
        return self.buses[-1]

    async def __aenter__(self) -> "House":
        await self._daemon.start()
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._daemon.stop()
        assert self._task is not None
        await self._task

    async def _serve(self) -> None:
        async for incoming in self._daemon.messages():
            body = json.loads(incoming.payload) if incoming.payload[:1] == b"{" else incoming.payload.decode()
            self.asked.append((incoming.topic.removeprefix(f"{TOPICS.root}/"), body))
            if isinstance(body, dict):
                done = {"status": "done", "final": True, "reason": None}
                reply = {**done, **self.answers, "request_id": body["request_id"]}
                account = incoming.topic.split("/")[2]
                await self.say(TOPICS.response(account, body["request_id"]), reply)
            else:
                name = incoming.topic.split("/")[3]
                await self._obey(name, body)

    async def _obey(self, name: str, action: str) -> None:
        if action == "evaluate":
            await self.say(TOPICS.recommendation(name), advice(bot=name, score=-0.5, side="SELL"))
        elif not self.answers.get("deaf"):
            status = {"start": "RUNNING", "stop": "STOPPED"}[action]
            await self.say(TOPICS.bot_state(name), bot(name, status=status), retain=True)

    async def say(self, topic: str, body: Any, *, retain: bool = False) -> None:
        """Publish as the daemon."""
        await self._daemon.publish(topic, json.dumps(body).encode(), retain=retain)

    async def furnish(self) -> None:
        """What a running daemon retains: one account, one bot, one market."""
        await self.say(TOPICS.status(), {"state": "online", "time": FEED, "version": "1"}, retain=True)
        await self.say(TOPICS.portfolio("main"), portfolio(position()), retain=True)
        await self.say(TOPICS.bot_state("trend"), bot(), retain=True)
        await self.say(TOPICS.price("BTC-USD"), {"price": "61000", "time": FEED}, retain=True)

    def app(self, bot_seconds: float = PATIENCE) -> WatchApp:
        """The screen at this house; a bot has so many seconds to do what it is told."""
        desk = Desk(TOPICS, self.make_bus, answer_seconds=PATIENCE, bot_seconds=bot_seconds)
        return WatchApp(new_watch(), self.make_bus, self.now, desk=desk)


def painted(app: App[Any]) -> str:
    """What stands on the screen. By way of a private method: Textual has no public one that gives text."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


async def until(pilot: Pilot[Any], *texts: str, gone: Sequence[str] = ()) -> str:
    """Wait until all these texts are painted, and none of those that have to go."""
    app = pilot.app
    assert isinstance(app, WatchApp)
    async with asyncio.timeout(PATIENCE):
        try:
            while True:
                app.paint()
                await pilot.pause()
                shown = painted(app)
                if all(text in shown for text in texts) and not any(text in shown for text in gone):
                    return shown
        except asyncio.CancelledError:
            raise AssertionError(f"not painted: {texts}, or still there: {gone}\n{painted(app)}") from None


async def when(fact: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not fact():
            await asyncio.sleep(0)
