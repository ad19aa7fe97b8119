"""The limits of risk as settings, and how much of each is used: what `fillbook status` shows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from config.exact import ZERO, plain
from config.settings import Settings
from execution import candles
from execution.exposure import exposures, total
from execution.limits import LIMIT, RATE_WINDOW, RiskLimits
from execution.losses import LossWatch
from execution.model import Price
from execution.state import TradingState


@dataclass(frozen=True, slots=True)
class Limit:
    """A setting that limits orders, and the code of the refusal when an order breaks it."""

    setting: str
    refusal: str
    meaning: str
    unit: str = ""
    """Of the value: "" for the account's currency."""


LIMITS = (
    Limit("execution.maximum_notional", "above_maximum", "one order"),
    Limit("execution.stale_price_seconds", "stale_price", "age of the last price", "s"),
    Limit("risk.price_collar_pct", "price_collar", "limit price beyond the last price", "%"),
    Limit("risk.max_orders_per_minute", "order_rate", "orders in 60 s", "orders"),
    Limit("risk.max_symbol_exposure", "symbol_exposure", "held and on order of one symbol"),
    Limit("risk.max_total_exposure", "total_exposure", "held and on order altogether"),
    Limit("risk.max_daily_loss", "daily_loss", "loss since 00:00 UTC, then a halt"),
    Limit("risk.max_drawdown_pct", "drawdown", "equity below its peak, then a halt", "%"),
)


def configured(settings: Settings) -> dict[str, str]:
    """The value of each limit by its setting, as plain text; "0" is off."""
    values = {}
    for limit in LIMITS:
        section, _, key = limit.setting.partition(".")
        values[limit.setting] = plain(Decimal(str(getattr(getattr(settings, section), key))))
    return values


def limits_from(values: Mapping[str, str], request_expiry: timedelta = timedelta(seconds=60)) -> RiskLimits:
    """What execution is told: the inverse of `configured`; what is missing is off."""

    def value(setting: str) -> Decimal:
        return Decimal(values.get(setting, "0"))

    return RiskLimits(
        maximum_notional=value("execution.maximum_notional"),
        stale_price=timedelta(seconds=float(value("execution.stale_price_seconds"))),
        request_expiry=request_expiry,
        max_symbol_exposure=value("risk.max_symbol_exposure"),
        max_total_exposure=value("risk.max_total_exposure"),
        max_orders_per_minute=int(value("risk.max_orders_per_minute")),
        max_daily_loss=value("risk.max_daily_loss"),
        max_drawdown_pct=value("risk.max_drawdown_pct"),
        price_collar_pct=value("risk.price_collar_pct"),
    )


class _At:
    """A clock that stands still."""

    def __init__(self, instant: datetime) -> None:
        self._instant = instant

    def now(self) -> datetime:
        return self._instant

    def recorded_now(self) -> datetime:
        return self._instant


def books_time(connection: Connection, wall: datetime, *, played: bool) -> datetime:
    """The time in the books: the close of the newest candle of a feed that is played, else that of the wall."""
    stored = candles.latest(connection).values() if played else ()
    return max((candle.close_time for candle in stored), default=wall)


def limits_wire(
    connection: Connection, values: Mapping[str, str], now: datetime, prices: Iterable[Price] = ()
) -> dict[str, Any]:
    """The limits and, when one is on whose use can be told, how much of each every account uses.

    By the stored candles and `prices` seen on the bus; `now` is the time of the books. Reads the whole ledger then
    (about 2 s for a million trades).
    """
    limits = limits_from(values)
    used = limits.on_exposure or limits.on_losses or bool(limits.max_orders_per_minute)
    return {
        "settings": [
            {
                "setting": limit.setting,
                "value": None if values.get(limit.setting, "0") == "0" else values[limit.setting],
                "refusal": limit.refusal,
                "meaning": limit.meaning,
            }
            for limit in LIMITS
        ],
        "accounts": _accounts(connection, limits, now, prices) if used else [],
    }


def _accounts(
    connection: Connection, limits: RiskLimits, now: datetime, prices: Iterable[Price]
) -> list[dict[str, Any]]:
    state = TradingState()
    stored = sorted(candles.latest(connection).values(), key=lambda candle: (candle.close_time, candle.time))
    for candle in stored:
        state.prices.note_candle(candle)
    for price in prices:
        state.prices.note_price(price)
    state.load(connection)
    state.load_accepted(connection, now - RATE_WINDOW)
    watch = LossWatch(state, _At(now), limits)
    return [_account(name, state, watch, now) for name in sorted(state.accounts)]


def _account(name: str, state: TradingState, watch: LossWatch, now: datetime) -> dict[str, Any]:
    found = {symbol: exposure.value for symbol, exposure in exposures(name, state).items()}
    losses = watch.measure(name)
    halt = state.halt_of(name)
    return {
        "account": name,
        "currency": state.accounts[name].currency,
        "orders_last_minute": len(state.accepted_after(name, now - RATE_WINDOW)),
        "exposure": [
            {"symbol": symbol, "value": _number(value)} for symbol, value in sorted(found.items()) if value != ZERO
        ],
        "total_exposure": _number(total(exposures(name, state).values())),
        "equity": None if losses is None else plain(losses.equity),
        "peak_equity": None if losses is None else plain(losses.marks.peak_equity),
        "daily_pnl": None if losses is None else plain(losses.daily_pnl),
        "drawdown_pct": None if losses is None else plain(losses.drawdown_pct),
        "halted_by_limit": halt.by.removeprefix(LIMIT) if halt is not None and halt.by.startswith(LIMIT) else None,
    }


def _number(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)
