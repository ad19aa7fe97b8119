"""The signals service: closed candles in; recommendations, order requests and bot states out.

Whoever drives it hands in messages one at a time and publishes what it returns. Nothing is returned before
what it rests on is committed: the candle, the changed states of the bots, and the requests themselves.
For a fill to be known at the close of the candle that made it, `on_facts` comes before that candle.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial, wraps
from itertools import chain
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import structlog
from sqlalchemy import Connection, select

from config.instruments import Instrument
from config.times import stored_time, timeframe_length
from execution import candles, ledger, raw
from execution.model import (
    AlertRaised,
    Candle,
    FactsRecorded,
    Json,
    OrderRequest,
    Responded,
    Severity,
)
from execution.ports import Clock, Reader, Writer
from execution.tables import json_text
from execution.totals import read_totals
from signals import outbox
from signals.bot import Bar
from signals.bot_file import BotFile
from signals.candle_store import CandleStore
from signals.errors import BotNotTaken, UnknownBot, UnknownCommand
from signals.holdings import Holdings
from signals.isolation.limits import BotLimits
from signals.model import BotRemoved, BotState, BotStatus, Recommendation
from signals.runner import BotRunner, bars
from signals.stops import CostBasis, NoCosts
from signals.tables import bot_states

Output: TypeAlias = Recommendation | OrderRequest | BotState | BotRemoved | AlertRaised

COMMANDS = ("start", "stop", "evaluate")
_FACTS_AT_ONCE = 10_000
_RUNNING = BotStatus.RUNNING
_insert_state = raw.Insert(bot_states)

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def _in_turn(
    method: "Callable[Concatenate[SignalsService, P], Coroutine[Any, Any, T]]",
) -> "Callable[Concatenate[SignalsService, P], Coroutine[Any, Any, T]]":
    """One call at a time, each to its end: while a candle waits for its commit nobody may start, stop or
    replace a bot, since the history it would be warmed with lacks that candle. (Replay has one caller.)"""

    @wraps(method)
    def in_turn(service: "SignalsService", /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        call = method(service, *args, **kwargs)
        return service._when_free(call) if service._at_once else call

    return in_turn


class _Series:
    """The candles of one symbol and timeframe."""

    __slots__ = ("last", "length", "runners", "seen")

    def __init__(self, length: timedelta) -> None:
        self.length = length
        self.last: datetime | None = None
        self.runners: list[BotRunner] = []
        self.seen = False
        """Whether a candle came in this run."""


class SignalsService:
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
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._run_disabled = run_disabled
        self._at_once = flush_every == 1
        self._turn = asyncio.Lock()
        self._store = CandleStore(flush_every, keep=keep_candles)
        self._series: dict[tuple[str, str], _Series] = {}
        self._open: dict[str, OrderRequest] = {}
        self._acknowledged: set[str] = set()
        self._unsaved: list[OrderRequest] = []
        self._unstored: dict[str, OrderRequest] = {}
        self._answered: list[str] = []
        self.holdings = Holdings()
        now = clock.now()
        self._limits = limits or BotLimits()
        self._costs: CostBasis = costs or NoCosts()
        self._runners = {file.name: BotRunner(file, self.holdings, self._costs, now, self._limits) for file in bots}

    # ---- start ----------------------------------------------------------------------------------------

    async def start(self) -> list[Output]:
        """Restore states and open requests, sum up the ledger, warm the bots. Returns every bot's state."""
        rows, requests, instruments, latest = await self._reader.read(_stored)
        self.holdings.learn(instruments)
        self.holdings.load(await self._reader.read(read_totals))
        self._open = {request.request_id: request for request in requests}
        for (symbol, timeframe), candle in latest.items():
            self._series_of(symbol, timeframe).last = candle.time
        outputs: list[Output] = []
        for name, runner in self._runners.items():
            row = rows.get(name)
            if row is not None:
                runner.remember(row)
            if runner.operator_stopped or not (runner.file.enabled or self._run_disabled):
                continue
            runner.become(_RUNNING, self._clock.now())
            usual = runner.timeframe or _newest(latest, runner.file.symbol)
            if usual is not None:
                outputs += await self._warm([runner], usual)
        outputs += await self._homeless(self._runners.values())
        gone = [BotRemoved(name) for name in rows if name not in self._runners]
        return [*outputs, *gone, *self.states()]

    async def _homeless(self, runners: Iterable[BotRunner]) -> list[AlertRaised]:
        """Bots whose account does not exist: they advise, and each of their requests will be refused."""
        accounts = await self._reader.read(ledger.accounts)
        return [
            AlertRaised(
                Severity.HIGH,
                "unknown_account",
                f"bot {runner.file.name} trades for account {runner.file.account}, which does not exist: open it with"
                f" `fillbook account add {runner.file.account}`, or name one of: {', '.join(sorted(accounts))}",
                about={"bot": runner.file.name, "account": runner.file.account},
            )
            for runner in runners
            if runner.file.account not in accounts
        ]

    async def _when_free(self, call: Coroutine[Any, Any, T]) -> T:
        async with self._turn:
            return await call

    async def catch_up(self) -> None:
        """Add the ledger's facts that are not known yet."""
        while True:
            after = self.holdings.sequence
            facts = await self._reader.read(partial(ledger.facts_since, sequence=after, limit=_FACTS_AT_ONCE))
            self.holdings.apply(facts)
            if len(facts) < _FACTS_AT_ONCE:
                return

    # ---- messages in ----------------------------------------------------------------------------------

    @_in_turn
    async def on_candle(self, candle: Candle) -> list[Output]:
        """Store a closed candle and let the bots of its series advise. Old and doubled ones are ignored.

        Raises StorageUnavailable when nothing could be committed: nothing leaves, and the candle and its
        requests go with the next candle or `flush`.
        """
        series = self._series.get((candle.symbol, candle.timeframe))
        outputs: list[Output] = []
        if series is None or not series.seen:
            series = await self._enter(candle, outputs)
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
                        self._unsaved.append(runner.request())
                except Exception as error:  # noqa: BLE001 - a bot may be anybody's code; it stops only itself
                    failed = True
                    outputs += self._fail(runner, error)
        if failed or self._store.due or (self._unsaved and self._at_once):
            outputs += await self._commit()
        elif self._unsaved:
            outputs += self._let_go()
        return outputs

    def _guard(self, runner: BotRunner, candle: Candle, decided_at: datetime) -> list[Output]:
        """The stops of a bot that runs or has failed; only an operator's stop rests them too."""
        if runner.status is BotStatus.STOPPED:
            return []
        alert = runner.guard(candle, decided_at)
        if not self._is_closing(runner.file.account, candle.symbol):
            request = runner.close_request(candle, decided_at)
            if request is not None:
                self._unsaved.append(request)
        return [] if alert is None else [alert]

    def _is_closing(self, account: str, symbol: str) -> bool:
        """Whether a bot has asked to close this position and has no final answer yet: one order is enough."""
        return any(
            request.close and request.symbol == symbol and request.account == account
            for request in chain(self._open.values(), self._unsaved)
        )

    def _let_go(self) -> list[OrderRequest]:
        """In replay a request leaves before it is stored: the transaction it causes commits together with it."""
        requests, self._unsaved = self._unsaved, []
        for request in requests:
            self._unstored[request.request_id] = self._open[request.request_id] = request
        return requests

    async def on_facts(self, recorded: FactsRecorded) -> None:
        """Follow the ledger: what was missed in between is read from it."""
        if not self.holdings.apply(recorded.facts):
            await self.catch_up()

    @_in_turn
    async def on_response(self, response: Responded) -> list[Output]:
        """The answer to a request. After the final one the bot may ask again."""
        request = self._open.get(response.request_id)
        if request is None or request.account != response.account:
            return []
        self._acknowledged.add(response.request_id)
        if not response.final:
            return []
        if any(trade.sequence > self.holdings.sequence for trade in response.trades):
            await self.catch_up()  # the fill must be known before the bot may ask again
        self._acknowledged.discard(response.request_id)
        self._open.pop(response.request_id, None)
        runner = self._runner_of(request)
        alert = None if runner is None else runner.answered(request, response)
        if self._unstored.pop(response.request_id, None) is None:
            self._answered.append(response.request_id)
        # A lost mark costs one repetition, which gets the same answer; replay need not pay for it now.
        outputs: list[Output] = [] if alert is None else [alert]
        return [*outputs, *await self._commit()] if self._at_once else outputs

    @_in_turn
    async def set_bot(self, name: str, command: str) -> list[Output]:
        """An operator's word: start, stop (survives a restart), or evaluate (advise again, now)."""
        runner = self._runners.get(name)
        if runner is None:
            raise UnknownBot(name)
        if command not in COMMANDS:
            raise UnknownCommand(f"one of {', '.join(COMMANDS)}")
        if command == "evaluate":
            return await self._evaluate(runner)
        outputs: list[Output] = []
        if command == "stop":
            runner.operator_stopped = True
            if runner.policy is not None:
                runner.policy.reset()
            runner.become(BotStatus.STOPPED, self._clock.now())
            runner.close()
        else:
            runner.operator_stopped = False
            if runner.status is not _RUNNING:
                outputs += await self._restart(runner)
        outputs += await self._commit()
        return [*outputs, runner.state()]

    # ---- bots come, change and go ---------------------------------------------------------------------

    @_in_turn
    async def put_bot(self, file: BotFile) -> list[Output]:
        """A bot as its file is now: a new one, or in place of the one of that name, between two candles.

        It is warmed with the stored candles. An operator's stop, the cooldown, the open request and the pause
        after a refusal stay; a confirmation starts over. Raises BotNotTaken when it cannot be built or
        warmed, StorageUnavailable when nothing could be stored: everything is then as it was.
        """
        outputs = await self._commit()  # so that the history is whole
        rows, _, instruments, latest = await self._reader.read(_stored)
        self.holdings.learn(instruments)
        old = self._runners.get(file.name)
        new = BotRunner(file, self.holdings, self._costs, self._clock.now(), self._limits)
        homeless = await self._homeless([new])
        if old is not None:
            new.take_over(old)
        elif (row := rows.get(file.name)) is not None:
            new.remember(row)
        if file.timeframe is None:
            new.timeframe, new.settled = self._timeframe_of(file.symbol, old, latest)
        if not new.operator_stopped and (file.enabled or self._run_disabled):
            keeps_on = old is not None and old.status is _RUNNING
            new.become(_RUNNING, old.since if old is not None and keeps_on else self._clock.now())
            if new.timeframe is not None:
                await self._warm_surely(new, new.timeframe)
        places = [] if old is None else [series for series in self._series.values() if old in series.runners]
        self._exchange(old, new)
        try:
            outputs += await self._commit()
        except BaseException:
            self._exchange(new, old)
            for series in places:
                self._join(series, old)  # type: ignore[arg-type]  # there are places only of an old bot
            new.close()
            raise
        if old is not None:
            old.close()
        return [*outputs, *homeless, new.state()]

    @_in_turn
    async def remove_bot(self, name: str) -> list[Output]:
        """A bot leaves; what is stored of it stays, for the day when it comes back. Its open request is still
        answered. Raises UnknownBot, and StorageUnavailable: it then runs on."""
        runner = self._runners.get(name)
        if runner is None:
            raise UnknownBot(name)
        before = (runner.status, runner.since)
        if runner.status is _RUNNING:
            runner.become(BotStatus.STOPPED, self._clock.now())
        try:
            outputs = await self._commit()
        except BaseException:
            runner.become(*before)
            raise
        self._exchange(runner, None)
        runner.close()
        return [*outputs, BotRemoved(name)]

    def set_file_error(self, name: str, text: str | None) -> list[BotState]:
        """What is wrong with the present version of a bot's file (None: nothing). Changes no more than what
        is said about it."""
        runner = self._runners.get(name)
        if runner is None or runner.file_error == text:
            return []
        runner.file_error = text
        return [runner.state()]

    def _timeframe_of(
        self, symbol: str, old: BotRunner | None, latest: Mapping[tuple[str, str], Candle]
    ) -> tuple[str | None, bool]:
        """The timeframe of a bot whose file names none, and whether it is certain."""
        if old is not None and old.file.symbol == symbol and old.file.timeframe is None:
            return old.timeframe, old.settled
        newest = _newest(latest, symbol)
        return newest, any(key == (symbol, newest) and series.seen for key, series in self._series.items())

    async def _warm_surely(self, runner: BotRunner, timeframe: str) -> None:
        """Warm a bot that nobody knows yet. Raises BotNotTaken."""
        symbol = runner.file.symbol
        history = list(bars(await self._reader.read(lambda conn: candles.history(conn, symbol, timeframe))))
        try:
            runner.prepare(timeframe, history, self._open_request_of(runner))
            runner.restore()
            assert runner.policy is not None
            runner.policy.reset()
        except Exception as error:
            runner.close()
            log.error("bot not taken", bot=runner.file.name, symbol=symbol, exc_info=error)
            raise BotNotTaken(_one_line(error)) from error

    def _exchange(self, old: BotRunner | None, new: BotRunner | None) -> None:
        """One bot for another, in what is known and in what is fed."""
        if old is not None:
            self._leave(old)
            del self._runners[old.file.name]
        if new is None:
            return
        self._runners = dict(sorted([*self._runners.items(), (new.file.name, new)]))
        if new.policy is not None and new.timeframe is not None:  # it was warmed
            self._join(self._series_of(new.file.symbol, new.timeframe), new)

    @staticmethod
    def _join(series: _Series, runner: BotRunner) -> None:
        if runner not in series.runners:
            series.runners.append(runner)
            # Who asks first gets the last of cash and volume: not a matter of when a bot found its candles.
            series.runners.sort(key=_name)

    # ---- what others may ask ----------------------------------------------------------------------------

    def open_requests(self) -> list[OrderRequest]:
        """The requests that nobody answered yet: to be repeated, with the same id, until somebody does."""
        return [request for key, request in self._open.items() if key not in self._acknowledged]

    def open_request(self, request_id: str) -> OrderRequest | None:
        """A request that has no final answer yet."""
        return self._open.get(request_id)

    def states(self) -> list[BotState]:
        """Every bot's state, for the retained messages."""
        return [runner.state() for runner in self._runners.values()]

    @_in_turn
    async def flush(self) -> list[Output]:
        """Commit what waits, at the end of a replay or after a failure; requests that only now may leave."""
        return await self._commit()

    def close(self) -> None:
        """The end: no process of a bot stays behind."""
        for runner in self._runners.values():
            runner.close()

    # ---- inside -----------------------------------------------------------------------------------------

    def _series_of(self, symbol: str, timeframe: str) -> _Series:
        series = self._series.get((symbol, timeframe))
        if series is None:
            series = self._series[symbol, timeframe] = _Series(timeframe_length(timeframe))
        return series

    async def _enter(self, candle: Candle, outputs: list[Output]) -> _Series:
        """The first candle of a series in this run: bots without a timeframe settle on the first they see."""
        series = self._series_of(candle.symbol, candle.timeframe)
        series.seen = True
        moving = []
        for runner in self._runners.values():
            if runner.file.symbol != candle.symbol or runner.settled:
                continue
            runner.settled = True
            if runner not in series.runners:
                self._leave(runner)
                runner.timeframe = candle.timeframe
                moving.append(runner)
        for runner in moving:
            if runner.status is _RUNNING:
                outputs += await self._warm([runner], candle.timeframe)
        return series

    def _leave(self, runner: BotRunner) -> None:
        for series in self._series.values():
            if runner in series.runners:
                series.runners.remove(runner)

    async def _warm(self, runners: Sequence[BotRunner], timeframe: str, *, anew: bool = False) -> list[Output]:
        """Bind bots of one symbol to a timeframe, rebuild their indicators from the stored candles, and
        restore what was stored of them (`anew`: confirmation starts over)."""
        symbol = runners[0].file.symbol
        history = list(bars(await self._reader.read(lambda conn: candles.history(conn, symbol, timeframe))))
        series = self._series_of(symbol, timeframe)
        outputs: list[Output] = []
        for runner in runners:
            try:
                runner.prepare(timeframe, history, self._open_request_of(runner))
                runner.restore()
                if anew and runner.policy is not None:
                    runner.policy.reset()
            except Exception as error:  # noqa: BLE001 - as in on_candle
                outputs += self._fail(runner, error)
            self._join(series, runner)
        return outputs

    async def _restart(self, runner: BotRunner) -> list[Output]:
        """Run a stopped or failed bot again, warmed with the candles that it missed."""
        outputs = await self._commit()  # so that the history is whole
        runner.last_error = None
        runner.become(_RUNNING, self._clock.now())
        latest = await self._reader.read(candles.latest)
        timeframe = runner.timeframe or _newest(latest, runner.file.symbol)
        if timeframe is not None:
            self._leave(runner)
            outputs += await self._warm([runner], timeframe, anew=True)
        return outputs

    async def _evaluate(self, runner: BotRunner) -> list[Output]:
        outputs: list[Output] = []
        if runner.status is _RUNNING:
            try:
                advice = runner.evaluate()
                if advice is not None:
                    outputs.append(advice)
                    if advice.ready_to_trade:
                        self._unsaved.append(runner.request())
            except Exception as error:  # noqa: BLE001 - as in on_candle
                outputs += self._fail(runner, error)
            outputs += await self._commit()
        return [*outputs, runner.state()]

    def _fail(self, runner: BotRunner, error: Exception) -> list[Output]:
        name = runner.file.name
        runner.last_error = _one_line(error)
        runner.become(BotStatus.ERROR, self._clock.now())
        log.error("bot failed", bot=name, symbol=runner.file.symbol, exc_info=error)
        alert = AlertRaised(
            Severity.HIGH,
            "bot_failed",
            f"bot {name} stopped with {runner.last_error}; the others run on",
            runner.file.account,
            {"bot": name, "symbol": runner.file.symbol},
        )
        return [alert, runner.state()]

    def _runner_of(self, request: OrderRequest) -> BotRunner | None:
        return self._runners.get(_bot_of(request))

    def _open_request_of(self, runner: BotRunner) -> OrderRequest | None:
        waiting = [*self._open.values(), *self._unsaved]
        mine = [request for request in waiting if _bot_of(request) == runner.file.name]
        return mine[-1] if mine else None

    async def _commit(self) -> list[Output]:
        """One transaction with all that waits; returns the requests that it made durable."""
        store = self._store
        taken = store.take()
        requests, self._unsaved = self._unsaved, []
        left = list(self._unstored.values())
        answered, self._answered = self._answered, []
        outputs, rows = self._changed_rows()
        if not (taken or requests or left or answered or rows):
            return outputs
        before = {name: self._runners[name].saved for name in rows}
        for name, row in rows.items():
            self._runners[name].saved = row
        now = self._clock.now()

        def work(connection: Connection) -> None:
            store.flush(connection, taken)
            for name, row in rows.items():
                _save_state(connection, name, row, now)
            outbox.store(connection, left + requests)
            outbox.mark_done(connection, answered)

        try:
            await self._writer.submit(work)
        except BaseException:
            store.give_back(taken)
            self._unsaved = requests + self._unsaved
            self._answered = answered + self._answered
            for name, saved in before.items():
                self._runners[name].saved = saved
            raise
        self._unstored.clear()
        self._open.update((request.request_id, request) for request in requests)
        return [*outputs, *requests]

    def _changed_rows(self) -> tuple[list[Output], dict[str, dict[str, Json]]]:
        """The states that the database does not hold yet; a bot that cannot say its state has failed."""
        outputs: list[Output] = []
        rows = {}
        for name, runner in self._runners.items():
            try:
                row = runner.row()
            except Exception as error:  # noqa: BLE001 - as in on_candle
                outputs += self._fail(runner, error)
                row = runner.row()
            if row != runner.saved:
                rows[name] = row
        return outputs, rows


