"""The words of the bus that belong to no service: commands to bots, recomputation, outcomes of decoding."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

from execution.model import Candle, Price, Reason, Request
from portfolio.lots import Method


class BotAction(StrEnum):
    """What can be asked of a bot."""

    START = "start"
    STOP = "stop"
    EVALUATE = "evaluate"


@dataclass(frozen=True, slots=True)
class BotCommand:
    """Start, stop or evaluate one bot."""

    bot: str
    action: BotAction
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class RecomputeRequest:
    """Compute the allocations of an account from its trades, of one symbol or of all.

    `full`: everything, compared with what is stored; `since`: the same from an instant on; neither: only what
    is not stored yet.
    """

    request_id: str
    account: str
    triggered_by: str
    note: str | None = None
    symbol: str | None = None
    method: Method = Method.FIFO
    full: bool = False
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a service is there; retained, with `online` false as the last will."""

    online: bool
    time: datetime | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Integrity:
    """Whether the books of an account are sound at a ledger sequence; `problems` name what is not."""

    account: str
    ok: bool
    checked_at: datetime
    sequence: int
    problems: tuple[str, ...] = ()


Message: TypeAlias = Request | RecomputeRequest | BotCommand | Candle | Price

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decoded(Generic[T]):
    """A good message. `body_hash` identifies its content without its request id.

    `given_id` is false when the sender gave no request_id and the caller's `assigned_id` was taken.
    """

    message: T
    body_hash: str
    given_id: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """Understood, but not allowed: answered to `request_id` (None: on the alert topic). At least one reason."""

    request_id: str | None
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Not a message at all: a dead letter and an alert."""

    reason: Reason
