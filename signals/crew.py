"""The bots of a process: made, warmed with stored candles, fed by their series, exchanged, failing one by one."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import structlog

from execution import candles, ledger
from execution.model import AlertRaised, Candle, Severity
from execution.ports import Clock, Reader
from signals.bot import Bar
from signals.bot_file import BotFile
from signals.errors import BotNotTaken
from signals.holdings import Holdings
from signals.isolation.limits import BotLimits
from signals.model import BotState, BotStatus
from signals.runner import BotRunner, bars
from signals.series import AllSeries, Series, newest
from signals.stops import CostBasis
from signals.storing import Row, Stored
from signals.unanswered import Unanswered

Said: TypeAlias = AlertRaised | BotState

_RUNNING = BotStatus.RUNNING

log = structlog.get_logger(__name__)


class Crew:
    """Every bot by its name, and the series that feed them. `run_disabled` runs those with `enabled = false` too."""

    def __init__(
        self,
        bots: Sequence[BotFile],
        reader: Reader,
        clock: Clock,
        unanswered: Unanswered,
        *,
        costs: CostBasis,
        limits: BotLimits,
        run_disabled: bool,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._unanswered = unanswered
        self._costs = costs
        self._limits = limits
        self._run_disabled = run_disabled
        self.holdings = Holdings()
        self.series = AllSeries()
        self.runners = {file.name: self._made(file) for file in bots}

    def _made(self, file: BotFile) -> BotRunner:
        return BotRunner(file, self.holdings, self._costs, self._clock.now(), self._limits)

    def may_run(self, runner: BotRunner) -> bool:
        """Whether its file lets it run, and no operator has stopped it."""
        return not runner.operator_stopped and (runner.file.enabled or self._run_disabled)

    async def homeless(self, runners: Iterable[BotRunner]) -> list[AlertRaised]:
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

    # ---- warming --------------------------------------------------------------------------------------

    async def start(self, stored: Stored) -> list[Said]:
        """Restore what is stored of the bots, and warm those that run."""
        for (symbol, timeframe), candle in stored.latest.items():
            self.series.of(symbol, timeframe).last = candle.time
        said: list[Said] = []
        for name, runner in self.runners.items():
            row = stored.rows.get(name)
            if row is not None:
                runner.remember(row)
            if not self.may_run(runner):
                continue
            runner.become(_RUNNING, self._clock.now())
            usual = runner.timeframe or newest(stored.latest, runner.file.symbol)
            if usual is not None:
                said += await self._warm(runner, usual)
        return said

    async def enter(self, candle: Candle) -> list[Said]:
        """The first candle of a series in this run: bots without a timeframe settle on the first they see."""
        series = self.series.of(candle.symbol, candle.timeframe)
        series.seen = True
        moving = []
        for runner in self.runners.values():
            if runner.file.symbol != candle.symbol or runner.settled:
                continue
            runner.settled = True
            if runner not in series.runners:
                self.series.leave(runner)
                runner.timeframe = candle.timeframe
                moving.append(runner)
        said: list[Said] = []
        for runner in moving:
            if runner.status is _RUNNING:
                said += await self._warm(runner, candle.timeframe)
        return said

    async def restart(self, runner: BotRunner) -> list[Said]:
        """Run a stopped or failed bot again, warmed with the candles that it missed. All of them must be stored."""
        runner.last_error = None
        runner.become(_RUNNING, self._clock.now())
        latest = await self._reader.read(candles.latest)
        timeframe = runner.timeframe or newest(latest, runner.file.symbol)
        if timeframe is None:
            return []
        self.series.leave(runner)
        return await self._warm(runner, timeframe, anew=True)

    async def _warm(self, runner: BotRunner, timeframe: str, *, anew: bool = False) -> list[Said]:
        """Bind a bot to a timeframe; one that cannot be made or warmed has failed."""
        said: list[Said] = []
        history = await self._history(runner.file.symbol, timeframe)
        try:
            self._prepare(runner, timeframe, history, anew=anew)
        except Exception as error:  # noqa: BLE001 - a bot may be anybody's code; it stops only itself
            said += self.fail(runner, error)
        self.series.of(runner.file.symbol, timeframe).join(runner)
        return said

    async def _warm_surely(self, runner: BotRunner, timeframe: str) -> None:
        """Warm a bot that nobody knows yet. Raises BotNotTaken."""
        history = await self._history(runner.file.symbol, timeframe)
        try:
            self._prepare(runner, timeframe, history, anew=True)
        except Exception as error:
            runner.close()
            log.error("bot not taken", bot=runner.file.name, symbol=runner.file.symbol, exc_info=error)
            raise BotNotTaken(_one_line(error)) from error

    async def _history(self, symbol: str, timeframe: str) -> list[Bar]:
        return list(bars(await self._reader.read(lambda conn: candles.history(conn, symbol, timeframe))))

    def _prepare(self, runner: BotRunner, timeframe: str, history: Sequence[Bar], *, anew: bool) -> None:
        """Rebuild its indicators from the stored candles, and restore what was stored of it (`anew`: confirmation
        starts over)."""
        runner.prepare(timeframe, history, self._unanswered.of_bot(runner.file.name))
        runner.restore()
        if anew and runner.policy is not None:
            runner.policy.reset()

    # ---- bots come, change and go ---------------------------------------------------------------------

    async def successor(self, file: BotFile, stored: Stored) -> BotRunner:
        """A bot as its file is now, warmed, ready to be exchanged for the one of that name. Raises BotNotTaken."""
        old = self.runners.get(file.name)
        new = self._made(file)
        if old is not None:
            new.take_over(old)
        elif (row := stored.rows.get(file.name)) is not None:
            new.remember(row)
        if file.timeframe is None:
            new.timeframe, new.settled = self._timeframe_of(file.symbol, old, stored)
        if self.may_run(new):
            keeps_on = old is not None and old.status is _RUNNING
            new.become(_RUNNING, old.since if old is not None and keeps_on else self._clock.now())
            if new.timeframe is not None:
                await self._warm_surely(new, new.timeframe)
        return new

    def _timeframe_of(self, symbol: str, old: BotRunner | None, stored: Stored) -> tuple[str | None, bool]:
        """The timeframe of a bot whose file names none, and whether it is certain."""
        if old is not None and old.file.symbol == symbol and old.file.timeframe is None:
            return old.timeframe, old.settled
        timeframe = newest(stored.latest, symbol)
        series = None if timeframe is None else self.series.get(symbol, timeframe)
        return timeframe, series is not None and series.seen

    def exchange(self, old: BotRunner | None, new: BotRunner | None) -> list[Series]:
        """One bot for another, in what is known and in what is fed; the series that the old one left."""
        left: list[Series] = []
        if old is not None:
            left = self.series.feeding(old)
            self.series.leave(old)
            del self.runners[old.file.name]
        if new is None:
            return left
        self.runners = dict(sorted([*self.runners.items(), (new.file.name, new)]))
        if new.policy is not None and new.timeframe is not None:  # it was warmed
            self.series.of(new.file.symbol, new.timeframe).join(new)
        return left

    def take_back(self, old: BotRunner | None, new: BotRunner, left: Iterable[Series]) -> None:
        """Undo an exchange that could not be stored."""
        self.exchange(new, old)
        for series in left:
            assert old is not None, "only an old bot left series"
            series.join(old)
        new.close()

    # ---- states ---------------------------------------------------------------------------------------

    def fail(self, runner: BotRunner, error: Exception) -> list[Said]:
        """A bot raised: it stops, the others run on."""
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

    def changed(self) -> tuple[list[Said], list[tuple[BotRunner, Row]]]:
        """The states that the database does not hold yet; a bot that cannot say its state has failed."""
        said: list[Said] = []
        rows = []
        for runner in self.runners.values():
            try:
                row = runner.row()
            except Exception as error:  # noqa: BLE001 - as in _warm
                said += self.fail(runner, error)
                row = runner.row()
            if row != runner.saved:
                rows.append((runner, row))
        return said, rows

    def close(self) -> None:
        """The end: no process of a bot stays behind. They end side by side, for one may take its time."""
        for runner in self.runners.values():
            runner.dismiss()
        for runner in self.runners.values():
            runner.close()


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]
