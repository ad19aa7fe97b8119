"""Bots changed while they run: one call at a time, what a new bot takes over from the old one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from execution.errors import StorageUnavailable
from execution.model import Candle, OrderRequest, ResponseStatus, Side
from execution.writer import InlineReader
from signals import runner as runners
from signals import tables
from signals.bot import Bar
from signals.classes import build_bot
from signals.errors import BotNotTaken, UnknownBot
from signals.model import BotRemoved, BotState, BotStatus
from signals.runner import BotRunner
from signals.service import Output
from signals.weighted import Weighted
from tests.signals.stage import (
    MINUTE,
    SMA,
    WEIGHTED,
    CountingWriter,
    Stage,
    advices,
    bot,
    candle,
    play,
    requests,
    walk,
)
from tests.signals.test_stops import QUIET, guarded

DOWN_UP = [*(candle(i, 100 - i) for i in range(8)), candle(8, 150), candle(9, 151)]
"""Closes on which SMA(3) crosses SMA(7) upwards on the ninth candle, and the candle after it."""


class SlowWriter:
    """Commits when it is let, as a real disk does: whoever reads meanwhile sees what was before."""

    def __init__(self, inner: CountingWriter) -> None:
        self._inner = inner
        self._free = asyncio.Event()
        self._free.set()
        self.asked = asyncio.Event()

    def hold(self) -> None:
        self._free.clear()
        self.asked.clear()

    def let_go(self) -> None:
        self._free.set()

    def submit(self, work: Callable[[Any], Any]) -> Awaitable[Any]:
        return self._submit(work)

    async def _submit(self, work: Callable[[Any], Any]) -> Any:
        self.asked.set()
        await self._free.wait()
        return await self._inner.submit(work)


class SlowStage(Stage):
    """A stage whose commits can be held up."""

    def __init__(self, *bots: Any, **options: Any) -> None:
        super().__init__(bots, **options)
        self.slow = SlowWriter(self.writer)
        self.reader = InlineReader(self.writer)
        self.service = type(self.service)(self.bots, self.slow, self.reader, self.clock)


async def turns() -> None:
    """Let every other task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def runner_of(stage: Stage, name: str = "sma") -> BotRunner:
    return stage.service._crew.runners[name]


def open_request(stage: Stage, name: str = "sma") -> str | None:
    policy = runner_of(stage, name).policy
    assert policy is not None
    return policy.open_request


def states(outputs: Sequence[Output]) -> list[BotState]:
    return [output for output in outputs if isinstance(output, BotState)]


def statuses(stage: Stage) -> dict[str, str]:
    return {state.bot: str(state.status) for state in stage.service.states()}


async def started(*bots: Any, **options: Any) -> Stage:
    stage = Stage(bots, **options)
    await stage.service.start()
    return stage


async def asked(stage: Stage) -> OrderRequest:
    """The request of the ninth candle."""
    found: list[OrderRequest] = []
    for one in DOWN_UP[:9]:
        found += requests(await stage.service.on_candle(one))
    (request,) = found
    return request


# ---- one call at a time ---------------------------------------------------------------------------------


async def test_a_stop_and_start_during_a_commit_neither_forgets_the_request_nor_the_candle() -> None:
    stage, calm = SlowStage(bot(SMA)), Stage([bot(SMA)])
    await stage.service.start()
    await calm.service.start()
    for one in DOWN_UP[:8]:
        await stage.service.on_candle(one)
        await calm.service.on_candle(one)
    stage.slow.hold()
    candle_in = asyncio.create_task(stage.service.on_candle(DOWN_UP[8]))
    await stage.slow.asked.wait()
    words = asyncio.gather(stage.service.set_bot("sma", "stop"), stage.service.set_bot("sma", "start"))
    await turns()
    stage.slow.let_go()
    (request,) = requests(await candle_in)
    await words
    await calm.service.on_candle(DOWN_UP[8])
    (mine,) = advices(await stage.service.on_candle(DOWN_UP[9]))
    (theirs,) = advices(await calm.service.on_candle(DOWN_UP[9]))
    assert (mine.score, mine.parts) == (theirs.score, theirs.parts)
    assert open_request(stage) == request.request_id


async def failed_bot(stage: Stage, monkeypatch: pytest.MonkeyPatch, one: Candle) -> None:
    """Let the only bot fail on a candle."""

    def fail(self: Weighted, bar: Bar) -> None:
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(Weighted, "update", fail)
    await stage.service.on_candle(one)
    monkeypatch.undo()


