"""What the screen keeps of each message, read from the JSON of the bus. Money is Decimal here as everywhere.

A body that is not what the topic table promises raises `NotUnderstood`; the texts of others lose their control
characters, so that no error message can move the cursor or colour the screen.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from config.exact import PRECISION
from config.times import NotATime, parse_time

T = TypeVar("T")

MOST_TEXT = 300
_SCORE_LIMIT = 1.0


class NotUnderstood(ValueError):
    """A body that is not what its topic promises."""


@dataclass(frozen=True, slots=True)
class PositionRow:
    """What an account holds of a symbol; None = unknown."""

    account: str
    symbol: str
    quantity: Decimal
    cost_basis: Decimal
    average_cost: Decimal | None
    mark_price: Decimal | None
    mark_time: datetime | None
    market_value: Decimal | None
    unrealized_pnl: Decimal | None
    pnl_percent: Decimal | None
    realized_pnl: Decimal
    incomplete: bool


@dataclass(frozen=True, slots=True)
class PortfolioRow:
    """An account's totals; None = unknown. `return_ratio` 0.01 is 1 %."""

    account: str
    currency: str
    cash: Decimal
    net_flows: Decimal
    market_value: Decimal | None
    equity: Decimal | None
    realized_pnl: Decimal
    unrealized_pnl: Decimal | None
    total_pnl: Decimal | None
    return_ratio: Decimal | None
    fees: Decimal
    sequence: int
    positions: tuple[PositionRow, ...]


@dataclass(frozen=True, slots=True)
class TradeRow:
    """One fill. `realized_pnl` None: not known, or it closed nothing."""

    id: str
    sequence: int
    account: str
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    fee: Decimal
    executed_at: datetime
    triggered_by: str
    realized_pnl: Decimal | None = None


@dataclass(frozen=True, slots=True)
class AdviceRow:
    """A bot's last recommendation."""

    side: str
    score: float | None
    temperature: str
    confirmed_since: datetime | None
    cooldown_until: datetime | None
    ready_to_trade: bool
    time: datetime
    decided_at: datetime
    confirmation_due: datetime | None = None
    waiting_for: str | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class StopsRow:
    """Where a bot's protective stops stand; None where there is none. `triggered`: the one that is closing."""

    stop_loss: Decimal | None
    trailing_stop: Decimal | None
    take_profit: Decimal | None
    triggered: str | None


@dataclass(frozen=True, slots=True)
class BotRow:
    """A bot's state, with its last advice. `file_error`: what is wrong with the present version of its file."""

    bot: str
    status: str
    symbol: str
    timeframe: str | None
    account: str
    since: datetime
    last_error: str | None
    advice: AdviceRow | None
    stops: StopsRow | None = None
    file_error: str | None = None


@dataclass(frozen=True, slots=True)
class HaltRow:
    """Whether trading of an account is halted."""

    account: str
    halted: bool
    by: str
    reason: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class AlertRow:
    """Something that a person should know."""

    severity: str
    code: str
    message: str
    account: str | None
    time: datetime | None


@dataclass(frozen=True, slots=True)
class StatusRow:
    """Whether the daemon or one of its services is there; a last will has no time."""

    online: bool
    time: datetime | None
    version: str | None


def clean(text: str, most: int = MOST_TEXT) -> str:
    """One line without control characters, direction marks and the like; long ones are cut."""
    short = text if len(text) <= most else text[: most - 3] + "..."
    if short.isprintable():
        return short
    return "".join(letter if letter.isprintable() else " " for letter in short)


# ---- bodies ---------------------------------------------------------------------------------------------


def portfolio_row(body: Any, account: str) -> PortfolioRow:
    """Of an account's portfolio message, with its positions."""
    return PortfolioRow(
        account=account,
        currency=_text(body, "currency"),
        cash=_number(body, "cash"),
        net_flows=_number(body, "net_flows"),
        market_value=_maybe(body, "market_value", _number),
        equity=_maybe(body, "equity", _number),
        realized_pnl=_number(body, "realized_pnl"),
        unrealized_pnl=_maybe(body, "unrealized_pnl", _number),
        total_pnl=_maybe(body, "total_pnl", _number),
        return_ratio=_maybe(body, "return", _number),
        fees=_number(body, "fees"),
        sequence=_whole(body, "sequence"),
        positions=tuple(_position(item, account) for item in _list(body, "positions")),
    )


def _position(body: Any, account: str) -> PositionRow:
    return PositionRow(
        account=account,
        symbol=_text(body, "symbol"),
        quantity=_number(body, "quantity"),
        cost_basis=_number(body, "cost_basis"),
        average_cost=_maybe(body, "average_cost", _number),
        mark_price=_maybe(body, "mark_price", _number),
        mark_time=_maybe(body, "mark_time", _time),
        market_value=_maybe(body, "market_value", _number),
        unrealized_pnl=_maybe(body, "unrealized_pnl", _number),
        pnl_percent=_maybe(body, "pnl_percent", _number),
        realized_pnl=_number(body, "realized_pnl"),
        incomplete=_flag(body, "incomplete"),
    )