def _stored(
    connection: Connection,
) -> tuple[dict[str, Any], list[OrderRequest], dict[str, Instrument], dict[tuple[str, str], Candle]]:
    """What start needs, in one consistent read."""
    columns = bot_states.c
    query = select(columns.bot, columns.status, columns.operator_stopped, columns.state)
    rows = {
        bot: {"status": status, "operator_stopped": stopped, "state": state}
        for bot, status, stopped, state in connection.execute(query)
    }
    return rows, outbox.load_open(connection), ledger.instruments(connection), candles.latest(connection)


def _save_state(connection: Connection, name: str, row: Mapping[str, Any], now: datetime) -> None:
    values = (row["status"], int(row["operator_stopped"]), json_text(row["state"]), stored_time(now))
    change = "UPDATE bot_states SET status = ?, operator_stopped = ?, state = ?, updated_at = ? WHERE bot = ?"
    if not raw.execute(connection, change, (*values, name)).rowcount:
        _insert_state.rows(connection, [(name, row["status"], row["operator_stopped"], row["state"], now)])


def _newest(latest: Mapping[tuple[str, str], Candle], symbol: str) -> str | None:
    """The timeframe of the symbol's most recent stored candle."""
    found = [candle for (of, _), candle in latest.items() if of == symbol]
    return max(found, key=lambda candle: candle.time).timeframe if found else None


def _bot_of(request: OrderRequest) -> str:
    return request.triggered_by.partition(":")[2]


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def _name(runner: BotRunner) -> str:
    return runner.file.name
