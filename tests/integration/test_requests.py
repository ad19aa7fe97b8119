"""Requests of people against the running daemon: what trades, and what is refused without trading."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.brokers import EMBEDDED, MOSQUITTO, PATIENCE, running_broker
from tests.integration.daemons import V1, Ear, Server, dumped, price_known, retains, serving

MANUAL = {"symbol": "BTC-USD", "side": "BUY", "notional": "50"}


def now_text(shift: timedelta = timedelta()) -> str:
    """The wall clock, RFC 3339."""
    return (datetime.now(UTC) + shift).isoformat().replace("+00:00", "Z")


@pytest_asyncio.fixture(params=[EMBEDDED, MOSQUITTO])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Server, Ear]]:
    """A daemon without a feed on either broker, a price for BTC-USD and ETH-USD, and a listener."""
    if request.param == EMBEDDED:
        async with serving(tmp_path / "data") as server, Ear(server.port) as ear:
            await _prices(ear)
            await price_known(ear)
            yield server, ear
        return
    async with running_broker(MOSQUITTO, tmp_path) as broker:
        settings = ["broker.embedded=false"]
        async with serving(tmp_path / "data", port=broker.port, settings=settings) as server, Ear(broker.port) as ear:
            await _prices(ear)
            await price_known(ear)
            yield server, ear


@pytest_asyncio.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[tuple[Server, Ear]]:
    """A daemon without a feed on the embedded broker."""
    async with serving(tmp_path / "data") as server, Ear(server.port) as ear:
        await _prices(ear)
        await price_known(ear)
        yield server, ear


async def _prices(ear: Ear) -> None:
    for symbol, price in (("BTC-USD", "50000"), ("ETH-USD", "2500")):
        await ear.say(f"market/{symbol}/price", {"price": price, "time": now_text()}, retain=True)


async def _mosquitto_pub(port: int, topic: str, message: str, *options: str) -> int:
    program = shutil.which("mosquitto_pub")
    if program is None:
        pytest.skip("mosquitto_pub is not installed: people's own client is NOT tested")
    process = await asyncio.create_subprocess_exec(
        program, "-p", str(port), "-q", "1", "-t", f"{V1}/{topic}", "-m", message, *options
    )
    return await asyncio.wait_for(process.wait(), PATIENCE)


async def _still_trades(ear: Ear, request_id: str = "still-there") -> None:
    """The daemon is alive: it fills one more order."""
    answer = await ear.ask({**MANUAL, "request_id": request_id})
    assert answer["status"] == "filled", answer


def _settled(server: Server, trades: int) -> None:
    assert len(server.books.trades) == trades
    assert server.books.problems() == []


# ---- what trades ----------------------------------------------------------------------------------------


async def test_a_person_with_mosquitto_pub_gets_one_trade_one_answer_and_a_new_position(
    house: tuple[Server, Ear],
) -> None:
    server, ear = house
    assert await _mosquitto_pub(server.port, "main/request/trade", json.dumps(MANUAL)) == 0
    announced = (await ear.on("main/trade")).body
    answer = (await ear.until(lambda: next((h for h in ear.heard if "/response/" in h.topic), None))).body
    assert answer["status"] == "filled"
    assert answer["final"] is True
    assert [trade["id"] for trade in answer["trades"]] == [announced["id"]]
    assert announced["triggered_by"] == "manual"
    assert announced["sequence"] == 2  # after the opening deposit
    position = (await ear.on("main/position/BTC-USD", lambda h: h.body["sequence"] == 2)).body
    portfolio = (await ear.on("main/portfolio", lambda h: h.body["sequence"] == 2)).body
    assert position["quantity"] == announced["quantity"]
    paid = Decimal(announced["quantity"]) * Decimal(announced["price"]) + Decimal(announced["fee"])
    assert Decimal(portfolio["cash"]) == 10_000 - paid
    await retains(
        server.port,
        lambda kept: (
            kept["main/position/BTC-USD"]["quantity"] == announced["quantity"]
            and kept["main/portfolio"]["sequence"] == 2
        ),
    )
    _settled(server, 1)


async def test_other_names_of_the_fields_are_understood(house: tuple[Server, Ear]) -> None:
    server, ear = house
    by_notional = await ear.ask({"product_id": "BTC-USD", "side": "buy", "size_usd": "50", "request_id": "a-1"})
    by_size = await ear.ask({"product_id": "BTC-USD", "side": "BUY", "size": "0.001", "request_id": "a-2"})
    close = await ear.ask({"symbol": "BTC-USD", "side": "SELL", "close": True, "request_id": "a-3"})
    assert [by_notional["status"], by_size["status"], close["status"]] == ["filled"] * 3
    assert by_size["trades"][0]["quantity"] == "0.001"
    position = await ear.on("main/position/BTC-USD", lambda h: h.body["sequence"] == 4)
    assert position.body["quantity"] == "0"
    _settled(server, 3)


async def test_the_same_request_again_gets_the_same_answer_and_another_body_a_conflict(
    house: tuple[Server, Ear],
) -> None:
    server, ear = house
    first = await ear.ask({**MANUAL, "request_id": "twice"})
    for _ in range(3):
        await ear.say("main/request/trade", {**MANUAL, "request_id": "twice"})
    # Key order, an alias and the side's case make no other request.
    await ear.say(
        "main/request/trade", {"request_id": "twice", "side": "buy", "product_id": "BTC-USD", "size_usd": "50"}
    )
    answers = await ear.until(lambda: found if len(found := ear.all("main/response/twice")) >= 5 else None)
    assert all(heard.body == first for heard in answers)
    await ear.say("main/request/trade", {**MANUAL, "notional": "51", "request_id": "twice"})
    conflict = await ear.on("main/response/twice", lambda h: h.body["status"] == "refused")
    assert conflict.body["reason"]["code"] == "idempotency_conflict"
    assert conflict.body["final"] is True
    ear.heard.clear()
    again = await ear.ask({**MANUAL, "request_id": "twice"})
    assert again == first
    _settled(server, 1)


async def test_requests_without_an_id_are_requests_of_their_own(house: tuple[Server, Ear]) -> None:
    server, ear = house
    for _ in range(3):
        await ear.say("main/request/trade", MANUAL)
    await ear.until(lambda: len({h.last for h in ear.heard if "/response/" in h.topic}) >= 3)
    await ear.until(lambda: len(ear.all("main/trade")) >= 3)
    _settled(server, 3)


async def test_every_allowed_request_id_is_answered(embedded: tuple[Server, Ear]) -> None:
    server, ear = embedded
    request_ids = ["a.b", "a..b", "a.", "a:b@c", "A-_.:@", "x" * 128, "0", "NaN"]
    for request_id in request_ids:
        answer = await ear.ask({**MANUAL, "request_id": request_id})
        assert answer["status"] == "filled", request_id
    await _still_trades(ear)
    _settled(server, len(request_ids) + 1)


# ---- what is refused ------------------------------------------------------------------------------------

DEEP = '{"a":' * 5000 + "1" + "}" * 5000
USUAL = '"symbol":"BTC-USD","side":"BUY"'
REFUSED: dict[str, tuple[str, str]] = {
    # name: (the fields beside the request id, the code of the refusal)
    "NaN": (USUAL + ',"notional":NaN', "not_json"),
    "Infinity": (USUAL + ',"notional":-Infinity', "not_json"),
    "NaN as text": (USUAL + ',"notional":"NaN"', "not_a_decimal"),
    "sNaN": (USUAL + ',"notional":"sNaN"', "not_a_decimal"),
    "Infinity as text": (USUAL + ',"notional":"Infinity"', "not_a_decimal"),
    "1e999": (USUAL + ',"notional":1e999', "number_too_large"),
    "1e999 as text": (USUAL + ',"notional":"1e999"', "not_a_decimal"),
    "1E+999999": (USUAL + ',"notional":"1E+999999"', "not_a_decimal"),
    "negative": (USUAL + ',"notional":"-50"', "not_positive"),
    "zero": (USUAL + ',"notional":"0"', "not_positive"),
    "zero, long": (USUAL + ',"quantity":"0.000000000000"', "not_positive"),
    "a JSON number": (USUAL + ',"notional":50', "number_not_string"),
    "a JSON float": (USUAL + ',"notional":1.1', "number_not_string"),
    "Arabic digits": (USUAL + ',"notional":"٥٠"', "not_a_decimal"),
    "underscores": (USUAL + ',"notional":"1_000"', "not_a_decimal"),
    "spaces": (USUAL + ',"notional":" 50"', "not_a_decimal"),
    "19 digits": (USUAL + ',"notional":"1000000000000000000"', "not_a_decimal"),
    "no size": (USUAL, "size"),
    "two sizes": (USUAL + ',"notional":"50","quantity":"1"', "size"),
    "a name and its alias": (USUAL + ',"product_id":"BTC-USD","notional":"50"', "ambiguous_field"),
    "wrong types": ('"symbol":["BTC-USD"],"side":{},"notional":true', "not_a_symbol"),
    "null": ('"symbol":null,"side":"BUY","notional":"50"', "not_a_symbol"),
    "unknown side": ('"symbol":"BTC-USD","side":"HOLD","notional":"50"', "unknown_side"),
    "unknown field": (USUAL + ',"notional":"50","leverage":"3"', "unknown_field"),
    "unknown symbol": ('"symbol":"NOSUCH-USD","side":"BUY","notional":"50"', "unknown_symbol"),
    "a symbol with a slash": ('"symbol":"BTC/USD","side":"BUY","notional":"50"', "not_a_symbol"),
    "a wildcard as symbol": ('"symbol":"#","side":"BUY","notional":"50"', "not_a_symbol"),
    "a symbol without a price": ('"symbol":"SOL-USD","side":"BUY","notional":"50"', ""),
    "a forged bot tag": (USUAL + ',"notional":"50","triggered_by":"bot:x"', "forged_tag"),
    "a forged stop tag": (USUAL + ',"notional":"50","triggered_by":"stop:x"', "forged_tag"),
    "a sync tag": (USUAL + ',"notional":"50","triggered_by":"sync"', "forged_tag"),
    "too much": (USUAL + ',"notional":"1000000"', "insufficient_cash"),
    "what is not held": ('"symbol":"BTC-USD","side":"SELL","quantity":"1"', "insufficient_quantity"),
    "below the minimum": (USUAL + ',"notional":"0.5"', "below_minimum"),
    "nothing to close": ('"symbol":"BTC-USD","side":"SELL","close":true', "nothing_to_close"),
}
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "duplicate keys": (b'{"symbol":"BTC-USD","symbol":"BTC-USD","side":"BUY","notional":"50"}', "duplicate_key"),
    "300 kB": (dumped({**MANUAL, "note": "x" * 300_000}), "too_large"),
    "deep nesting": (DEEP.encode(), "too_deep"),
    "deep arrays": (b"[" * 20_000, "too_deep"),
    "not an object": (b'["BTC-USD"]', "not_an_object"),
    "a text": (b"buy me some", "not_json"),
    "nothing": (b"", "not_json"),
    "not UTF-8": (b'{"symbol":"\xff\xfe"}', "not_utf8"),
    "a NUL": (b'{"symbol":"BTC-USD","side":"BUY","notional":"50","note":"\\u0000"}', "bad_text"),
    "a lone surrogate": (b'{"symbol":"BTC-USD","side":"BUY","notional":"50","note":"\\ud800"}', "bad_text"),
    "a bad request id": (dumped({**MANUAL, "request_id": "a/b"}), "bad_request_id"),
    "a number as request id": (dumped({**MANUAL, "request_id": 7}), "bad_request_id"),
}


async def test_everything_malformed_is_refused_by_name_and_nothing_is_traded(house: tuple[Server, Ear]) -> None:
    server, ear = house
    undecodable = {"not_json", "number_too_large"}
    for number, (name, (fields, code)) in enumerate(REFUSED.items()):
        request_id = f"bad-{number}"
        await ear.say("main/request/trade", f'{{"request_id":"{request_id}",{fields}}}')
        if code in undecodable:
            await ear.alert(code, name)
            continue
        if name == "a symbol without a price":
            # Accepted or refused by name: either way nothing may be traded at an invented price.
            await ear.on(f"main/response/{request_id}")
            continue
        answer = await ear.answer(request_id)
        assert (answer["status"], answer["reason"]["code"]) == ("refused", code), name
        assert answer["reason"]["expected"], name
        assert answer["trades"] == []
    _settled(server, 0)
    await _still_trades(ear)


async def test_everything_unreadable_is_a_dead_letter_with_an_alert(house: tuple[Server, Ear]) -> None:
    server, ear = house
    for name, (payload, code) in UNREADABLE.items():
        await ear.say("main/request/trade", payload)
        await ear.alert(code, name)
    letters = server.books.dead_letters()
    assert sorted(letter.reason.code for letter in letters) == sorted(code for _, code in UNREADABLE.values())
    assert max(len(letter.payload) for letter in letters) <= 4096
    assert max(letter.size for letter in letters) > 300_000
    _settled(server, 0)
    await _still_trades(ear)


async def test_an_unknown_account_is_refused_by_name(house: tuple[Server, Ear]) -> None:
    server, ear = house
    await ear.say("nobody/request/trade", {**MANUAL, "request_id": "who"})
    answer = await ear.answer("who", "nobody")
    assert answer["reason"]["code"] == "unknown_account"
    assert "main" in answer["reason"]["expected"]
    _settled(server, 0)
    await _still_trades(ear)


async def test_a_topic_that_is_none_is_a_dead_letter(house: tuple[Server, Ear]) -> None:
    server, ear = house
    topics = [
        "Main/request/trade",
        "market/request/trade",
        "main/request/buy",
        "main/request/trade/bot/Not-A-Bot",
        "ma.in/request/trade",
        "-/request/halt",
    ]
    if server.settings == ():
        topics.remove("main/request/trade/bot/Not-A-Bot")  # the embedded broker lets nobody publish there
    for topic in topics:
        await ear.say(topic, {**MANUAL, "request_id": "nowhere"})
        alert = await ear.until(
            lambda: next((h for h in ear.heard if h.last == "alert" and h.body["code"] == "bad_topic"), None), topic
        )
        assert alert.body["about"]["topic"] == f"{V1}/{topic}"
        ear.heard.remove(alert)
        _settled(server, 0)
    await _still_trades(ear)


async def test_an_illegal_topic_harms_nobody(embedded: tuple[Server, Ear]) -> None:
    server, ear = embedded
    topics = ["main/request/trade/", "main//request/trade", "main/request/tra de", "/"]
    for number, topic in enumerate(topics, 1):
        await _mosquitto_pub(server.port, topic, json.dumps(MANUAL))
        await _still_trades(ear, f"still-there-{number}")
        _settled(server, number)


# ---- retained commands ----------------------------------------------------------------------------------


async def test_a_request_retained_before_the_daemon_came_is_refused_cleared_and_alerted(tmp_path: Path) -> None:
    async with running_broker(MOSQUITTO, tmp_path) as broker, Ear(broker.port) as ear:
        await _prices(ear)
        await ear.say("main/request/trade", MANUAL, retain=True)
        await ear.say("main/request/deposit", {"amount": "5", "request_id": "kept"}, retain=True)
        settings = ["broker.embedded=false"]
        async with serving(tmp_path / "data", port=broker.port, settings=settings) as server:
            await ear.until(
                lambda: len([h for h in ear.all("main/alert") if h.body["code"] == "retained_command"]) == 2
            )
            await price_known(ear)
            await _still_trades(ear)
            await retains(server.port, lambda kept: kept == {}, f"{V1}/+/request/#")
            _settled(server, 1)
            assert server.books.head == 2


@pytest.mark.parametrize("command", ["halt", "resume"])
async def test_clearing_a_retained_halt_or_resume_does_not_halt_or_resume(tmp_path: Path, command: str) -> None:
    """Clearing publishes an empty message on the same topic, which must not be taken for the command."""
    async with running_broker(MOSQUITTO, tmp_path) as broker, Ear(broker.port) as ear:
        await _prices(ear)
        settings = ["broker.embedded=false"]
        async with serving(tmp_path / "data", port=broker.port, settings=settings) as server:
            if command == "resume":
                await ear.ask({"request_id": "stop"}, "halt")
            assert await server.stop() == 0
            await ear.say(f"main/request/{command}", {}, retain=True)
            # Another client id, another session: the old one kept the request itself, which is a request.
            (server.data_dir / "broker" / "credential.json").unlink()
            await server.start()
            await ear.on("main/alert", lambda h: h.body["code"] == "retained_command")
            await retains(server.port, lambda kept: kept == {}, f"{V1}/+/request/#")
            if command == "halt":
                await price_known(ear)
            answer = await ear.ask({**MANUAL, "request_id": "after"})
            assert answer["status"] == ("filled" if command == "halt" else "refused"), answer


async def test_a_request_retained_while_the_daemon_runs_trades_once_and_never_again(
    embedded: tuple[Server, Ear],
) -> None:
    """MQTT shows a subscriber that is there no retain flag; the copy comes with it at the next start."""
    server, ear = embedded
    await ear.say("main/request/trade", MANUAL, retain=True)
    await ear.on("main/trade")
    assert await server.stop() == 0
    await server.start()
    await ear.on("main/alert", lambda h: h.body["code"] == "retained_command")
    await price_known(ear)
    await _still_trades(ear)
    _settled(server, 2)


# ---- forged messages ------------------------------------------------------------------------------------


async def test_nobody_can_speak_for_a_bot_or_for_the_daemon_on_the_embedded_broker(
    embedded: tuple[Server, Ear],
) -> None:
    server, ear = embedded
    forged = [
        ("main/request/trade/bot/momentum", {**MANUAL, "request_id": "forged", "triggered_by": "bot:momentum"}),
        ("main/trade", {"id": "x", "sequence": 999}),
        ("main/portfolio", {"account": "main", "cash": "1000000", "sequence": 999}),
        ("main/response/forged", {"request_id": "forged", "status": "filled", "final": True}),
        ("status", {"state": "offline"}),
    ]
    for topic, body in forged:
        assert await _mosquitto_pub(server.port, topic, json.dumps(body), "-r") == 0
    topics = set()
    for topic, _ in forged:
        alert = await ear.alert("forged_topic", topic, "alert")
        topics.add(alert.body["about"]["topic"])
    assert topics == {f"{V1}/{topic}" for topic, _ in forged}
    assert {letter.reason.code for letter in server.books.dead_letters()} == {"forged_topic"}
    assert ear.all("main/response/forged") == []
    await _still_trades(ear)
    assert not [h for h in ear.heard if isinstance(h.body, dict) and h.body.get("sequence") == 999]
    _settled(server, 1)


@pytest.mark.parametrize("tag", ["bot:momentum", None])
async def test_on_a_broker_that_lets_everybody_publish_a_forged_bot_request_is_a_dead_letter(
    tmp_path: Path, tag: str | None
) -> None:
    async with running_broker(MOSQUITTO, tmp_path) as broker, Ear(broker.port) as ear:
        settings = ["broker.embedded=false"]
        async with serving(tmp_path / "data", port=broker.port, settings=settings) as server:
            await _prices(ear)
            await price_known(ear)
            body = {**MANUAL, "request_id": "forged", **({"triggered_by": tag} if tag else {})}
            await ear.say("main/request/trade/bot/momentum", body)
            await ear.on("main/alert", lambda h: h.body["code"] == "forged_request")
            await _still_trades(ear)
            _settled(server, 1)


# ---- the market -----------------------------------------------------------------------------------------

BAD_MARKET: list[tuple[str, Any]] = [
    ("market/BTC-USD/price", {"price": "-1", "time": "2026-01-01T00:00:00Z"}),
    ("market/BTC-USD/price", {"price": 50_000, "time": "2026-01-01T00:00:00Z"}),
    ("market/BTC-USD/price", {"price": "NaN", "time": "2026-01-01T00:00:00Z"}),
    ("market/BTC-USD/price", {"price": "1", "time": "yesterday"}),
    ("market/BTC-USD/price", b"\xff"),
    ("market/BTC-USD/price", b"x" * 300_000),
    ("market/BTC-USD/candle/1m", {"time": "2026-01-01T00:00:00Z", "open": "1"}),
    (
        "market/BTC-USD/candle/1m",
        {"time": "2026-01-01T00:00:00Z", "open": "5", "high": "1", "low": "9", "close": "5", "volume": "1"},
    ),
    (
        "market/BTC-USD/candle/9999w",
        {"time": "9999-12-31T23:59:00Z", "open": "1", "high": "1", "low": "1", "close": "1", "volume": "1"},
    ),
    (
        "market/SOL-USD/candle/1m",
        {"time": "9999-12-31T23:59:00Z", "open": "1", "high": "1", "low": "1", "close": "1", "volume": "1"},
    ),
    (
        "market/A..B/candle/1m",
        {"time": "2026-01-01T00:00:00Z", "open": "1", "high": "1", "low": "1", "close": "1", "volume": "1"},
    ),
    ("market/NOSUCH/price", {"price": "1", "time": "0001-01-01T00:00:00Z"}),
    ("market/NOSUCH/price", {"price": "0.000000000000000001", "time": "9999-12-31T23:59:59.999999Z"}),
]


async def test_bad_prices_and_candles_stop_nothing(house: tuple[Server, Ear]) -> None:
    server, ear = house
    for topic, body in BAD_MARKET:
        await ear.say(topic, body)
    await _still_trades(ear)
    await ear.say("market/BTC-USD/price", {"price": "51000", "time": now_text()})
    await ear.on("main/position/BTC-USD", lambda h: h.body["mark_price"] == "51000")  # all of them were read
    await _still_trades(ear, "still-there-2")
    assert min(trade.price for trade in server.books.trades) > 49_000
    assert server.running
    _settled(server, 2)


OTHER_BAD: list[tuple[str, dict[str, Any]]] = [
    ("deposit", {"amount": "-5"}),
    ("deposit", {"amount": 5}),
    ("deposit", {"amount": "NaN"}),
    ("deposit", {"amount": "5", "effective_at": "9999-12-31T23:59:59Z"}),
    ("withdraw", {"amount": "1000000"}),
    ("cancel", {"order_id": "no-such-order"}),
    ("halt", {"note": 7}),
    ("resume", {"triggered_by": "bot:x"}),
    ("recompute", {"why": "x"}),
]


async def test_other_bad_requests_are_refused_by_name(embedded: tuple[Server, Ear]) -> None:
    server, ear = embedded
    for number, (command, body) in enumerate(OTHER_BAD, 1):
        answer = await ear.ask({**body, "request_id": f"no-{number}"}, command)
        assert answer["status"] == "refused", (command, body)
        assert answer["reason"]["code"], (command, body)
        await _still_trades(ear, f"still-there-{number}")
        _settled(server, number)


async def test_the_largest_deposit_is_exact(embedded: tuple[Server, Ear]) -> None:
    server, ear = embedded
    amount = "999999999999999999.999999999999999999"
    assert (await ear.ask({"amount": amount, "request_id": "all"}, "deposit"))["status"] == "done"
    portfolio = await ear.on("main/portfolio", lambda h: h.body["sequence"] == 2)
    assert Decimal(portfolio.body["cash"]) == Decimal(amount) + 10_000
    assert (await ear.ask({"amount": amount, "request_id": "back"}, "withdraw"))["status"] == "done"
    portfolio = await ear.on("main/portfolio", lambda h: h.body["sequence"] == 3)
    assert portfolio.body["cash"] == "10000"
    assert server.books.problems() == []
