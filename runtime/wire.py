"""Typed messages to the JSON of the bus (and of every other output): decimals plain, times in Z, unknown null.

`*_wire` functions give a dictionary, `encode` the bytes. Hand-written dictionaries on purpose: a trade and
its response are built on the hot path, once for each fill (about 6 us each).
"""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias

from config.exact import plain
from config.times import time_text
from execution.ledger import derived_id
from execution.model import (
    AlertRaised,
    Candle,
    CashFlow,
    HaltChanged,
    HaltRequest,
    Order,
    OrderRequest,
    Price,
    Reason,
    Responded,
    Trade,
    VenueChanged,
)
from runtime.messages import Integrity, Status
from signals.model import BotState, Recommendation, StopLevels

Wire: TypeAlias = dict[str, Any]

# `default=dict`: signal contexts may be read-only mappings.
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=dict)


def encode(wire: Wire) -> bytes:
    """The payload of a dictionary."""
    return _encoder.encode(wire).encode("utf-8")


def _number(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)


def _time(value: datetime | None) -> str | None:
    return None if value is None else time_text(value)


def reason_wire(reason: Reason) -> Wire:
    """Why something was refused."""
    return {"code": reason.code, "field": reason.field, "value": reason.value, "expected": reason.expected}


def trade_wire(trade: Trade) -> Wire:
    """One fill."""
    return {
        "id": trade.id,
        "sequence": trade.sequence,
        "account": trade.account,
        "symbol": trade.symbol,
        "side": trade.side.value,
        "quantity": plain(trade.quantity),
        "price": plain(trade.price),
        "fee": plain(trade.fee),
        "fee_asset": trade.fee_asset,
        "cash_effect": plain(trade.cash_effect),
        "executed_at": time_text(trade.executed_at),
        "recorded_at": time_text(trade.recorded_at),
        "order_id": trade.order_id,
        "venue": trade.venue,
        "venue_trade_id": trade.venue_trade_id,
        "order_type": None if trade.order_type is None else trade.order_type.value,
        "source": trade.source.value,
        "triggered_by": trade.triggered_by,
        "signal_context": trade.signal_context,
        "corrects": trade.corrects,
        "hash": trade.hash,
    }


def response_wire(response: Responded) -> Wire:
    """The answer to a request. Its trades are named by id and numbers; the full ones are on their topic."""
    body: Wire = {
        "request_id": response.request_id,
        "status": response.status.value,
        "final": response.final,
        "reason": None if response.reason is None else reason_wire(response.reason),
        "order_id": response.order_id,
        "trades": [
            {
                "id": trade.id,
                "sequence": trade.sequence,
                "symbol": trade.symbol,
                "side": trade.side.value,
                "quantity": plain(trade.quantity),
                "price": plain(trade.price),
                "fee": plain(trade.fee),
                "executed_at": time_text(trade.executed_at),
            }
            for trade in response.trades
        ],
        "sequence": response.sequence,
    }
    if response.result is not None:
        body["result"] = dict(response.result)
    return body


def order_wire(order: Order) -> Wire:
    """An order with its status."""
    return {
        "id": order.id,
        "request_id": order.request_id,
        "client_order_id": order.client_order_id,
        "account": order.account,
        "symbol": order.symbol,
        "side": order.side.value,
        "type": order.type.value,
        "time_in_force": order.time_in_force.value,
        "status": order.status.value,
        "triggered_by": order.triggered_by,
        "created_at": time_text(order.created_at),
        "expires_at": _time(order.expires_at),
        "quantity": _number(order.quantity),
        "notional": _number(order.notional),
        "close": order.close,
        "limit_price": _number(order.limit_price),
        "decided_at": _time(order.decided_at),
        "signal_context": order.signal_context,
        "note": order.note,
        "reason": None if order.reason is None else reason_wire(order.reason),
    }


def cash_flow_wire(flow: CashFlow) -> Wire:
    """A deposit, withdrawal, income or fee."""
    return {
        "id": flow.id,
        "sequence": flow.sequence,
        "account": flow.account,
        "kind": flow.kind.value,
        "amount": plain(flow.amount),
        "currency": flow.currency,
        "cash_effect": plain(flow.cash_effect),
        "effective_at": time_text(flow.effective_at),
        "recorded_at": time_text(flow.recorded_at),
        "triggered_by": flow.triggered_by,
        "note": flow.note,
        "hash": flow.hash,
    }


