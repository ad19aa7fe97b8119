"""Exposure: what is held at the last price, and what open orders may still add to it.

For each symbol the worse of two outcomes, in the account's currency: all open BUYs fill, or all open SELLs do.

    exposure = max(held x last + open BUYs, open SELLs - held x last)

Open BUYs count with the cash they hold back, open SELLs at the last price; `held` is negative for a short
position. In a spot account the second outcome never is the worse one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from config.exact import ZERO, plain
from execution.limits import Refusal, RiskLimits
from execution.model import AccountMode, Order, OrderRequest, Side
from execution.state import TradingState


@dataclass(frozen=True, slots=True)
class SymbolExposure:
    """One symbol of one account. `held_value` is signed and None when no price is known; all in its currency."""

    held_value: Decimal | None
    buys: Decimal = ZERO
    sells: Decimal = ZERO

    @property
    def value(self) -> Decimal | None:
        """The exposure; None when the price of what is held is unknown."""
        if self.held_value is None:
            return None
        return max(self.held_value + self.buys, self.sells - self.held_value)

    def plus(self, side: Side, value: Decimal) -> "SymbolExposure":
        """With one more open order."""
        if side is Side.BUY:
            return replace(self, buys=self.buys + value)
        return replace(self, sells=self.sells + value)


def exposures(account: str, state: TradingState) -> dict[str, SymbolExposure]:
    """Every symbol that the account holds or has an open order of."""
    found = {symbol: _held(account, symbol, state) for symbol in state.positions(account)}
    for order in state.open_orders(account):
        known = found.get(order.symbol) or _held(account, order.symbol, state)
        found[order.symbol] = known.plus(order.side, _still_adds(order, state))
    return found


def _held(account: str, symbol: str, state: TradingState) -> SymbolExposure:
    held = state.held(account, symbol)
    last = state.prices.get(symbol)
    if last is None:
        return SymbolExposure(None if held else ZERO)
    return SymbolExposure(held * last.price)


def _still_adds(order: Order, state: TradingState) -> Decimal:
    reserved = state.reserved_by(order.id)
    if reserved is None:
        return ZERO
    if order.side is Side.BUY:
        return reserved.cash
    if order.quantity is None:
        return order.notional or ZERO
    last = state.prices.get(order.symbol)
    return reserved.quantity * (last.price if last is not None else order.limit_price or ZERO)


def total(found: Iterable[SymbolExposure]) -> Decimal | None:
    """The sum over symbols; None when one of them is unknown."""
    amount = ZERO
    for exposure in found:
        if exposure.value is None:
            return None
        amount += exposure.value
    return amount


def reduces(request: OrderRequest, quantity: Decimal | None, state: TradingState) -> bool:
    """Whether the order can only bring a position nearer to zero; such orders no limit on exposure refuses."""
    if request.close:
        return True
    if state.accounts[request.account].mode is AccountMode.SPOT:
        return request.side is Side.SELL
    held = state.held(request.account, request.symbol)
    if quantity is None or held * request.side.sign >= 0:
        return False
    same = (o for o in state.open_orders(request.account) if (o.symbol, o.side) == (request.symbol, request.side))
    return quantity + sum((o.quantity or ZERO for o in same), ZERO) <= abs(held)


def check_exposure(
    request: OrderRequest, quantity: Decimal | None, price: Decimal, state: TradingState, limits: RiskLimits
) -> None:
    """Refuse an order that would raise the exposure above a limit. `price` is its limit or the last price."""
    if not limits.on_exposure or reduces(request, quantity, state):
        return
    found = exposures(request.account, state)
    before = found.get(request.symbol) or _held(request.account, request.symbol, state)
    after = before.plus(request.side, _adds(request, quantity, price, state))
    found[request.symbol] = after
    if before.value is None or after.value is None:
        raise unpriced(request.symbol)
    if after.value <= before.value:
        return
    field, value = ("notional", request.notional) if quantity is None else ("quantity", quantity)
    assert value is not None
    currency = state.accounts[request.account].currency
    highest = limits.max_symbol_exposure
    if highest and after.value > highest:
        expected = f"an exposure of at most {plain(highest)} {currency} in {request.symbol}, not {plain(after.value)}"
        raise Refusal("symbol_exposure", field, plain(value), expected)
    highest = limits.max_total_exposure
    if highest:
        reached = total(found.values())
        if reached is None:
            raise unpriced(min(symbol for symbol, exposure in found.items() if exposure.value is None))
        if reached > highest:
            expected = f"a total exposure of at most {plain(highest)} {currency}, not {plain(reached)}"
            raise Refusal("total_exposure", field, plain(value), expected)


def _adds(request: OrderRequest, quantity: Decimal | None, price: Decimal, state: TradingState) -> Decimal:
    """What the order itself may add, valued as it will be once it is open."""
    if quantity is None:
        return request.notional or ZERO
    last = state.prices.get(request.symbol)
    return quantity * (price if request.side is Side.BUY or last is None else last.price)


def unpriced(symbol: str) -> Refusal:
    """A limit cannot be tested, because something held has no price: never counted as nothing."""
    return Refusal("no_price", "symbol", symbol, f"a price of {symbol}, which is held, to test the limits of risk")
