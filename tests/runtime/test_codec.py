"""Payloads from strangers: every bad one is a refusal or undecodable, never an exception, never a trade."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.exact import ZERO
from execution.model import (
    CancelRequest,
    Candle,
    CashFlowKind,
    CashRequest,
    HaltRequest,
    OrderRequest,
    Price,
    Reason,
    Side,
    TimeInForce,
)
from runtime.codec import Outcome, body_hash, decode
from runtime.jsondoc import Limits
from runtime.messages import BotAction, BotCommand, Decoded, RecomputeRequest, Refused, Undecodable
from runtime.topics import Match, Topics

TOPICS = Topics()
GOOD = {"symbol": "BTC-USD", "side": "BUY", "notional": "50"}


def match(topic: str) -> Match:
    found = TOPICS.parse(f"fillbook/v1/{topic}")
    assert found is not None, topic
    return found


def read(body: Any, topic: str = "main/request/trade", **more: Any) -> Outcome:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode(match(topic), payload, assigned_id="assigned", **more)


def message(body: Any, topic: str = "main/request/trade") -> Any:
    outcome = read(body, topic)
    assert isinstance(outcome, Decoded), outcome
    return outcome.message


def refusal(body: Any, topic: str = "main/request/trade", **more: Any) -> Refused:
    outcome = read(body, topic, **more)
    assert isinstance(outcome, Refused), outcome
    return outcome


def test_a_trade_request_of_a_person_is_an_order_request() -> None:
    assert message(GOOD) == OrderRequest("assigned", "main", "BTC-USD", Side.BUY, "manual", notional=Decimal(50))


def test_every_field_of_a_trade_request_is_read() -> None:
    body = {
        "request_id": "r-1",
        "symbol": "BRK.B",
        "side": "sell",
        "quantity": "0.125",
        "limit_price": "400.5",
        "time_in_force": "GTC",
        "expires_in": "90",
        "decided_at": "2026-01-31T13:00:00+01:00",
        "signal_context": {"scores": [{"rsi": -0.5}]},
        "note": "test",
        "triggered_by": "manual:anna",
    }
    assert message(body) == OrderRequest(
        "r-1",
        "main",
        "BRK.B",
        Side.SELL,
        "manual:anna",
        quantity=Decimal("0.125"),
        limit_price=Decimal("400.5"),
        time_in_force=TimeInForce.GTC,
        expires_in=Decimal(90),
        decided_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
        signal_context={"scores": [{"rsi": -0.5}]},
        note="test",
    )


@pytest.mark.parametrize(
    "body",
    [
        {"product_id": "BTC-USD", "side": "BUY", "notional": "50"},
        {"symbol": "BTC-USD", "side": "BUY", "size_usd": "50"},
        {"product_id": "BTC-USD", "side": "buy", "size_usd": "50"},
    ],
)
def test_other_names_mean_the_same_request(body: dict[str, str]) -> None:
    assert message(body) == message(GOOD)
    assert body_hash(body) == body_hash(GOOD)


def test_size_is_the_quantity() -> None:
    assert message({"symbol": "BTC-USD", "side": "BUY", "size": "2"}).quantity == Decimal(2)


def test_a_close_needs_no_amount() -> None:
    assert message({"symbol": "BTC-USD", "side": "SELL", "close": True}).close is True


@pytest.mark.parametrize(
    "value",
    ["NaN", "Infinity", "-Infinity", "1e999", "1E2", "1_000", "٥٠", "+5", " 5", "5 ", "5.", ".5", "", "0x10", "-5",
     "0", "0.0", "-0", "1" * 19, "0." + "1" * 19, "１", "5\n", 50, 50.5, -1, 0, True, False, [], ["50"], {"a": "50"}],
)  # fmt: skip
@pytest.mark.parametrize("field", ["notional", "limit_price", "expires_in"])
def test_what_is_no_positive_decimal_string_is_refused_by_name(field: str, value: Any) -> None:
    outcome = refusal(GOOD | {"request_id": "r", field: value})
    assert outcome.request_id == "r"
    assert [reason.field for reason in outcome.reasons] == [field]
    reason = outcome.reasons[0]
    assert reason.expected is not None
    assert reason.value is not None
    assert len(reason.value) <= 64


def test_a_json_number_is_answered_with_what_to_write() -> None:
    (reason,) = refusal(GOOD | {"notional": 50}).reasons
    assert reason.code == "number_not_string"
    assert reason.expected is not None
    assert 'write "50"' in reason.expected


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "1" * 20])
def test_impossible_json_numbers_are_undecodable_or_refused(literal: str) -> None:
    for body in (f'{{"notional": {literal}}}', f'{{"signal_context": {{"x": {literal}}}}}'):
        assert isinstance(read(body.encode()), Undecodable)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "not_json"),
        (b"buy!", "not_json"),
        (b"\xff\xfe", "not_utf8"),
        (b"[]", "not_an_object"),
        (b'"x"', "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"symbol":"A","symbol":"B"}', "duplicate_key"),
        (b'{"signal_context":{"a":1,"a":2}}', "duplicate_key"),
        (b'{"note":"\\ud800"}', "bad_text"),
        (b'{"note":"a\\u0000b"}', "bad_text"),
        (b'{"signal_context":{"\\u0000":1}}', "bad_text"),
        (b"[" * 10_000, "too_deep"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too_deep"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "too_deep"),
        (b"a" * 300_000, "too_large"),
    ],
)
def test_what_is_no_document_is_undecodable(payload: bytes, code: str) -> None:
    outcome = read(payload)
    assert isinstance(outcome, Undecodable)
    assert outcome.reason.code == code


def test_brackets_in_text_are_no_depth_and_an_escaped_backslash_is_no_nul() -> None:
    assert message(GOOD | {"note": "[" * 100 + '"{' + "\\u0000"}).note == "[" * 100 + '"{' + "\\u0000"


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"symbol": None}, "not_a_symbol", "symbol"),
        ({"symbol": "BTC/USD"}, "not_a_symbol", "symbol"),
        ({"symbol": "btc-usd"}, "not_a_symbol", "symbol"),
        ({"symbol": "+"}, "not_a_symbol", "symbol"),
        ({"symbol": "A B"}, "not_a_symbol", "symbol"),
        ({"symbol": "BTC-USD\n"}, "not_a_symbol", "symbol"),
        ({"side": "HOLD"}, "unknown_side", "side"),
        ({"side": 1}, "unknown_side", "side"),
        ({"quantity": "1"}, "size", "notional"),
        ({"close": True}, "size", "notional"),
        ({"close": "true"}, "wrong_type", "close"),
        ({"time_in_force": "FOK"}, "unknown_time_in_force", "time_in_force"),
        ({"time_in_force": "GTC"}, "time_in_force", "time_in_force"),
        ({"time_in_force": []}, "unknown_time_in_force", "time_in_force"),
        ({"decided_at": "2026-01-31T12:00:00"}, "not_a_time", "decided_at"),
        ({"decided_at": 5}, "not_a_time", "decided_at"),
        ({"expires_in": "31536001"}, "too_long", "expires_in"),
        ({"signal_context": []}, "wrong_type", "signal_context"),
        ({"note": "x" * 501}, "bad_note", "note"),
        ({"account": "other"}, "unknown_field", "account"),
        ({"product_id": "BTC-USD"}, "ambiguous_field", "symbol"),
        ({"size_usd": "50"}, "ambiguous_field", "notional"),
        ({"request_id": "a b"}, "bad_request_id", "request_id"),
        ({"request_id": "a/b"}, "bad_request_id", "request_id"),
        ({"request_id": "#"}, "bad_request_id", "request_id"),
        ({"request_id": 5}, "bad_request_id", "request_id"),
        ({"request_id": "x" * 129}, "bad_request_id", "request_id"),
    ],
)
def test_each_fault_of_a_trade_request_is_named(change: dict[str, Any], code: str, field: str) -> None:
    outcome = refusal(GOOD | change)
    assert [(reason.code, reason.field) for reason in outcome.reasons] == [(code, field)]


def test_all_faults_are_named_at_once() -> None:
    outcome = refusal({"side": "up", "notional": -1, "colour": "red", "request_id": "r"})
    assert {reason.field for reason in outcome.reasons} == {"symbol", "side", "notional", "colour"}
    assert outcome.request_id == "r"


@pytest.mark.parametrize(
    "tag", ["bot:weighted", "stop:weighted", "sync", "import:x", "external", "", "manual:", "manual:a b", 5, "Manual"]
)
def test_a_person_can_only_be_manual(tag: Any) -> None:
    (reason,) = refusal(GOOD | {"triggered_by": tag}).reasons
    assert reason.code == "forged_tag"


def test_on_a_policys_topic_the_tag_is_the_topics() -> None:
    topic = "main/request/trade/bot/weighted"
    assert message(GOOD, topic).triggered_by == "bot:weighted"
    assert message(GOOD | {"triggered_by": "stop:weighted"}, topic).triggered_by == "stop:weighted"
    for tag in ("bot:other", "manual", "stop:other"):
        assert refusal(GOOD | {"triggered_by": tag}, topic).reasons[0].code == "forged_tag"


@pytest.mark.parametrize(
    "topic", ["main/request/trade", "main/request/halt", "main/request/trade/bot/weighted", "bot/weighted/set"]
)
def test_a_retained_copy_of_a_command_is_refused(topic: str) -> None:
    assert refusal(GOOD, topic, retained=True).reasons[0].code == "retained_command"


def test_the_same_body_under_any_order_of_keys_has_one_hash_and_another_body_another() -> None:
    first = read(GOOD | {"request_id": "a"})
    second = read(dict(reversed((GOOD | {"request_id": "b", "side": "buy"}).items())))
    other = read(GOOD | {"request_id": "a", "notional": "51"})
    assert isinstance(first, Decoded)
    assert isinstance(second, Decoded)
    assert isinstance(other, Decoded)
    assert first.body_hash == second.body_hash != other.body_hash
    assert first.given_id
    deposit, withdrawal = (read({"amount": "1"}, f"main/request/{name}") for name in ("deposit", "withdraw"))
    assert isinstance(deposit, Decoded)
    assert isinstance(withdrawal, Decoded)
    assert deposit.body_hash != withdrawal.body_hash


def test_the_other_commands_are_read() -> None:
    assert message({"order_id": "o-1", "request_id": "c"}, "main/request/cancel") == CancelRequest(
        "c", "main", "o-1", "manual"
    )
    assert message({"request_id": "r-1"}, "main/request/cancel") == CancelRequest(
        "cancel-r-1", "main", "r-1", "manual"
    )
    assert message({"amount": "5.25"}, "main/request/deposit") == CashRequest(
        "assigned", "main", CashFlowKind.DEPOSIT, Decimal("5.25"), "manual"
    )
    assert message({"amount": "1", "note": "rent"}, "main/request/withdraw").kind is CashFlowKind.WITHDRAWAL
    assert message(b"", "main/request/halt") == HaltRequest("assigned", "main", True, "manual")
    assert message({"triggered_by": "manual:bob"}, "main/request/resume") == HaltRequest(
        "assigned", "main", False, "manual:bob"
    )
    assert message(b"{}", "main/request/recompute") == RecomputeRequest("assigned", "main", "manual")
    assert refusal({}, "main/request/cancel").reasons[0].field == "order_id"
    assert refusal({"amount": "0"}, "main/request/deposit").reasons[0].code == "not_positive"


def test_bots_are_steered_by_word_or_object() -> None:
    assert message(b" stop\n", "bot/weighted/set") == BotCommand("weighted", BotAction.STOP)
    assert message({"action": "evaluate"}, "bot/weighted/set") == BotCommand("weighted", BotAction.EVALUATE)
    assert refusal({"action": "explode"}, "bot/weighted/set").reasons[0].field == "action"
    assert read(b"explode", "bot/weighted/set") == Undecodable(
        Reason("unknown_action", "action", "explode", "one of start, stop, evaluate")
    )


def test_candles_and_prices_are_read_and_a_candle_outside_its_range_is_refused() -> None:
    time = datetime(2026, 1, 31, 12, tzinfo=UTC)
    body = {"time": "2026-01-31T12:00:00Z", "open": "2", "high": "4", "low": "1", "close": "3", "volume": "0"}
    assert message(body, "market/BRK.B/candle/1m") == Candle(
        "BRK.B", "1m", time, Decimal(2), Decimal(4), Decimal(1), Decimal(3), ZERO
    )
    assert refusal(body | {"high": "2.5"}, "market/BRK.B/candle/1m").reasons[0].code == "bad_candle"
    assert refusal(body | {"volume": "-1"}, "market/BRK.B/candle/1m").reasons[0].code == "negative"
    assert message({"price": "5", "time": "2026-01-31T12:00:00Z"}, "market/A/price") == Price("A", Decimal(5), time)
    assert isinstance(
        read(json.dumps({"price": "5", "time": "2026-01-31T12:00:00Z"}).encode(), "market/A/price", retained=True),
        Decoded,
    )


def test_the_limits_are_settings() -> None:
    assert isinstance(read(GOOD, limits=Limits(payload_bytes=10)), Undecodable)
    assert isinstance(read({"a": {"b": {}}}, limits=Limits(json_depth=2)), Undecodable)


ALL_TOPICS = [f"main/request/{name}" for name in ("trade", "cancel", "deposit", "halt")] + [
    "main/request/trade/bot/weighted",
    "bot/weighted/set",
    "market/BTC-USD/candle/1m",
    "market/BTC-USD/price",
]
NASTY = st.sampled_from(
    ["NaN", "Infinity", "1e999", "-1", "0", "٥٠", "1_000", "50", "0.000000000000000001", "", "9" * 19]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | NASTY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["request_id", "symbol", "product_id", "side", "notional", "size_usd", "quantity", "size", "close", "limit_price",
     "time_in_force", "expires_in", "decided_at", "signal_context", "note", "triggered_by", "amount", "order_id", "x",
     "price", "time", "open", "high", "low", "volume", "action"]
)  # fmt: skip


def check(outcome: Outcome) -> None:
    """Whatever came: an outcome, and no number in it that is not finite and positive."""
    if isinstance(outcome, Refused):
        assert outcome.reasons
    if not isinstance(outcome, Decoded):
        return
    found = outcome.message
    for name in ("notional", "quantity", "limit_price", "expires_in", "amount", "price", "open", "high", "low"):
        value = getattr(found, name, None)
        if value is not None:
            assert isinstance(value, Decimal)
            assert value.is_finite()
            assert value > 0
    if isinstance(found, OrderRequest):
        assert [found.notional is not None, found.quantity is not None, found.close].count(True) == 1


@settings(max_examples=300, deadline=None)
@given(topic=st.sampled_from(ALL_TOPICS), payload=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_raise(topic: str, payload: bytes) -> None:
    check(decode(match(topic), payload, assigned_id="a"))


@settings(max_examples=600, deadline=None)
@given(
    topic=st.sampled_from(ALL_TOPICS),
    body=st.dictionaries(FIELDS, VALUES, max_size=6),
    base=st.sampled_from([{}, GOOD, {"amount": "5"}]),
)
def test_no_document_raises_or_smuggles_a_number_in(topic: str, body: dict[str, Any], base: dict[str, Any]) -> None:
    try:
        payload = json.dumps(base | body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        payload = json.dumps(base | body).encode()
    check(decode(match(topic), payload, assigned_id="a"))
