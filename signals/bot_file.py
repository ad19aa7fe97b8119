"""The schema of bot files: one TOML file is one bot.

A file's `class` decides which model it is checked against. Each class is a model here and a constructor in
`signals.classes`. TOML numbers arrive as int or Decimal; values from the command line may be texts.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from math import isfinite
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from config.exact import NotADecimal, parse_decimal
from config.instruments import NAME_PATTERN, SYMBOL_PATTERN, is_name, is_symbol
from config.times import NotATimeframe, timeframe_length

RESERVED_NAMES = frozenset({"signals"})
DEFAULT_NOTIONAL = Decimal(10)
SIZES = ("notional", "quantity", "fraction")
"""The keys that say how much a bot trades; at most one is given."""

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


def _above(order: dict[str, str], value: N, info: ValidationInfo) -> N:
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


class TemperatureCuts(Strict):
    """Lower bounds of |score|; measured on BTC-USD 1 h: HOT 4 %, WARM 34 %, COOL 41 %, COLD 21 %."""

    hot: Share = 0.30
    warm: Share = 0.15
    cool: Share = 0.05

    @field_validator("warm", "cool", mode="after")
    @classmethod
    def _ordered(cls, value: float, info: ValidationInfo) -> float:
        above = "hot" if info.field_name == "warm" else "warm"
        if value > info.data.get(above, value):
            raise ValueError(f"{info.field_name} ({value:g}) not above {above} ({info.data[above]:g})")
        return value


class BotFile(Strict):
    """The keys that every bot has, whichever class it is.

    Of `notional` (quote), `quantity` (base) and `fraction` (of the account's cash) at most one may be
    given; without any a bot trades for a notional of 10. `exit`: a SELL sells as much, or ("close") the
    whole position. `timeframe` left out: whatever timeframe the symbol's candles have.
    """

    name: BotName
    symbol: SymbolName
    timeframe: Timeframe | None = None
    account: AccountName = "main"
    enabled: YesNo = True
    kind: str = Field(alias="class")
    temperature: TemperatureCuts = TemperatureCuts()
    confirmation_minutes: Minutes = Decimal(5)
    cooldown_minutes: Minutes = Decimal(15)
    backoff_minutes: Minutes = Decimal(5)
    notional: Annotated[Exact, Field(gt=0)] | None = None
    quantity: Annotated[Exact, Field(gt=0)] | None = None
    fraction: Annotated[Exact, Field(gt=0, le=1)] | None = None
    exit: Literal["size", "close"] = "size"

    @field_validator("quantity", "fraction", mode="after")
    @classmethod
    def _one_size(cls, value: Decimal | None, info: ValidationInfo) -> Decimal | None:
        given = [key for key in SIZES if info.data.get(key) is not None]
        if value is not None and given:
            raise ValueError(f"only one of notional, quantity and fraction ({given[0]} is given too)")
        return value


# ---- class = "weighted" -------------------------------------------------------------------------------


class RsiParams(Strict):
    """RSI's period and the zones of its `band`."""

    timeperiod: Period = 14
    floor: Real = 0.0
    lo: Real = 30.0
    hi: Real = 70.0
    ceil: Real = 100.0

    @field_validator("lo", "hi", "ceil", mode="after")
    @classmethod
    def _ordered(cls, value: float, info: ValidationInfo) -> float:
        return _above({"lo": "floor", "hi": "lo", "ceil": "hi"}, value, info)


class MacdParams(Strict):
    """MACD's periods; its histogram counts in units of `scale` x ATR."""

    fastperiod: Period = 12
    slowperiod: Period = 26
    signalperiod: Annotated[Count, Field(ge=1, le=10_000)] = 9
    scale: Annotated[Real, Field(gt=0)] = 0.30

    @field_validator("slowperiod", mode="after")
    @classmethod
    def _ordered(cls, value: int, info: ValidationInfo) -> int:
        return _above({"slowperiod": "fastperiod"}, value, info)  # TA-Lib would silently swap them


class CrossParams(Strict):
    """Two averages; their distance counts in units of `scale` x ATR, and `bars` candles long at least
    `strength` (falling to 0) after a cross."""

    fast: Period = 10
    slow: Period = 30
    scale: Annotated[Real, Field(gt=0)] = 1.5
    bars: Annotated[Count, Field(ge=0, le=10_000)] = 5
    strength: Share = 0.8

    @field_validator("slow", mode="after")
    @classmethod
    def _ordered(cls, value: int, info: ValidationInfo) -> int:
        return _above({"slow": "fast"}, value, info)


class SignalEntry(Strict):
    """What the entries of `[[signals]]` share: the weight (at least 0)."""

    weight: Annotated[Real, Field(ge=0, le=1_000_000)]


class RsiEntry(SignalEntry):
    """An RSI signal."""

    function: Literal["RSI"]
    mapper: Literal["band"] = "band"
    params: RsiParams = RsiParams()


class MacdEntry(SignalEntry):
    """A MACD signal."""

    function: Literal["MACD"]
    mapper: Literal["macd"] = "macd"
    params: MacdParams = MacdParams()


class CrossEntry(SignalEntry):
    """A cross of two simple (SMA) or exponential (EMA) averages."""

    function: Literal["SMA", "EMA"]
    mapper: Literal["cross"] = "cross"
    params: CrossParams = CrossParams()


def _function_of(entry: Any) -> Any:
    function = entry.get("function") if isinstance(entry, dict) else getattr(entry, "function", None)
    return {"RSI": "rsi", "MACD": "macd", "SMA": "cross", "EMA": "cross"}.get(str(function))


AnySignal: TypeAlias = RsiEntry | MacdEntry | CrossEntry
_ByFunction = Annotated[
    Annotated[RsiEntry, Tag("rsi")] | Annotated[MacdEntry, Tag("macd")] | Annotated[CrossEntry, Tag("cross")],
    Discriminator(
        _function_of,
        custom_error_type="unknown_function",
        custom_error_message='a signal whose function is one of "RSI", "MACD", "SMA", "EMA"',
    ),
]


class WeightedFile(BotFile):
    """Several signals combined into one score, acted on from `threshold` on."""

    kind: Literal["weighted"] = Field("weighted", alias="class")
    signals: Annotated[tuple[_ByFunction, ...], Field(max_length=64, json_schema_extra={"minItems": 1})]
    threshold: Share = 0.30
    max_gap_candles: Annotated[Count, Field(ge=0)] = 250

    @field_validator("signals", mode="after")
    @classmethod
    def _some_weight(cls, value: tuple[SignalEntry, ...]) -> tuple[SignalEntry, ...]:
        if not any(signal.weight > 0 for signal in value):
            raise ValueError("at least one signal with a weight above 0")
        return value


# ---- class = "sma-cross" ------------------------------------------------------------------------------


class SmaCrossFile(BotFile):
    """The exact SMA cross: a fixed quantity in, the whole position out; no confirmation, no cooldown."""

    kind: Literal["sma-cross"] = Field(alias="class")
    fast: Annotated[Count, Field(ge=1, le=10_000)] = 10
    slow: Period = 30
    confirmation_minutes: Minutes = Decimal(0)
    cooldown_minutes: Minutes = Decimal(0)
    exit: Literal["size", "close"] = "close"

    @model_validator(mode="before")
    @classmethod
    def _default_quantity(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.keys() & set(SIZES):
            return {**data, "quantity": Decimal(100)}
        return data

    @field_validator("slow", mode="after")
    @classmethod
    def _ordered(cls, value: int, info: ValidationInfo) -> int:
        return _above({"slow": "fast"}, value, info)


CLASSES: dict[str, type[BotFile]] = {"weighted": WeightedFile, "sma-cross": SmaCrossFile}
"""The value of `class` -> the model of the file. Without `class` a bot is weighted."""
