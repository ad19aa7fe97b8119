"""The messages between the daemon and the process of a user's bot, over a socket pair.

A message is 4 bytes of length and a body. Towards the worker the body is a pickle: it comes from the daemon and
may carry Decimals and times as they are. What comes FROM a worker is never unpickled: it is JSON, with a size,
and each value is checked, because the user's code may have broken anything in there.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

from config.exact import plain
from config.times import time_text
from execution.model import Candle, Json, Side
from signals.bot import Bar, Verdict
from signals.isolation.errors import BadReply
from signals.isolation.limits import MAX_CONTEXT, MAX_DEPTH, MAX_NAME, MAX_PARTS, MAX_STATE, MAX_WHY
from signals.model import Part

HEADER = struct.Struct("!I")

SentBar: TypeAlias = tuple[str, str, datetime, Decimal, Decimal, Decimal, Decimal, Decimal, int]


class Ask(IntEnum):
    """What the daemon asks for: the first value of each message."""

    START = 0
    WARM = 1
    LOAD = 2
    DECIDE = 3
    DUMP = 4


class Start(NamedTuple):
    """The first message: which class, with which parameters. `folder` is searched first."""

    target: str
    params: Mapping[str, Any]
    folder: str | None
    memory_mb: int


def sent(bars: Iterable[Bar]) -> list[SentBar]:
    """Bars as plain tuples: quicker to pickle, and without our classes."""
    return [(*bar.candle, bar.missing) for bar in bars]


def received(bars: Sequence[SentBar]) -> Iterator[Bar]:
    """The bars again."""
    for bar in bars:
        yield Bar(Candle(*bar[:8]), bar[8])


# ---- in the worker: a bot's answer as JSON --------------------------------------------------------------


def verdict_body(verdict: object) -> bytes:
    """A verdict as JSON. Raises BadReply when it is nothing of the kind; the daemon checks the values."""
    if not isinstance(verdict, Verdict):
        raise BadReply(f"decide gave {_kind(verdict)}, expected a Verdict")
    side = verdict.side
    parts = verdict.parts
    if not isinstance(parts, (list, tuple)):
        raise BadReply(f"parts is {_kind(parts)}, expected a tuple of Part")
    rows = []
    for index, part in enumerate(parts[: MAX_PARTS + 1]):
        if not isinstance(part, Part):
            raise BadReply(f"parts[{index}] is {_kind(part)}, expected a Part")
        place = f"parts[{index}]"
        numbers = (_number(f"{place}.{key}", getattr(part, key)) for key in ("score", "weight", "value"))
        rows.append([part.name, *numbers, part.why])
    body = [side, _number("score", verdict.score), rows, verdict.close, verdict.context]
    return _dumped(body, "the verdict")


def state_body(state: object) -> bytes:
    """What `dump` gave, as JSON."""
    if not isinstance(state, Mapping):
        raise BadReply(f"dump gave {_kind(state)}, expected a dict")
    return _dumped(dict(state), "the state of dump")


def _dumped(value: object, what: str) -> bytes:
    try:
        return json.dumps(value, default=_plainly, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadReply(f"{what} cannot be written as JSON: {error}") from error


def _plainly(value: object) -> Json:
    """What JSON does not know: exact numbers and times as texts, numbers of other libraries as numbers."""
    if isinstance(value, Decimal):
        return plain(value) if value.is_finite() else str(value)
    if isinstance(value, datetime):
        return time_text(value)
    item = getattr(value, "item", None)
    if callable(item):  # numpy's scalars
        found: Json = item()
        return found
    raise TypeError(f"{_kind(value)} is not JSON")


def _number(field: str, value: object) -> object:
    """Decimals and other libraries' numbers as floats; anything else as it is, for the daemon to refuse."""
    if value is None or type(value) is float or isinstance(value, (bool, str)):
        return value
    try:
        return float(value)  # type: ignore[arg-type]  # whatever has no float is caught
    except (TypeError, ValueError, OverflowError):
        raise BadReply(f"{field} is {_kind(value)}, expected a number or None") from None


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


