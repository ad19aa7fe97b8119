"""kill -9 of the daemon and of the broker under load: nothing lost, nothing doubled, the books prove it."""

import asyncio
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from execution import ledger
from execution import orders as stored_orders
from execution.model import CashFlow, Fact, Order, OrderStatus, Trade
from execution.orders import client_order_id
from runtime.bus import BusUnavailable
from tests.integration.brokers import MOSQUITTO, PATIENCE, running_broker
from tests.integration.daemons import Ear, Kept, Load, Server, candle, price_known, retains

log = logging.getLogger("tests.kills")
ENOUGH = 200
"""Answers after which there is something to prove, however few a slow machine gave between the kills."""
pytestmark = pytest.mark.timeout(900)

BOT = """
name = "{name}"
symbol = "{symbol}"
timeframe = "1m"
threshold = 0.05
confirmation_minutes = 0
cooldown_minutes = 0
backoff_minutes = 0
notional = 25
[[signals]]
function = "RSI"
mapper = "band"
weight = 1
params = {{ timeperiod = 3, floor = 0, lo = 30, hi = 70, ceil = 100 }}
"""
BOTS = {"eager": "BTC-USD", "keen": "ETH-USD", "twin": "ETH-USD"}
FEED = (
    "feed.synthetic=true",
    'feed.synthetic_symbols=["BTC-USD","ETH-USD"]',
    "feed.candles_per_second=20",
    "signals.request_repeat_seconds=0.5",
)
COMMON = ("account.initial_deposit=10000000", "portfolio.checkpoint_facts=200", "log.level=warning")


def bot_files(folder: Path) -> list[Path]:
    """Bots that trade almost every candle."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, symbol in BOTS.items():
        file = folder / f"{name}.toml"
        file.write_text(BOT.format(name=name, symbol=symbol))
        files.append(file)
    return files


def requests(rng: random.Random, going: Callable[[], bool]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Buys, sells, resting limits, cancellations and deposits, as long as `going`."""
    for number in itertools.count():
        if not going():
            return
        request_id = f"load-{number}"
        symbol = rng.choice(("BTC-USD", "ETH-USD"))
        kind = rng.random()
        if kind < 0.1:
            yield "deposit", {"request_id": request_id, "amount": str(rng.randint(1, 9))}
        elif kind < 0.2:
            # Far from the market: rests until it is cancelled by its own request's repetition-proof twin.
            yield "trade", {
                "request_id": request_id, "symbol": symbol, "side": "BUY", "quantity": "0.01", "limit_price": "1.5",
                "time_in_force": "IOC",
            }  # fmt: skip
        elif kind < 0.7 or number < 50:
            yield "trade", {"request_id": request_id, "symbol": symbol, "side": "BUY", "notional": "100"}
        else:
            yield "trade", {"request_id": request_id, "symbol": symbol, "side": "SELL", "quantity": "0.0001"}


@asynccontextmanager
async def killing(
    server: Server, ear: Ear, rng: random.Random, kills: int, kill: Callable[[], Awaitable[None]]
) -> AsyncIterator[Load]:
    """Load while `kill` strikes `kills` times at random moments; returns when all is answered."""
    striking = True
    load = Load(ear, per_second=250, repeat_after=0.4)
    load.since = server.books.head
    running = asyncio.create_task(load.run(requests(rng, lambda: striking)))
    try:
        for _ in range(kills):
            await asyncio.sleep(rng.uniform(0.02, 0.5))
            await kill()
            answered = len(load.answers)
            deadline = time.monotonic() + PATIENCE
            while len(load.answers) == answered and not running.done():  # it works again before the next kill
                assert time.monotonic() < deadline, f"no answer for {PATIENCE:g} s\n{await server.stacks()}"
                await asyncio.sleep(0.02)
            if running.done():
                break
        while len(load.answers) < ENOUGH and not running.done():
            await asyncio.sleep(0.02)
        striking = False
        await running
    finally:
        striking = False
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    yield load


class Stored(NamedTuple):
    """What the database holds at the end."""

    trades: list[Trade]
    orders: list[Order]
    flows: list[CashFlow]
    head: int

    @classmethod
    def of(cls, server: Server) -> "Stored":
        """All of it at one moment: what the broker delivers again may still be worked on."""
        return server.books.read(
            lambda c: cls(ledger.trades(c), stored_orders.orders(c), ledger.cash_flows(c), ledger.head(c).sequence)
        )


async def prove(server: Server, ear: Ear, load: Load) -> None:
    """Every promise, after the load is answered: stop cleanly, start without a feed, compare everything."""
    assert await server.stop() == 0
    server.settings = [setting for setting in server.settings if not setting.startswith("feed.")]
    server.bots = ()
    await server.start()
    stored = Stored.of(server)
    statuses = check_requests(stored, load)
    check_orders(stored)
    assert server.books.problems() == []
    await check_announcements(stored, ear, load.since)
    await retains(server.port, lambda kept: is_retained(Stored.of(server), kept))
    assert "Traceback" not in server.log
    log.info(
        "%d requests, %d repetitions, %d trades, %s", len(load.sent), load.repeated, len(stored.trades), statuses
    )


