"""From an opinion to a request: confirmation, cooldown, one open request, sizing.

Everything runs on event time (the closes of candles and the executions of fills), so that any speed and any
restart leads to the same requests.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from config.exact import ZERO, floor_to
from config.times import parse_time, time_text
from execution.model import Json, OrderRequest, Side
from signals.bot import Verdict
from signals.bot_file import DEFAULT_NOTIONAL, BotFile
from signals.holdings import Holdings
from signals.model import Recommendation, Wait
from signals.outbox import stop_tag, tag


class Size(NamedTuple):
    """How much to ask for: exactly one of the three."""

    quantity: Decimal | None = None
    notional: Decimal | None = None
    close: bool = False


class Sizing:
    """How much a bot trades. A SELL sells as much as a BUY buys, at most what is held, or everything.

    For `fraction` as much means the same share: of the cash when buying, of the position when selling.
    A SELL that would leave less than the venue's minimum behind sells everything.
    """

    __slots__ = ("_account", "_exit_closes", "_fraction", "_notional", "_quantity", "_symbol")

    def __init__(self, file: BotFile) -> None:
        self._account = file.account
        self._symbol = file.symbol
        self._quantity = file.quantity
        self._fraction = file.fraction
        unsized = file.quantity is None and file.fraction is None
        self._notional = DEFAULT_NOTIONAL if unsized and file.notional is None else file.notional
        self._exit_closes = file.exit == "close"

    def size(self, side: Side, close_all: bool, price: Decimal, holdings: Holdings) -> Size | None:
        """The size of an order at about `price`; None when there is nothing to buy with or to sell."""
        if side is Side.BUY:
            return self._buy(holdings)
        held = holdings.quantity(self._account, self._symbol)
        if held <= 0:
            return None
        if close_all or self._exit_closes or price <= 0:
            return Size(close=True)
        instrument = holdings.instrument(self._symbol)
        quantity = floor_to(self._as_much(held, price), instrument.quantity_increment)
        least = instrument.minimum_notional
        if quantity <= 0 or (held - quantity) * price < least or quantity * price < least:
            return Size(close=True)
        return Size(quantity=quantity)

    def _buy(self, holdings: Holdings) -> Size | None:
        if self._quantity is not None:
            return Size(quantity=self._quantity)
        cash = holdings.cash(self._account)
        if self._notional is not None:
            return Size(notional=self._notional) if cash >= self._notional else None
        assert self._fraction is not None
        instrument = holdings.instrument(self._symbol)
        cent = Decimal(1).scaleb(-instrument.quote_decimals)
        notional = floor_to(cash * self._fraction, cent) if cash > 0 else ZERO
        # A share shrinks with the cash until no venue takes it: asking on would only be refused at each candle.
        return Size(notional=notional) if notional > 0 and notional >= instrument.minimum_notional else None

    def _as_much(self, held: Decimal, price: Decimal) -> Decimal:
        if self._quantity is not None:
            return min(held, self._quantity)
        if self._notional is not None:
            return min(held, self._notional / price)
        assert self._fraction is not None
        return held * self._fraction


class Policy:
    """The policy of one bot; its state survives a restart through `dump` and `load`."""

    __slots__ = (
        "_confirmation", "_cooldown", "_file", "_gap", "_last", "_side", "_since", "_sizing", "backoff",
        "backoff_until", "confirmed_since", "open_request", "requested_at", "stop_tag", "tag",
    )  # fmt: skip

    def __init__(self, file: BotFile, timeframe_length: timedelta) -> None:
        self._file = file
        self._sizing = Sizing(file)
        self._confirmation = _minutes(file.confirmation_minutes)
        self._cooldown = _minutes(file.cooldown_minutes)
        self._gap = 2 * timeframe_length
        self.backoff = _minutes(file.backoff_minutes)
        self.tag = tag(file.name)
        self.stop_tag = stop_tag(file.name)
        self.open_request: str | None = None
        self.backoff_until: datetime | None = None
        self.requested_at: datetime | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the side: confirmation starts anew."""
        self._side: Side | None = None
        self._since: datetime | None = None
        self._last: datetime | None = None
        self.confirmed_since: datetime | None = None

    def continue_from(self, decided_at: datetime) -> None:
        """The close of the last candle before a restart, for telling a gap."""
        self._last = decided_at

    def observe(self, side: Side | None, decided_at: datetime) -> None:
        """Run the confirmation on: asking again for the same candle changes nothing.

        It starts at the close of the first candle on a side and is complete at the first close at least
        `confirmation_minutes` later; another side, HOLD, or a gap over two timeframes starts it anew.
        """
        last = self._last
        self._last = decided_at
        if side is None:
            if self._side is not None:
                self._side = self._since = self.confirmed_since = None
            return
        if side is not self._side or last is None or decided_at - last > self._gap:
            self._side = side
            self._since = decided_at
            self.confirmed_since = None
        if self.confirmed_since is None:
            assert self._since is not None
            if decided_at - self._since >= self._confirmation:
                self.confirmed_since = decided_at

    @property
    def confirmation_due(self) -> datetime | None:
        """From when on a close on the present side completes its confirmation; None: nothing to confirm."""
        if self._since is None or self.confirmed_since is not None:
            return None
        return self._since + self._confirmation

    def waiting_for(self, side: Side, decided_at: datetime) -> Wait:
        """What keeps a side from being acted on, after `size` gave nothing outside of a cooldown."""
        if self.confirmed_since is None:
            return Wait.CONFIRMATION
        if self.open_request is not None:
            return Wait.ANSWER
        if self.backoff_until is not None and decided_at < self.backoff_until:
            return Wait.BACKOFF
        if self.requested_at is not None and decided_at <= self.requested_at:
            return Wait.NEXT_CANDLE
        return Wait.CASH if side is Side.BUY else Wait.POSITION

    def cooldown_until(self, decided_at: datetime, holdings: Holdings) -> datetime | None:
        """Until when the bot's own last fill blocks both sides; None when it does not.

        A fill of its stops counts too: it must not buy back at once what a stop has just sold.
        """
        if not self._cooldown:
            return None
        last, stopped = holdings.last_fill(self.tag), holdings.last_fill(self.stop_tag)
        if stopped is not None and (last is None or stopped > last):
            last = stopped
        if last is None:
            return None
        until = last + self._cooldown
        return until if decided_at < until else None

    def size(self, verdict: Verdict, decided_at: datetime, price: Decimal, holdings: Holdings) -> Size | None:
        """What to ask for now; None while anything but the cooldown speaks against it."""
        if verdict.side is None or self.confirmed_since is None or not self._may_ask(decided_at):
            return None
        if self.backoff_until is not None and decided_at < self.backoff_until:
            return None
        return self._sizing.size(verdict.side, verdict.close, price, holdings)

    def _may_ask(self, decided_at: datetime) -> bool:
        """At most one open request, and at most one for each candle."""
        return self.open_request is None and (self.requested_at is None or decided_at > self.requested_at)

    def request(self, advice: Recommendation, size: Size, context: Mapping[str, Json] | None) -> OrderRequest:
        """The order request of an advice that is ready to trade. Its id follows from the candle."""
        assert advice.side is not None
        moment = advice.decided_at
        request = OrderRequest(
            request_id=_request_id(advice.bot, advice.symbol, advice.timeframe, moment),
            account=advice.account,
            symbol=advice.symbol,
            side=advice.side,
            triggered_by=self.tag,
            quantity=size.quantity,
            notional=size.notional,
            close=size.close,
            decided_at=moment,
            signal_context=signal_context(advice, context),
            waits_for_candle=True,
        )
        return self._asked(request, moment)

    def close_request(
        self, timeframe: str, decided_at: datetime, is_short: bool, context: Mapping[str, Json]
    ) -> OrderRequest | None:
        """The request of a protective stop: the whole position, exempt from confirmation, cooldown and back-off.

        None while a request is open. Its id is another one than that of an advice on the same candle.
        """
        if not self._may_ask(decided_at):
            return None
        file = self._file
        request = OrderRequest(
            request_id=f"{_request_id(file.name, file.symbol, timeframe, decided_at)}-stop",
            account=file.account,
            symbol=file.symbol,
            side=Side.BUY if is_short else Side.SELL,
            triggered_by=self.stop_tag,
            close=True,
            decided_at=decided_at,
            signal_context=context,
            waits_for_candle=True,
        )
        return self._asked(request, decided_at)

    def _asked(self, request: OrderRequest, moment: datetime) -> OrderRequest:
        self.open_request = request.request_id
        self.requested_at = moment
        return request

    def answered(self, request: OrderRequest, filled: bool) -> None:
        """The final answer to the open request. Without a fill the bot waits a little before it asks again; its
        stops do not wait."""
        self.open_request = None
        if not filled and request.decided_at is not None and request.triggered_by == self.tag:
            self.backoff_until = request.decided_at + self.backoff

    def dump(self) -> dict[str, Json]:
        """What a restart must know; empty while there is nothing to know."""
        moments = {
            "since": self._since,
            "confirmed_since": self.confirmed_since,
            "backoff_until": self.backoff_until,
            "requested_at": self.requested_at,
        }
        state: dict[str, Json] = {key: time_text(at) for key, at in moments.items() if at is not None}
        if self._side is not None:
            state["side"] = str(self._side)
        return state

    def load(self, state: Mapping[str, Json]) -> None:
        """Take back what `dump` gave."""
        side = state.get("side")
        self._side = None if side is None else Side(str(side))
        self._since = _moment(state, "since")
        self.confirmed_since = _moment(state, "confirmed_since")
        self.backoff_until = _moment(state, "backoff_until")
        self.requested_at = _moment(state, "requested_at")


def signal_context(advice: Recommendation, context: Mapping[str, Json] | None) -> dict[str, Json]:
    """The scores behind a request: they stay with the order and its trades."""
    parts: list[Json] = [
        {"name": part.name, "score": part.score, "weight": part.weight, "value": part.value} for part in advice.parts
    ]
    whole: dict[str, Json] = {
        "bot": advice.bot,
        "timeframe": advice.timeframe,
        "candle": time_text(advice.time),
        "score": advice.score,
        "temperature": str(advice.temperature),
        "signals": parts,
    }
    if context is not None:
        whole["values"] = dict(context)
    return whole


def _request_id(bot: str, symbol: str, timeframe: str, moment: datetime) -> str:
    return f"{bot}-{symbol}-{timeframe}-{moment:%Y%m%dT%H%M%SZ}"


def _minutes(minutes: Decimal) -> timedelta:
    return timedelta(microseconds=int(minutes * 60_000_000))


def _moment(state: Mapping[str, Json], key: str) -> datetime | None:
    text = state.get(key)
    return None if text is None else parse_time(str(text))
