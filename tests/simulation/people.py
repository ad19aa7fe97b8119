"""Who is around a daemon: a market that publishes candles and prices, and a person who wants things done.

Both are processes that are never killed, at the end of connections that break like everybody's.
"""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from config.exact import plain
from execution.model import Candle, Price
from runtime import wire
from runtime.bus import BusUnavailable
from runtime.topics import Command, RouteName, Topics
from tests.simulation.broker import Broker
from tests.simulation.bus import SimBus
from tests.simulation.daemon import true_time
from tests.simulation.loop import Process, SimLoop, in_process

CANDLE_SECONDS = 1
TIMEFRAME = f"{CANDLE_SECONDS}s"
CENT = Decimal("0.01")
PRICED = 0.3
"""The share of candles after which the last price is told too."""

NOT_BINDING = frozenset({"storage_unavailable", "idempotency_conflict", "retained_command"})
"""Codes of refusals that say nothing about what becomes of the request itself."""


def next_candle(symbol: str, dice: random.Random, number: int, before: Decimal) -> Candle:
    """The candle that opens `number` seconds after the beginning, at the close before it."""
    move = Decimal(dice.randint(-150, 150)) / 10_000
    if dice.random() < 0.03:
        move *= 5
    close = max(Decimal(20), (before * (1 + move)).quantize(CENT))
    high, low = max(before, close), min(before, close)
    return Candle(symbol, TIMEFRAME, true_time(number), before, high, low, close, Decimal(1000))


def history(symbol: str, dice: random.Random, count: int) -> list[Candle]:
    """What was traded before the beginning."""
    found: list[Candle] = []
    for number in range(-count, 0):
        found.append(next_candle(symbol, dice, number, found[-1].close if found else Decimal(100)))
    return found


