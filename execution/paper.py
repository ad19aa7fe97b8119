"""The paper exchange: fills orders from candles and last prices, with fees, spread, slippage and volume.

Formulas: docs/paper-exchange.md. It keeps nothing of its own: its book is the open orders of the ledger,
which `resume` brings back after a restart. Fills are numbered per order, so that the same fill computed
again after a crash is the same trade.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from config.exact import ZERO, floor_to, plain, round_to
from config.instruments import Instrument
from execution import endings
from execution.model import Candle, Order, OrderStatus, OrderType, Price, Reason, Side, TimeInForce
from execution.ports import Clock
from execution.venue import BASE_TOO_SMALL, VenueClosed, VenueFill, VenueReport

BASIS_POINT = Decimal("0.0001")
PRICE_DECIMALS = 8
FEE_DECIMALS = 8
_INSTANT = timedelta(microseconds=1)

CandlesSince = Callable[[str, datetime], Awaitable[list[Candle]]]
"""The stored candles of a symbol that open at or after an instant, in time order."""


@dataclass(frozen=True, slots=True)
class PaperCosts:
    """What trading costs at the paper exchange. Basis points; 0 switches a cost off.

    `max_volume_share` is the greatest part of a bar's volume that orders may take (0 = volume is ignored,
    also zero volume).
    """

    taker_fee_bps: Decimal = Decimal(60)
    maker_fee_bps: Decimal = Decimal(40)
    half_spread_bps: Decimal = Decimal("0.5")
    slippage_bps: Decimal = Decimal(5)
    slippage_cap_bps: Decimal = Decimal(50)
    max_volume_share: Decimal = Decimal("0.1")


@dataclass(slots=True)
class _Resting:
    """An order in the book. `after`: only candles that open later than this instant may fill it."""

    order: Order
    filled: Decimal
    fills: int
    active_from: datetime
    after: datetime | None

    def sees(self, candle: Candle) -> bool:
        """Whether the candle may fill the order: no candle that had opened before the order existed."""
        return candle.time >= self.active_from and (self.after is None or candle.time > self.after)


@dataclass(frozen=True, slots=True)
class _Entering:
    """An order whose candles are being read, and those of its symbol that closed meanwhile."""

    symbol: str
    closed: list[Candle]


class PaperVenue:
    """See the module. All methods are called from the event loop; `clock` is the decision clock."""

    name = "paper"

    def __init__(
        self,
        costs: PaperCosts,
        instruments: Callable[[], Mapping[str, Instrument]],
        prices: Mapping[str, Price],
        clock: Clock,
        candles_since: CandlesSince,
    ) -> None:
        self._costs = costs
        self._instruments = instruments
        self._prices = prices
        self._clock = clock
        self._candles_since = candles_since
        self._book: dict[str, dict[str, _Resting]] = {}
        self._bars: dict[str, Candle] = {}
        self._taken: dict[str, Decimal] = {}
        self._entering: dict[str, _Entering] = {}
        self._sequence = 0

    def start(self, last_sequence: int, bars: Mapping[str, Candle]) -> None:
        """Continue after the last venue sequence in the ledger, knowing the last candles."""
        self._sequence = last_sequence
        self._bars.update(bars)

    # ---- the venue protocol ---------------------------------------------------------------------------

    def refusal(self, account: str, on_their_way: int) -> Reason | None:
        """See `Venue.refusal`."""
        return None

    async def place(self, order: Order, waited: float = 0.0) -> list[VenueReport]:
        """See `Venue.place`."""
        return await self._enter(_Resting(order, ZERO, 0, order.decided_at or self._clock.now(), None))

    async def resume(
        self, order: Order, filled: Decimal, last_fill: datetime | None, fills: int
    ) -> list[VenueReport]:
        """The ledger's open orders are this venue's book: enter the rest of the order again."""
        if order.decided_at is None and self._is_late(order):
            return [VenueClosed(order.id, OrderStatus.EXPIRED, endings.expired(order))]
        resting = _Resting(order, filled, fills, order.decided_at or order.created_at, last_fill)
        if order.decided_at is None and order.time_in_force is TimeInForce.GTC:
            # It rested before, so it rests again: a restart must not fill it at a price it had not met.
            self._book.setdefault(order.symbol, {})[order.id] = resting
            return []
        return await self._enter(resting)

    async def cancel(self, order: Order) -> list[VenueReport]:
        """See `Venue.cancel`."""
        self.forget(order.id)
        return [VenueClosed(order.id, OrderStatus.CANCELLED)]

    def forget(self, order_id: str) -> None:
        """See `Venue.forget`."""
        self._entering.pop(order_id, None)
        for book in self._book.values():
            book.pop(order_id, None)

    # ---- the market -----------------------------------------------------------------------------------

    def on_candle(self, candle: Candle) -> list[VenueReport]:
        """A closed candle: fill what it fills."""
        symbol = candle.symbol
        known = self._bars.get(symbol)
        if known is None or candle.time >= known.time:  # an hour's bar closes after the minutes inside it
            self._bars[symbol] = candle
        self._taken[symbol] = ZERO
        for entering in self._entering.values():
            if entering.symbol == symbol:
                entering.closed.append(candle)
        book = self._book.get(symbol)
        if not book:
            return []
        reports: list[VenueReport] = []
        for resting in list(book.values()):
            reports += self._expire(resting, candle.time) or self._match(resting, candle)
            self._leave_if_closed(resting, reports)
        return reports

    def on_price(self, price: Price) -> list[VenueReport]:
        """A last price: fill market orders that waited for one, and limits that it trades through."""
        reports: list[VenueReport] = []
        for resting in list(self._book.get(price.symbol, {}).values()):
            order = resting.order
            if order.decided_at is not None:
                continue  # waits for its candle
            expired = self._expire(resting, self._clock.now())
            if expired:
                reports += expired
            elif order.type is OrderType.MARKET:
                reports += self._take(resting, price.price, None)
            elif order.limit_price is not None and _through(order, price.price):
                reports += self._fill_rest(resting, order.limit_price, self._clock.now(), self._costs.maker_fee_bps)
            self._leave_if_closed(resting, reports)
        return reports

    def expire(self) -> list[VenueReport]:
        """Close orders whose time is over; called now and then."""
        now = self._clock.now()
        reports: list[VenueReport] = []
        for book in self._book.values():
            for resting in list(book.values()):
                reports += self._expire(resting, now)
                self._leave_if_closed(resting, reports)
        return reports

    # ---- entering the book ----------------------------------------------------------------------------

    async def _enter(self, resting: _Resting) -> list[VenueReport]:
        order = resting.order
        if order.limit_price is not None:
            reason = self._too_small(resting, self._quantity(resting, order.limit_price))
            if reason is not None:
                return [VenueClosed(order.id, OrderStatus.REJECTED, reason)]
        reports: list[VenueReport] = []
        if order.decided_at is not None:
            last = self._bars.get(order.symbol)
            if last is not None and last.time >= order.decided_at:
                missed = await self._missed(resting, last)
                if missed is None:
                    return []
                reports = self._catch_up(resting, missed)
        else:
            reports = self._enter_now(resting)
        if not _closes(reports):
            self._book.setdefault(order.symbol, {})[order.id] = resting
        return reports

    async def _missed(self, resting: _Resting, last: Candle) -> list[Candle] | None:
        """The candles that closed before the order came, and while they were being read (`last`, the latest
        before, may be being worked on and not stored yet); None: the order was closed meanwhile."""
        order = resting.order
        entering = self._entering[order.id] = _Entering(order.symbol, [last])
        try:
            stored = await self._candles_since(order.symbol, resting.active_from)
            if self._entering.get(order.id) is not entering:
                return None
            return [*stored, *(candle for candle in entering.closed if candle not in stored)]
        finally:
            self._entering.pop(order.id, None)

    def _catch_up(self, resting: _Resting, candles: list[Candle]) -> list[VenueReport]:
        """The request came after its candle: fill it as if it had been there in time."""
        symbol = resting.order.symbol
        reports: list[VenueReport] = []
        current, taken = self._bars.get(symbol), self._taken.get(symbol, ZERO)
        for candle in candles:
            self._taken[symbol] = taken if candle == current else ZERO
            reports += self._match(resting, candle)
            if candle == current:
                taken = self._taken[symbol]
            if _closes(reports):
                break
        self._taken[symbol] = taken
        return reports

    def _enter_now(self, resting: _Resting) -> list[VenueReport]:
        """An order that waits for no candle: fill it from the last price if there is one."""
        order = resting.order
        last = self._prices.get(order.symbol)
        if last is None:
            return []
        if order.type is OrderType.MARKET:
            return self._take(resting, last.price, self._bars.get(order.symbol))
        assert order.limit_price is not None
        wanted = self._quantity(resting, last.price)
        price = self._with_costs(order, last.price, wanted, self._bars.get(order.symbol), clamp=False)
        if not _worse(order.side, price, order.limit_price):
            return self._fill_rest(resting, price, self._clock.now(), self._costs.taker_fee_bps)
        return self._not_now(order)

    @staticmethod
    def _not_now(order: Order) -> list[VenueReport]:
        if order.time_in_force is TimeInForce.IOC:
            limit = None if order.limit_price is None else plain(order.limit_price)
            reason = Reason("not_marketable", "limit_price", limit, "a limit at which it fills at once")
            return [VenueClosed(order.id, OrderStatus.CANCELLED, reason)]
        return []

    # ---- matching -------------------------------------------------------------------------------------

    def _match(self, resting: _Resting, candle: Candle) -> list[VenueReport]:
        if not resting.sees(candle):
            return []
        if self._costs.max_volume_share and not candle.volume:
            return []  # nothing was traded in this bar
        if resting.order.type is OrderType.MARKET:
            return self._match_market(resting, candle)
        return self._match_limit(resting, candle)

    def _match_market(self, resting: _Resting, candle: Candle) -> list[VenueReport]:
        """At the open, moved by slippage but not out of the bar's range, and by half the spread."""
        order = resting.order
        wanted = self._quantity(resting, candle.open)
        price = self._with_costs(order, candle.open, wanted, candle)
        wanted = self._quantity(resting, price)
        reason = self._too_small(resting, wanted)
        if reason is not None:
            return [VenueClosed(order.id, OrderStatus.REJECTED, reason)]
        available = self._available(candle)
        quantity = wanted if available is None else min(wanted, floor_to(available, self._increment(order)))
        cut = VenueClosed(
            order.id,
            OrderStatus.CANCELLED,
            Reason("volume", "quantity", None, "the rest exceeds the bar's share of volume"),
        )
        if quantity <= 0:
            return [cut]
        fill = self._fill(resting, quantity, price, candle.time, self._costs.taker_fee_bps)
        if quantity < wanted:
            return [fill, cut]
        return [fill, VenueClosed(order.id, OrderStatus.FILLED)]

    def _match_limit(self, resting: _Resting, candle: Candle) -> list[VenueReport]:
        """Only when the bar trades through the limit: at the open if it gapped, else at the limit."""
        order = resting.order
        limit = order.limit_price
        assert limit is not None
        extreme = candle.low if order.side is Side.BUY else candle.high
        if not _through(order, extreme):
            return self._not_now(order)
        gapped = _through(order, candle.open)
        price = candle.open if gapped else limit
        wanted = self._quantity(resting, price)
        available = self._available(candle)
        quantity = wanted if available is None else min(wanted, floor_to(available, self._increment(order)))
        if quantity <= 0:
            return []
        instant = candle.time if gapped else candle.close_time - _INSTANT
        fill = self._fill(resting, quantity, price, instant, self._costs.maker_fee_bps)
        if quantity < wanted:
            resting.after = instant
            return [fill, *self._not_now(order)]
        return [fill, VenueClosed(order.id, OrderStatus.FILLED)]

    def _take(self, resting: _Resting, last: Decimal, bar: Candle | None) -> list[VenueReport]:
        """A market order at once, from the last price."""
        price = self._with_costs(resting.order, last, self._quantity(resting, last), bar, clamp=False)
        return self._fill_rest(resting, price, self._clock.now(), self._costs.taker_fee_bps)

    def _fill_rest(self, resting: _Resting, price: Decimal, instant: datetime, fee_bps: Decimal) -> list[VenueReport]:
        order = resting.order
        quantity = self._quantity(resting, price)
        reason = self._too_small(resting, quantity)
        if reason is not None:
            return [VenueClosed(order.id, OrderStatus.REJECTED, reason)]
        fill = self._fill(resting, quantity, price, instant, fee_bps)
        return [fill, VenueClosed(order.id, OrderStatus.FILLED)]

    def _fill(
        self, resting: _Resting, quantity: Decimal, price: Decimal, instant: datetime, fee_bps: Decimal
    ) -> VenueFill:
        order = resting.order
        self._sequence += 1
        resting.fills += 1
        resting.filled += quantity
        if order.symbol in self._taken:
            self._taken[order.symbol] += quantity
        return VenueFill(
            order_id=order.id,
            quantity=quantity,
            price=price,
            fee=round_to(price * quantity * fee_bps * BASIS_POINT, FEE_DECIMALS),
            fee_asset=self._instruments()[order.symbol].currency,
            executed_at=instant,
            venue_trade_id=f"{order.client_order_id}-{resting.fills}",
            venue_sequence=self._sequence,
            if_funded=True,
        )

    # ---- prices and sizes -----------------------------------------------------------------------------

    def _with_costs(
        self, order: Order, reference: Decimal, quantity: Decimal, bar: Candle | None, *, clamp: bool = True
    ) -> Decimal:
        """The reference price moved against the order by slippage (inside the bar) and half the spread:
        reference x (1 +/- (half spread + slippage)), of which only the half spread may leave the bar."""
        sign = order.side.sign
        price = reference * (1 + sign * self._slippage_bps(quantity, bar) * BASIS_POINT)
        if bar is not None and clamp:
            price = min(max(price, bar.low), bar.high)
        price += reference * sign * self._costs.half_spread_bps * BASIS_POINT
        return round_to(price, PRICE_DECIMALS) if price != reference else price

    def _slippage_bps(self, quantity: Decimal, bar: Candle | None) -> Decimal:
        costs = self._costs
        if not costs.slippage_bps:
            return ZERO
        if bar is None or not bar.volume:
            return min(costs.slippage_bps, costs.slippage_cap_bps)  # volume unknown: as if all of it was taken
        return min(costs.slippage_bps * quantity / bar.volume, costs.slippage_cap_bps)

    def _quantity(self, resting: _Resting, price: Decimal) -> Decimal:
        """Base quantity still wanted: for a notional order what the notional buys at `price`, fee included.

        A limit order is sized at its limit, so that fills at several prices never cost more than the notional.
        """
        order = resting.order
        if order.quantity is not None:
            return order.quantity - resting.filled
        assert order.notional is not None
        fee = self._costs.taker_fee_bps * BASIS_POINT
        whole = floor_to(order.notional / (1 + fee) / (order.limit_price or price), self._increment(order))
        return whole - resting.filled

    def _too_small(self, resting: _Resting, wanted: Decimal) -> Reason | None:
        """Why the venue rejects what a notional comes to. A quantity that was asked for was checked before."""
        order = resting.order
        if order.notional is None or resting.fills:
            return None
        instrument = self._instruments()[order.symbol]
        least = max(instrument.minimum_quantity, instrument.quantity_increment)
        if wanted >= least:
            return None
        expected = (
            f"at least {plain(least)}, more than {plain(order.notional)} {instrument.currency} buys at this price"
        )
        return Reason(BASE_TOO_SMALL, "quantity", plain(wanted), expected)

    def _increment(self, order: Order) -> Decimal:
        return self._instruments()[order.symbol].quantity_increment

    def _available(self, candle: Candle) -> Decimal | None:
        share = self._costs.max_volume_share
        return candle.volume * share - self._taken.get(candle.symbol, ZERO) if share else None

    # ---- leaving the book -----------------------------------------------------------------------------

    def _expire(self, resting: _Resting, now: datetime) -> list[VenueReport]:
        order = resting.order
        if order.expires_at is None or order.decided_at is not None or now < order.expires_at:
            return []
        return [VenueClosed(order.id, OrderStatus.EXPIRED, endings.expired(order))]

    def _is_late(self, order: Order) -> bool:
        return order.expires_at is not None and self._clock.now() >= order.expires_at

    def _leave_if_closed(self, resting: _Resting, reports: list[VenueReport]) -> None:
        if reports and isinstance(reports[-1], VenueClosed) and reports[-1].order_id == resting.order.id:
            self._book[resting.order.symbol].pop(resting.order.id, None)


def _closes(reports: list[VenueReport]) -> bool:
    return bool(reports) and isinstance(reports[-1], VenueClosed)


def _through(order: Order, price: Decimal) -> bool:
    """Whether `price` is beyond the order's limit, so that the limit was traded through."""
    assert order.limit_price is not None
    return price < order.limit_price if order.side is Side.BUY else price > order.limit_price


def _worse(side: Side, price: Decimal, limit: Decimal) -> bool:
    return price > limit if side is Side.BUY else price < limit
