"""The kinds of values that bot files have, each with its own check, expectation and JSON Schema.

TOML numbers arrive as int or Decimal; values from the command line may be texts.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from math import isfinite
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from config.exact import NotADecimal, parse_decimal
from config.instruments import NAME_PATTERN, SYMBOL_PATTERN, is_name, is_symbol
from config.times import NotATimeframe, timeframe_length

RESERVED_NAMES = frozenset({"signals"})

_WHOLE = re.compile(r"-?[0-9]{1,9}", re.ASCII)


def _text(test: Callable[[str], bool], expected: str) -> BeforeValidator:
    def check(value: object) -> object:
        if not isinstance(value, str) or not test(value):
            raise ValueError(expected)
        return value

    return BeforeValidator(check)


def _as_decimal(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise ValueError("a number")
    try:
        return parse_decimal(value if isinstance(value, str) else format(Decimal(value), "f"))
    except (NotADecimal, ValueError) as error:
        raise ValueError("a plain number of at most 18 digits before and 18 after the point") from error


def _as_int(value: object) -> object:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number")
    return value


def _as_float(value: object) -> float:
    if isinstance(value, float) and isfinite(value):  # the defaults; TOML's own arrive as Decimal
        return value
    return float(_as_decimal(value))


def _as_bool(value: object) -> object:
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _is_timeframe(value: str) -> bool:
    try:
        timeframe_length(value)
    except NotATimeframe:
        return False
    return True


N = TypeVar("N", int, float)


def above(order: dict[str, str], value: N, info: ValidationInfo) -> N:
    """The check of keys that must rise: each with the key it must be above."""
    lower = order[str(info.field_name)]
    if lower in info.data and value <= info.data[lower]:
        raise ValueError(f"{info.field_name} ({value:g}) above {lower} ({info.data[lower]:g})")
    return value


_NUMBER_SCHEMA = WithJsonSchema({"type": "number"})

Exact = Annotated[Decimal, BeforeValidator(_as_decimal), _NUMBER_SCHEMA]
Count = Annotated[int, BeforeValidator(_as_int)]
Real = Annotated[float, BeforeValidator(_as_float)]
YesNo = Annotated[bool, BeforeValidator(_as_bool)]
Share = Annotated[Real, Field(ge=0, le=1)]
Period = Annotated[Count, Field(ge=2, le=10_000)]
Minutes = Annotated[Exact, Field(ge=0, le=525_600)]

BotName = Annotated[
    str,
    _text(
        lambda name: is_name(name) and name not in RESERVED_NAMES,
        f'a name that matches {NAME_PATTERN} and is not "signals"',
    ),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$", "not": {"enum": sorted(RESERVED_NAMES)}}),
]
AccountName = Annotated[
    str,
    _text(is_name, f"an account name that matches {NAME_PATTERN}"),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$"}),
]
SymbolName = Annotated[
    str,
    _text(is_symbol, f'a symbol that matches {SYMBOL_PATTERN}, such as "BTC-USD"'),
    WithJsonSchema({"type": "string", "pattern": f"^{SYMBOL_PATTERN}$"}),
]
Timeframe = Annotated[
    str,
    _text(_is_timeframe, 'a timeframe such as "1m", "15m", "1h" or "1d"'),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,3}[smhdw]$"}),
]


class Strict(BaseModel):
    """A table whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)
