"""Stops: at which close each fires, what a position is, and what the service makes of it."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution.model import (
    Account,
    AlertRaised,
    FactsRecorded,
    OrderRequest,
    Reason,
    Responded,
    ResponseStatus,
    Side,
)
from portfolio.books import Books
from signals.holdings import Holdings
from signals.model import BotState, BotStatus, StopKind, StopLevels
from signals.service import Output
from signals.sma_cross import SmaCross
from signals.stops import NoCosts, OpenCost, Stops
from tests.signals.stage import MINUTE, SMA, START, Stage, advices, bot, candle, requests
from tests.signals.test_policy import trade

BUY, SELL = Side.BUY, Side.SELL
QUIET = SMA.replace("fast = 3", "fast = 400").replace("slow = 7", "slow = 500")
"""A bot that never trades by itself."""


class Position:
    """A position of the account `main` that costs 100 a unit, whatever it is."""

    def __init__(self, **stops: object) -> None:
        self.holdings = Holdings()
        self.file = bot(SMA, **stops)
        self.stops = self.fresh()
        self._sequence = 0
        self._minute = 0

    def fresh(self) -> Stops:
        found = Stops.of(self.file, self.holdings, self)
        assert found is not None
        return found

    def open_cost(self, account: str, symbol: str) -> OpenCost | None:
        quantity = self.holdings.quantity(account, symbol)
        return OpenCost(quantity, Decimal(100)) if quantity else None

    def trade(self, side: Side, quantity: str) -> None:
        self._sequence += 1
        assert self.holdings.apply([trade(self._sequence, side, quantity)])

    def close(self, price: object) -> StopKind | None:
        """The close of the next candle: which stop fires now."""
        self._minute += 1
        before = self.stops.triggered if self.stops.blocks else None
        self.stops.observe(Decimal(str(price)), START + self._minute * MINUTE)
        return None if self.stops.triggered is before else self.stops.triggered

    def at_work(self) -> bool:
        return self.stops.blocks

    def restart(self) -> None:
        state = self.stops.dump()
        self.stops = self.fresh()
        self.stops.load(state)

    def closes(self, *prices: object) -> list[StopKind | None]:
        return [self.close(price) for price in prices]


# ---- levels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stops", "side", "closes", "kind"),
    [
        ({"stop_loss_pct": 5}, BUY, ["95.0001", 95], StopKind.LOSS),
        ({"take_profit_pct": 5}, BUY, ["104.9999", 105], StopKind.TARGET),
        ({"trailing_stop_pct": 5}, BUY, ["95.01", 100, "95.01", 120, "114.01", 114], StopKind.TRAILING),
        ({"stop_loss_pct": 5}, SELL, ["104.9999", 105], StopKind.LOSS),
        ({"take_profit_pct": 5}, SELL, ["95.0001", 95], StopKind.TARGET),
        ({"trailing_stop_pct": 5}, SELL, [104, 80, "83.99", 84], StopKind.TRAILING),
    ],
)
def test_a_stop_fires_at_the_first_close_on_its_level(
    stops: dict[str, object], side: Side, closes: Sequence[object], kind: StopKind
) -> None:
    position = Position(**stops)
    position.trade(side, "2")
    assert position.closes(*closes) == [None] * (len(closes) - 1) + [kind]


def test_a_loss_comes_before_a_target_on_one_close() -> None:
    position = Position(stop_loss_pct=50, trailing_stop_pct=10, take_profit_pct=15)
    position.trade(BUY, "1")
    position.stops.load({"opened": 1, "mark": "130"})  # a close of 130 that fired no target: it came with the file
    assert position.close(116) is StopKind.TRAILING
    assert Position(stop_loss_pct=5, trailing_stop_pct=5).closes(50) == [None]  # nothing is held


def test_a_triggered_stop_stays_so_until_the_position_is_closed() -> None:
    position = Position(stop_loss_pct=5)
    position.trade(BUY, "2")
    assert position.close(95) is StopKind.LOSS
    position.trade(SELL, "1.5")
    assert position.closes(100, 120) == [None, None]
    assert position.at_work()
    position.restart()
    assert position.at_work()
    position.trade(SELL, "0.5")
    assert not position.at_work()
    assert position.closes(100) == [None]
    assert position.stops.dump() == {}


def test_another_position_begins_anew_even_if_it_came_between_two_closes() -> None:
    position = Position(trailing_stop_pct=10)
    position.trade(BUY, "1")
    assert position.closes(100, 200) == [None, None]
    position.trade(BUY, "1")  # more of the same: the mark stays
    assert position.stops.levels().high_water_mark == 200
    position.trade(SELL, "2")
    position.trade(BUY, "2")
    assert position.stops.levels().high_water_mark is None
    assert position.closes(100, 91) == [None, None]
    assert position.close(90) is StopKind.TRAILING


def test_a_position_that_turns_is_another_one() -> None:
    position = Position(trailing_stop_pct=10)
    position.trade(BUY, "1")
    assert position.closes(100, 109) == [None, None]
    position.trade(SELL, "3")
    assert position.closes(100, 90, "98.9") == [None, None, None]
    assert position.close(99) is StopKind.TRAILING
    assert position.stops.is_short


def test_a_rest_below_one_increment_is_no_position() -> None:
    position = Position(stop_loss_pct=5)
    position.trade(BUY, "1")
    assert position.close(95) is StopKind.LOSS
    position.trade(SELL, "0.999999999")
    assert position.closes(90, 90) == [None, None]
    assert not position.at_work()
    position.trade(BUY, "1")
    assert position.close(99) is None


def test_without_a_known_cost_nothing_fires() -> None:
    position = Position(stop_loss_pct=5, trailing_stop_pct=5)
    position.trade(SELL, "1")  # a spot account that sold what the books never saw bought
    position.stops = Stops(position.file, position.holdings, NoCosts())
    assert position.closes(100, 200, 50) == [None] * 3
    assert position.stops.levels() == StopLevels()


def test_levels_are_told_and_the_missing_ones_are_none() -> None:
    position = Position(stop_loss_pct="2.5", trailing_stop_pct=10)
    assert position.stops.levels() == StopLevels()
    position.trade(BUY, "1")
    position.closes(100, 120)
    assert position.stops.levels() == StopLevels(
        Decimal(100), Decimal("97.5"), Decimal(108), None, Decimal(120), None
    )
    assert position.close(108) is StopKind.TRAILING
    assert position.stops.levels().triggered is StopKind.TRAILING


def test_a_stop_that_the_file_has_no_more_is_not_at_work() -> None:
    position = Position(stop_loss_pct=5)
    position.trade(BUY, "1")
    assert position.close(95) is StopKind.LOSS
    position.file = bot(SMA, trailing_stop_pct=50)
    position.restart()
    assert not position.at_work()
    assert position.closes(94) == [None]


def test_candles_that_were_missed_raise_the_mark_and_fire_nothing() -> None:
    position = Position(trailing_stop_pct=10)
    position.trade(BUY, "1")
    assert position.closes(100, 110) == [None, None]
    position.restart()
    stored = [candle(minute, close) for minute, close in enumerate((500, 110, 150, 120))]
    position.stops.missed(reversed(stored))  # the first two were seen
    assert position.stops.levels().high_water_mark == 150
    assert not position.at_work()
    assert position.close(135) is StopKind.TRAILING


EVENTS = st.lists(
    st.one_of(
        st.integers(50, 200).map(lambda price: ("close", price)),
        st.sampled_from([("more", 0), ("flat", 0), ("anew", 0), ("restart", 0)]),
    ),
    max_size=60,
)


@given(EVENTS, st.integers(1, 60), st.sampled_from([BUY, SELL]))
def test_the_trailing_stop_equals_a_naive_model(events: list[tuple[str, int]], per_cent: int, side: Side) -> None:
    """The model keeps all closes of the position and looks at all of them each time."""
    position = Position(trailing_stop_pct=per_cent)
    other = SELL if side is BUY else BUY
    closes: list[int] = []
    held = 0
    fired = False
    for word, price in events:
        if word == "restart":
            position.restart()
        elif word == "more" or (word == "anew" and not held):
            held += 1
            position.trade(side, "1")
        elif word in ("flat", "anew") and held:
            position.trade(other, str(held))
            held, closes, fired = 0, [], False
            if word == "anew":
                held = 1
                position.trade(side, "1")
        elif word == "close":
            kind = position.close(price)
            if not held:
                assert kind is None
                continue
            closes.append(price)
            best = max(closes) if side is BUY else min(closes)
            far = best * (100 - per_cent) if side is BUY else best * (100 + per_cent)
            hit = not fired and (price * 100 <= far if side is BUY else price * 100 >= far)
            assert (kind is StopKind.TRAILING) is hit, (closes, price)
            fired = fired or hit
            assert position.at_work() is fired


# ---- the service ----------------------------------------------------------------------------------------


class Guarded(Stage):
    """A stage whose stops learn costs from real books."""

    def __init__(self, bots: Sequence[Any], **options: Any) -> None:
        self.books = Books({"main": Account("main")})
        super().__init__(bots, costs=self, **options)

    def _append(self, fact: Any) -> FactsRecorded:
        recorded = super()._append(fact)
        self.books.apply(recorded.facts)
        return recorded

    def open_cost(self, account: str, symbol: str) -> OpenCost | None:
        book = self.books.symbols.get((account, symbol))
        if book is None or not book.engine.lot_count:
            return None
        return OpenCost(book.engine.quantity, book.engine.cost_basis / book.engine.quantity)

    async def by_hand(self, side: Side, quantity: str, price: str = "100", minute: float = 0) -> None:
        """A person's fill."""
        request = OrderRequest("by-hand", "main", "BTC-USD", side, "manual", quantity=Decimal(quantity))
        await self.fill(request, Decimal(price), START + minute * MINUTE)

    async def close(self, minute: int, price: object) -> list[Output]:
        return await self.service.on_candle(candle(minute, price))

    async def closes(self, prices: Sequence[object], first: int = 0) -> list[Output]:
        found: list[Output] = []
        for minute, price in enumerate(prices, first):
            found += await self.close(minute, price)
        return found

    async def answer(self, request: OrderRequest, status: ResponseStatus, code: str | None = None) -> list[Output]:
        reason = None if code is None else Reason(code)
        return await self.service.on_response(Responded("main", request.request_id, status, True, reason))