async def test_a_start_while_a_candle_is_being_stored_misses_no_candle(monkeypatch: pytest.MonkeyPatch) -> None:
    candles = walk(400, seed=21)
    stage, calm = SlowStage(bot(WEIGHTED)), Stage([bot(WEIGHTED)])
    for each in (stage, calm):
        await each.service.start()
        for one in candles[:299]:
            await each.service.on_candle(one)
        await failed_bot(each, monkeypatch, candles[299])
    stage.slow.hold()
    candle_in = asyncio.create_task(stage.service.on_candle(candles[300]))
    await stage.slow.asked.wait()
    word = asyncio.create_task(stage.service.set_bot("weighted", "start"))
    await turns()
    stage.slow.let_go()
    await candle_in
    await word
    await calm.service.on_candle(candles[300])
    await calm.service.set_bot("weighted", "start")
    (mine,) = advices(await stage.service.on_candle(candles[301]))
    (theirs,) = advices(await calm.service.on_candle(candles[301]))
    assert (mine.score, mine.parts) == (theirs.score, theirs.parts)


async def test_a_bot_is_replaced_between_two_candles_never_within_one() -> None:
    stage = SlowStage(bot(SMA))
    await stage.service.start()
    for one in DOWN_UP[:8]:
        await stage.service.on_candle(one)
    stage.slow.hold()
    candle_in = asyncio.create_task(stage.service.on_candle(DOWN_UP[8]))
    await stage.slow.asked.wait()
    change = asyncio.create_task(stage.service.put_bot(bot(SMA, quantity=2)))
    gone = asyncio.create_task(stage.service.remove_bot("sma"))
    await turns()
    assert runner_of(stage).file.quantity == 1
    stage.slow.let_go()
    (request,) = requests(await candle_in)
    await change
    assert BotRemoved("sma") in await gone
    assert request.quantity == 1
    assert stage.service.open_requests() == [request]


# ---- what a new bot takes over --------------------------------------------------------------------------


async def test_a_replaced_bot_is_warmed_and_advises_as_if_it_had_always_been_so() -> None:
    candles = walk(300, seed=22)
    stage, other = await started(bot(WEIGHTED)), await started(bot(WEIGHTED, threshold="0.9"))
    for one in candles[:280]:
        await stage.service.on_candle(one)
        await other.service.on_candle(one)
    (state,) = states(await stage.service.put_bot(bot(WEIGHTED, threshold="0.9")))
    assert state.status is BotStatus.RUNNING
    for one in candles[280:]:
        (mine,) = advices(await stage.service.on_candle(one))
        (theirs,) = advices(await other.service.on_candle(one))
        assert (mine.score, mine.parts, mine.side) == (theirs.score, theirs.parts, theirs.side)


async def test_a_running_confirmation_starts_over() -> None:
    stage = await started(bot(WEIGHTED, confirmation_minutes=0, cooldown_minutes=0))
    candles = walk(300, seed=23)
    confirmed = None
    for index, one in enumerate(candles):
        (advice,) = advices(await stage.service.on_candle(one))
        if index > 60 and advice.confirmed_since is not None:
            confirmed = index
            break
    assert confirmed is not None
    await stage.service.put_bot(bot(WEIGHTED, confirmation_minutes=2, cooldown_minutes=0))
    evaluated = await stage.service.set_bot("weighted", "evaluate")
    assert [advice.confirmed_since for advice in advices(evaluated)] == [None]


async def test_an_open_request_survives_a_replace_and_its_answer_is_taken() -> None:
    stage = await started(bot(SMA))
    request = await asked(stage)
    await stage.service.put_bot(bot(SMA, quantity=3))
    assert stage.service.open_requests() == [request]
    assert open_request(stage) == request.request_id
    await stage.refuse(request)
    assert (stage.service.open_requests(), open_request(stage)) == ([], None)
    policy = runner_of(stage).policy
    assert policy is not None
    assert request.decided_at is not None
    assert policy.backoff_until == request.decided_at + 5 * MINUTE


async def test_no_request_is_made_twice_for_one_candle_by_changing_the_file() -> None:
    stage = await started(bot(SMA, backoff_minutes=0))
    await stage.refuse(await asked(stage))
    await stage.service.put_bot(bot(SMA, backoff_minutes=0, confirmation_minutes=0, quantity=3))
    assert requests(await stage.service.set_bot("sma", "evaluate")) == []


async def test_nor_by_another_timeframe_and_back() -> None:
    minutes = {"timeframe": "1m", "backoff_minutes": 0, "confirmation_minutes": 0}
    stage = await started(bot(SMA, **minutes))
    await stage.refuse(await asked(stage))
    await stage.service.put_bot(bot(SMA, **{**minutes, "timeframe": "5m"}))
    await stage.service.put_bot(bot(SMA, **minutes))
    outputs = await stage.service.set_bot("sma", "evaluate")
    assert [advice.side for advice in advices(outputs)] == ["BUY"]
    assert requests(outputs) == []


