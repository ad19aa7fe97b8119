"""The screen itself, without a terminal: sizes, keys and what they send, a connection that breaks."""

import asyncio
import json
from datetime import datetime

import pytest
from rich.color import Color

from runtime.watch.model import BooksSeen
from runtime.watch.rows import trade_row
from runtime.watch.screen import WatchApp
from runtime.watch.widgets import Panel
from tests.runtime.watch.house import TOPICS, House, bot, halt, painted, portfolio, position, trade, until, when

SIZES = [(80, 24), (120, 40), (140, 45), (60, 16), (200, 60)]


@pytest.mark.parametrize("size", SIZES)
async def test_everything_has_its_place_at_each_size(size: tuple[int, int]) -> None:
    async with House() as house:
        await house.furnish()
        app = house.app()
        async with app.run_test(size=size) as pilot:
            await house.say(TOPICS.trade("main"), trade(8))
            shown = await until(pilot, "connected", "40,000.25", "BTC-USD", "trend", "[---", "bot:trend", "HEALTH")
            lines = shown.split("\n")
            assert len(lines) == size[1]
            assert max(map(len, lines)) <= size[0]
            assert "quit" in lines[-1]


async def test_the_screen_follows_the_terminals_size() -> None:
    async with House() as house:
        await house.furnish()
        async with house.app().run_test(size=(80, 24)) as pilot:
            await until(pilot, "trend")
            await pilot.resize_terminal(140, 45)
            assert len((await until(pilot, "[------:-|######--]")).split("\n")) == 45
            await pilot.resize_terminal(40, 10)
            await until(pilot, "60 x 16 are needed")
            await pilot.resize_terminal(80, 24)
            await until(pilot, "[---:|###-]", gone=["are needed"])


async def test_h_asks_and_y_halts_the_account_and_shows_the_answer() -> None:
    async with House() as house:
        await house.furnish()
        async with house.app().run_test(size=(100, 30)) as pilot:
            await until(pilot, "trend")
            await pilot.press("h")
            await until(pilot, "Halt account main?", "y yes")
            assert house.asked == []
            await pilot.press("y")
            await until(pilot, "halt main: done")
            ((topic, body),) = house.asked
            assert topic == "main/request/halt"
            assert body["note"] == "asked for in fillbook watch"
            assert body["request_id"].startswith("watch-")
            await house.say(TOPICS.halt("main"), halt(), retain=True)
            await until(pilot, " HALTED ", "lunch")


@pytest.mark.parametrize("key", ["n", "escape"])
async def test_n_does_nothing(key: str) -> None:
    async with House() as house:
        await house.furnish()
        async with house.app().run_test(size=(100, 30)) as pilot:
            await until(pilot, "trend")
            await pilot.press("h", key, "y")
            await until(pilot, "nothing was sent", gone=["Halt account"])
            assert house.asked == []


async def test_while_something_is_asked_no_other_key_asks_or_acts() -> None:
    async with House() as house:
        await house.furnish()
        async with house.app().run_test(size=(100, 30)) as pilot:
            await until(pilot, "trend")
            await pilot.press("r", "h", "s", "e", "y")
            await until(pilot, "resume main: done")
            assert [topic for topic, _ in house.asked] == ["main/request/resume"]


async def test_a_refusal_is_shown_with_its_reason() -> None:
    reason = {"code": "not_allowed", "field": "account", "value": "main", "expected": "another one"}
    async with House({"status": "refused", "reason": reason}) as house:
        await house.furnish()
        async with house.app().run_test(size=(120, 30)) as pilot:
            await until(pilot, "trend")
            await pilot.press("h", "y")
            await until(pilot, "halt main: refused: not_allowed: account = main: expected another one")


async def test_without_an_answer_the_outcome_is_unknown() -> None:
    house = House()  # nobody serves it
    app = house.app()
    app._desk = type(app._desk)(TOPICS, house.make_bus, answer_seconds=0.1)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, "connected")
        await pilot.press("h", "y")
        await until(pilot, "no answer within 0.1 s", "The outcome is unknown")


