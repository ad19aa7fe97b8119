"""The JSON of what leaves: shapes of the specification, plain decimals, and cheap enough for the hot path."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType

import pytest

from execution.model import (
    AlertRaised,
    Candle,
    CashFlow,
    CashFlowKind,
    HaltChanged,
    Order,
    OrderRequest,
    OrderStatus,
    OrderType,
    Price,
    Reason,
    Responded,
    ResponseStatus,
    Severity,
    Side,
    Source,
    TimeInForce,
    Trade,
    trade_cash_effect,
)
from runtime import wire
from runtime.cli.bots import NO_ADVICE
from runtime.codec import decode
from runtime.messages import Decoded, Status
from runtime.topics import Topics
from signals.model import BotState, BotStatus, Part, Recommendation, Temperature

TOPICS = Topics()
AT = datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)
TRADE = Trade(
    id="t-1",
    sequence=7,
    account="main",
    symbol="BTC-USD",
    side=Side.BUY,
    quantity=Decimal("0.00012500"),
    price=Decimal("64123.590"),
    executed_at=AT,
    recorded_at=AT,
    fee=Decimal("1E+1"),
    fee_asset="USD",
    cash_effect=trade_cash_effect(Side.BUY, Decimal("0.000125"), Decimal("64123.59"), Decimal(10)),
    order_id="o-1",
    venue="paper",
    venue_trade_id="v-1",
    venue_sequence=None,
    order_type=OrderType.MARKET,
    source=Source.EXCHANGE,
    triggered_by="bot:weighted",
    signal_context=MappingProxyType({"score": 0.5}),
    corrects=None,
    hash="ab" * 32,
)
RESPONSE = Responded("main", "r-1", ResponseStatus.FILLED, True, order_id="o-1", trades=(TRADE,))


def test_a_trade_is_plain_strings_and_utc_times() -> None:
    found = json.loads(wire.encode(wire.trade_wire(TRADE)))
    assert found["quantity"] == "0.000125"
    assert found["price"] == "64123.59"
    assert found["fee"] == "10"
    assert found["cash_effect"] == "-18.01544875"
    assert found["executed_at"] == "2026-01-31T12:00:00.500000Z"
    assert found["signal_context"] == {"score": 0.5}
    assert (found["side"], found["order_type"], found["source"]) == ("BUY", "market", "exchange")
    assert found["sequence"] == 7


def test_a_response_has_the_shape_of_the_specification() -> None:
    found = wire.response_wire(RESPONSE)
    assert {"request_id", "status", "final", "reason", "order_id", "trades"} <= found.keys()
    assert found["trades"][0]["id"] == "t-1"
    refused = Responded(
        "main", "r-2", ResponseStatus.REFUSED, True, Reason("insufficient_cash", "notional", "50", "at most 20")
    )
    assert wire.response_wire(refused)["reason"] == {
        "code": "insufficient_cash",
        "field": "notional",
        "value": "50",
        "expected": "at most 20",
    }
    json.loads(wire.encode(found))


def test_a_policys_request_comes_back_as_it_was() -> None:
    request = OrderRequest(
        "bot-1",
        "main",
        "BTC-USD",
        Side.SELL,
        "stop:weighted",
        quantity=Decimal("0.5"),
        limit_price=Decimal("1.10"),
        time_in_force=TimeInForce.GTC,
        expires_in=Decimal(60),
        decided_at=AT,
        signal_context={"parts": [{"rsi": 0.25}]},
        note="n",
        waits_for_candle=True,
    )
    match = TOPICS.parse(TOPICS.bot_request("main", "weighted"))
    assert match is not None
    outcome = decode(match, wire.encode(wire.order_request_wire(request)), assigned_id="x")
    assert isinstance(outcome, Decoded)
    assert outcome.message == request
    closing = OrderRequest("bot-2", "main", "BTC-USD", Side.SELL, "bot:weighted", close=True)
    again = decode(match, wire.encode(wire.order_request_wire(closing)), assigned_id="x")
    assert isinstance(again, Decoded)
    assert again.message == closing


def test_candles_and_prices_come_back_as_they_were() -> None:
    candle = Candle("BRK.B", "1m", AT, Decimal(2), Decimal(4), Decimal(1), Decimal(3), Decimal(0))
    price = Price("BRK.B", Decimal("1.5"), AT)
    for topic, body, expected in (
        (TOPICS.candle("BRK.B", "1m"), wire.candle_wire(candle), candle),
        (TOPICS.price("BRK.B"), wire.price_wire(price), price),
    ):
        match = TOPICS.parse(topic)
        assert match is not None
        outcome = decode(match, wire.encode(body), assigned_id="x")
        assert isinstance(outcome, Decoded)
        assert outcome.message == expected


def test_everything_else_is_json_with_null_for_unknown() -> None:
    order = Order(
        "o-1", "r-1", "c-1", "main", "A", Side.BUY, OrderType.MARKET, TimeInForce.IOC, OrderStatus.REJECTED, "manual",
        AT, None, notional=Decimal(50), reason=Reason("stale_price"),
    )  # fmt: skip
    flow = CashFlow("f-1", 1, "main", CashFlowKind.WITHDRAWAL, Decimal(5), "USD", AT, AT, "manual", "k", None, "h")
    advice = Recommendation(
        "weighted", "A", "main", "1m", None, None, Temperature.FROZEN, (Part("rsi", None, 0.4),), None, None, False,
        AT, AT,
    )  # fmt: skip
    state = BotState("weighted", BotStatus.RUNNING, "A", None, "main", AT, advice)
    assert wire.order_wire(order)["reason"]["code"] == "stale_price"
    assert wire.order_wire(order)["quantity"] is None
    assert wire.cash_flow_wire(flow)["cash_effect"] == "-5"
    assert wire.recommendation_wire(advice)["side"] == "HOLD"
    assert NO_ADVICE.keys() == wire.recommendation_wire(advice).keys()
    assert wire.bot_state_wire(state)["last_recommendation"]["signals"] == [
        {"name": "rsi", "score": None, "weight": 0.4, "value": None, "why": None, "how": None}
    ]
    assert wire.status_wire(Status(False)) == {"state": "offline", "time": None, "version": None}
    assert wire.halt_wire(HaltChanged("main", True, "manual", None, AT))["halted"] is True
    assert wire.alert_wire(AlertRaised(Severity.HIGH, "x", "y", about={"a": "b"}))["about"] == {"a": "b"}
    for found in (wire.order_wire(order), wire.cash_flow_wire(flow), wire.bot_state_wire(state)):
        json.loads(wire.encode(found))


def test_a_score_that_is_no_number_never_leaves() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        wire.encode({"score": float("nan")})