async def test_the_cooldown_after_a_fill_goes_on_in_the_new_bot() -> None:
    stage = await started(bot(SMA, cooldown_minutes=30))
    request = await asked(stage)
    await stage.fill(request, Decimal(150), DOWN_UP[9].time)
    await stage.service.put_bot(bot(SMA, cooldown_minutes=20))
    (advice,) = advices(await stage.service.on_candle(DOWN_UP[9]))
    assert advice.cooldown_until == DOWN_UP[9].time + 20 * MINUTE


async def test_an_operators_stop_survives_a_change_and_a_start_runs_the_new_bot() -> None:
    stage = await started(bot(SMA))
    await play(stage, DOWN_UP[:5])
    await stage.service.set_bot("sma", "stop")
    (state,) = states(await stage.service.put_bot(bot(SMA, quantity=7)))
    assert state.status is BotStatus.STOPPED
    await play(stage, DOWN_UP[5:8])
    await stage.service.set_bot("sma", "start")
    (request,) = requests(await stage.service.on_candle(DOWN_UP[8]))
    assert request.quantity == 7


async def test_enabled_false_stops_and_true_starts() -> None:
    stage = await started(bot(SMA))
    await stage.service.put_bot(bot(SMA, enabled=False))
    assert statuses(stage) == {"sma": "STOPPED"}
    assert await stage.service.on_candle(DOWN_UP[0]) == []
    await stage.service.put_bot(bot(SMA))
    assert statuses(stage) == {"sma": "RUNNING"}
    assert len(advices(await stage.service.on_candle(DOWN_UP[1]))) == 1