async def test_s_stops_the_chosen_bot_g_starts_it_e_has_it_evaluate() -> None:
    async with House() as house:
        await house.furnish()
        await house.say(TOPICS.bot_state("wave"), bot("wave"), retain=True)
        async with house.app().run_test(size=(100, 30)) as pilot:
            await until(pilot, "trend", "wave")
            await pilot.press("down", "s")
            await until(pilot, "Stop bot wave?")
            await pilot.press("y")
            await until(pilot, "bot wave: STOPPED", "stopped since")
            await pilot.press("g", "y")
            await until(pilot, "bot wave: RUNNING", gone=["stopped since"])
            await pilot.press("e")
            await until(pilot, "bot wave advises SELL, score -0.50", "[--##|:---]")
            assert house.asked == [("bot/wave/set", action) for action in ("stop", "start", "evaluate")]


async def test_a_bot_that_does_not_stop_is_said_so() -> None:
    async with House({"deaf": True}) as house:
        await house.furnish()
        async with house.app(bot_seconds=1).run_test(size=(100, 30)) as pilot:
            await until(pilot, "trend")
            await pilot.press("s", "y")
            await until(pilot, "bot trend did not become STOPPED within 1 s; it is RUNNING")


async def test_without_bots_there_is_none_to_stop() -> None:
    async with House() as house, house.app().run_test(size=(100, 30)) as pilot:
        await until(pilot, "no bots")
        await pilot.press("s")
        await until(pilot, "there is no bot to choose")


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_q_and_ctrl_c_end_the_screen_even_while_something_is_asked(key: str) -> None:
    async with House() as house:
        app = house.app()
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, "connected")
            await pilot.press("h", key)
            await pilot.pause()
        assert app.return_code == 0
        assert not house.buses[0].is_connected  # it said goodbye


async def test_a_goes_through_the_accounts_and_then_shows_all() -> None:
    async with House() as house:
        await house.furnish()
        other = portfolio(position("ETH-USD"), account="other", equity="777")
        await house.say(TOPICS.portfolio("other"), other, retain=True)
        async with house.app().run_test(size=(120, 30)) as pilot:
            await until(pilot, "account main", "40,000.25", gone=["777.00"])
            await pilot.press("a")
            await until(pilot, "account other", "777.00", "ETH-USD", gone=["40,000.25"])
            await pilot.press("a")
            await until(pilot, "all 2 accounts", "777.00", "40,000.25")
            await pilot.press("h", "y")
            await until(pilot, "halt main: done; halt other: done")
            assert [topic for topic, _ in house.asked] == ["main/request/halt", "other/request/halt"]
            await pilot.press("a")
            await until(pilot, "account main", gone=["777.00"])


def is_coloured(app: WatchApp) -> bool:
    """Whether the profit of the position is shown in green."""
    line = app.query_one("#positions", Panel).render_line(1)
    green = Color.parse("green")
    return any(part.text == "+500.00" and part.style is not None and part.style.color == green for part in line)


async def test_a_broken_connection_is_said_and_everything_is_renewed_when_it_is_back() -> None:
    async with House() as house:
        await house.furnish()
        app = house.app()
        async with app.run_test(size=(120, 30)) as pilot:
            await until(pilot, "connected", "trend")
            assert is_coloured(app)
            line = house.buses[0]
            await line.drop("the broker went away")
            await until(pilot, "connection lost, since", "trying again", "the broker went away", "trend")
            assert not is_coloured(app)
            await house.say(TOPICS.portfolio("main"), portfolio(position(), equity="1", sequence=8), retain=True)
            await line.start()
            await until(pilot, "connected", "equity 1.00", gone=["connection lost"])


