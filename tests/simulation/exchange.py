"""A live venue on a bad day, which survives everything: the `Exchange` port in virtual time.

Every call travels on its own. It arrives although the caller died or gave up, late, or never; so does its answer.
Orders fill in pieces over seconds, at the prices of the world's market; what happened becomes visible later, is
told twice or not at all, and now and then with a time of a minute ago. For a while calls are taken and never
answered, also not when they are cancelled, or an order that was shown is not to be found. People trade on the same
account at the venue's own screen. What is drawn per seed is in `VenueFaults`.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import Any

from config.exact import ZERO, floor_to, round_to
from execution.exchange import ExchangeOrder, ExchangeRefused, ExchangeTimeout, ExchangeTrade
from execution.model import Order, OrderStatus, Side, TimeInForce
from execution.venue import INSUFFICIENT_FUND
from tests.simulation.daemon import true_time
from tests.simulation.loop import OUTSIDE, PROCESS, SimLoop
from tests.simulation.venue_book import FEE, GRAIN, Booked, Happened, Stream
from tests.simulation.venue_faults import (
    CALL_SECONDS,
    LONGEST_BACK_DATING,
    LONGEST_FILLING,
    LONGEST_FORGETTING,
    LONGEST_HANG,
    LONGEST_TRAVEL,
    VenueFaults,
)

ODD = "ODD-USD"
"""What strangers trade on some venues: nobody here knows of it."""
ODD_PRICE = Decimal("7.125")
_CLIENT = "web"
"""How the client order ids of other programs begin."""


class _Dropped(Exception):
    """A call that came too late."""


class SimExchange:
    """See the module and `execution.exchange.Exchange`.

    `price` tells what a symbol costs now; `watch` hears of every order that is sent, before it travels; `is_shown`
    tells whether somebody has stored that the venue has shown an order, by its client order id; `on_forgotten` and
    `on_found` hear of orders that cannot be found for a while, and then can; `say` goes into the trace.
    """

    name = "sim"

    def __init__(
        self,
        loop: SimLoop,
        dice: random.Random,
        faults: VenueFaults,
        price: Callable[[str], Decimal],
        *,
        symbols: Sequence[str],
        account: str = "live",
        watch: Callable[[Order], None] = lambda _order: None,
        violated: Callable[[str], None] = lambda _what: None,
        is_shown: Callable[[str], bool] = lambda _client: False,
        on_forgotten: Callable[[], None] = lambda: None,
        on_found: Callable[[Booked], None] = lambda _booked: None,
        say: Callable[..., None] = lambda *_parts: None,
    ) -> None:
        self.faults = faults
        self.deduplicates = faults.deduplicates == "all"
        self.up = True
        self.orders: list[Booked] = []
        self.happened: list[Happened] = []
        self.stats: Counter[str] = Counter()
        self._loop = loop
        self._dice = dice
        self._price: Callable[[str], Decimal] = lambda symbol: ODD_PRICE if symbol == ODD else price(symbol)
        self._symbols = [*symbols, ODD] if dice.random() < 0.2 else list(symbols)
        self._account = account
        self._watch = watch
        self._violated = violated
        self._is_shown = is_shown
        self._on_forgotten = on_forgotten
        self._on_found = on_found
        self._hangs_until = 0.0
        self._deaf = False
        self._sent: set[str] = set()
        self._say = say
        self._streams: list[Stream] = []
        self._resting: list[Booked] = []
        self._free: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)  # base units that nobody sells yet
        self._numbers: Counter[str] = Counter()
        self._fee_decimals = dice.choice((2, 4, 8))
        self._numbered = dice.random() < 0.5
        self._takes_coins = dice.random() < 0.2  # the fee of a buy is taken from what was bought

    # ---- the port -------------------------------------------------------------------------------------

    async def place(self, order: Order, seconds: float | None) -> ExchangeOrder:
        """See `Exchange.place`."""
        self._watch(order)
        self.stats["sent"] += 1
        honoured = seconds is not None and self.faults.honours_deadline
        latest = self._loop.time() + (seconds or 0.0) if honoured else None
        if order.id not in self._sent:
            self._sent.add(order.id)
            if self._happens(self.faults.hang):
                self._later(self._dice.uniform(0.0, 0.3), self.hang)
        found: ExchangeOrder = await self._call("place", lambda: self._take(order, latest))
        return found

    async def find(self, order: Order) -> ExchangeOrder | None:
        """See `Exchange.find`."""
        asked = self._loop.time()
        found: ExchangeOrder | None = await self._call("find", lambda: self._look_up(order))
        if found is None:
            self._note_missed(order, asked)
        return found

    def _note_missed(self, order: Order, asked: float) -> None:
        process = PROCESS.get()
        for booked in self.orders:
            if booked.client_order_id == order.client_order_id and asked < booked.forgotten_until:
                who = "" if process is None else process.name
                booked.missed.setdefault(who, []).append((asked, self._loop.time()))

    async def cancel(self, order: Order) -> None:
        """See `Exchange.cancel`."""
        await self._call("cancel", lambda: self._cancel_by_client_id(order))

    async def trades(self, account: str, since: datetime) -> Sequence[ExchangeTrade]:
        """See `Exchange.trades`."""
        found: list[ExchangeTrade] = await self._call("trades", lambda: self._visible(account, since))
        return found

    def stream(self, account: str) -> Stream:
        """See `Exchange.stream`."""
        stream = Stream(account)
        self._later(self._dice.uniform(0.01, 0.5), self._open, stream)
        return stream

    # ---- calls ----------------------------------------------------------------------------------------

    async def _call(self, what: str, work: Callable[[], Any]) -> Any:
        """The request travels on its own; the caller gives up after a while, and the request does not know."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._loop.time() < self._hangs_until:
            return await self._hang(what, future)
        if not self.up:
            self._later(self._dice.uniform(0.01, 0.3), self._fail, future, "connection refused")
        elif self._happens(self.faults.lost_request):
            self._counted(f"lost request: {what}")
        else:
            self._later(self._travel(), self._arrive, future, what, work)
        patience = self._later(CALL_SECONDS, self._fail, future, f"no answer in {CALL_SECONDS:g} s")
        try:
            return await future
        finally:
            patience.cancel()

    async def _hang(self, what: str, future: "asyncio.Future[Any]") -> Any:
        """The line is open, and nobody says anything; some clients do not even hear that nobody waits any more."""
        self._counted(f"hanging: {what}")
        if not self._deaf:
            return await future
        self._later(self._hangs_until - self._loop.time(), self._fail, future, "the line is dead")
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((future,))
        return future.result()

    def _arrive(self, future: "asyncio.Future[Any]", what: str, work: Callable[[], Any]) -> None:
        if not self.up:
            return
        answer: Any
        try:
            answer = work()
        except ExchangeRefused as refusal:
            answer = refusal
        except _Dropped:
            return
        if self._happens(self.faults.lost_reply):
            self._counted(f"lost reply: {what}")
        elif not future.done():
            self._later(self._travel(), self._reply, future, answer)

    def _reply(self, future: "asyncio.Future[Any]", answer: Any) -> None:
        if future.done() or not self.up:
            return
        if isinstance(answer, ExchangeRefused):
            future.set_exception(answer)
            future.exception()  # whoever asked may be dead
        else:
            future.set_result(answer)

    @staticmethod
    def _fail(future: "asyncio.Future[Any]", why: str) -> None:
        if not future.done():
            future.set_exception(ExchangeTimeout(why))
            future.exception()  # whoever asked may be dead

    def _travel(self) -> float:
        if self._happens(self.faults.slow):
            self.stats["slow"] += 1
            return self._dice.uniform(0.2, LONGEST_TRAVEL)
        return self._dice.uniform(0.01, 0.1)

    # ---- orders ---------------------------------------------------------------------------------------

    def _take(self, order: Order, latest: float | None) -> ExchangeOrder:
        """An order arrives. Raises ExchangeRefused, _Dropped."""
        if latest is not None and self._loop.time() > latest:
            self._counted("dropped", order.request_id)
            raise _Dropped
        known = self._known(order.client_order_id)
        if known is not None:
            self.stats["deduplicated"] += 1
            return known.shown()
        if self._happens(self.faults.refused):
            self._counted("refused", order.request_id)
            raise ExchangeRefused("BUSY", "the venue does not want to")
        if any(booked.client_order_id == order.client_order_id for booked in self.orders):
            self._violated(f"I2 {order.request_id} became a second order at the venue")
        price = self._price(order.symbol)
        quantity, budget = order.quantity, None
        if quantity is None:
            assert order.notional is not None
            budget = order.notional
            if order.side is Side.SELL or order.limit_price is not None:
                quantity, budget = floor_to(budget / (order.limit_price or price), GRAIN), None
        return self._book(
            Booked(
                len(self.orders) + 1,
                order.client_order_id,
                order.account,
                order.symbol,
                order.side,
                order.limit_price,
                quantity,
                budget,
                self._visible_from(),
            ),
            rests=order.time_in_force is not TimeInForce.IOC,
        ).shown()

    def _known(self, client_order_id: str) -> Booked | None:
        rule = self.faults.deduplicates
        if rule == "none":
            return None
        same = (booked for booked in self.orders if booked.client_order_id == client_order_id)
        return next((booked for booked in same if rule == "all" or booked.is_open), None)

    def _book(self, booked: Booked, *, rests: bool) -> Booked:
        """A new order. Raises ExchangeRefused when there is not enough to sell."""
        key = (booked.account, booked.symbol)
        if booked.side is Side.SELL:
            assert booked.quantity is not None
            if booked.quantity > self._free[key]:
                raise ExchangeRefused(INSUFFICIENT_FUND, f"{self._free[key]} to sell, not {booked.quantity}")
            self._free[key] -= booked.quantity
        self.orders.append(booked)
        who = "stranger" if booked.stranger else booked.client_order_id
        self._say("venue order", booked.id, who, booked.symbol, booked.side, booked.quantity, booked.limit)
        if self._reached(booked):
            self._fill_over_time(booked, self._perhaps_forget(booked))
        elif rests:
            self._perhaps_forget(booked)
            self._resting.append(booked)
        else:
            self._close(booked, OrderStatus.CANCELLED)
        return booked

    def _reached(self, booked: Booked) -> bool:
        price, limit = self._price(booked.symbol), booked.limit
        return limit is None or (price <= limit if booked.side is Side.BUY else price >= limit)

    def _look_up(self, order: Order) -> ExchangeOrder | None:
        now = self._loop.time()
        mine = (booked for booked in self.orders if booked.client_order_id == order.client_order_id)
        return next((one.shown() for one in mine if max(one.visible_at, one.forgotten_until) <= now), None)

    def _cancel_by_client_id(self, order: Order) -> None:
        for booked in self.orders:
            if booked.client_order_id == order.client_order_id and booked.forgotten_until <= self._loop.time():
                self._cancel(booked)

    def _cancel(self, booked: Booked) -> None:
        """A piece on its way may have been first."""
        if not booked.is_open:
            return
        for piece in booked.pieces:
            piece.cancel()
        if booked.pieces and self._happens(0.3):
            self.stats["cancel races"] += 1
            self._fill(booked, Decimal("0.5"))
        if booked.is_open:
            self._close(booked, OrderStatus.CANCELLED)

    def _close(self, booked: Booked, status: OrderStatus) -> None:
        booked.status = status
        if booked in self._resting:
            self._resting.remove(booked)
        if booked.side is Side.SELL:
            assert booked.quantity is not None
            self._free[booked.account, booked.symbol] += booked.quantity - booked.filled
        self._say("venue closes", booked.id, status, booked.filled)

    # ---- fills ----------------------------------------------------------------------------------------

    def on_price(self, symbol: str) -> None:
        """The market moved: what rested may be reached."""
        for booked in [one for one in self._resting if one.symbol == symbol and self._reached(one)]:
            self._resting.remove(booked)
            self._fill_over_time(booked)

    def _fill_over_time(self, booked: Booked, after: float = 0.0) -> None:
        """In one to three pieces."""
        late = self._happens(self.faults.late_fill)
        when = self._dice.uniform(0.0, 0.2)
        for share in self._shares():
            booked.pieces.append(self._later(after + when, self._fill, booked, share))
            when += self._dice.uniform(0.01, LONGEST_FILLING / 2 if late else 1.0)
            when = min(when, LONGEST_FILLING)

    def _shares(self) -> Iterator[Decimal]:
        """Of what is left each time; the last takes all."""
        for _ in range(self._dice.choice((0, 0, 1, 2))):
            yield Decimal(self._dice.randint(10, 70)) / 100
        yield Decimal(1)

    def _fill(self, booked: Booked, share: Decimal) -> None:
        if not booked.is_open:
            return
        price = self._fill_price(booked)
        left = booked.left(price)
        quantity = left if share == 1 else floor_to(left * share, GRAIN)
        if quantity > 0:
            self._trade(booked, quantity, price)
        if quantity == left or (booked.quantity is not None and booked.filled == booked.quantity):
            self._close(booked, OrderStatus.FILLED if booked.filled else OrderStatus.CANCELLED)
        elif booked.status is OrderStatus.PENDING and booked.filled:
            booked.status = OrderStatus.PARTIALLY_FILLED

    def _fill_price(self, booked: Booked) -> Decimal:
        """The market's with some slip; never beyond the limit."""
        slip = Decimal(self._dice.randint(0, 20)) / 10_000
        price = round_to(self._price(booked.symbol) * (1 + booked.side.sign * slip), 4)
        if booked.limit is None:
            return price
        return min(price, booked.limit) if booked.side is Side.BUY else max(price, booked.limit)

    def _trade(self, booked: Booked, quantity: Decimal, price: Decimal) -> None:
        self._numbers[booked.symbol] += 1
        number = self._numbers[booked.symbol]
        base, quote = booked.symbol.split("-")
        coins = self._takes_coins and booked.side is Side.BUY
        fee = round_to(quantity * FEE, 8) if coins else round_to(price * quantity * FEE, self._fee_decimals)
        booked.filled += quantity
        booked.spent += price * quantity + (ZERO if coins else fee)
        if booked.side is Side.BUY:
            self._free[booked.account, booked.symbol] += quantity - (fee if coins else ZERO)
        trade = ExchangeTrade(
            venue_trade_id=str(number),
            venue_order_id=booked.id,
            client_order_id=booked.client_order_id,
            symbol=booked.symbol,
            side=booked.side,
            quantity=quantity,
            price=price,
            fee=fee,
            fee_asset=base if coins else quote,
            executed_at=true_time(round(self._loop.time() - self._back_dating(), 3)),
            venue_sequence=number if self._numbered else None,
        )
        self.happened.append(Happened(booked.account, trade, self._visible_from()))
        self._say("venue trade", booked.id, trade.symbol, number, quantity, price, trade.executed_at.time())
        self._broadcast(booked.account, trade)

    def _back_dating(self) -> float:
        if not self._happens(self.faults.back_dated):
            return 0.0
        self.stats["back-dated"] += 1
        return self._dice.uniform(0.0, LONGEST_BACK_DATING)

    def _visible(self, account: str, since: datetime) -> list[ExchangeTrade]:
        now = self._loop.time()
        found = [
            one.trade
            for one in self.happened
            if one.account == account and one.visible_at <= now and one.trade.executed_at >= since
        ]
        return sorted(found, key=lambda trade: trade.executed_at)

    # ---- streams --------------------------------------------------------------------------------------

    def _open(self, stream: Stream) -> None:
        if self.up:
            self._streams.append(stream)
        else:
            stream.end(ExchangeTimeout("connection refused"))

    def _broadcast(self, account: str, trade: ExchangeTrade) -> None:
        self._streams = [stream for stream in self._streams if stream.is_open]
        for stream in self._streams:
            if stream.account == account:
                for _ in range(2 if self._happens(self.faults.repeated) else 1):
                    if self._happens(self.faults.unheard):
                        self.stats["unheard"] += 1
                    else:
                        self._later(self._dice.uniform(0.001, 1.5), stream.tell, trade)

    def break_streams(self) -> None:
        """Every connection is lost."""
        self._counted("streams broken")
        for stream in self._streams:
            stream.end(ExchangeTimeout("connection lost") if self._happens(0.5) else None)
        self._streams.clear()

    # ---- the day --------------------------------------------------------------------------------------

    def plan(self, until: float) -> None:
        """What goes wrong until then."""
        self._every(self.faults.down, until, self.go_down)
        self._every(self.faults.broken_stream, until, self.break_streams)
        self._every(self.faults.strangers, until, self.trade_elsewhere)

    def go_down(self) -> None:
        """Nobody gets through for some seconds; what is booked goes on."""
        if self.up:
            self._counted("down")
            self.up = False
            self.break_streams()
            self._later(self._dice.uniform(0.3, 3.0), self.come_up)

    def come_up(self) -> None:
        """The venue answers again."""
        self.up = True

    def hang(self) -> None:
        """Calls are taken and never answered for some seconds."""
        self._counted("hangs")
        self._hangs_until = self._loop.time() + self._dice.uniform(0.5, LONGEST_HANG)
        self._deaf = self._happens(0.3)

    def _perhaps_forget(self, booked: Booked) -> float:
        """An order that is to be forgotten soon also fills late. Returns after how many seconds."""
        if booked.stranger or not self._happens(self.faults.forgets):
            return 0.0
        self._later(self._dice.uniform(0.2, 1.0), self.forget, booked)
        return self._dice.uniform(0.0, LONGEST_FORGETTING)

    def forget(self, booked: Booked) -> None:
        """An order that was shown is not to be found for some seconds; it may fill on."""
        assert booked.client_order_id is not None
        if booked.is_open and self._is_shown(booked.client_order_id):
            self._counted("forgotten", booked.id)
            booked.was_forgotten = True
            forgotten = self._dice.uniform(1.0, LONGEST_FORGETTING)
            booked.forgotten_until = self._loop.time() + forgotten
            self._later(forgotten, self._found, booked)
            self._on_forgotten()

    def _found(self, booked: Booked) -> None:
        self._say("venue found", booked.id)
        self._on_found(booked)

    def trade_elsewhere(self) -> None:
        """A person at the venue's own screen, or a program that is not ours."""
        symbol = self._dice.choice(self._symbols)
        free = self._free[self._account, symbol]
        selling = free > 0 and self._happens(0.4)
        quantity = floor_to(free * Decimal(self._dice.randint(10, 100)) / 100, GRAIN) if selling else Decimal(1)
        limit = Decimal(self._dice.randint(80, 120)) if self._happens(0.3) else None
        if quantity > 0:
            number = len(self.orders) + 1
            client = None if self._happens(0.5) else f"{_CLIENT}-{number}"
            side = Side.SELL if selling else Side.BUY
            visible = self._visible_from()
            stranger = Booked(
                number, client, self._account, symbol, side, limit, quantity, None, visible, stranger=True
            )
            self._book(stranger, rests=True)

    def calm(self) -> None:
        """A good day from here on, but what is forgotten is found only later; strangers take back what rests."""
        self.faults = self.faults.calmed()
        self.come_up()
        self._hangs_until = 0.0
        for booked in [one for one in self._resting if one.stranger]:
            self._close(booked, OrderStatus.CANCELLED)

    # ---- inside ---------------------------------------------------------------------------------------

    def _every(self, pause: float, until: float, strike: Callable[[], None]) -> None:
        if not pause:
            return
        when = self._dice.expovariate(1 / pause)
        while when < until:
            self._loop.call_at(when, strike, context=OUTSIDE)
            when += self._dice.expovariate(1 / pause)

    def _later(self, seconds: float, what: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, what, *arguments, context=OUTSIDE)

    def _visible_from(self) -> float:
        return self._loop.time() + (self._dice.uniform(0.0, self.faults.hidden) if self.faults.hidden else 0.0)

    def _happens(self, chance: float) -> bool:
        return bool(chance) and self._dice.random() < chance

    def _counted(self, what: str, *about: object) -> None:
        self.stats[what] += 1
        self._say("venue", what, *about)
