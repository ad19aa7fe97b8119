"""The signals service: closed candles in; recommendations, order requests and bot states out.

Whoever drives it hands in messages one at a time and publishes what it returns. Nothing is returned before
what it rests on is committed: the candle, the changed states of the bots, and the requests themselves.
For a fill to be known at the close of the candle that made it, `on_facts` comes before that candle.

While a candle waits for its commit nobody may start, stop or replace a bot, since the history it would be
warmed with lacks that candle: calls come in turn. Replay has one caller.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TypeAlias

from execution import ledger
from execution.errors import StorageUnavailable
from execution.model import AlertRaised, Candle, FactsRecorded, HaltChanged, OrderRequest, Responded
from execution.ports import Clock, Reader, Writer
from execution.totals import read_totals
from signals.bot import Bar
from signals.bot_file import BotFile
from signals.candle_store import CandleStore
from signals.crew import Crew
from signals.errors import UnknownBot, UnknownCommand
from signals.isolation.limits import BotLimits
from signals.model import BotRemoved, BotState, BotStatus, Recommendation
from signals.outbox import bot_of
from signals.runner import BotRunner
from signals.stops import CostBasis, NoCosts
from signals.storing import commit, read_stored
from signals.turns import TakesTurns, in_turn
from signals.unanswered import Unanswered

Output: TypeAlias = Recommendation | OrderRequest | BotState | BotRemoved | AlertRaised

COMMANDS = ("start", "stop", "evaluate")
_FACTS_AT_ONCE = 10_000
_RUNNING = BotStatus.RUNNING


class SignalsService(TakesTurns):
    """All bots of a process.

    `flush_every` is how many candles share a transaction when they cause no request: 1 live, thousands in
    replay, where states and final answers also wait for it. `run_disabled` runs bots with `enabled = false`
    too, as replay does. `keep_candles` false stores no candles: for books that nobody will ever continue.
    `costs` tells stops what positions have cost; it must know a fact before `on_facts` is told of it.
    `limits` are those of each bot.
    """

    def __init__(
        self,
        bots: Sequence[BotFile],
        writer: Writer,
        reader: Reader,
        clock: Clock,
        *,
        flush_every: int = 1,
        run_disabled: bool = False,
        keep_candles: bool = True,
        costs: CostBasis | None = None,
        limits: BotLimits | None = None,
    ) -> None:
        self._at_once = flush_every == 1
        super().__init__(one_caller=not self._at_once)
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._store = CandleStore(flush_every, keep=keep_candles)
        self._unanswered = Unanswered()
        self._crew = Crew(
            bots,
            reader,
            clock,
            self._unanswered,
            costs=costs or NoCosts(),
            limits=limits or BotLimits(),
            run_disabled=run_disabled,
        )
        self.holdings = self._crew.holdings
        self._halt_orders: dict[str, int] = {}

    # ---- start ----------------------------------------------------------------------------------------

    async def start(self) -> list[Output]:
        """Restore states and open requests, sum up the ledger, warm the bots. Returns every bot's state."""
        stored = await self._reader.read(read_stored)
        self.holdings.learn(stored.instruments)
        self.holdings.halted = stored.halted
        self.holdings.load(await self._reader.read(read_totals))
        self._unanswered.restore(stored.requests)
        said = await self._crew.start(stored)
        homeless = await self._crew.homeless(self._crew.runners.values())
        gone = [BotRemoved(name) for name in stored.rows if name not in self._crew.runners]
        return [*said, *homeless, *gone, *self.states()]

    def on_halt(self, change: HaltChanged) -> None:
        """An account's trading was halted or resumed: its bots advise on, FROZEN, and ask for nothing meanwhile."""
        if change.order < self._halt_orders.get(change.account, 0):
            return  # of two at once the one stored last holds
        self._halt_orders[change.account] = change.order
        if change.halted:
            self.holdings.halted.add(change.account)
        else:
            self.holdings.halted.discard(change.account)

    async def catch_up(self) -> None:
        """Add the ledger's facts that are not known yet."""
        while True:
            after = self.holdings.sequence
            facts = await self._reader.read(partial(ledger.facts_since, sequence=after, limit=_FACTS_AT_ONCE))
            self.holdings.apply(facts)
            if len(facts) < _FACTS_AT_ONCE:
                return

    # ---- messages in ----------------------------------------------------------------------------------

    @in_turn
    async def on_candle(self, candle: Candle) -> list[Output]:
        """Store a closed candle and let the bots of its series advise. Old and doubled ones are ignored.

        Raises StorageUnavailable when nothing could be committed: nothing leaves, and the candle and its
        requests go with the next candle or `flush`.
        """
        outputs: list[Output] = []
        series = self._crew.series.of(candle.symbol, candle.timeframe)
        if not series.seen:
            outputs += await self._crew.enter(candle)
        time = candle.time
        missing = 0
        if series.last is not None:
            if time <= series.last:
                return outputs
            distance = time - series.last
            if distance > series.length:
                missing = distance // series.length - 1
        series.last = time
        self._store.waiting.append(candle)
        failed = False
        if series.runners:
            bar = Bar(candle, missing)
            decided_at = time + series.length
            for runner in series.runners:
                if runner.stops is not None:
                    outputs += self._guard(runner, candle, decided_at)
                if runner.status is not _RUNNING:
                    continue
                try:
                    advice = runner.step(bar, decided_at)
                    outputs.append(advice)
                    if advice.ready_to_trade:
                        self._unanswered.unsaved.append(runner.request())
                except Exception as error:  # noqa: BLE001 - a bot may be anybody's code; it stops only itself
                    failed = True
                    outputs += self._crew.fail(runner, error)
        if failed or self._store.due or (self._unanswered.unsaved and self._at_once):
            outputs += await self._commit()
        elif self._unanswered.unsaved:
            outputs += self._unanswered.let_go()
        return outputs

    def _guard(self, runner: BotRunner, candle: Candle, decided_at: datetime) -> list[AlertRaised]:
        """The stops of a bot that runs or has failed; only an operator's stop rests them too."""
        if runner.status is BotStatus.STOPPED:
            return []
        alert = runner.guard(candle, decided_at)
        if not self._unanswered.is_closing(runner.file.account, candle.symbol):
            request = runner.close_request(candle, decided_at)
            if request is not None:
                self._unanswered.unsaved.append(request)
        return [] if alert is None else [alert]

    async def on_facts(self, recorded: FactsRecorded) -> None:
        """Follow the ledger: what was missed in between is read from it."""
        if not self.holdings.apply(recorded.facts):
            await self.catch_up()

    @in_turn
    async def on_response(self, response: Responded) -> list[Output]:
        """The answer to a request. After the final one the bot may ask again."""
        request = self._unanswered.acknowledged(response)
        if request is None or not response.final:
            return []
        if any(trade.sequence > self.holdings.sequence for trade in response.trades):
            await self._catch_up_for(request)  # the fill must be known before the bot may ask again
        self._unanswered.settle(request.request_id)
        runner = self._crew.runners.get(bot_of(request))
        alert = None if runner is None else runner.answered(request, response)
        outputs: list[Output] = [] if alert is None else [alert]
        return [*outputs, *await self._commit()] if self._at_once else outputs

    async def _catch_up_for(self, request: OrderRequest) -> None:
        try:
            await self.catch_up()
        except StorageUnavailable:
            self._unanswered.forget_answer(request.request_id)  # repeated, it is answered again
            raise

    @in_turn
    async def set_bot(self, name: str, command: str) -> list[Output]:
        """An operator's word: start, stop (survives a restart), or evaluate (advise again, now)."""
        runner = self._runner(name)
        if command not in COMMANDS:
            raise UnknownCommand(f"one of {', '.join(COMMANDS)}")
        outputs: list[Output] = []
        if command == "evaluate":
            if runner.status is _RUNNING:
                outputs += self._evaluate(runner)
                outputs += await self._commit()
            return [*outputs, runner.state()]
        if command == "stop":
            self._stop(runner)
        else:
            runner.operator_stopped = False
            if runner.status is not _RUNNING:
                outputs += await self._commit()  # so that the history is whole
                outputs += await self._crew.restart(runner)
        outputs += await self._commit()
        return [*outputs, runner.state()]

    def _stop(self, runner: BotRunner) -> None:
        runner.operator_stopped = True
        if runner.policy is not None:
            runner.policy.reset()
        runner.become(BotStatus.STOPPED, self._clock.now())
        runner.close()

    def _evaluate(self, runner: BotRunner) -> list[Output]:
        outputs: list[Output] = []
        try:
            advice = runner.evaluate(self._clock.now())
            if advice is not None:
                outputs.append(advice)
                if advice.ready_to_trade:
                    self._unanswered.unsaved.append(runner.request())
        except Exception as error:  # noqa: BLE001 - as in on_candle
            outputs += self._crew.fail(runner, error)
        return outputs

    # ---- bots come, change and go ---------------------------------------------------------------------

    @in_turn
    async def put_bot(self, file: BotFile) -> list[Output]:
        """A bot as its file is now: a new one, or in place of the one of that name, between two candles.

        It is warmed with the stored candles. An operator's stop, the cooldown, the open request and the pause
        after a refusal stay; a confirmation starts over. Raises BotNotTaken when it cannot be built or
        warmed, StorageUnavailable when nothing could be stored: everything is then as it was.
        """
        outputs = await self._commit()  # so that the history is whole
        stored = await self._reader.read(read_stored)
        self.holdings.learn(stored.instruments)
        old = self._crew.runners.get(file.name)
        new = await self._crew.successor(file, stored)
        try:
            homeless = await self._crew.homeless([new])
        except BaseException:
            new.close()
            raise
        left = self._crew.exchange(old, new)
        try:
            outputs += await self._commit()
        except BaseException:
            self._crew.take_back(old, new, left)
            raise
        if old is not None:
            old.close()
        return [*outputs, *homeless, new.state()]

    @in_turn
    async def remove_bot(self, name: str) -> list[Output]:
        """A bot leaves; what is stored of it stays, for the day when it comes back. Its open request is still
        answered. Raises UnknownBot, and StorageUnavailable: it then runs on."""
        runner = self._runner(name)
        before = (runner.status, runner.since)
        if runner.status is _RUNNING:
            runner.become(BotStatus.STOPPED, self._clock.now())
        try:
            outputs = await self._commit()
        except BaseException:
            runner.become(*before)
            raise
        self._crew.exchange(runner, None)
        runner.close()
        return [*outputs, BotRemoved(name)]

    def set_file_error(self, name: str, text: str | None) -> list[BotState]:
        """What is wrong with the present version of a bot's file (None: nothing). Changes no more than what
        is said about it."""
        runner = self._crew.runners.get(name)
        if runner is None or runner.file_error == text:
            return []
        runner.file_error = text
        return [runner.state()]

    def _runner(self, name: str) -> BotRunner:
        runner = self._crew.runners.get(name)
        if runner is None:
            raise UnknownBot(name)
        return runner

    # ---- what others may ask ----------------------------------------------------------------------------

    def open_requests(self) -> list[OrderRequest]:
        """The requests that nobody answered yet: to be repeated, with the same id, until somebody does."""
        return self._unanswered.to_repeat()

    def open_request(self, request_id: str) -> OrderRequest | None:
        """A request that has no final answer yet."""
        return self._unanswered.get(request_id)

    def states(self) -> list[BotState]:
        """Every bot's state, for the retained messages."""
        return [runner.state() for runner in self._crew.runners.values()]

    @in_turn
    async def flush(self) -> list[Output]:
        """Commit what waits, at the end of a replay or after a failure; requests that only now may leave."""
        return await self._commit()

    def close(self) -> None:
        """The end: no process of a bot stays behind."""
        self._crew.close()

    async def _commit(self) -> list[Output]:
        """One transaction with all that waits; returns the requests that it made durable."""
        said, changed = self._crew.changed()
        requests = await commit(self._writer, self._store, self._unanswered, changed, self._clock.now())
        return [*said, *requests]