class Market:
    """Publishes a candle a second of each symbol, now and then its close as a price: a random walk with jumps."""

    def __init__(
        self, loop: SimLoop, broker: Broker, topics: Topics, dice: random.Random, symbols: list[str]
    ) -> None:
        self.process = Process("market")
        self._loop = loop
        self._broker = broker
        self._topics = topics
        self._dice = dice
        self.closes = dict.fromkeys(symbols, Decimal(100))
        self.said: dict[tuple[str, datetime], Decimal] = {}
        self.confirmed: list[tuple[str, datetime]] = []
        """Candles that the broker has confirmed, and has somebody for."""
        self.on_close: Callable[[str], None] = lambda symbol: None
        self._bus = SimBus(broker, "market")
        self.open = True
        self.quiet = False
        """Every other candle is left out: nobody trades on them, and each costs time."""

    def start(self) -> None:
        """Begin to publish."""
        self._loop.create_task(self._run(), context=in_process(self.process))

    async def _run(self) -> None:
        await self._bus.start()
        number = 0
        while self.open:
            pause = CANDLE_SECONDS * (2 if self.quiet else 1)
            await asyncio.sleep(pause)
            for symbol in self.closes:
                candle = self._next(symbol, number)
                is_wanted = "daemon" in self._broker.sessions
                topic, payload = self._topics.candle(symbol, TIMEFRAME), wire.encode(wire.candle_wire(candle))
                if await self._tell(topic, payload, retain=False) and is_wanted:
                    self.confirmed.append((symbol, candle.time))
                if self._dice.random() < PRICED:
                    price = wire.price_wire(Price(symbol, candle.close, candle.close_time))
                    await self._tell(self._topics.price(symbol), wire.encode(price), retain=True)
            number += pause

    def _next(self, symbol: str, number: int) -> Candle:
        candle = next_candle(symbol, self._dice, number, self.closes[symbol])
        self.closes[symbol] = self.said[symbol, candle.close_time] = candle.close
        self.on_close(symbol)
        return candle

    async def _tell(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        """A candle that does not get through for a while is given up: markets do not wait. Whether it got through."""
        for _ in range(3):
            try:
                async with asyncio.timeout(2.0):
                    await self._bus.publish(topic, payload, retain=retain)
                return True
            except (BusUnavailable, TimeoutError):
                await asyncio.sleep(0.3)
        return False


@dataclass(slots=True)
class Wanted:
    """One request of the person, until it is answered finally."""

    request_id: str
    account: str
    command: Command
    body: dict[str, Any]
    resting: bool = False
    sent: float = 0.0
    pause: float = 2.0
    accepted: bool = False
    answer: dict[str, Any] | None = None
    spoilt: bool = False
    """Another body was sent under the same id."""


@dataclass(slots=True)
class Nameless:
    """A request without an id, and whether the broker has confirmed it."""

    payload: bytes
    confirmed: bool = False

    def is_over(self, publishing: "asyncio.Future[None]") -> None:
        """The broker has confirmed it, or the connection is lost."""
        self.confirmed = publishing.exception() is None


@dataclass(slots=True)
class Heard:
    """What came from the bus."""

    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    halted: set[str] = field(default_factory=set)


class Person:
    """Sends requests with ids of their own, and each one again until it is answered finally."""

    def __init__(
        self,
        loop: SimLoop,
        broker: Broker,
        topics: Topics,
        dice: random.Random,
        symbols: list[str],
        violated: Callable[[str], None],
        *,
        accounts: Sequence[str],
        pause: float,
        naughty: bool,
    ) -> None:
        self.process = Process("person")
        self.wanted: dict[str, Wanted] = {}
        self.heard = Heard()
        self.nameless: dict[Decimal, Nameless] = {}
        """Deposits without an id, by their amounts."""
        self.unrepeatable: set[bytes] = set()
        """Their payloads."""
        self.refused_nameless = 0
        """How many answers said that something without an id was refused."""
        self.busy = True
        self._loop = loop
        self._broker = broker
        self._topics = topics
        self._dice = dice
        self._symbols = symbols
        self._violated = violated
        self._pause = pause
        self._naughty = naughty
        self._accounts = tuple(accounts)
        self._numbers = 0
        answers = topics.filter(RouteName.RESPONSE)
        self._bus = SimBus(broker, "person", [answers, topics.filter(RouteName.HALT)])

    def start(self) -> None:
        """Begin to ask and to listen."""
        for work in (self._ask(), self._listen(), self._repeat()):
            self._loop.create_task(work, context=in_process(self.process))

    @property
    def unanswered(self) -> list[str]:
        """Requests without a final answer."""
        return [key for key, wanted in self.wanted.items() if wanted.answer is None]

    def calm_down(self) -> None:
        """Want nothing new, and ask soon for what is still unanswered."""
        self.busy = False
        for wanted in self.wanted.values():
            wanted.pause = 1.0

    # ---- asking ---------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        await self._bus.start()
        while self.busy and self._pause:
            await asyncio.sleep(self._dice.expovariate(1 / self._pause))
            if self.busy:
                await self._something()

    async def _something(self) -> None:
        kind = self._dice.random()
        symbol = self._dice.choice(self._symbols)
        if len(self._accounts) > 1 and kind < 0.2:  # live: what rests has more to go through
            await self._rest(symbol)
        elif kind < 0.45:
            size: dict[str, Any] = {"notional": "250"} if self._dice.random() < 0.5 else {"quantity": "1.5"}
            await self.want(Command.TRADE, symbol=symbol, side="BUY", **size)
        elif kind < 0.6:
            await self.want(Command.TRADE, symbol=symbol, side="SELL", quantity="0.7")
        elif kind < 0.68:
            await self.want(Command.TRADE, symbol=symbol, side="SELL", close=True)
        elif kind < 0.82:
            await self._rest(symbol)
        elif kind < 0.9:
            await self._deposit()
        elif kind < 0.94:
            await self.want(Command.WITHDRAW, amount=str(self._dice.randint(1, 99)))
        elif kind < 0.96:
            await self.want(Command.HALT, note="enough")
        elif self._naughty:
            await self._misbehave()

    async def _deposit(self) -> None:
        if self._dice.random() < 0.5:
            await self.want(Command.DEPOSIT, amount=str(self._dice.randint(1, 999)))
        else:
            await self._deposits_without_id()

    def deposit_without_id(self) -> None:
        """Now, a few times."""
        if self.busy:
            self._loop.create_task(self._deposits_without_id(), context=in_process(self.process))

    async def _deposits_without_id(self) -> None:
        for _ in range(3):
            await self._deposit_without_id()

    async def _deposit_without_id(self) -> None:
        """Of an amount that nobody else deposits. Nobody can ask for it again: only the broker can."""
        if "daemon" not in self._broker.sessions:
            return
        self._numbers += 1
        amount = Decimal(self._numbers) / 10_000
        payload = wire.encode({"amount": plain(amount)})
        nameless = self.nameless[amount] = Nameless(payload)
        self.unrepeatable.add(payload)
        with suppress(BusUnavailable):
            topic = self._topics.request(self._any_account(), Command.DEPOSIT)
            (await self._bus.publish_soon(topic, payload)).add_done_callback(nameless.is_over)

    async def _rest(self, symbol: str) -> None:
        """A limit order, which its owner may cancel."""
        price = plain(Decimal(self._dice.randint(80, 120)))
        life: dict[str, Any] = {"expires_in": str(self._dice.randint(1, 6))} if self._dice.random() < 0.5 else {}
        side = self._dice.choice(("BUY", "SELL"))
        wanted = await self.want(
            Command.TRADE,
            resting=True,
            symbol=symbol,
            side=side,
            quantity="1",
            limit_price=price,
            time_in_force="GTC",
            **life,
        )
        if self._dice.random() < 0.5:
            await asyncio.sleep(self._dice.uniform(0, 1))
            await self.want(Command.CANCEL, wanted.account, order_id=wanted.request_id)

    async def want(
        self, command: Command, account: str | None = None, *, resting: bool = False, **body: Any
    ) -> Wanted:
        """Ask for something, once or twice; it is asked again until it is answered."""
        self._numbers += 1
        request_id = f"want-{self._numbers}"
        body = {"request_id": request_id, **body}
        wanted = self.wanted[request_id] = Wanted(request_id, account or self._any_account(), command, body, resting)
        await self._send(wanted)
        if self._dice.random() < 0.1:
            await self._send(wanted)
        return wanted

    def _any_account(self) -> str:
        return self._accounts[0] if len(self._accounts) == 1 else self._dice.choice(self._accounts)

    def was_cancelled(self, request_id: str) -> bool:
        """Whether a cancel of that request's order was answered as done."""
        cancels = (wanted for wanted in self.wanted.values() if wanted.body.get("order_id") == request_id)
        return any(wanted.answer is not None and wanted.answer["status"] == "done" for wanted in cancels)

    async def end(self, request_id: str) -> None:
        """Cancel the order of a request, under an id of its own that tells so."""
        ending = f"end-{request_id}"
        body = {"request_id": ending, "order_id": request_id}
        wanted = self.wanted[ending] = Wanted(ending, self.wanted[request_id].account, Command.CANCEL, body)
        await self._send(wanted)

    async def _send(self, wanted: Wanted, *, retain: bool = False) -> None:
        wanted.sent = self._loop.time()
        await self._say(self._topics.request(wanted.account, wanted.command), wire.encode(wanted.body), retain=retain)

    async def _say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        with suppress(BusUnavailable):
            await self._bus.publish_soon(topic, payload, retain=retain)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = self._loop.time()
            for wanted in list(self.wanted.values()):
                resting = wanted.resting and wanted.accepted and self.busy
                if wanted.answer is None and not resting and now - wanted.sent >= wanted.pause:
                    wanted.pause = min(wanted.pause * 1.5, 10.0)  # many that repeat together would fill the line
                    await self._send(wanted)
            for account in sorted(self.heard.halted):
                if self._dice.random() < 0.3:
                    await self.want(Command.RESUME, account, note="go on")

    async def _misbehave(self) -> None:
        """What nobody should do: other bodies under a known id, retained commands, garbage."""
        kind = self._dice.randrange(4)
        answered = [wanted for wanted in self.wanted.values() if wanted.answer is not None]
        topic = self._topics.request(self._accounts[-1], Command.TRADE)
        if kind == 0 and answered:
            wanted = self._dice.choice(answered)
            await self._say(
                self._topics.request(wanted.account, wanted.command),
                wire.encode({**wanted.body, "note": "another body"}),
            )
        elif kind == 1 and answered:
            await self._send(self._dice.choice(answered), retain=True)
        elif kind == 2:
            await self._say(topic, bytes(self._dice.randrange(256) for _ in range(self._dice.randrange(1, 60))))
        else:
            await self._say(topic, b'{"symbol": "BTC-USD", "side": "BUY", "quantity": "NaN", "request_id": "bad-1"}')

    # ---- listening ------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        async for incoming in self._bus.messages():
            match = self._topics.parse(incoming.topic)
            if match is not None and match.route is RouteName.HALT and incoming.payload:
                self._switched(json.loads(incoming.payload))
            elif match is not None and match.request_id is not None:
                self._answered(match.request_id, json.loads(incoming.payload))
            incoming.ack()

    def _switched(self, halt: dict[str, Any]) -> None:
        if halt["halted"]:
            self.heard.halted.add(halt["account"])
        else:
            self.heard.halted.discard(halt["account"])

    def _answered(self, request_id: str, answer: dict[str, Any]) -> None:
        wanted = self.wanted.get(request_id)
        code = None if answer["reason"] is None else answer["reason"]["code"]
        self.refused_nameless += request_id.startswith("auto-") and code is not None
        if wanted is None or code in NOT_BINDING:
            return
        wanted.accepted = True
        if not answer["final"]:
            return
        if wanted.answer is None:
            wanted.answer = answer
        elif wanted.answer != answer:
            self._violated(f"I5 {request_id} was answered with {wanted.answer} and then with {answer}")
