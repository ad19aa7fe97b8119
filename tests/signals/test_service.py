"""The service: what leaves, when, and what survives."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from execution import candles as stored_candles
from execution.errors import StorageUnavailable
from execution.model import AlertRaised, HaltChanged, Json, OrderRequest, Responded, ResponseStatus, Side
from signals import runner, tables
from signals.bot import Bar, BaseBot, PositionView, Verdict
from signals.bot_file import BotFile
from signals.errors import UnknownBot, UnknownCommand
from signals.model import BotState, BotStatus, Recommendation, Temperature, Wait
from signals.service import Output
from signals.sma_cross import SmaCross
from tests.signals.stage import MINUTE, SMA, START, WEIGHTED, Stage, advices, bot, candle, play, requests, walk

DOWN_UP = [*(candle(i, 100 - i) for i in range(8)), candle(8, 150), candle(9, 151)]
"""Closes on which SMA(3) crosses SMA(7) upwards on the ninth candle, and the candle after it."""
BOTH = [bot(SMA), bot(WEIGHTED)]


def essence(outputs: Sequence[Output]) -> list[Recommendation | OrderRequest]:
    return [output for output in outputs if isinstance(output, Recommendation | OrderRequest)]


def decided(outputs: Sequence[Recommendation | OrderRequest], until: datetime) -> list[Recommendation | OrderRequest]:
    return [output for output in outputs if output.decided_at is not None and output.decided_at <= until]


async def started(*bots: Any, **options: Any) -> Stage:
    stage = Stage(bots or BOTH, **options)
    await stage.service.start()
    return stage


async def test_every_closed_candle_brings_a_recommendation_and_a_cross_brings_a_request() -> None:
    stage = await started(bot(SMA))
    outputs = await play(stage, DOWN_UP[:9])
    assert [(a.time, a.decided_at) for a in advices(outputs)] == [(c.time, c.close_time) for c in DOWN_UP[:9]]
    assert [a.ready_to_trade for a in advices(outputs)] == [False] * 8 + [True]
    (request,) = requests(outputs)
    assert request.request_id == "sma-BTC-USD-1m-20260101T000900Z"
    assert (request.side, request.quantity, request.triggered_by) == (Side.BUY, Decimal(1), "bot:sma")
    assert request.decided_at == DOWN_UP[8].close_time
    assert request.signal_context is not None
    assert request.signal_context["values"] == {"fast": (94 + 93 + 150) / 3, "slow": (150 + sum(range(93, 99))) / 7}


async def test_a_rejected_order_starts_the_back_off_and_no_cooldown() -> None:
    always = bot(WEIGHTED, threshold=0, confirmation_minutes=0, cooldown_minutes=30, backoff_minutes=3)
    stage = await started(always)
    candles = iter(walk(300, seed=21))
    outputs: list[Output] = []
    while not requests(outputs):
        outputs = await stage.service.on_candle(next(candles))
    (request,) = requests(outputs)
    await stage.service.on_response(Responded("main", request.request_id, ResponseStatus.REJECTED, True))
    assert request.decided_at is not None
    later: list[Output] = []
    while not requests(later):
        later += await stage.service.on_candle(next(candles))
    assert {advice.cooldown_until for advice in advices(later)} == {None}
    until = request.decided_at + 3 * MINUTE
    buys = [advice.decided_at for advice in advices(later) if advice.side is Side.BUY]
    assert [moment for moment in buys if moment >= until] == [requests(later)[0].decided_at]
    assert len(buys) > 1  # it would have bought in between


async def test_candle_and_request_are_stored_before_anything_leaves() -> None:
    stage = await started(bot(SMA))
    (request,) = requests(await play(stage, DOWN_UP[:9]))
    with stage.engine.connect() as connection:
        assert stored_candles.history(connection, "BTC-USD", "1m") == DOWN_UP[:9]
        row = connection.execute(select(tables.signal_outbox)).one()
    assert (row.request_id, row.status, row.bot) == (request.request_id, "open", "sma")


async def test_old_and_doubled_candles_are_ignored_also_after_a_restart() -> None:
    stage = await started(bot(SMA))
    await play(stage, DOWN_UP[:5])
    assert await stage.service.on_candle(DOWN_UP[4]) == []
    assert await stage.service.on_candle(DOWN_UP[0]) == []
    await stage.restart()
    assert await stage.service.on_candle(DOWN_UP[4]) == []
    assert len(await stage.service.on_candle(DOWN_UP[5])) == 1


async def test_a_bot_has_one_open_request_and_repeats_it_until_it_is_answered() -> None:
    stage = await started(bot(WEIGHTED, cooldown_minutes=0, confirmation_minutes=0))
    outputs = []
    for one in walk(400, seed=4):
        outputs += await stage.service.on_candle(one)
    (request,) = requests(outputs)
    assert stage.service.open_requests() == [request]
    await stage.restart()
    assert stage.service.open_requests() == [request]
    accepted = Responded("main", request.request_id, ResponseStatus.ACCEPTED, False)
    await stage.service.on_response(accepted)
    assert stage.service.open_requests() == []
    later = []
    for one in walk(450, seed=4)[400:]:
        later += await stage.service.on_candle(one)
    assert requests(later) == []  # accepted is no end: the order may still be filled
    await stage.restart()
    assert stage.service.open_requests() == [request]  # ... and its end may have been missed
    await stage.fill(request, Decimal(100), START)
    await stage.restart()
    assert stage.service.open_requests() == []


async def test_answers_to_others_change_nothing() -> None:
    stage = await started(bot(SMA))
    (request,) = requests(await play(stage, DOWN_UP[:9]))
    for account, key in (("main", "someone-else"), ("other", request.request_id)):
        await stage.service.on_response(Responded(account, key, ResponseStatus.FILLED, True))
    assert stage.service.open_requests() == [request]


@pytest.mark.parametrize("cut", [1, 8, 120, 251, 300, 333, 400, 401, 402, 499])
async def test_a_restart_in_the_middle_changes_nothing_later(cut: int) -> None:
    candles = walk(500, seed=11)
    whole = await started()
    expected = await play(whole, candles)
    halves = await started()
    before = await play(halves, candles[:cut])
    await halves.restart()
    after = await play(halves, candles[cut:])
    assert essence([*before, *after]) == essence(expected)
    assert len(requests(expected)) > 20


async def test_changing_later_candles_changes_nothing_earlier() -> None:
    candles = walk(500, seed=12)
    for cut in (9, 260, 400):
        changed = [*candles[:cut], *(c._replace(close=c.close * 3, high=c.high * 3) for c in candles[cut:])]
        first, second = await started(), await started()
        a, b = essence(await play(first, candles)), essence(await play(second, changed))
        until = candles[cut - 1].close_time
        assert decided(a, until) == decided(b, until) != []
        assert a != b


async def test_replay_mode_gives_the_same_and_writes_in_batches() -> None:
    candles = walk(500, seed=13)
    live, replay = await started(), await started(flush_every=200)
    works = replay.writer.works
    assert essence(await play(live, candles)) == essence(await play(replay, candles))
    quiet = await started(bot(SMA, enabled=False), flush_every=200)
    works = quiet.writer.works
    await play(quiet, candles[:199])
    assert quiet.writer.works == works
    await play(quiet, candles[199:])
    assert quiet.writer.works == works + 2
    await quiet.service.flush()
    with quiet.engine.connect() as connection:
        assert stored_candles.history(connection, "BTC-USD", "1m") == candles


async def test_a_bot_that_raises_stops_alone_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await started(bot(SMA), bot(SMA, fast=2).model_copy(update={"name": "bad"}))
    update = SmaCross.update

    def sometimes(self: SmaCross, bar: Any) -> None:
        if self._fast_length == 2 and bar.candle.close == 97:
            raise ZeroDivisionError("no\nluck")
        update(self, bar)

    monkeypatch.setattr(SmaCross, "update", sometimes)
    outputs = await play(stage, DOWN_UP[:9])
    assert len([a for a in advices(outputs) if a.bot == "sma"]) == 9
    assert len([a for a in advices(outputs) if a.bot == "bad"]) == 3
    (alert,) = [o for o in outputs if isinstance(o, AlertRaised)]
    assert alert.code == "bot_failed"
    assert "ZeroDivisionError: no" in alert.message
    (state,) = [o for o in outputs if isinstance(o, BotState)]
    assert (state.bot, state.status, state.last_error) == ("bad", BotStatus.ERROR, "ZeroDivisionError: no")
    monkeypatch.undo()
    (*_, again) = await stage.service.set_bot("bad", "start")
    assert isinstance(again, BotState)
    assert (again.status, again.last_error) == (BotStatus.RUNNING, None)
    assert {a.bot for a in advices(await stage.service.on_candle(DOWN_UP[9]))} == {"sma", "bad"}


async def test_an_operators_stop_survives_a_restart_and_a_start_catches_up() -> None:
    candles = walk(400, seed=14)
    stage, other = await started(), await started()
    await play(stage, candles[:300])
    await play(other, candles[:399])
    (state,) = await stage.service.set_bot("weighted", "stop")
    assert isinstance(state, BotState)
    assert state.status is BotStatus.STOPPED
    states = await stage.restart()
    assert [(s.bot, s.status) for s in states if isinstance(s, BotState)] == [
        ("sma", "RUNNING"),
        ("weighted", "STOPPED"),
    ]
    assert {a.bot for a in advices(await play(stage, candles[300:399]))} == {"sma"}
    await stage.service.set_bot("weighted", "start")
    (mine,) = [a for a in advices(await stage.service.on_candle(candles[399])) if a.bot == "weighted"]
    (theirs,) = [a for a in advices(await other.service.on_candle(candles[399])) if a.bot == "weighted"]
    assert (mine.score, mine.parts) == (theirs.score, theirs.parts)
    await stage.restart()
    assert [s.status for s in stage.service.states()] == [BotStatus.RUNNING] * 2


async def test_a_disabled_bot_rests_except_in_replay() -> None:
    stage = await started(bot(SMA, enabled=False))
    assert await play(stage, DOWN_UP[:2]) == []
    stage = await started(bot(SMA, enabled=False), run_disabled=True)
    assert len(await play(stage, DOWN_UP[:2])) == 2


async def test_evaluate_advises_again_on_the_last_candle_but_never_asks_twice() -> None:
    stage = await started(bot(SMA))
    (request,) = requests(await play(stage, DOWN_UP[:9]))
    await stage.refuse(request)
    outputs = await stage.service.set_bot("sma", "evaluate")
    assert [(a.side, a.ready_to_trade) for a in advices(outputs)] == [(Side.BUY, False)]
    await stage.restart()
    assert requests(await stage.service.set_bot("sma", "evaluate")) == []
    with pytest.raises(UnknownBot):
        await stage.service.set_bot("nobody", "start")
    with pytest.raises(UnknownCommand):
        await stage.service.set_bot("sma", "explode")


async def test_without_a_timeframe_a_bot_takes_the_one_that_comes() -> None:
    stage = await started(bot(SMA), bot(SMA, timeframe="5m").model_copy(update={"name": "five"}))
    assert {a.bot for a in advices(await play(stage, DOWN_UP))} == {"sma"}
    await stage.restart()
    assert stage.service.states()[0].timeframe == "1m"
    five = [
        c._replace(timeframe="5m", time=START + timedelta(days=1) + 5 * i * MINUTE) for i, c in enumerate(DOWN_UP)
    ]
    outputs = await play(stage, five)
    assert {a.bot for a in advices(outputs)} == {"sma", "five"}
    assert [a.score is None for a in advices(outputs) if a.bot == "sma"] == [True] * 7 + [False] * 3


async def test_what_could_not_be_committed_leaves_later() -> None:
    stage = await started(bot(SMA))
    await play(stage, DOWN_UP[:8])
    stage.writer.broken = StorageUnavailable("disk full")
    with pytest.raises(StorageUnavailable):
        await stage.service.on_candle(DOWN_UP[8])
    assert stage.service.open_requests() == []
    stage.writer.broken = None
    (request,) = requests(await stage.service.flush())
    assert request.decided_at == DOWN_UP[8].close_time
    with stage.engine.connect() as connection:
        assert len(stored_candles.history(connection, "BTC-USD", "1m")) == 9


async def test_missed_facts_are_read_from_the_ledger() -> None:
    stage = await started(bot(SMA))
    (request,) = requests(await play(stage, DOWN_UP[:9]))
    real = stage.service.on_facts
    stage.service.on_facts = _lost  # type: ignore[method-assign]  # of this one service
    await stage.fill(request, Decimal(150), DOWN_UP[9].time)
    assert stage.service.holdings.quantity("main", "BTC-USD") == 1  # by the response
    assert stage.service.holdings.cash("main") == Decimal(10_000 - 150)
    stage.service.on_facts = real  # type: ignore[method-assign]  # as above


async def test_an_answer_that_could_not_be_taken_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the bot would wait for it until the next start (simulation, seed 97)."""
    stage = await started(bot(SMA))
    (request,) = requests(await play(stage, DOWN_UP[:9]))
    monkeypatch.setattr(stage.service, "on_facts", _lost)
    with monkeypatch.context() as patched:
        patched.setattr(stage.reader, "read", _broken)
        with pytest.raises(StorageUnavailable):
            await stage.fill(request, Decimal(150), DOWN_UP[9].time)
    assert stage.service.open_requests() == [request]


