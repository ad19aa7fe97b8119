"""Limits on losses in a running daemon: what the bus hears, and what kill -9 does not forget."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from execution import marks
from execution.model import OrderStatus
from tests.integration.daemons import Ear, Server, price_known, retains, serving

LIMITS = ("account.initial_deposit=10000", "risk.max_drawdown_pct=10", "log.level=warning", *(
    f"paper.{name}=0" for name in ("taker_fee_bps", "maker_fee_bps", "half_spread_bps", "slippage_bps")
))  # fmt: skip


async def price(ear: Ear, text: str) -> None:
    """A last price, now."""
    time = datetime.now(UTC) + timedelta(milliseconds=1)
    body = {"price": text, "time": time.isoformat().replace("+00:00", "Z")}
    await ear.say("market/BTC-USD/price", body, retain=True)


async def buy(ear: Ear, request_id: str, **size: str) -> dict[str, object]:
    """The final answer to a market buy."""
    answer: dict[str, object] = await ear.ask({"request_id": request_id, "symbol": "BTC-USD", "side": "BUY", **size})
    return answer


async def equity_is(ear: Ear, equity: str) -> None:
    """Wait until the portfolio has heard of a price, which execution heard of before."""
    await ear.on("main/portfolio", lambda heard: heard.body["equity"] == equity)


async def test_a_broken_limit_halts_the_account_on_the_bus_and_in_the_books(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", settings=LIMITS) as server, Ear(server.port) as ear:
        await price(ear, "100")
        await price_known(ear)
        assert (await buy(ear, "all", quantity="100"))["status"] == "filled"
        resting = {"request_id": "rest", "symbol": "BTC-USD", "side": "SELL", "quantity": "1", "limit_price": "200"}
        await ear.say("main/request/trade", resting)
        await ear.on("main/response/rest")
        await price(ear, "89.99")
        halt = await ear.on("main/halt", lambda heard: heard.body["halted"])
        assert halt.body["by"] == "limit:drawdown"
        assert "10.01 % below its peak of 10000" in halt.body["reason"]
        alert = await ear.alert("drawdown")
        assert alert.body["severity"] == "high"
        assert (await ear.answer("rest"))["status"] == "cancelled"
        refused = await ear.ask({"request_id": "no", "symbol": "BTC-USD", "side": "SELL", "close": True})
        assert refused["reason"]["code"] == "trading_halted"
        await server.kill()
        await server.start()
        await retains(server.port, lambda kept: kept["main/halt"]["by"] == "limit:drawdown")
        assert [order.status for order in server.books.orders] == [OrderStatus.CANCELLED, OrderStatus.FILLED]
        await ear.say("main/request/resume", {"request_id": "go"})
        await ear.answer("go")
        await price(ear, "89.98")
        await price_known(ear)
        sold = await ear.ask({"request_id": "out", "symbol": "BTC-USD", "side": "SELL", "close": True})
        assert sold["status"] == "filled"


async def test_kill_9_forgets_no_peak(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", settings=LIMITS)
    try:
        await server.start()
        async with Ear(server.port) as ear:
            await price(ear, "100")
            await price_known(ear)
            await buy(ear, "all", quantity="100")
            await price(ear, "200")
            await equity_is(ear, "20000")
            await server.kill()
            assert server.books.read(marks.read)["main"].peak_equity == 20_000
            await server.start()
            await price(ear, "179.9")
            halt = await ear.on("main/halt", lambda heard: heard.body["halted"])
            assert "below its peak of 20000" in halt.body["reason"]
    finally:
        if server.running:
            await server.kill()