async def test_bad_messages_are_counted_on_the_screen_and_hurt_nothing() -> None:
    async with House() as house:
        await house.furnish()
        async with house.app().run_test(size=(120, 30)) as pilot:
            await until(pilot, "trend")
            await house.say(TOPICS.portfolio("main"), {"cash": 1})
            await until(pilot, "1 not understood", "40,000.25")


async def test_a_flood_of_trades_is_painted_a_few_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    async with House() as house:
        await house.furnish()
        app = house.app()
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, "trend")
            paints: list[datetime] = []
            paint = app._paint_panels

            def counted(now: datetime, width: int, height: int) -> None:
                paints.append(now)
                paint(now, width, height)

            monkeypatch.setattr(app, "_paint_panels", counted)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            for sequence in range(8, 5008):
                await house.say(TOPICS.trade("main"), trade(sequence))
            await when(lambda: app._watched.sequence == 5007)
            await when(lambda: bool(paints))
            seconds = loop.time() - begun
            assert len(paints) <= seconds / 0.2 + 2
            await until(pilot, "/200")


async def test_help_is_shown_and_goes_away() -> None:
    async with House() as house, house.app().run_test(size=(80, 24)) as pilot:
        await until(pilot, "connected")
        await pilot.press("question_mark")
        await until(pilot, "keys and columns", "cancel the open orders")
        await pilot.press("escape")
        await until(pilot, "POSITIONS", gone=["keys and columns"])


async def test_the_chosen_bot_stays_chosen_when_others_come_before_it() -> None:
    async with House() as house:
        await house.furnish()
        async with house.app().run_test(size=(80, 24)) as pilot:
            await until(pilot, "trend")
            await house.say(TOPICS.bot_state("alpha"), bot("alpha"), retain=True)
            await until(pilot, "alpha")
            await pilot.press("s")
            await until(pilot, "Stop bot trend?")


async def test_more_bots_than_lines_can_be_scrolled() -> None:
    async with House() as house:
        for number in range(30):
            await house.say(TOPICS.bot_state(f"bot-{number:02}"), bot(f"bot-{number:02}"), retain=True)
        async with house.app().run_test(size=(80, 24)) as pilot:
            await until(pilot, "bot-00", "/30", gone=["bot-29"])
            await pilot.press("pagedown", "pagedown", "pagedown")
            await until(pilot, "bot-29", gone=["bot-00"])
            await pilot.press("pageup", "pageup", "pageup")
            await until(pilot, "bot-00")


async def test_what_the_database_says_is_shown_and_a_database_out_of_reach_too() -> None:
    found: list[BooksSeen | Exception] = [
        BooksSeen(41, 3, 2, (trade_row(trade(40, triggered_by="manual:eve")),), ()),
    ]

    def read() -> BooksSeen:
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    async with House() as house:
        app = WatchApp(house.app()._watched, house.make_bus, house.now, read)
        async with app.run_test(size=(140, 30)) as pilot:
            await until(pilot, "manual:eve", "sequence 41", "open orders 2", "dead letters 3")
    found[0] = OSError("no such disk")
    async with House() as house:
        app = WatchApp(house.app()._watched, house.make_bus, house.now, read)
        async with app.run_test(size=(140, 30)) as pilot:
            await until(pilot, "not readable: no such disk")


async def test_what_is_published_is_what_the_command_line_publishes() -> None:
    async with House() as house:
        await house.furnish()
        async with house.app().run_test(size=(80, 24)) as pilot:
            await until(pilot, "trend")
            await pilot.press("s", "y")
            await until(pilot, "bot trend: STOPPED")
            sent = [(topic, payload) for topic, payload, _ in house.broker.published if topic.endswith("/set")]
            assert sent == [(TOPICS.bot_set("trend"), b"stop")]
            await pilot.press("h", "y")
            await until(pilot, "halt main: done")
            (request,) = [payload for topic, payload, _ in house.broker.published if "/request/" in topic]
            assert set(json.loads(request)) == {"request_id", "note"}
            assert "POSITIONS" in painted(pilot.app)
