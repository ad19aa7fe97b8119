"""Bytes to typed messages. Decoding never raises: its outcome is a type. (The other way: `runtime.wire`.)

What is guarded here, because the parsers underneath let it through: numbers where decimals must be strings,
digits that are not ASCII, `1_000`, `1e999`, NaN and Infinity, duplicate keys, unknown keys (nested as well),
an alias beside its canonical key, lone surrogates and NUL, documents too deep or too large, retained copies,
and a `triggered_by` that does not belong to the topic.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from pydantic import ValidationError

from config.times import time_text, timeframe_length
from execution.model import (
    CancelRequest,
    Candle,
    CashFlowKind,
    CashRequest,
    HaltRequest,
    OrderRequest,
    Price,
    Reason,
    TimeInForce,
)
from runtime.jsondoc import SHOWN, Document, Limits, parse_object, shown
from runtime.messages import BotAction, BotCommand, Decoded, Message, RecomputeRequest, Refused, Undecodable
from runtime.payloads import (
    BotSetPayload,
    CancelPayload,
    CandlePayload,
    CashPayload,
    NotePayload,
    PricePayload,
    RecomputePayload,
    TradePayload,
    reasons_of,
)
from runtime.topics import Command, Match, RouteName, is_request_id

Outcome: TypeAlias = Decoded[Message] | Refused | Undecodable

_LAST_TIME = datetime(9999, 1, 1, tzinfo=UTC)
"""No candle closes later: there is no time after year 9999 to reckon with."""

ALIASES: Mapping[str, str] = {"product_id": "symbol", "size_usd": "notional", "size": "quantity"}


def resolve_aliases(document: Document) -> Document | Reason:
    """`product_id`, `size_usd`, `size` under their canonical names; refused beside them."""
    if not ALIASES.keys() & document.keys():
        return document
    resolved: Document = {}
    for key, value in document.items():
        canonical = ALIASES.get(key, key)
        if canonical in resolved or (canonical != key and canonical in document):
            return Reason("ambiguous_field", canonical, shown(value), f"either {canonical} or its alias, not both")
        resolved[canonical] = value
    return resolved


_hashed = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def body_hash(document: Mapping[str, Any], kind: str = Command.TRADE) -> str:
    """What makes two bodies the same request: canonical names, no request_id, side in capitals, any key order."""
    body = {ALIASES.get(key, key): value for key, value in document.items() if key != "request_id"}
    if isinstance(body.get("side"), str):
        body["side"] = body["side"].upper()
    return hashlib.sha256(_hashed.encode([str(kind), body]).encode("ascii")).hexdigest()


def decode(
    match: Match, payload: bytes, *, assigned_id: str, retained: bool = False, limits: Limits | None = None
) -> Outcome:
    """The message on a topic, or why there is none. Never raises.

    `assigned_id` becomes the request id when the sender gave none. `retained` is the retain flag of the
    DELIVERY: a retained copy of a request is refused (`retained_command`); the caller clears and alerts.
    """
    limits = limits or Limits()
    if retained and match.route in (RouteName.REQUEST, RouteName.BOT_REQUEST, RouteName.BOT_SET):
        return Refused(None, (Reason("retained_command", expected="a command published without the retain flag"),))
    if match.route is RouteName.BOT_SET:
        return _decode_bot_set(match, payload, limits)
    # Halting must be easy: a halt without a body is a halt. Resuming need not be, and an empty message is also
    # what clears a retained one.
    bodiless = match.command in (Command.HALT, Command.RECOMPUTE) and not payload.strip()
    document = parse_object(b"{}" if bodiless else payload, limits)
    if isinstance(document, Undecodable):
        return document
    decoder = _DECODERS.get(match.command or match.route)
    if decoder is None:
        return Undecodable(Reason("unexpected_topic", expected="a topic that the daemon reads"))
    given = document.get("request_id")
    answer_to = given if isinstance(given, str) and is_request_id(given) else None
    try:
        message = decoder(match, document, answer_to or assigned_id)
    except ValidationError as error:
        return Refused(answer_to, reasons_of(error))
    except _Refusal as refusal:
        return Refused(answer_to, (refusal.reason,))
    kind = match.command or (Command.TRADE if match.route is RouteName.BOT_REQUEST else match.route)
    return Decoded(message, body_hash(document, kind), answer_to is not None)


class _Refusal(Exception):
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.code)
        self.reason = reason


def _account(match: Match) -> str:
    assert match.account is not None
    return match.account


def _validate(model: type[Any], document: Document, bot: str | None = None) -> Any:
    return model.model_validate(document, context={"bot": bot})


def _decode_trade(match: Match, document: Document, request_id: str) -> OrderRequest:
    resolved = resolve_aliases(document)
    if isinstance(resolved, Reason):
        raise _Refusal(resolved)
    body: TradePayload = _validate(TradePayload, resolved, match.bot)
    given = [name for name in ("notional", "quantity") if getattr(body, name) is not None]
    given += ["close"] if body.close else []
    if len(given) != 1:
        raise _Refusal(
            Reason("size", "notional", " and ".join(given) or None, "exactly one of notional, quantity and close")
        )
    if body.time_in_force is TimeInForce.GTC and body.limit_price is None:
        raise _Refusal(Reason("time_in_force", "time_in_force", "GTC", "IOC, or a limit_price"))
    return OrderRequest(
        request_id=request_id,
        account=_account(match),
        symbol=body.symbol,
        side=body.side,
        triggered_by=body.triggered_by or ("manual" if match.bot is None else f"bot:{match.bot}"),
        quantity=body.quantity,
        notional=body.notional,
        close=body.close,
        limit_price=body.limit_price,
        time_in_force=body.time_in_force,
        expires_in=body.expires_in,
        decided_at=body.decided_at,
        signal_context=body.signal_context,
        note=body.note,
        waits_for_candle=match.bot is not None and body.decided_at is not None,
    )


def _decode_cancel(match: Match, document: Document, request_id: str) -> CancelRequest:
    """`order_id` names the order, by its id or its request's; without it `request_id` is the order's request.

    The cancellation's own id is then derived from that, so that a repetition is the same cancellation.
    """
    body: CancelPayload = _validate(CancelPayload, document)
    order = body.order_id
    if order is None:
        if body.request_id is None:
            raise _Refusal(Reason("missing_field", "order_id", None, "an order id, or the request_id of an order"))
        order, request_id = body.request_id, f"cancel-{body.request_id}"[:128]
    return CancelRequest(request_id, _account(match), order, body.triggered_by or "manual")


def _decode_cash(match: Match, document: Document, request_id: str) -> CashRequest:
    body: CashPayload = _validate(CashPayload, document)
    kind = CashFlowKind.DEPOSIT if match.command is Command.DEPOSIT else CashFlowKind.WITHDRAWAL
    return CashRequest(
        request_id, _account(match), kind, body.amount, body.triggered_by or "manual", body.effective_at, body.note
    )


def _decode_halt(match: Match, document: Document, request_id: str) -> HaltRequest:
    body: NotePayload = _validate(NotePayload, document)
    halted = match.command is Command.HALT
    return HaltRequest(request_id, _account(match), halted, body.triggered_by or "manual", body.note)


def _decode_recompute(match: Match, document: Document, request_id: str) -> RecomputeRequest:
    body: RecomputePayload = _validate(RecomputePayload, document)
    if body.full and body.since is not None:
        raise _Refusal(Reason("since", "since", time_text(body.since), "full or since, not both"))
    return RecomputeRequest(
        request_id,
        _account(match),
        body.triggered_by or "manual",
        body.note,
        body.symbol,
        body.method,
        body.full,
        body.since,
    )


def _decode_candle(match: Match, document: Document, _request_id: str) -> Candle:
    body: CandlePayload = _validate(CandlePayload, document)
    if not body.low <= min(body.open, body.close) <= max(body.open, body.close) <= body.high:
        raise _Refusal(Reason("bad_candle", "high", str(body.high), "low <= open, close <= high"))
    assert match.symbol is not None
    assert match.timeframe is not None
    if body.time > _LAST_TIME - timeframe_length(match.timeframe):
        raise _Refusal(Reason("bad_candle", "time", time_text(body.time), f"a close before {time_text(_LAST_TIME)}"))
    return Candle(match.symbol, match.timeframe, body.time, body.open, body.high, body.low, body.close, body.volume)


def _decode_price(match: Match, document: Document, _request_id: str) -> Price:
    body: PricePayload = _validate(PricePayload, document)
    assert match.symbol is not None
    return Price(match.symbol, body.price, body.time)


def _decode_bot_set(match: Match, payload: bytes, limits: Limits) -> Outcome:
    assert match.bot is not None
    word = payload.strip()
    if word in (b"start", b"stop", b"evaluate"):
        action = BotAction(word.decode("ascii"))
        return Decoded(BotCommand(match.bot, action), body_hash({"action": str(action)}, match.route), False)
    if word.isalpha() and word.isascii():
        said = word[:SHOWN].decode("ascii")
        return Undecodable(Reason("unknown_action", "action", said, f"one of {', '.join(BotAction)}"))
    document = parse_object(payload, limits)
    if isinstance(document, Undecodable):
        return document
    given = document.get("request_id")
    answer_to = given if isinstance(given, str) and is_request_id(given) else None
    try:
        body: BotSetPayload = _validate(BotSetPayload, document)
    except ValidationError as error:
        return Refused(answer_to, reasons_of(error))
    command = BotCommand(match.bot, BotAction(body.action), body.request_id)
    return Decoded(command, body_hash(document, match.route), answer_to is not None)


_DECODERS: Mapping[Command | RouteName, Callable[[Match, Document, str], Message]] = {
    Command.TRADE: _decode_trade,
    RouteName.BOT_REQUEST: _decode_trade,
    Command.CANCEL: _decode_cancel,
    Command.DEPOSIT: _decode_cash,
    Command.WITHDRAW: _decode_cash,
    Command.HALT: _decode_halt,
    Command.RESUME: _decode_halt,
    Command.RECOMPUTE: _decode_recompute,
    RouteName.CANDLE: _decode_candle,
    RouteName.PRICE: _decode_price,
}
