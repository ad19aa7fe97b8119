"""The words of signals: what a bot advises and what state it is in. Scores are floats, never money."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from execution.model import Json, Side

How: TypeAlias = dict[str, Json]


class Temperature(StrEnum):
    """How strong a score is: cuts on |S|; FROZEN when there is no score (warm-up, stale data)."""

    HOT = "HOT"
    WARM = "WARM"
    COOL = "COOL"
    COLD = "COLD"
    FROZEN = "FROZEN"


class BotStatus(StrEnum):
    """Whether a bot is fed with candles. ERROR: it raised, and waits for an operator's start."""

    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    ERROR = "ERROR"


class Wait(StrEnum):
    """Why a side that a bot advises is not acted on yet."""

    CONFIRMATION = "confirmation"
    COOLDOWN = "cooldown"
    STOP = "stop"
    ANSWER = "answer"
    BACKOFF = "backoff"
    NEXT_CANDLE = "next_candle"
    CASH = "cash"
    POSITION = "position"
    HALT = "halt"
    STALE = "stale_data"


class Part(NamedTuple):
    """One signal's share in a score: `score` in [-1, 1], None when it has no vote; `weight` >= 0.

    `value` is the indicator's output behind the score. `why` says in a few words why there is no vote
    ("warming up", "flat market", "no volume"). `how` says what turns the value into the score: the mapper
    and its numbers, for explanations.
    """

    name: str
    score: float | None
    weight: float
    value: float | None = None
    why: str | None = None
    how: How | None = None


class Recommendation(NamedTuple):
    """A bot's advice at the close of one candle. A tuple, because replay makes 100,000 a second.

    `side` None is HOLD. `score` in [-1, 1], +1 the strongest BUY, None = no opinion. `confirmed_since`
    is the close of the candle that completed the confirmation of `side`. `cooldown_until` is set while
    the bot's own last fill blocks it. `ready_to_trade`: an order request goes out with this advice.
    `time` is the candle's open, `decided_at` its close. `threshold`: the |score| from which on the bot acts, None
    when it has none. `confirmation_due`: from when on a close on the same side completes the confirmation, None
    when there is nothing to confirm. `waiting_for`: what keeps a side from being acted on.
    """

    bot: str
    symbol: str
    account: str
    timeframe: str
    side: Side | None
    score: float | None
    temperature: Temperature
    parts: tuple[Part, ...]
    confirmed_since: datetime | None
    cooldown_until: datetime | None
    ready_to_trade: bool
    time: datetime
    decided_at: datetime
    threshold: float | None = None
    confirmation_due: datetime | None = None
    waiting_for: Wait | None = None


class StopKind(StrEnum):
    """A protective stop, in the order in which they are tested: a loss before a target."""

    LOSS = "stop_loss"
    TRAILING = "trailing_stop"
    TARGET = "take_profit"


class StopLevels(NamedTuple):
    """Where the stops of a bot stand: prices in quote currency, None where there is no such stop or position.

    `high_water_mark` is the best close since the position was opened: the highest, for a short position
    the lowest. `triggered` is the stop that is closing the position.
    """

    average_cost: Decimal | None = None
    stop_loss: Decimal | None = None
    trailing_stop: Decimal | None = None
    take_profit: Decimal | None = None
    high_water_mark: Decimal | None = None
    triggered: StopKind | None = None


@dataclass(frozen=True, slots=True)
class BotState:
    """What is said about a bot when its status changes, and on request.

    `timeframe` None: the file names none and no candle of the symbol was seen yet. `since` is when the
    status began. `last_error` is one line; the traceback is in the log. `stops` None: it has none.
    `file_error`: what is wrong with the present version of its file, while it runs on as the last good one said.
    """

    bot: str
    status: BotStatus
    symbol: str
    timeframe: str | None
    account: str
    since: datetime
    last_recommendation: Recommendation | None = None
    last_error: str | None = None
    stops: StopLevels | None = None
    file_error: str | None = None


@dataclass(frozen=True, slots=True)
class BotRemoved:
    """A bot is no more: its file went away. What is retained of it is to be cleared."""

    bot: str