async def guarded(*bots: Any, **options: Any) -> Guarded:
    stage = Guarded(bots, **options)
    await stage.service.start()
    return stage


def alerts(outputs: Sequence[Output]) -> list[str]:
    return [output.code for output in outputs if isinstance(output, AlertRaised)]


def named(name: str, text: str = QUIET, **keys: object) -> Any:
    return bot(text.replace('name = "sma"', f'name = "{name}"'), **keys)


async def test_a_stop_asks_to_close_the_whole_position_and_says_why() -> None:
    stage = await guarded(bot(QUIET, stop_loss_pct=5, trailing_stop_pct=20))
    await stage.by_hand(BUY, "2")
    outputs = await stage.closes([100, 96, 95])
    (request,) = requests(outputs)
    assert (request.triggered_by, request.side, request.close) == ("stop:sma", SELL, True)
    assert request.request_id == "sma-BTC-USD-1m-20260101T000300Z-stop"
    assert request.signal_context == {
        "bot": "sma", "timeframe": "1m", "candle": "2026-01-01T00:02:00Z", "close": "95", "stop": "stop_loss",
        "levels": {"average_cost": "100", "stop_loss": "95", "trailing_stop": "80", "high_water_mark": "100"},
    }  # fmt: skip
    assert alerts(outputs) == ["stop_triggered"]
    assert [advice.ready_to_trade for advice in advices(outputs)] == [False] * 3
    assert stage.service.open_requests() == [request]
    (state,) = stage.service.states()
    assert state.stops is not None
    assert state.stops.triggered is StopKind.LOSS


