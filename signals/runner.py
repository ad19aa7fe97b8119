"""One bot at work: its file, its brain, its policy and its status."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal

from config.exact import ZERO
from config.times import timeframe_length
from execution.model import AlertRaised, Candle, Json, OrderRequest, Reason, Responded, ResponseStatus, Side
from execution.tables import json_text
from signals.bot import Bar, Bot, PositionView, Verdict
from signals.bot_file import BotFile
from signals.classes import build_bot
from signals.holdings import Holdings
from signals.isolation.client import IsolatedBot
from signals.isolation.limits import BotLimits
from signals.model import BotState, BotStatus, Recommendation, Temperature, Wait
from signals.policy import Policy, Size
from signals.request_rate import RequestRate
from signals.scores import temperature
from signals.stops import CostBasis, Stops
from signals.weighted_file import WeightedFile

_OF_ANY_TIMEFRAME = ("requested_at", "backoff_until")


class BotRunner:
    """Runs a bot on the candles of one series. It is cold until it is bound to a timeframe and warmed."""

    __slots__ = (
        "_account", "_bot", "_candle", "_carried", "_cuts", "_decided_at", "_holdings", "_limits", "_name",
        "_position", "_rate", "_size", "_symbol", "_threshold", "_verdict", "file", "file_error", "last",
        "last_error", "operator_stopped", "policy", "saved", "settled", "since", "status", "stops", "timeframe",
    )  # fmt: skip

    def __init__(
        self, file: BotFile, holdings: Holdings, costs: CostBasis, since: datetime, limits: BotLimits | None = None
    ) -> None:
        self.file = file
        self._limits = limits or BotLimits()
        self._rate = RequestRate(self._limits.requests_per_hour)
        self.status = BotStatus.STOPPED
        self.since = since
        self.operator_stopped = False
        self.last: Recommendation | None = None
        self.last_error: str | None = None
        self.file_error: str | None = None
        self.timeframe: str | None = file.timeframe
        self.settled = file.timeframe is not None
        """Whether the timeframe is certain: named in the file, or seen on a candle of this run."""
        self.saved: dict[str, Json] | None = None
        """The row that the database holds."""
        self.policy: Policy | None = None
        self.stops = Stops.of(file, holdings, costs)
        """The protective stops that the file asks for; None when it asks for none."""
        self._carried: dict[str, Json] | None = None
        """What is left of the stored state after a change of the file, until it is restored."""
        self._bot: Bot | None = None
        self._holdings = holdings
        self._name = file.name
        self._symbol = file.symbol
        self._account = file.account
        self._threshold = file.threshold if isinstance(file, WeightedFile) else None
        cuts = file.temperature
        self._cuts = (cuts.hot, cuts.warm, cuts.cool)
        self._position = PositionView(ZERO, False)
        self._candle: Candle | None = None
        self._decided_at: datetime | None = None
        self._verdict: Verdict | None = None
        self._size: Size | None = None

    # ---- life -----------------------------------------------------------------------------------------

    def become(self, status: BotStatus, since: datetime) -> None:
        """Enter a status. A bot that failed keeps no process."""
        self.status = status
        self.since = since
        if status is BotStatus.ERROR:
            self.close()

    def dismiss(self) -> None:
        """`close` comes soon: a process that the bot has may end meanwhile."""
        if isinstance(self._bot, IsolatedBot):
            self._bot.dismiss()

    def close(self) -> None:
        """Free what the bot holds. Its state can still be read; `prepare` makes a fresh one."""
        if self._bot is not None:
            self._bot.close()

    def remember(self, row: dict[str, Json]) -> None:
        """Take back the stored row; `restore` follows when the bot is prepared."""
        self.operator_stopped = row["operator_stopped"] is True
        self.saved = row
        self._remember_stops()

    def _remember_stops(self) -> None:
        stops = self._stored_state().get("stops")
        if self.stops is not None and isinstance(stops, dict):
            self.stops.load(stops)

    def prepare(self, timeframe: str, history: Sequence[Bar], open_request: OrderRequest | None) -> None:
        """A fresh bot and policy for a timeframe, warmed with stored candles."""
        self.timeframe = timeframe
        if self.stops is not None:
            self.stops.missed(bar.candle for bar in reversed(history))
        # Before the bot: its stops guard the position also when it cannot be made.
        self.policy = Policy(self.file, timeframe_length(timeframe))
        self.policy.open_request = None if open_request is None else open_request.request_id
        self.close()
        self._bot = None
        self._bot = build_bot(self.file, self._limits)
        self._rate = RequestRate(self._limits.requests_per_hour)
        self._candle = self._verdict = self._size = None
        self._bot.warm(history)
        if history:
            self._candle = history[-1].candle
            self._decided_at = self._candle.close_time
            self.policy.continue_from(self._decided_at)

    def take_over(self, old: "BotRunner") -> None:
        """Come in place of a bot whose file changed: an operator's word and what is stored of it stay.

        What the old bot's class kept for itself means nothing to another class.
        """
        self.operator_stopped = old.operator_stopped
        self.saved = old.saved
        same = (old._symbol, old._account) == (self._symbol, self._account)
        if same:
            self.last = old.last
        state = self._stored_state()
        foreign = {"bot"} if old.file.kind != self.file.kind else set()
        if not same:
            foreign.add("stops")  # of another position
        self._carried = {key: value for key, value in state.items() if key not in foreign}
        self._remember_stops()

    def dump(self) -> dict[str, Json]:
        """The state that must survive a restart. A bot that is cold or failed keeps what is stored."""
        state = self._dump_bot()
        if self.stops is not None and (stops := self.stops.dump()):
            state["stops"] = stops
        return state

    def _dump_bot(self) -> dict[str, Json]:
        if self._bot is None or self.policy is None or self.status is BotStatus.ERROR:
            return {key: value for key, value in self._stored_state().items() if key != "stops"}
        state: dict[str, Json] = {}
        if policy := self.policy.dump():
            state["policy"] = policy
        if bot := self._bot.dump():
            json_text(bot)  # raises here, where it is this bot's failure, when it is no JSON
            state["bot"] = bot
        if state:
            state["timeframe"] = self.timeframe
        return state

    def restore(self) -> None:
        """Take back what is stored; of a state of another timeframe only when the bot asked last, and must wait."""
        state = self._stored_state()
        self._carried = None
        if self._bot is None or self.policy is None:
            return
        policy, bot = state.get("policy"), state.get("bot")
        same = state.get("timeframe") == self.timeframe
        if isinstance(policy, dict):
            self.policy.load(policy if same else {key: policy[key] for key in _OF_ANY_TIMEFRAME if key in policy})
        if same and isinstance(bot, dict):
            self._bot.load(bot)

    def _stored_state(self) -> dict[str, Json]:
        if self._carried is not None:
            return self._carried
        state = None if self.saved is None else self.saved["state"]
        return state if isinstance(state, dict) else {}

    def row(self) -> dict[str, Json]:
        """What the database is to hold, without the time of writing."""
        return {"status": str(self.status), "operator_stopped": self.operator_stopped, "state": self.dump()}

    def state(self) -> BotState:
        """What is said about the bot."""
        return BotState(
            bot=self._name,
            status=self.status,
            symbol=self._symbol,
            timeframe=self.timeframe,
            account=self._account,
            since=self.since,
            last_recommendation=self.last,
            last_error=self.last_error,
            stops=None if self.stops is None else self.stops.levels(),
            file_error=self.file_error,
        )

    # ---- work -----------------------------------------------------------------------------------------

    def step(self, bar: Bar, decided_at: datetime) -> Recommendation:
        """Take a closed candle in and advise on it. Whatever the bot raises goes through."""
        assert self._bot is not None
        self._bot.update(bar)
        self._candle = bar.candle
        self._decided_at = decided_at
        return self._advise(bar.candle, decided_at)

    def evaluate(self, now: datetime) -> Recommendation | None:
        """The advice on the last candle once more, with what is known of the account by now; FROZEN when the
        candle closed more than two timeframes ago."""
        if self._candle is None or self._decided_at is None:
            return None
        is_stale = now - self._decided_at > 2 * timeframe_length(self._candle.timeframe)
        return self._advise(self._candle, self._decided_at, Wait.STALE if is_stale else None)

    def _advise(self, candle: Candle, decided_at: datetime, frozen: Wait | None = None) -> Recommendation:
        bot, policy, holdings = self._bot, self.policy, self._holdings
        assert bot is not None
        assert policy is not None
        verdict = self._verdict = bot.decide(self._view(holdings.quantity(self._account, self._symbol), policy))
        side = verdict.side
        policy.observe(side, decided_at)
        cooldown_until = policy.cooldown_until(decided_at, holdings)
        size = None
        if self._account in holdings.halted:
            frozen = Wait.HALT
        may_ask = frozen is None and cooldown_until is None and (self.stops is None or not self.stops.blocks)
        if side is not None and may_ask:
            size = policy.size(verdict, decided_at, candle.close, holdings)
        self._size = size
        score = verdict.score
        self.last = advice = Recommendation(
            self._name,
            self._symbol,
            self._account,
            candle.timeframe,
            side,
            score,
            temperature(score, *self._cuts) if frozen is None else Temperature.FROZEN,
            verdict.parts,
            policy.confirmed_since,
            cooldown_until,
            size is not None,
            candle.time,
            decided_at,
            self._threshold,
            policy.confirmation_due,
            None
            if side is None or size is not None
            else frozen or self._waiting_for(side, cooldown_until, decided_at),
        )
        return advice

    def _waiting_for(self, side: Side, cooldown_until: datetime | None, decided_at: datetime) -> Wait:
        """What keeps the advised side from being acted on."""
        assert self.policy is not None
        if self.stops is not None and self.stops.blocks:
            return Wait.STOP
        if cooldown_until is not None and self.policy.confirmed_since is not None:
            return Wait.COOLDOWN
        return self.policy.waiting_for(side, decided_at)

    def request(self) -> OrderRequest:
        """The order request of the last advice, which was ready to trade. Raises BotFloods."""
        assert self.policy is not None
        assert self.last is not None
        self._rate.count(self.last.decided_at)
        assert self._size is not None
        assert self._verdict is not None
        return self.policy.request(self.last, self._size, self._verdict.context)

    def guard(self, candle: Candle, decided_at: datetime) -> AlertRaised | None:
        """Test the protective stops on a close, before the bot itself is asked. None of the bot's own code runs
        here, so that they work on when it has failed."""
        return None if self.stops is None else self.stops.observe(candle.close, decided_at)

    def close_request(self, candle: Candle, decided_at: datetime) -> OrderRequest | None:
        """What the stop at work asks for after `guard`; None when none is at work or a request is open."""
        stops, policy = self.stops, self.policy
        if stops is None or policy is None or not stops.blocks:
            return None
        return policy.close_request(candle.timeframe, decided_at, stops.is_short, stops.context(candle))

    def answered(self, request: OrderRequest, response: Responded) -> AlertRaised | None:
        """The final answer to a request of this bot; an alert when it keeps a stop from closing."""
        policy = self.policy
        if policy is None or policy.open_request != request.request_id:
            return None
        filled = _was_filled(response)
        policy.answered(request, filled)
        if self.stops is None or request.triggered_by != policy.stop_tag:
            return None
        return self.stops.answered(None if filled else response.reason or Reason(str(response.status)))

    def _view(self, quantity: Decimal, policy: Policy) -> PositionView:
        view = self._position
        waiting = policy.open_request is not None
        if view.quantity is not quantity or view.has_open_request is not waiting:
            view = self._position = PositionView(quantity, waiting)
        return view


def _was_filled(response: Responded) -> bool:
    """Whether something was traded; the answer of another process comes without its trades."""
    return bool(response.trades) or response.status is ResponseStatus.FILLED


def bars(history: Iterable[Candle]) -> Iterator[Bar]:
    """Stored candles of one series as bars, each with the number of candles missing before it."""
    before: Candle | None = None
    for candle in history:
        missing = 0
        if before is not None:
            missing = (candle.time - before.time) // timeframe_length(candle.timeframe) - 1
        yield Bar(candle, max(missing, 0))
        before = candle