def _broken(query: object) -> None:
    raise StorageUnavailable("disk I/O error")


async def _lost(recorded: object) -> None:
    """A message that never came."""


async def test_candles_of_other_symbols_are_stored_and_move_nobody() -> None:
    stage = await started(bot(SMA))
    assert await stage.service.on_candle(candle(0, 5, symbol="ETH-USD")) == []
    with stage.engine.connect() as connection:
        assert len(stored_candles.history(connection, "ETH-USD", "1m")) == 1


class Counter(BaseBot):
    """A bot with a state that candles cannot rebuild."""

    def __init__(self) -> None:
        self.state: dict[str, Json] = {}

    def update(self, bar: Bar) -> None:
        self.state = {"close": str(bar.candle.close)}

    def warm(self, history: Iterable[Bar]) -> None:
        """Nothing: it starts with what was stored."""

    def decide(self, position: PositionView) -> Verdict:
        return Verdict(None, 0.0, context={"state": self.state})

    def dump(self) -> dict[str, Json]:
        return self.state

    def load(self, state: Mapping[str, Json]) -> None:
        self.state = dict(state)


async def test_a_bot_gets_its_own_state_back(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Counter] = []

    def build(file: BotFile, *limits: object) -> Counter:
        made.append(Counter())
        return made[-1]

    monkeypatch.setattr(runner, "build_bot", build)
    stage = await started(bot(SMA, timeframe="1m"))
    await play(stage, DOWN_UP[:3])
    await stage.restart()
    assert [one.state for one in made] == [{"close": "98"}] * 2