def check_requests(stored: Stored, load: Load) -> "Counter[str]":
    """One order or one flow each, and every answered trade is in the ledger. How often which answer came."""
    ids = Counter(order.request_id for order in stored.orders)
    assert [request for request, count in ids.items() if count > 1] == []
    known = {trade.id for trade in stored.trades}
    keys = Counter(flow.idempotency_key for flow in stored.flows)
    assert max(keys.values()) == 1
    statuses: Counter[str] = Counter()
    for request_id, (command, _body) in load.sent.items():
        answer = load.answers[request_id]
        statuses[answer["status"]] += 1
        if command == "deposit":
            assert keys[request_id] == 1, answer
        elif answer["status"] == "refused":
            assert request_id not in ids
        else:
            assert ids[request_id] == 1, answer
            assert all(told["id"] in known for told in answer["trades"]), answer
    assert statuses["filled"] > 50, statuses
    return statuses


def check_orders(stored: Stored) -> None:
    """Filled as ordered, no fill twice."""
    fills: dict[str | None, list[Trade]] = {}
    for trade in stored.trades:
        fills.setdefault(trade.order_id, []).append(trade)
    for order in stored.orders:
        mine = fills.pop(order.id, [])
        assert order.status.is_final or order.decided_at is not None, order
        assert order.client_order_id == client_order_id(order.account, order.request_id)
        if order.status is OrderStatus.FILLED:
            assert len(mine) == 1, order
            assert order.quantity in (None, mine[0].quantity)
        elif order.status is not OrderStatus.PARTIALLY_FILLED and order.decided_at is None:
            assert mine == [], order
    assert fills == {}
    venue_ids = Counter(trade.venue_trade_id for trade in stored.trades)
    assert max(venue_ids.values()) == 1


async def check_announcements(stored: Stored, ear: Ear, since: int) -> None:
    """Sequences without holes, each after the one at which somebody listened announced at least once, as it is
    stored."""
    sequences = sorted([t.sequence for t in stored.trades] + [f.sequence for f in stored.flows])
    assert sequences == list(range(1, stored.head + 1))
    heard_from = set(range(since + 1, stored.head + 1))

    def announced() -> set[int]:
        return {h.body["sequence"] for h in (*ear.all("main/trade"), *ear.all("main/cash"))}

    try:
        await ear.until(lambda: announced() >= heard_from)
    except AssertionError:
        missing = sorted(heard_from - announced())
        raise AssertionError(f"never announced: {missing} of 1..{stored.head}; sessions {ear.sessions}") from None
    told = {h.body["id"]: h.body for h in ear.all("main/trade")}
    for trade in stored.trades:
        if trade.sequence > since:
            assert Decimal(told[trade.id]["quantity"]) == trade.quantity
            assert told[trade.id]["hash"] == trade.hash


def is_retained(stored: Stored, kept: Kept) -> bool:
    """Whether retained state is the database's, and both are what the facts add up to."""
    facts: list[Fact] = [*stored.trades, *stored.flows]
    cash = sum((fact.cash_effect for fact in facts), Decimal(0))
    found = [(kept["main/portfolio"]["sequence"], Decimal(kept["main/portfolio"]["cash"]))]
    wanted = [(stored.head, cash)]
    for symbol in ("BTC-USD", "ETH-USD"):
        position = kept[f"main/position/{symbol}"]
        held = sum((t.quantity * t.side.sign for t in stored.trades if t.symbol == symbol), Decimal(0))
        found.append((position["sequence"], Decimal(position["quantity"])))
        wanted.append((stored.head, held))
    return found == wanted and kept["status"]["state"] == "online"


def kills_and_long(short: int, long: int) -> list[Any]:
    """The suite's number of kills, and the long one."""
    return [short, pytest.param(long, marks=pytest.mark.long)]


@pytest.mark.parametrize("kills", kills_and_long(12, 200))
async def test_kill_9_of_the_daemon_and_its_broker(tmp_path: Path, kills: int) -> None:
    rng = random.Random(5)
    server = Server(tmp_path / "data", settings=(*FEED, *COMMON), bots=bot_files(tmp_path / "bots"))
    await server.start()

    async def kill() -> None:
        await server.kill()
        await server.start()

    try:
        async with Ear(server.port, publish_timeout=2) as ear, killing(server, ear, rng, kills, kill) as load:
            await prove(server, ear, load)
            tags = {trade.triggered_by for trade in server.books.trades}
            assert tags == {"manual", *(f"bot:{name}" for name in BOTS)}
    finally:
        if server.running:
            await server.kill()