def trade_row(body: Any) -> TradeRow:
    """Of a trade message."""
    return TradeRow(
        id=_text(body, "id"),
        sequence=_whole(body, "sequence"),
        account=_text(body, "account"),
        symbol=_text(body, "symbol"),
        side=_text(body, "side"),
        quantity=_number(body, "quantity"),
        price=_number(body, "price"),
        fee=_number(body, "fee"),
        executed_at=_time(body, "executed_at"),
        triggered_by=_text(body, "triggered_by"),
    )


def sequence_of(body: Any) -> int:
    """The ledger sequence of any fact."""
    return _whole(body, "sequence")


def with_realized(trade: TradeRow, realized_pnl: Decimal) -> TradeRow:
    """The trade, with what it realized."""
    return replace(trade, realized_pnl=realized_pnl)


def advice_row(body: Any) -> AdviceRow:
    """Of a recommendation."""
    return AdviceRow(
        side=_text(body, "side"),
        score=_maybe(body, "score", _score),
        temperature=_text(body, "temperature"),
        confirmed_since=_maybe(body, "confirmed_since", _time),
        cooldown_until=_maybe(body, "cooldown_until", _time),
        ready_to_trade=_flag(body, "ready_to_trade"),
        time=_time(body, "time"),
        decided_at=_time(body, "decided_at"),
        confirmation_due=_maybe(body, "confirmation_due", _time),
        waiting_for=_maybe(body, "waiting_for", _text),
        threshold=_maybe(body, "threshold", _score),
    )


def stops_row(body: Any) -> StopsRow:
    """Of the stops in a bot's state."""
    return StopsRow(
        stop_loss=_maybe(body, "stop_loss", _number),
        trailing_stop=_maybe(body, "trailing_stop", _number),
        take_profit=_maybe(body, "take_profit", _number),
        triggered=_maybe(body, "triggered", _text),
    )


def bot_row(body: Any) -> BotRow:
    """Of a bot's state."""
    advice, stops = _get(body, "last_recommendation"), _get(body, "stops")
    return BotRow(
        bot=_text(body, "bot"),
        status=_text(body, "status"),
        symbol=_text(body, "symbol"),
        timeframe=_maybe(body, "timeframe", _text),
        account=_text(body, "account"),
        since=_time(body, "since"),
        last_error=_maybe(body, "last_error", _text),
        advice=None if advice is None else advice_row(advice),
        stops=None if stops is None else stops_row(stops),
        file_error=_maybe(body, "file_error", _text),
    )


def halt_row(body: Any) -> HaltRow:
    """Of a halt or resume."""
    return HaltRow(
        account=_text(body, "account"),
        halted=_flag(body, "halted"),
        by=_text(body, "by"),
        reason=_maybe(body, "reason", _text),
        at=_time(body, "at"),
    )


def alert_row(body: Any) -> AlertRow:
    """Of an alert."""
    return AlertRow(
        severity=_text(body, "severity"),
        code=_text(body, "code"),
        message=_text(body, "message"),
        account=_maybe(body, "account", _text),
        time=_maybe(body, "time", _time),
    )


def status_row(body: Any) -> StatusRow:
    """Of a status."""
    return StatusRow(
        online=_text(body, "state") == "online",
        time=_maybe(body, "time", _time),
        version=_maybe(body, "version", _text),
    )


def price_time(body: Any) -> tuple[Decimal, datetime]:
    """Of a price."""
    return _number(body, "price"), _time(body, "time")


def candle_time(body: Any) -> tuple[Decimal, datetime]:
    """The close of a candle, and when it opened."""
    return _number(body, "close"), _time(body, "time")


# ---- fields ---------------------------------------------------------------------------------------------


def _get(body: Any, key: str) -> Any:
    if not isinstance(body, dict):
        raise NotUnderstood("not a JSON object")
    return body.get(key)


def _maybe(body: Any, key: str, read: Callable[[Any, str], T]) -> T | None:
    return None if _get(body, key) is None else read(body, key)


def _text(body: Any, key: str) -> str:
    value = _get(body, key)
    if not isinstance(value, str):
        raise NotUnderstood(f"{key}: a text")
    return clean(value)


def _number(body: Any, key: str) -> Decimal:
    value = _get(body, key)
    # The length is bounded before the conversion, and only plain forms are taken: no NaN, no 1e999.
    if not isinstance(value, str) or len(value) > PRECISION or not value.lstrip("-").replace(".", "", 1).isdecimal():
        raise NotUnderstood(f"{key}: a decimal in a string")
    if not value.isascii() or value.startswith("--"):
        raise NotUnderstood(f"{key}: a decimal in a string")
    return Decimal(value)


def _time(body: Any, key: str) -> datetime:
    value = _get(body, key)
    try:
        return parse_time(value)
    except (NotATime, TypeError):
        raise NotUnderstood(f"{key}: a time") from None


def _whole(body: Any, key: str) -> int:
    value = _get(body, key)
    if type(value) is not int:
        raise NotUnderstood(f"{key}: a whole number")
    return value


def _flag(body: Any, key: str) -> bool:
    value = _get(body, key)
    if not isinstance(value, bool):
        raise NotUnderstood(f"{key}: true or false")
    return value


def _score(body: Any, key: str) -> float:
    value = _get(body, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _SCORE_LIMIT:
        raise NotUnderstood(f"{key}: a number between -1 and 1")
    return float(value)


def _list(body: Any, key: str) -> list[Any]:
    value = _get(body, key)
    if not isinstance(value, list):
        raise NotUnderstood(f"{key}: a list")
    return value
