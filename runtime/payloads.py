"""The bodies of incoming messages as pydantic models, each field with its own check and expectation."""

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from config.exact import NotADecimal, parse_decimal
from config.instruments import is_symbol
from config.times import NotATime, parse_time
from execution.model import Reason, Side, TimeInForce
from portfolio.lots import Method
from runtime.jsondoc import SHOWN, Document, shown
from runtime.topics import REQUEST_ID_PATTERN, is_request_id

MAXIMUM_EXPIRY = Decimal(31_536_000)
"""Seconds: one year."""

_WHO = re.compile(r"manual(?::[A-Za-z0-9][A-Za-z0-9._@-]{0,63})?", re.ASCII)
_ORDER_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
_NOTE_LENGTH = 500
_DECIMAL = "a decimal string of at most 18 + 18 digits"


def _fail(code: str, expected: str) -> PydanticCustomError:
    # Braces would be read as placeholders; the expectation is passed as a value instead.
    return PydanticCustomError(cast("Any", code), "{expected}", {"expected": expected})


def _decimal_text(value: Any) -> Decimal:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise _fail("number_not_string", f'{_DECIMAL}: write "{shown(value)}"')
    if not isinstance(value, str):
        raise _fail("wrong_type", _DECIMAL)
    try:
        return parse_decimal(value)
    except NotADecimal:
        raise _fail("not_a_decimal", _DECIMAL) from None


def _positive(value: Any) -> Decimal:
    number = _decimal_text(value)
    if number <= 0:
        raise _fail("not_positive", f"{_DECIMAL} above 0")
    return number


def _not_negative(value: Any) -> Decimal:
    number = _decimal_text(value)
    if number < 0:
        raise _fail("negative", f"{_DECIMAL}, 0 or more")
    return number


def _expiry(value: Any) -> Decimal:
    number = _positive(value)
    if number > MAXIMUM_EXPIRY:
        raise _fail("too_long", f"seconds, at most {MAXIMUM_EXPIRY}")
    return number


def _time(value: Any) -> datetime:
    try:
        return parse_time(value)
    except (NotATime, TypeError):
        raise _fail("not_a_time", "an RFC 3339 time with a zone, such as 2026-01-31T12:00:00Z") from None


def _side(value: Any) -> Side:
    upper = value.upper() if isinstance(value, str) and value.isascii() else None
    if upper not in ("BUY", "SELL"):
        raise _fail("unknown_side", "BUY or SELL")
    return Side(upper)


def _symbol(value: Any) -> str:
    if not isinstance(value, str) or not is_symbol(value):
        raise _fail("not_a_symbol", "a symbol such as BTC-USD: A-Z, 0-9 and . _ -, at most 32")
    return value


def _time_in_force(value: Any) -> TimeInForce:
    if value not in ("IOC", "GTC"):
        raise _fail("unknown_time_in_force", "IOC or GTC")
    return TimeInForce(value)


def _method(value: Any) -> Method:
    if not isinstance(value, str) or value not in list(Method):
        raise _fail("unknown_method", f"one of {', '.join(Method)}")
    return Method(value)


def _request_id(value: Any) -> str:
    if not isinstance(value, str) or not is_request_id(value):
        raise _fail("bad_request_id", f"text matching {REQUEST_ID_PATTERN}")
    return value


def _order_id(value: Any) -> str:
    if not isinstance(value, str) or _ORDER_ID.fullmatch(value) is None:
        raise _fail("bad_order_id", "an order id of at most 128 printable characters")
    return value


def _note(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _NOTE_LENGTH:
        raise _fail("bad_note", f"text of at most {_NOTE_LENGTH} characters")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _fail("wrong_type", "true or false")
    return value


def _context(value: Any) -> Document:
    if not isinstance(value, dict):
        raise _fail("wrong_type", "a JSON object")
    return value


def _tag(value: Any, info: ValidationInfo) -> str:
    """The tag that the topic allows: people may name themselves, a policy is what its topic says."""
    bot: str | None = (info.context or {}).get("bot")
    if bot is None:
        allowed, expected = isinstance(value, str) and _WHO.fullmatch(value) is not None, "manual or manual:<who>"
    else:
        allowed, expected = value in (f"bot:{bot}", f"stop:{bot}"), f"bot:{bot} or stop:{bot}, as the topic says"
    if not allowed:
        raise _fail("forged_tag", expected)
    return cast("str", value)


PositiveText = Annotated[Decimal, PlainValidator(_positive)]
AmountText = Annotated[Decimal, PlainValidator(_not_negative)]
TimeText = Annotated[datetime, PlainValidator(_time)]
RequestId = Annotated[str, PlainValidator(_request_id)]
Note = Annotated[str, PlainValidator(_note)]
Symbol = Annotated[str, PlainValidator(_symbol)]
Flag = Annotated[bool, PlainValidator(_flag)]
Tag = Annotated[str, PlainValidator(_tag)]


class _Payload(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True, frozen=True)


class _RequestPayload(_Payload):
    request_id: RequestId | None = None
    triggered_by: Tag | None = None
    note: Note | None = None


class TradePayload(_RequestPayload):
    """Body of request/trade, after aliases were resolved."""

    symbol: Symbol
    side: Annotated[Side, PlainValidator(_side)]
    notional: PositiveText | None = None
    quantity: PositiveText | None = None
    close: Flag = False
    limit_price: PositiveText | None = None
    time_in_force: Annotated[TimeInForce, PlainValidator(_time_in_force)] | None = None
    expires_in: Annotated[Decimal, PlainValidator(_expiry)] | None = None
    decided_at: TimeText | None = None
    signal_context: Annotated[Document, PlainValidator(_context)] | None = None


class CancelPayload(_RequestPayload):
    """Body of request/cancel."""

    order_id: Annotated[str, PlainValidator(_order_id)] | None = None


class CashPayload(_RequestPayload):
    """Body of request/deposit and request/withdraw."""

    amount: PositiveText
    effective_at: TimeText | None = None


class NotePayload(_RequestPayload):
    """Body of request/halt and /resume."""


class RecomputePayload(_RequestPayload):
    """Body of request/recompute."""

    symbol: Symbol | None = None
    method: Annotated[Method, PlainValidator(_method)] = Method.FIFO
    full: Flag = False
    since: TimeText | None = None


class BotSetPayload(_Payload):
    """Body of bot/<name>/set."""

    action: Literal["start", "stop", "evaluate"]
    request_id: RequestId | None = None


class CandlePayload(_Payload):
    """Body of market/<symbol>/candle/<timeframe>."""

    time: TimeText
    open: PositiveText
    high: PositiveText
    low: PositiveText
    close: PositiveText
    volume: AmountText


class PricePayload(_Payload):
    """Body of market/<symbol>/price."""

    price: PositiveText
    time: TimeText


_STANDARD_CODES = {
    "missing": ("missing_field", "a value"),
    "extra_forbidden": ("unknown_field", "no such field"),
    "literal_error": ("unknown_value", "one of the listed words"),
}


def reasons_of(error: ValidationError) -> tuple[Reason, ...]:
    """Each fault of a body: code, field, value (shortened), expectation."""
    found = []
    for item in error.errors(include_url=False):
        field = ".".join(str(part) for part in item["loc"])[:SHOWN] or None
        code, expected = _STANDARD_CODES.get(item["type"], (item["type"], item["msg"]))
        if item["type"] == "literal_error":
            expected = str(item.get("ctx", {}).get("expected", expected))
        value = None if item["type"] == "missing" else shown(item["input"])
        found.append(Reason(code, field, value, expected))
    return tuple(found)