async def test_a_stop_and_the_bots_own_buy_on_one_candle_the_stop_wins() -> None:
    stage = await guarded(bot(SMA, fast=1, slow=2, take_profit_pct=5, cooldown_minutes=0))
    await stage.closes([100, 100])
    outputs = await stage.close(2, 101)  # rises: the bot buys
    (own,) = requests(outputs)
    assert own.triggered_by == "bot:sma"
    await stage.fill(own, Decimal(101), START + 3 * MINUTE)
    outputs = await stage.close(3, 200)
    assert [request.triggered_by for request in requests(outputs)] == ["stop:sma"]


async def test_while_a_stop_is_at_work_the_bot_itself_asks_for_nothing() -> None:
    text = SMA.replace("fast = 3", "fast = 1").replace("slow = 7", "slow = 2").replace("quantity = 1", "")
    stage = await guarded(bot(text, stop_loss_pct=5, cooldown_minutes=0, confirmation_minutes=0, exit="close"))
    await stage.by_hand(BUY, "1")
    outputs = await stage.closes([100, 90])
    (stop,) = requests(outputs)
    await stage.answer(stop, ResponseStatus.REFUSED, "trading_halted")
    outputs = await stage.closes([89, 95, 94], 2)
    assert {request.triggered_by for request in requests(outputs)} == {"stop:sma"}
    assert [advice.side for advice in advices(outputs)].count(None) < 3  # it advises, and is not ready
    assert not any(advice.ready_to_trade for advice in advices(outputs))
    assert [advice.ready_to_trade for advice in advices(await stage.service.set_bot("sma", "evaluate"))] == [False]


