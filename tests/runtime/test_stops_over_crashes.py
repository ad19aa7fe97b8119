"""Each stop closes exactly once: through the composed core, and over a crash at every step."""

import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from config.settings import PaperSettings
from execution.model import Account, Request, Side
from tests.runtime.crashing import MARGIN, Script, World, bot, buy, deposit, halt, series

TREND = """
name = "{name}"
class = "sma-cross"
symbol = "BTC-USD"
fast = 1
slow = 2
quantity = 1
confirmation_minutes = 0
cooldown_minutes = {cooldown}
stop_loss_pct = 5
trailing_stop_pct = 4
take_profit_pct = 15
"""
"""Buys on the first rise; would sell on the first fall."""
GUARD = """
name = "{name}"
class = "sma-cross"
symbol = "BTC-USD"
account = "{account}"
fast = 500
slow = 600
{stops}
"""
"""Never trades by itself: it guards what others buy."""

FREE = PaperSettings(
    taker_fee_bps=Decimal(0), maker_fee_bps=Decimal(0), half_spread_bps=Decimal(0), slippage_bps=Decimal(0)
)
ALL_STOPS = [100, 99, 100, 101, 90, 90, 89, 90, 91, 106, 106, 105, 106, 107, 112, 106, 106, 106]
"""The trend bot buys at 100, 90 and 106; then come a fall by 10 %, a jump by 17 %, and a fall from the height."""


def trend(name: str = "trend", cooldown: int = 0) -> str:
    return TREND.format(name=name, cooldown=cooldown)


def guard(name: str = "guard", account: str = "main", **stops: object) -> str:
    lines = "\n".join(f"{key} = {value}" for key, value in stops.items())
    return GUARD.format(name=name, account=account, stops=lines)


def scripts() -> Iterator[object]:
    yield pytest.param(Script([bot(trend())], series(ALL_STOPS)), id="loss, target and trailing of one bot")
    both = [bot(trend()), bot(guard(stop_loss_pct=5, trailing_stop_pct=4, take_profit_pct=15))]
    yield pytest.param(Script(both, series(ALL_STOPS)), id="two bots share the position")
    thin = series(ALL_STOPS, {5: 2, 6: 3, 7: 0, 16: 4})
    yield pytest.param(Script(both, thin), id="thin volume: a stop needs several orders")
    bought = {1: [buy("mine", "2")], 5: [buy("again", "1")]}
    closes = [100, 100, 104, 110, 104, 104, 104, 99, 99, 99]
    person = Script(
        [bot(guard(trailing_stop_pct=5)), bot(guard("other", trailing_stop_pct=5))], series(closes), bought
    )
    yield pytest.param(person, id="a person buys, two bots guard")
    stopped: dict[int, Sequence[Request]] = {1: [buy("mine", "1")], 3: [halt("stop")], 5: [halt("go", False)]}
    halted = Script([bot(guard(stop_loss_pct=5))], series([100, 100, 100, 100, 90, 99, 99, 99, 99]), stopped)
    yield pytest.param(halted, id="trading is halted when the stop fires")
    short: dict[int, Sequence[Request]] = {
        1: [buy("short", "1", "margin", Side.SELL)],
        6: [buy("again", "1", "margin", Side.SELL)],
    }
    rising = Script(
        [bot(guard(account="margin", stop_loss_pct=5, trailing_stop_pct=3))],
        series([100, 100, 100, 107, 107, 107, 107, 100, 90, 93, 93, 93]),
        {0: [deposit("money", "margin", "1000")], **short},
        [MARGIN],
    )
    yield pytest.param(rising, id="short positions")


def closed_by_stops(world: World) -> Counter[str]:
    return Counter(trade[-1] for trade in world.trades() if trade[-1].startswith("stop:"))


def test_loss_target_and_trailing_each_close_the_position_once(tmp_path: Path) -> None:
    world = World(Script([bot(trend())], series(ALL_STOPS), paper=FREE), tmp_path / "world")
    world.run()
    assert [(at, side, price, by) for at, _, side, _, price, _, by in world.trades()] == [
        ("00:03", "BUY", "100", "bot:trend"),
        ("00:05", "SELL", "90", "stop:trend"),  # the bot's own SELL on this candle gives way
        ("00:08", "BUY", "90", "bot:trend"),
        ("00:10", "SELL", "106", "stop:trend"),
        ("00:13", "BUY", "106", "bot:trend"),
        ("00:16", "SELL", "106", "stop:trend"),
    ]
    told = [alert for alert in world.alerts if alert.code == "stop_triggered"]
    assert [alert.about["stop"] for alert in told] == ["stop_loss", "take_profit", "trailing_stop"]
    assert "closed at 90, the level was 95" in told[0].message
    assert "closed at 106, the level was 107.52" in told[2].message
    assert world.problems() == []