# ---- in the daemon: JSON as a verdict, every value checked ----------------------------------------------

_SIDES: dict[object, Side | None] = {None: None, "BUY": Side.BUY, "SELL": Side.SELL}


def parsed(body: bytes) -> Any:
    """The JSON of a worker. Raises BadReply."""
    try:
        return json.loads(body)  # NaN and Infinity get through here: the checks name their field
    except (ValueError, RecursionError) as error:
        raise BadReply(f"the worker's answer cannot be read: {error}"[:300]) from None


def verdict_of(body: Any) -> Verdict:
    """A verdict from parsed JSON. Raises BadReply that names the field."""
    if not isinstance(body, list) or len(body) != 5:
        raise BadReply("the worker's answer is no verdict")
    side, score, parts, close, context = body
    if not (side is None or isinstance(side, str)) or side not in _SIDES:
        raise BadReply(f"side is {_shown(side)}, expected Side.BUY, Side.SELL or None")
    if score is not None:
        _check_score("score", score)
    if not isinstance(close, bool):
        raise BadReply(f"close is {_shown(close)}, expected True or False")
    if context is not None:
        check_json("context", context, MAX_CONTEXT)
    return Verdict(_SIDES[side], score, _parts_of(parts), close, context)


def _parts_of(parts: object) -> tuple[Part, ...]:
    if not isinstance(parts, list) or len(parts) > MAX_PARTS:
        raise BadReply(f"parts, expected at most {MAX_PARTS} of them")
    return tuple(_part_of(f"parts[{index}]", part) for index, part in enumerate(parts))


def _part_of(place: str, row: object) -> Part:
    if not isinstance(row, list) or len(row) != 5:
        raise BadReply(f"{place} is no part")
    name, score, weight, value, why = row
    _check_text(f"{place}.name", name, MAX_NAME)
    if score is not None:
        _check_score(f"{place}.score", score)
    if not _is_finite(weight) or weight < 0:
        raise BadReply(f"{place}.weight is {_shown(weight)}, expected a finite number of at least 0")
    if value is not None and not _is_finite(value):
        raise BadReply(f"{place}.value is {_shown(value)}, expected a finite number or None")
    if why is not None:
        _check_text(f"{place}.why", why, MAX_WHY)
    return Part(name, score, weight, value, why)


def check_state(state: object) -> dict[str, Json]:
    """What `dump` gave, checked. Raises BadReply."""
    check_json("the state of dump", state, MAX_STATE)
    assert isinstance(state, dict)
    return state


def check_json(field: str, value: object, most: int) -> None:
    """A JSON object that can be stored. Raises BadReply when it is none, too long, too deep or not finite."""
    if not isinstance(value, dict):
        raise BadReply(f"{field} is {_shown(value)}, expected a dict")
    if not value:
        return
    _check_tree(field, value, 1)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except ValueError as error:  # lone surrogates could not be stored
        raise BadReply(f"{field} cannot be stored: {error}"[:300]) from None
    if len(text) > most:
        raise BadReply(f"{field} has {len(text)} characters as JSON, expected at most {most}")


def _check_tree(field: str, value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadReply(f"{field} is nested too deeply, expected at most {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for inner in value.values():
            _check_tree(field, inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_tree(field, inner, depth + 1)
    elif isinstance(value, float) and not isfinite(value):
        raise BadReply(f"{field} holds a number that is not finite")


def _check_text(field: str, value: object, most: int) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise BadReply(f"{field} is {_shown(value)}, expected a printable text of 1 to {most} characters")


def _check_score(field: str, value: object) -> None:
    if not _is_finite(value) or not -1 <= value <= 1:  # type: ignore[operator]  # a number by now
        raise BadReply(f"{field} is {_shown(value)}, expected a finite number from -1 to 1, or None")


def _is_finite(value: object) -> bool:
    return type(value) is float and isfinite(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