def order_request_wire(request: OrderRequest) -> Wire:
    """What a policy (or the command line) publishes: the body that `codec.decode` reads."""
    wire: Wire = {
        "request_id": request.request_id,
        "symbol": request.symbol,
        "side": request.side.value,
        "triggered_by": request.triggered_by,
    }
    for key, number in (
        ("quantity", request.quantity),
        ("notional", request.notional),
        ("limit_price", request.limit_price),
        ("expires_in", request.expires_in),
    ):
        if number is not None:
            wire[key] = plain(number)
    if request.close:
        wire["close"] = True
    if request.time_in_force is not None:
        wire["time_in_force"] = request.time_in_force.value
    if request.decided_at is not None:
        wire["decided_at"] = time_text(request.decided_at)
    if request.signal_context is not None:
        wire["signal_context"] = dict(request.signal_context)
    if request.note is not None:
        wire["note"] = request.note
    return wire


def candle_wire(candle: Candle) -> Wire:
    """A closed candle; symbol and timeframe are in the topic."""
    return {
        "time": time_text(candle.time),
        "open": plain(candle.open),
        "high": plain(candle.high),
        "low": plain(candle.low),
        "close": plain(candle.close),
        "volume": plain(candle.volume),
    }


def price_wire(price: Price) -> Wire:
    """A last price; the symbol is in the topic."""
    return {"price": plain(price.price), "time": time_text(price.time)}


def alert_wire(alert: AlertRaised, time: datetime | None = None) -> Wire:
    """Something that a person should know, with an id by which it is known when it is said again."""
    time = alert.at or time
    said_at = "" if time is None else time_text(time)
    return {
        "id": alert.id or derived_id("alert", alert.code, alert.account or "", alert.message, said_at),
        "severity": alert.severity.value,
        "code": alert.code,
        "message": alert.message,
        "account": alert.account,
        "about": dict(alert.about),
        "time": _time(time),
    }


def venue_wire(change: VenueChanged) -> Wire:
    """Whether a live venue answers for an account."""
    return {
        "account": change.account,
        "venue": change.venue,
        "answers": change.answers,
        "since": time_text(change.since),
        "reason": change.reason,
    }


def halt_wire(change: HaltChanged) -> Wire:
    """Whether trading of an account is halted, by whom and why."""
    return {
        "account": change.account,
        "halted": change.halted,
        "by": change.by,
        "reason": change.reason,
        "at": time_text(change.at),
    }


def integrity_wire(state: Integrity) -> Wire:
    """Whether the books of an account are sound."""
    return {
        "account": state.account,
        "ok": state.ok,
        "checked_at": time_text(state.checked_at),
        "sequence": state.sequence,
        "problems": list(state.problems),
    }


def halt_request_wire(request: HaltRequest) -> Wire:
    """A request to halt or resume, as it is read by `codec.decode`; who asks stands behind `manual:`."""
    return {
        "request_id": request.request_id,
        "triggered_by": f"manual:{request.triggered_by}",
        "note": request.note,
    }


def status_wire(status: Status) -> Wire:
    """Whether a service is there. A last will is made at connect, so its time is unknown."""
    return {
        "state": "online" if status.online else "offline",
        "time": _time(status.time),
        "version": status.version,
    }


def recommendation_wire(advice: Recommendation) -> Wire:
    """A bot's advice; side HOLD when it has none."""
    return {
        "bot": advice.bot,
        "symbol": advice.symbol,
        "account": advice.account,
        "timeframe": advice.timeframe,
        "side": "HOLD" if advice.side is None else advice.side.value,
        "score": advice.score,
        "temperature": advice.temperature.value,
        "signals": [part._asdict() for part in advice.parts],
        "confirmed_since": _time(advice.confirmed_since),
        "cooldown_until": _time(advice.cooldown_until),
        "ready_to_trade": advice.ready_to_trade,
        "time": time_text(advice.time),
        "decided_at": time_text(advice.decided_at),
        "threshold": advice.threshold,
        "confirmation_due": _time(advice.confirmation_due),
        "waiting_for": None if advice.waiting_for is None else advice.waiting_for.value,
    }


def bot_state_wire(state: BotState) -> Wire:
    """A bot's status."""
    advice = state.last_recommendation
    return {
        "bot": state.bot,
        "status": state.status.value,
        "symbol": state.symbol,
        "timeframe": state.timeframe,
        "account": state.account,
        "since": time_text(state.since),
        "last_error": state.last_error,
        "file_error": state.file_error,
        "last_recommendation": None if advice is None else recommendation_wire(advice),
        "stops": None if state.stops is None else _stops_wire(state.stops),
    }


def _stops_wire(levels: StopLevels) -> Wire:
    """Where a bot's stops stand; null where there is no such stop or no position."""
    return {
        "average_cost": _number(levels.average_cost),
        "stop_loss": _number(levels.stop_loss),
        "trailing_stop": _number(levels.trailing_stop),
        "take_profit": _number(levels.take_profit),
        "high_water_mark": _number(levels.high_water_mark),
        "triggered": None if levels.triggered is None else levels.triggered.value,
    }