def test_buy_fees_are_part_of_the_cost_and_the_level_itself_is_reached(tmp_path: Path) -> None:
    people = {1: [buy("mine", "1")]}
    first = World(Script([bot(guard(stop_loss_pct=5))], series([100] * 4), people), tmp_path / "first")
    first.run()
    ((_, _, _, _, price, fee, _),) = first.trades()
    level = (Decimal(price) + Decimal(fee)) * Decimal("0.95")
    assert level > Decimal("95.5")  # without the fee it would be 95
    step = Decimal("0.0000000001")
    closes = [100, 100, 100, level + step, level, level]
    world = World(Script([bot(guard(stop_loss_pct=5))], series(closes), people), tmp_path / "world")
    world.run()
    assert [(trade[0], trade[-1]) for trade in world.trades()] == [("00:02", "manual"), ("00:05", "stop:guard")]


@pytest.mark.parametrize("script", list(scripts()))
@pytest.mark.parametrize("redeliver", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_crash_at_any_step_changes_no_trade_and_no_order(tmp_path: Path, script: Script, redeliver: bool) -> None:
    undisturbed = World(script, tmp_path / "undisturbed")
    steps = undisturbed.run()
    trades, orders = undisturbed.trades(), undisturbed.orders()
    assert closed_by_stops(undisturbed).total() > 0
    assert undisturbed.problems() == []
    for fatal in range(1, len(steps.names) + 1):
        world = World(script, tmp_path / "world", redeliver)
        world.run(fatal)
        assert world.lives == 2
        assert world.trades() == trades, f"after a crash at step {fatal}, {steps.names[fatal - 1]}"
        assert world.orders() == orders, f"after a crash at step {fatal}, {steps.names[fatal - 1]}"
        shutil.rmtree(world.folder)


@pytest.mark.parametrize("script", list(scripts()))
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_crash_upon_crash_changes_no_trade_and_no_order(tmp_path: Path, script: Script, seed: int) -> None:
    undisturbed = World(script, tmp_path / "undisturbed")
    undisturbed.run()
    rng = random.Random(seed)
    world = World(script, tmp_path / "world", redeliver=True)
    world.run(*(rng.randint(1, 25) for _ in range(60)))
    assert 5 < world.lives < 60
    assert world.trades() == undisturbed.trades()
    assert world.orders() == undisturbed.orders()
    assert world.problems() == []


def test_a_stop_that_a_halt_refuses_stays_armed_and_closes_once_after_the_resume(tmp_path: Path) -> None:
    people: dict[int, Sequence[Request]] = {1: [buy("mine", "1")], 3: [halt("stop")], 6: [halt("go", False)]}
    closes = [100, 100, 100, 100, 90, 99, 99, 99, 99, 99]  # it triggers in minute 4 and the price recovers
    world = World(Script([bot(guard(stop_loss_pct=5))], series(closes), people), tmp_path / "world")
    world.run()
    assert [(trade[0], trade[-1]) for trade in world.trades()] == [("00:02", "manual"), ("00:08", "stop:guard")]
    assert [(status, by) for _, status, by in world.orders() if by.startswith("stop:")] == [("filled", "stop:guard")]
    asked = {request.request_id for request in world.sent if request.triggered_by == "stop:guard"}
    assert len(asked) == 4, "at the closes of minutes 4 to 6, which were refused, and of minute 7"
    assert [alert.code for alert in world.alerts].count("stop_triggered") == 1
    assert world.problems() == []


def test_two_accounts_of_one_symbol_stay_apart(tmp_path: Path) -> None:
    people: dict[int, Sequence[Request]] = {
        0: [deposit("money", "second", "1000")],
        1: [buy("mine", "1"), buy("theirs", "2", "second")],
    }
    bots = [bot(guard(stop_loss_pct=5)), bot(guard("far", "second", stop_loss_pct=20))]
    closes = [100, 100, 100, 90, 90, 75, 75, 75]
    world = World(Script(bots, series(closes), people, [Account("second")]), tmp_path / "world")
    world.run()
    assert [(at, account, quantity, by) for at, account, _, quantity, _, _, by in world.trades()] == [
        ("00:02", "main", "1", "manual"),
        ("00:02", "second", "2", "manual"),
        ("00:04", "main", "1", "stop:guard"),
        ("00:06", "second", "2", "stop:far"),
    ]
