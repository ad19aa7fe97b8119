"""Stops in real daemons: killed on the way they trade as the replay does, and they guard what a person buys."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.brokers import MOSQUITTO, running_broker
from tests.integration.daemons import Ear, Heard, Server, advised_until, candle, serving
from tests.integration.test_same_trades import BTC, ETH, SMA, Case, make_case, played, replayed, same_books

STOPS = """
stop_loss_pct = {loss}
trailing_stop_pct = {trailing}
take_profit_pct = {target}
"""
GUARD = """
name = "guard"
class = "sma-cross"
symbol = "BTC-USD"
timeframe = "1m"
fast = 1900
slow = 2000
"""


OLD_PRICES = "execution.stale_price_seconds=0"


def guarded_case(folder: Path) -> Case:
    """Two symbols and four bots with stops: two share a position, one only guards what the others buy."""
    case = make_case(folder, count=1500)
    for file in case.bots.glob("*.toml"):
        file.unlink()
    for name, symbol, quantity, fast, slow in (
        ("calm", BTC, "0.05", 8, 21),
        ("quick", BTC, "0.02", 3, 8),
        ("keen", ETH, "2", 4, 9),
    ):
        text = SMA.format(name=name, symbol=symbol, fast=fast, slow=slow, quantity=quantity)
        stops = STOPS.format(loss="1.5", trailing="1", target="2.5")
        (case.bots / f"{name}.toml").write_text(text + stops)
    guard = GUARD + STOPS.format(loss="2", trailing="1.2", target="3")
    (case.bots / "guard.toml").write_text(guard)
    return case


@pytest.mark.parametrize("kills", [6, pytest.param(30, marks=pytest.mark.long)])
async def test_stops_close_as_in_replay_when_the_daemon_is_killed_on_the_way(tmp_path: Path, kills: int) -> None:
    case = guarded_case(tmp_path / "case")
    expected = await replayed(case)
    tags = Counter(trade.triggered_by for trade, _ in expected.trades)
    assert tags.keys() == {"bot:calm", "bot:quick", "bot:keen", "stop:calm", "stop:keen"}  # calm is asked first
    assert sum(count for tag, count in tags.items() if tag.startswith("stop:")) > 20
    books = await played(Server(tmp_path / "data", settings=case.settings, bots=[case.bots]), kills)
    same_books(books, expected)
    placed = Counter(order.request_id for order in books.orders)
    assert max(placed.values()) == 1


def candles(first: int, *prices: str) -> Iterator[dict[str, str]]:
    """Candles from a minute on, the last price over and over: what is asked for at one is done at a later one."""
    for number in range(50):
        yield candle(f"2026-01-01T00:{first + number:02}:00Z", prices[min(number, len(prices) - 1)])


def sale(ear: Ear) -> Heard | None:
    """The first sell."""
    return next((heard for heard in ear.all("main/trade") if heard.body["side"] == "SELL"), None)


async def test_a_stop_guards_what_a_person_bought_over_a_kill_and_its_levels_are_on_the_bus(tmp_path: Path) -> None:
    file = tmp_path / "guard.toml"
    file.write_text(GUARD + "trailing_stop_pct = 10\n")
    async with serving(tmp_path / "data", bots=[file], settings=[OLD_PRICES]) as server:
        async with Ear(server.port) as ear:
            await ear.say("market/BTC-USD/candle/1m", candle("2026-01-01T00:00:00Z", "100"))
            await ear.on("bot/guard/recommendation")
            bought = await ear.ask({"request_id": "mine", "symbol": "BTC-USD", "side": "BUY", "quantity": "1"})
            assert bought["status"] == "filled"
            await ear.say("market/BTC-USD/candle/1m", candle("2026-01-01T00:01:00Z", "200"))
            state = await ear.on(
                "bot/guard/state", lambda heard: (heard.body["stops"] or {}).get("high_water_mark") == "200"
            )
            assert state.body["stops"]["trailing_stop"] == "180"
            assert state.body["stops"]["triggered"] is None
        await server.kill()
        await server.start()
        async with Ear(server.port, "after") as ear:
            sold = await advised_until(ear, "guard", BTC, candles(2, "180"), lambda: sale(ear))
            await ear.alert("stop_triggered")
            assert sold.body["triggered_by"] == "stop:guard"
            assert sold.body["quantity"] == "1"
            assert sold.body["signal_context"]["stop"] == "trailing_stop"
            assert sold.body["signal_context"]["levels"]["high_water_mark"] == "200"
        assert len(server.books.trades) == 2


async def test_stops_learn_costs_when_the_portfolio_is_in_another_process(tmp_path: Path) -> None:
    file = tmp_path / "guard.toml"
    file.write_text(GUARD + "stop_loss_pct = 5\n")
    settings = [OLD_PRICES, "broker.embedded=false"]
    data = tmp_path / "data"
    async with (
        running_broker(MOSQUITTO, tmp_path) as broker,
        Ear(broker.port) as ear,
        serving(data, port=broker.port, settings=settings, roles=("execution", "portfolio")) as house,
        serving(data, port=broker.port, settings=settings, roles=("signals",), bots=[file]),
    ):
        await ear.say("market/BTC-USD/candle/1m", candle("2026-01-01T00:00:00Z", "100"))
        await ear.on("bot/guard/recommendation")
        await ear.ask({"request_id": "mine", "symbol": "BTC-USD", "side": "BUY", "quantity": "1"})
        sold = await advised_until(ear, "guard", BTC, candles(1, "99", "95"), lambda: sale(ear))
        assert sold.body["triggered_by"] == "stop:guard"
        assert len(house.books.trades) == 2