async def test_a_bot_in_error_runs_again_with_a_good_file(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await started(bot(WEIGHTED))
    await failed_bot(stage, monkeypatch, DOWN_UP[0])
    assert statuses(stage) == {"weighted": "ERROR"}
    (state,) = states(await stage.service.put_bot(bot(WEIGHTED, threshold="0.1")))
    assert (state.status, state.last_error) == (BotStatus.RUNNING, None)
    assert len(advices(await stage.service.on_candle(DOWN_UP[1]))) == 1


async def test_another_symbol_is_another_series() -> None:
    stage = await started(bot(SMA))
    await play(stage, DOWN_UP[:5])
    await play(stage, [candle(i, 50, symbol="ETH-USD") for i in range(5)])
    (state,) = states(await stage.service.put_bot(bot(SMA, symbol="ETH-USD")))
    assert (state.symbol, state.timeframe, state.last_recommendation) == ("ETH-USD", "1m", None)
    assert await stage.service.on_candle(DOWN_UP[5]) == []
    assert len(advices(await stage.service.on_candle(candle(5, 50, symbol="ETH-USD")))) == 1


# ---- a change that fails --------------------------------------------------------------------------------


async def test_a_bot_that_cannot_be_warmed_leaves_the_old_one_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await started(bot(SMA))
    await play(stage, DOWN_UP[:8])
    real = build_bot

    def build(file: Any, *limits: Any) -> Any:
        if file.quantity == 9:
            raise ValueError("no such thing")
        return real(file, *limits)

    monkeypatch.setattr(runners, "build_bot", build)
    with pytest.raises(BotNotTaken, match="ValueError: no such thing"):
        await stage.service.put_bot(bot(SMA, quantity=9))
    (request,) = requests(await stage.service.on_candle(DOWN_UP[8]))
    assert request.quantity == 1


async def test_a_storage_failure_leaves_the_old_bot_at_work_and_the_next_try_succeeds() -> None:
    stage = await started(bot(SMA))
    await play(stage, DOWN_UP[:7])
    stage.writer.broken = StorageUnavailable("disk full")
    with pytest.raises(StorageUnavailable):
        await stage.service.put_bot(bot(SMA, quantity=5, enabled=False))
    with pytest.raises(StorageUnavailable):
        await stage.service.remove_bot("sma")  # its status could not be stored
    stage.writer.broken = None
    assert statuses(stage) == {"sma": "RUNNING"}
    assert len(advices(await stage.service.on_candle(DOWN_UP[7]))) == 1
    await stage.service.put_bot(bot(SMA, quantity=5))
    (request,) = requests(await stage.service.on_candle(DOWN_UP[8]))
    assert request.quantity == 5


# ---- bots that come and go ------------------------------------------------------------------------------


async def test_a_new_bot_starts_warm_and_in_the_order_of_names() -> None:
    stage = await started(bot(WEIGHTED))
    await play(stage, DOWN_UP[:8])
    (state,) = states(await stage.service.put_bot(bot(SMA)))
    assert (state.status, state.timeframe) == (BotStatus.RUNNING, "1m")
    outputs = await stage.service.on_candle(DOWN_UP[8])
    assert [advice.bot for advice in advices(outputs)] == ["sma", "weighted"]
    assert len(requests(outputs)) == 1
    assert list(statuses(stage)) == ["sma", "weighted"]


async def test_a_removed_bot_advises_no_more_and_its_request_is_still_answered() -> None:
    stage = await started(bot(SMA))
    request = await asked(stage)
    assert BotRemoved("sma") in await stage.service.remove_bot("sma")
    assert await stage.service.on_candle(DOWN_UP[9]) == []
    assert stage.service.open_requests() == [request]
    await stage.fill(request, Decimal(150), DOWN_UP[9].time)
    assert stage.service.open_requests() == []
    with pytest.raises(UnknownBot):
        await stage.service.remove_bot("sma")


async def test_a_bot_that_comes_back_knows_its_open_request_and_the_operators_stop() -> None:
    stage = await started(bot(SMA), bot(WEIGHTED))
    request = await asked(stage)
    await stage.service.set_bot("weighted", "stop")
    await stage.service.remove_bot("sma")
    await stage.service.remove_bot("weighted")
    assert statuses(stage) == {}
    with stage.engine.connect() as connection:
        assert len(connection.execute(select(tables.bot_states)).all()) == 2
    await stage.service.put_bot(bot(SMA))
    await stage.service.put_bot(bot(WEIGHTED))
    assert statuses(stage) == {"sma": "RUNNING", "weighted": "STOPPED"}
    assert open_request(stage) == request.request_id


async def test_a_start_says_which_bots_are_no_more() -> None:
    stage = await started(bot(SMA), bot(WEIGHTED))
    await play(stage, DOWN_UP[:2])
    stage.bots = [bot(SMA)]
    assert [output for output in await stage.restart() if isinstance(output, BotRemoved)] == [BotRemoved("weighted")]


async def test_a_restart_finds_the_replaced_bots_state() -> None:
    stage = await started(bot(SMA))
    request = await asked(stage)
    await stage.service.put_bot(bot(SMA, quantity=3))
    stage.bots = [bot(SMA, quantity=3)]
    await stage.restart()
    assert open_request(stage) == request.request_id


async def test_a_fault_of_the_file_is_part_of_what_is_said_about_the_bot() -> None:
    stage = await started(bot(SMA))
    (state,) = stage.service.set_file_error("sma", "line 3")
    assert (state.status, state.file_error) == (BotStatus.RUNNING, "line 3")
    assert stage.service.set_file_error("sma", "line 3") == []
    (state,) = states(await stage.service.put_bot(bot(SMA, quantity=3)))
    assert state.file_error is None


# ---- stops ----------------------------------------------------------------------------------------------


async def test_the_high_water_mark_survives_another_trailing_stop() -> None:
    stage = await guarded(bot(QUIET, trailing_stop_pct=20))
    await stage.by_hand(Side.BUY, "1")
    await stage.closes([100, 110])
    (state,) = states(await stage.service.put_bot(bot(QUIET, trailing_stop_pct=5)))
    assert state.stops is not None
    assert (state.stops.high_water_mark, state.stops.trailing_stop) == (110, Decimal("104.5"))
    (request,) = requests(await stage.close(2, "104.5"))
    assert request.triggered_by == "stop:sma"


async def test_a_triggered_stop_goes_on_closing_after_a_change_of_the_file() -> None:
    stage = await guarded(bot(QUIET, stop_loss_pct=5))
    await stage.by_hand(Side.BUY, "1")
    (request,) = requests(await stage.closes([100, 90]))
    await stage.service.put_bot(bot(QUIET, stop_loss_pct=50))
    assert stage.service.open_requests() == [request]
    assert requests(await stage.close(2, 100)) == []  # one at a time
    await stage.answer(request, ResponseStatus.REFUSED, "halted")
    (again,) = requests(await stage.close(3, 100))
    assert (again.triggered_by, again.close) == ("stop:sma", True)


async def test_the_marks_of_one_symbol_are_none_of_another() -> None:
    stage = await guarded(bot(QUIET, trailing_stop_pct=20))
    await stage.by_hand(Side.BUY, "1")
    await stage.closes([100, 110])
    (state,) = states(await stage.service.put_bot(bot(QUIET, symbol="ETH-USD", trailing_stop_pct=20)))
    assert state.stops is not None
    assert state.stops.high_water_mark is None
    (state,) = states(await stage.service.put_bot(bot(QUIET)))
    assert state.stops is None