@pytest.mark.parametrize("kills", kills_and_long(12, 200))
async def test_kill_9_of_the_embedded_broker(tmp_path: Path, kills: int) -> None:
    rng = random.Random(6)
    server = Server(tmp_path / "data", settings=(*FEED, *COMMON), bots=bot_files(tmp_path / "bots"))
    await server.start()

    async def kill() -> None:
        await server.kill_broker()

    try:
        async with Ear(server.port, publish_timeout=2) as ear, killing(server, ear, rng, kills, kill) as load:
            assert server.running
            await prove(server, ear, load)
    finally:
        if server.running:
            await server.kill()


@pytest.mark.parametrize("kills", kills_and_long(6, 100))
async def test_kill_9_of_the_daemon_beside_mosquitto_and_of_mosquitto(tmp_path: Path, kills: int) -> None:
    rng = random.Random(7)
    # By default it loses, when killed, what it has acknowledged and keeps for a slow subscriber (docs/bus.md).
    async with running_broker(MOSQUITTO, tmp_path, more="max_inflight_messages 0") as broker:
        settings = (*FEED, *COMMON, "broker.embedded=false")
        server = Server(tmp_path / "data", port=broker.port, settings=settings, bots=bot_files(tmp_path / "bots"))
        await server.start()

        async def kill() -> None:
            if rng.random() < 0.5:
                await server.kill()
                await server.start()
            else:
                await broker.kill_and_return()

        try:
            async with Ear(server.port, publish_timeout=2) as ear, killing(server, ear, rng, kills, kill) as load:
                await prove(server, ear, load)
        finally:
            if server.running:
                await server.kill()


# ---- requests without an id -----------------------------------------------------------------------------


async def anonymous(
    ear: Ear, stop: asyncio.Event, body: Callable[[int], dict[str, Any]], confirmed: set[int], unknown: set[int]
) -> None:
    """Publish requests without an id until told to stop: the confirmed ones, and those nobody knows of."""

    async def one(number: int) -> None:
        try:
            await ear.say("main/request/trade", body(number))
        except BusUnavailable:
            unknown.add(number)
        else:
            confirmed.add(number)

    tasks = []
    for number in itertools.count():
        if stop.is_set():
            break
        tasks.append(asyncio.create_task(one(number)))
        await asyncio.sleep(0.007)
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("victim", ["daemon", "broker"])
@pytest.mark.parametrize("kills", kills_and_long(4, 100))
async def test_requests_without_an_id_are_never_lost_and_doubled_only_within_the_brokers_window(
    tmp_path: Path, victim: str, kills: int
) -> None:
    rng = random.Random(8)
    server = Server(tmp_path / "data", settings=COMMON)
    await server.start()
    stop = asyncio.Event()
    try:
        async with Ear(server.port, publish_timeout=2) as ear:
            # Stored, unlike a price: known at once in every life.
            minute = time.strftime("%Y-%m-%dT%H:%M:00Z", time.gmtime(time.time() - 120))
            await ear.say("market/BTC-USD/candle/1m", candle(minute, "50000"))
            await price_known(ear)
            await ear.ask({"request_id": "first", "symbol": "BTC-USD", "side": "BUY", "notional": "10"})
            body = {"symbol": "BTC-USD", "side": "BUY", "notional": "10"}
            confirmed: set[int] = set()
            unknown: set[int] = set()
            sending = asyncio.create_task(
                anonymous(ear, stop, lambda n: {**body, "note": f"number {n}"}, confirmed, unknown)
            )
            for _ in range(kills):
                heard = len(ear.all("main/trade"))
                await asyncio.sleep(rng.uniform(0.05, 0.5))
                if victim == "daemon":
                    await server.kill()
                    await server.start()
                else:
                    await server.kill_broker()
                await ear.more("main/trade", heard)
            async with asyncio.timeout(PATIENCE):
                while len(confirmed) <= 50:
                    await asyncio.sleep(0.02)
            stop.set()
            await sending

            def traded() -> Counter[str | None]:
                return Counter(order.note for order in server.books.orders)

            wanted = {f"number {n}" for n in confirmed}
            found, progress = traded(), time.monotonic()
            while not wanted <= found.keys() and time.monotonic() < progress + PATIENCE:
                await asyncio.sleep(0.1)
                before, found = found, traded()
                if len(found) > len(before):  # a busy machine works through its backlog
                    progress = time.monotonic()
            answers = [heard.body for heard in ear.heard if "/response/" in heard.topic]
            refused = [body["reason"] for body in answers if body["status"] != "filled"]
            letters = [letter.reason for letter in server.books.dead_letters()]
            assert wanted - found.keys() == set(), f"confirmed and lost; refused {refused}, dead letters {letters}"
            doubled = sum(count - 1 for count in found.values())
            # What runtime/mqtt.py says of a broker that ends: its last deliveries may come again as new.
            assert doubled <= 64 * kills, found.most_common(5)
            assert found.keys() - wanted - {f"number {n}" for n in unknown} == {None}
            assert {order.status for order in server.books.orders} == {OrderStatus.FILLED}
            log.info("%s: %d confirmed, %d unknown, %d doubled", victim, len(confirmed), len(unknown), doubled)
            assert server.books.problems() == []
    finally:
        if server.running:
            await server.kill()
