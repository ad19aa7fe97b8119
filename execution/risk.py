"""The checks before anything leaves: a request is approved with its order's terms, or refused by name."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeAlias

from config.exact import ZERO, plain
from config.instruments import Instrument
from config.quick import quickly_made
from config.times import time_text
from execution import endings
from execution.exposure import check_exposure
from execution.limits import RATE_WINDOW, Refusal, RiskLimits
from execution.model import (
    Account,
    AccountKind,
    AccountMode,
    OrderRequest,
    OrderType,
    Reason,
    Side,
    TimeInForce,
)
from execution.state import TradingState
from execution.venue import BASE_TOO_SMALL, QUOTE_TOO_SMALL

LONGEST_EXPIRY_SECONDS = 31_536_000
"""A year: an order that is to stay longer names no expiry at all."""

_PERCENT = Decimal("0.01")


@quickly_made
@dataclass(frozen=True, slots=True)
class RiskApproved:
    """The terms under which the order may be sent."""

    type: OrderType
    time_in_force: TimeInForce
    quantity: Decimal | None
    notional: Decimal | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class RiskRefused:
    """Why nothing may be sent."""

    reason: Reason


Verdict: TypeAlias = RiskApproved | RiskRefused


def check(request: OrderRequest, state: TradingState, limits: RiskLimits, now: datetime) -> Verdict:
    """Whether `request` may become an order, by the state as it is inside the write transaction."""
    try:
        return _approve(request, state, limits, now)
    except Refusal as refusal:
        return RiskRefused(refusal.reason)


def _approve(request: OrderRequest, state: TradingState, limits: RiskLimits, now: datetime) -> RiskApproved:
    account = _account(request, state)
    instrument = _instrument(request, account, state)
    _not_halted(account, state)
    _not_frozen(request, state)
    _order_rate(request, state, limits, now)
    expires_at = _expiry(request, account, limits, now)
    price = _reference_price(request, state, limits, now)
    _price_increment(request, instrument)
    _price_collar(request, state, limits)
    quantity = _quantity(request, account, instrument, state)
    if not _closes_whole_position(request, quantity, state):
        _size(request, quantity, instrument, price, limits)
    _affordable(request, quantity, price, account, state)
    check_exposure(request, quantity, price, state, limits)
    is_limit = request.limit_price is not None
    return RiskApproved(
        type=OrderType.LIMIT if is_limit else OrderType.MARKET,
        time_in_force=request.time_in_force or (TimeInForce.GTC if is_limit else TimeInForce.IOC),
        quantity=quantity,
        notional=request.notional,
        expires_at=expires_at,
    )


def _account(request: OrderRequest, state: TradingState) -> Account:
    account = state.accounts.get(request.account)
    if account is None:
        raise Refusal("unknown_account", "account", request.account, _known(state.accounts))
    return account


def _instrument(request: OrderRequest, account: Account, state: TradingState) -> Instrument:
    instrument = state.instruments.get(request.symbol)
    if instrument is None:
        raise Refusal("unknown_symbol", "symbol", request.symbol, "a symbol of `fillbook instruments list`")
    if not instrument.enabled:
        raise Refusal("disabled_symbol", "symbol", request.symbol, "a symbol that is enabled for trading")
    if instrument.currency != account.currency:
        raise Refusal(
            "currency_mismatch",
            "symbol",
            request.symbol,
            f"a symbol priced in {account.currency}, the account's currency",
        )
    return instrument


def _known(names: dict[str, Account]) -> str:
    return f"one of: {', '.join(sorted(names)) or 'none exist'}"


def _not_halted(account: Account, state: TradingState) -> None:
    halt = state.halt_of(account.name)
    if halt is not None:
        found = endings.halted(account.name, halt)
        raise Refusal(found.code, found.field, found.value, found.expected)


def _not_frozen(request: OrderRequest, state: TradingState) -> None:
    """What became of an order is unknown: until that is known, nothing more is sent for its symbol."""
    unknown = state.frozen_by(request.account, request.symbol)
    if unknown is not None:
        raise Refusal("symbol_frozen", "symbol", request.symbol, f"the outcome of order {unknown} to be known first")


def _order_rate(request: OrderRequest, state: TradingState, limits: RiskLimits, now: datetime) -> None:
    """Closing a position is exempt (but counts): a limit on orders must never keep somebody in the market."""
    most = limits.max_orders_per_minute
    if not most or request.close:
        return
    recent = state.accepted_after(request.account, now - RATE_WINDOW)
    if len(recent) >= most:
        again = time_text(recent[-most] + RATE_WINDOW)
        raise Refusal(
            "order_rate",
            "account",
            request.account,
            f"at most {most} orders in {RATE_WINDOW.total_seconds():g} s; the next one from {again}",
        )


def _closes_whole_position(request: OrderRequest, quantity: Decimal | None, state: TradingState) -> bool:
    """Such an order is exempt from minimum and maximum: a small rest can always be sold."""
    held = state.held(request.account, request.symbol)
    return request.close or (quantity is not None and held != 0 and quantity * request.side.sign == -held)


def _expiry(request: OrderRequest, account: Account, limits: RiskLimits, now: datetime) -> datetime | None:
    """The instant until which the request may be sent. One that waits for its candle may come however late, unless
    the venue is a live one, where nothing waits for candles."""
    waits = account.kind is not AccountKind.LIVE
    lifetime = limits.request_expiry
    if request.expires_in is not None:
        if not 0 < request.expires_in <= LONGEST_EXPIRY_SECONDS:
            expected = f"more than 0 and at most {LONGEST_EXPIRY_SECONDS} seconds"
            raise Refusal("expiry_out_of_range", "expires_in", plain(request.expires_in), expected)
        lifetime = timedelta(microseconds=int(request.expires_in * 1_000_000))
    if request.decided_at is not None:
        if request.waits_for_candle and waits:
            return None
        if request.decided_at + lifetime < now:
            raise Refusal(
                "expired", "decided_at", time_text(request.decided_at), f"at most {lifetime.total_seconds():g} s ago"
            )
        if request.decided_at > now + lifetime:
            raise Refusal(
                "in_future", "decided_at", time_text(request.decided_at), f"not long after {time_text(now)}"
            )
        if waits:
            return None
    rests = request.limit_price is not None and request.time_in_force is not TimeInForce.IOC
    if rests and request.expires_in is None:
        return None  # good till cancelled: its price protects it, however late it is sent
    return now + lifetime


def _reference_price(request: OrderRequest, state: TradingState, limits: RiskLimits, now: datetime) -> Decimal:
    if request.limit_price is not None:
        return request.limit_price
    last = state.prices.get(request.symbol)
    if last is None:
        raise Refusal("no_price", "symbol", request.symbol, "a symbol with a price or candle seen by the daemon")
    if limits.stale_price and request.decided_at is None and now - last.time > limits.stale_price:
        raise Refusal(
            "stale_price",
            "symbol",
            request.symbol,
            f"a price not older than {limits.stale_price.total_seconds():g} s; the last is of {time_text(last.time)}",
        )
    return last.price


def _price_increment(request: OrderRequest, instrument: Instrument) -> None:
    if request.limit_price is not None and request.limit_price % instrument.price_increment:
        raise Refusal(
            "price_increment",
            "limit_price",
            plain(request.limit_price),
            f"a multiple of {plain(instrument.price_increment)}",
        )


def _price_collar(request: OrderRequest, state: TradingState, limits: RiskLimits) -> None:
    """A limit far on the wrong side of the market is a slip: it would fill at once, at a bad price."""
    percent, limit = limits.price_collar_pct, request.limit_price
    if not percent or limit is None:
        return
    last = state.prices.get(request.symbol)
    if last is None:
        raise Refusal("no_price", "symbol", request.symbol, "a last price to compare the limit price with")
    bound = last.price * (1 + request.side.sign * percent * _PERCENT)
    if (limit - bound) * request.side.sign > 0:
        at_most, above = ("at most", "above") if request.side is Side.BUY else ("at least", "below")
        raise Refusal(
            "price_collar",
            "limit_price",
            plain(limit),
            f"{at_most} {plain(bound)}, {plain(percent)} % {above} the last price {plain(last.price)}",
        )


def _quantity(request: OrderRequest, account: Account, instrument: Instrument, state: TradingState) -> Decimal | None:
    """Base quantity of the order; None for a notional one, which the venue sizes at its price."""
    if request.close:
        return _position_to_close(request, account, state)
    if request.quantity is not None and request.quantity % instrument.quantity_increment:
        raise Refusal(
            "quantity_increment",
            "quantity",
            plain(request.quantity),
            f"a multiple of {plain(instrument.quantity_increment)}",
        )
    return request.quantity


def _position_to_close(request: OrderRequest, account: Account, state: TradingState) -> Decimal:
    held = state.held(account.name, request.symbol)
    closing = Side.SELL if held > 0 else Side.BUY
    free = state.free_quantity(account.name, request.symbol) if held > 0 else -held - _closing(request, state)
    if not held or free <= 0 or closing is not request.side:
        raise Refusal(
            "nothing_to_close",
            "close",
            "true",
            f"a position in {request.symbol} that a {request.side} closes; held {plain(held)}, free {plain(free)}",
        )
    return free


def _closing(request: OrderRequest, state: TradingState) -> Decimal:
    """What open orders that close a short position buy already."""
    same = (o for o in state.open_orders(request.account) if o.close and o.symbol == request.symbol)
    return sum((o.quantity for o in same if o.quantity is not None and o.side is Side.BUY), ZERO)


def _size(
    request: OrderRequest, quantity: Decimal | None, instrument: Instrument, price: Decimal, limits: RiskLimits
) -> None:
    field, value = ("notional", request.notional) if quantity is None else ("quantity", quantity)
    assert value is not None
    notional = value if quantity is None else quantity * price
    currency = instrument.currency
    if notional < instrument.minimum_notional:
        least = f"at least {plain(instrument.minimum_notional)} {currency}"
        raise Refusal("below_minimum", field, plain(value), f"{least} ({QUOTE_TOO_SMALL})")
    if quantity is not None and quantity < instrument.minimum_quantity:
        least = f"at least {plain(instrument.minimum_quantity)}"
        raise Refusal("below_minimum", field, plain(value), f"{least} ({BASE_TOO_SMALL})")
    for maximum in (instrument.maximum_notional, limits.maximum_notional):
        if maximum and notional > maximum:
            raise Refusal("above_maximum", field, plain(value), f"at most {plain(maximum)} {currency}")


def _affordable(
    request: OrderRequest, quantity: Decimal | None, price: Decimal, account: Account, state: TradingState
) -> None:
    if account.mode is not AccountMode.SPOT:
        return
    if request.side is Side.BUY:
        assert request.notional is not None or quantity is not None
        cost = request.notional if quantity is None else quantity * price
        free = state.free_cash(account.name)
        if cost is not None and cost > free:
            field, value = ("notional", request.notional) if quantity is None else ("quantity", quantity)
            assert value is not None
            raise Refusal(
                "insufficient_cash",
                field,
                plain(value),
                f"a cost of at most {plain(free)} {account.currency}, not {plain(cost)}",
            )
        return
    free = state.free_quantity(account.name, request.symbol)
    if quantity is not None and quantity > free:
        raise Refusal("insufficient_quantity", "quantity", plain(quantity), f"at most {plain(free)} {request.symbol}")
    if quantity is None and request.notional is not None and request.notional > free * price:
        raise Refusal(
            "insufficient_quantity",
            "notional",
            plain(request.notional),
            f"at most {plain(free * price)} {account.currency} ({plain(free)} {request.symbol} at {plain(price)})",
        )