async def test_two_bots_that_guard_one_position_ask_once() -> None:
    bots = [named(name, stop_loss_pct=5) for name in ("a", "b")]
    stage = await guarded(*bots)
    await stage.by_hand(BUY, "2")
    outputs = await stage.closes([100, 95])
    (request,) = requests(outputs)
    assert request.triggered_by == "stop:a"
    assert requests(await stage.close(2, 94)) == []  # not answered yet
    await stage.restart()
    assert requests(await stage.close(3, 94)) == []
    await stage.by_hand(SELL, "0.5")
    await stage.answer(request, ResponseStatus.CANCELLED, "volume")
    (again,) = requests(await stage.close(4, 100))
    assert again.triggered_by == "stop:a"
    await stage.fill(again, Decimal(100), START + 5 * MINUTE)
    assert requests(await stage.closes([90, 80], 5)) == []


async def test_the_stops_of_a_bot_that_failed_guard_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await guarded(bot(QUIET, stop_loss_pct=5))
    await stage.by_hand(BUY, "1")
    await stage.close(0, 100)

    def fail(_self: SmaCross, _bar: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(SmaCross, "update", fail)
    outputs = await stage.close(1, 99)
    assert alerts(outputs) == ["bot_failed"]
    outputs = await stage.close(2, 95)
    assert [request.triggered_by for request in requests(outputs)] == ["stop:sma"]
    assert [state.status for state in stage.service.states()] == [BotStatus.ERROR]
    monkeypatch.undo()
    await stage.restart()
    (state,) = stage.service.states()
    assert state.stops is not None
    assert state.stops.triggered is StopKind.LOSS


async def test_an_operators_stop_rests_the_stops_and_a_start_knows_what_was_missed() -> None:
    stage = await guarded(bot(QUIET, trailing_stop_pct=10))
    await stage.by_hand(BUY, "1")
    await stage.closes([100, 110])
    await stage.service.set_bot("sma", "stop")
    assert requests(await stage.closes([150, 50, 140], 2)) == []
    await stage.restart()
    (*_, state) = await stage.service.set_bot("sma", "start")
    assert isinstance(state, BotState)
    assert state.stops is not None
    assert (state.stops.high_water_mark, state.stops.triggered) == (150, None)
    (request,) = requests(await stage.close(5, 135))
    assert request.triggered_by == "stop:sma"


async def test_a_changed_file_keeps_the_mark_and_another_symbol_forgets_it() -> None:
    stage = await guarded(bot(QUIET, trailing_stop_pct=10))
    await stage.by_hand(BUY, "1")
    await stage.closes([100, 200])
    (*_, state) = await stage.service.put_bot(bot(QUIET, trailing_stop_pct=20))
    assert isinstance(state, BotState)
    assert state.stops is not None
    assert (state.stops.high_water_mark, state.stops.trailing_stop) == (200, 160)
    (request,) = requests(await stage.closes([161, 160], 2))
    await stage.service.put_bot(bot(QUIET, trailing_stop_pct=20, symbol="ETH-USD"))
    (*_, state) = await stage.service.put_bot(bot(QUIET, trailing_stop_pct=20))
    assert isinstance(state, BotState)
    assert state.stops == StopLevels(average_cost=Decimal(100))
    assert stage.service.open_requests() == [request]


async def test_a_refused_stop_tries_again_at_every_close_and_tells_it_once() -> None:
    stage = await guarded(bot(QUIET, stop_loss_pct=5, backoff_minutes=60))
    await stage.by_hand(BUY, "1")
    await stage.close(0, 100)
    told = []
    for minute in range(1, 6):
        (request,) = requests(await stage.close(minute, 90))
        told += alerts(await stage.answer(request, ResponseStatus.REFUSED, "trading_halted"))
        if minute == 3:
            await stage.restart()
    assert told == ["stop_refused"]


async def test_nothing_to_close_is_told_only_if_the_position_is_still_there_at_the_next_close() -> None:
    stage = await guarded(bot(QUIET, stop_loss_pct=5))
    await stage.by_hand(BUY, "1")
    (request,) = requests(await stage.closes([100, 90]))
    assert alerts(await stage.answer(request, ResponseStatus.REFUSED, "nothing_to_close")) == []
    outputs = await stage.close(2, 90)  # somebody's resting order holds it
    assert alerts(outputs) == ["stop_refused"]
    await stage.answer(requests(outputs)[0], ResponseStatus.REFUSED, "nothing_to_close")
    await stage.by_hand(SELL, "1", "90", 3)
    await stage.by_hand(BUY, "1", "90", 3)
    outputs = await stage.close(3, 90)
    assert (alerts(outputs), requests(outputs)) == ([], [])
    (request,) = requests(await stage.close(4, 80))
    await stage.answer(request, ResponseStatus.REFUSED, "nothing_to_close")
    await stage.by_hand(SELL, "1", "80", 5)
    assert alerts(await stage.close(5, 80)) == []


async def test_a_fill_of_its_stop_starts_the_bots_cooldown_and_that_of_another_does_not() -> None:
    quick = SMA.replace("fast = 3", "fast = 1").replace("slow = 7", "slow = 2")
    stage = await guarded(
        bot(quick, stop_loss_pct=5, cooldown_minutes=3, confirmation_minutes=0),
        named("zz", quick, cooldown_minutes=3, confirmation_minutes=0),
    )
    await stage.by_hand(BUY, "1")
    (request,) = requests(await stage.closes([100, 90]))[:1]
    assert request.triggered_by == "stop:sma"
    await stage.fill(request, Decimal(90), START + 2 * MINUTE)
    outputs = await stage.closes([89, 95, 89], 2)  # closes at minutes 3, 4 and 5; the cooldown ends at 5
    until = START + timedelta(minutes=5)
    assert [a.cooldown_until for a in advices(outputs) if a.bot == "sma"] == [until, until, None]
    assert {a.cooldown_until for a in advices(outputs) if a.bot == "zz"} == {None}
    assert "stop:sma" not in {request.triggered_by for request in requests(outputs)}


async def test_a_bot_whose_account_does_not_exist_is_told_at_start_and_runs() -> None:
    stage = Guarded([bot(QUIET, account="nobody"), named("fine")])
    outputs = await stage.service.start()
    (alert,) = [output for output in outputs if isinstance(output, AlertRaised)]
    assert alert.code == "unknown_account"
    assert "fillbook account add nobody" in alert.message
    assert {advice.bot for advice in advices(await stage.close(0, 100))} == {"sma", "fine"}