async def test_a_state_that_is_no_json_is_that_bots_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(file: BotFile, *limits: object) -> Any:
        if file.name == "sma":
            return SmaCross(3, 7)
        found = Counter()
        found.update = lambda bar: found.state.update(bad=object())  # type: ignore[method-assign,call-overload]  # returns nothing
        return found

    monkeypatch.setattr(runner, "build_bot", build)
    stage = await started(bot(SMA), bot(SMA).model_copy(update={"name": "bad"}))
    outputs = await play(stage, DOWN_UP[:9])
    assert len([a for a in advices(outputs) if a.bot == "sma"]) == 9
    assert [o.code for o in outputs if isinstance(o, AlertRaised)] == ["bot_failed"]
    assert len(requests(outputs)) == 1


async def test_while_its_account_is_halted_a_bot_advises_frozen_and_asks_for_nothing() -> None:
    prices = [10, 9, 8, 7, 6, 5, 4, 4, 20]  # the cross upwards comes on the last one
    free, halted = Stage([bot(SMA)]), Stage([bot(SMA)])
    for stage in (free, halted):
        await stage.service.start()
    halted.service.on_halt(HaltChanged("main", True, "manual", None, START))

    for stage, expected in ((free, 1), (halted, 0)):
        outputs: list[Output] = []
        for minute, price in enumerate(prices):
            outputs += await stage.service.on_candle(candle(minute, price))
        stage.clock.time = START + len(prices) * MINUTE
        assert len(requests(outputs)) == expected
    (advice,) = (state.last_recommendation for state in halted.service.states())
    assert advice is not None
    assert (advice.side, advice.temperature, advice.ready_to_trade) == (Side.BUY, Temperature.FROZEN, False)
    assert advice.waiting_for is Wait.HALT

    halted.service.on_halt(HaltChanged("main", False, "manual", None, START))
    outputs = await halted.service.set_bot("sma", "evaluate")
    assert [request.side for request in requests(outputs)] == [Side.BUY]


async def test_asked_on_an_old_candle_a_bot_is_frozen() -> None:
    stage = Stage([bot(SMA)])
    await stage.service.start()
    for minute, price in enumerate([10, 9, 8, 7, 6, 5, 4, 4, 4]):
        await stage.service.on_candle(candle(minute, price))
    stage.clock.time = START + 11 * MINUTE + timedelta(microseconds=1)  # the last one closed at minute 9

    outputs = await stage.service.set_bot("sma", "evaluate")

    (advice,) = advices(outputs)
    assert advice.temperature is Temperature.FROZEN
    assert requests(outputs) == []


async def test_of_two_changes_at_once_the_one_stored_last_holds_whichever_is_heard_first() -> None:
    stage = Stage([bot(SMA)])
    await stage.service.start()
    stage.service.on_halt(HaltChanged("main", False, "manual:ann", None, START, order=2))
    stage.service.on_halt(HaltChanged("main", True, "manual:bob", None, START, order=1))
    assert stage.service.holdings.halted == set()
