"""A daemon whose files change while it runs, seen over MQTT."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.integration.daemons import Ear, advised, candle, retains, serving

BOT = """
name = "cross"
class = "sma-cross"
symbol = "BTC-USD"
fast = 3
slow = 7
quantity = {quantity}
cooldown_minutes = 0
confirmation_minutes = 0
"""
STATE = "bot/cross/state"
QUICK = ["signals.reload_settle_ms=50", "signals.reload_sweep_seconds=0.2"]
FIRST = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=60)


async def play(ear: Ear, minute: int, price: int) -> None:
    """A closed candle of a minute, on which the bot has advised."""
    time = (FIRST + timedelta(minutes=minute)).isoformat().replace("+00:00", "Z")
    await advised(ear, "cross", "BTC-USD", candle(time, str(price)))


def put(file: Path, text: str) -> None:
    """Write a file at once, as editors do: a writer that stands still half-way leaves an empty one for a while."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


async def test_an_edited_bot_file_is_taken_told_and_traded_by(tmp_path: Path) -> None:
    folder = tmp_path / "bots"
    folder.mkdir()
    file = folder / "cross.toml"
    file.write_text(BOT.format(quantity="0.01"))
    settings = tmp_path / "data" / "fillbook.toml"
    settings.parent.mkdir()
    settings.write_text("[paper]\ntaker_fee_bps = 10\n")
    async with serving(tmp_path / "data", bots=[folder], settings=QUICK) as server, Ear(server.port) as ear:
        for minute in range(8):
            await play(ear, minute, 100 - minute)

        put(file, BOT.format(quantity="-0.01"))
        alert = await ear.alert("bot_file_invalid", topic="main/alert")
        assert "quantity = -0.01: expected a number above 0" in alert.body["message"]
        assert alert.body["about"]["bot"] == "cross"
        bad = await ear.on(STATE, lambda heard: heard.body["file_error"])
        assert bad.body["status"] == "RUNNING"
        await retains(server.port, lambda kept: "quantity = -0.01" in (kept[STATE]["file_error"] or ""))

        ear.heard.clear()
        put(file, BOT.format(quantity="0.02"))
        await ear.on(STATE, lambda heard: heard.body["file_error"] is None)
        await play(ear, 8, 150)
        await play(ear, 9, 151)
        trade = (await ear.on("main/trade")).body
        assert (trade["quantity"], trade["triggered_by"]) == ("0.02", "bot:cross")

        put(folder / "second.toml", BOT.format(quantity="1").replace("cross", "second", 1))
        await ear.on("bot/second/state", lambda heard: heard.body["status"] == "RUNNING")
        (folder / "second.toml").unlink()
        await ear.on("bot/second/state", lambda heard: heard.body == b"")
        await retains(server.port, lambda kept: STATE in kept and "bot/second/state" not in kept)

        put(settings, "[paper]\ntaker_fee_bps = 20\n")
        changed = await ear.alert("settings_changed", topic="alert")
        assert "paper.taker_fee_bps: 10 -> 20" in changed.body["message"]
        assert "restart" in changed.body["message"]

        assert server.process is not None
        put(file, BOT.format(quantity="0.03"))
        server.process.send_signal(signal.SIGHUP)
        await server.logged("bot changed", 2)
        assert await server.stop() == 0
        assert server.books.problems() == []
        assert "Traceback" not in server.log


async def test_a_bot_whose_file_went_while_the_daemon_was_down_leaves_no_state_behind(tmp_path: Path) -> None:
    folder = tmp_path / "bots"
    folder.mkdir()
    for name in ("cross", "second"):
        (folder / f"{name}.toml").write_text(BOT.format(quantity="0.01").replace("cross", name, 1))
    async with serving(tmp_path / "data", bots=[folder], settings=QUICK) as server:
        async with Ear(server.port) as ear:
            await play(ear, 0, 100)
            await ear.on("bot/second/state", lambda heard: heard.body["last_recommendation"])
        assert await server.stop() == 0
        (folder / "second.toml").unlink()
        await server.start()
        async with Ear(server.port) as ear:  # its session was kept: it hears what was said before it came back
            await ear.on("bot/second/state", lambda heard: heard.body == b"")
            await retains(server.port, lambda kept: STATE in kept and "bot/second/state" not in kept)
