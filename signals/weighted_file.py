"""The schema of `class = "weighted"`: signals with weights and a threshold."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from signals.bot_file import BotFile
from signals.fields import Count, Period, Real, Share, Strict, above


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
        return above({"lo": "floor", "hi": "lo", "ceil": "hi"}, value, info)


class MacdParams(Strict):
    """MACD's periods; its histogram counts in units of `scale` x ATR."""

    fastperiod: Period = 12
    slowperiod: Period = 26
    signalperiod: Annotated[Count, Field(ge=1, le=10_000)] = 9
    scale: Annotated[Real, Field(gt=0)] = 0.30

    @field_validator("slowperiod", mode="after")
    @classmethod
    def _ordered(cls, value: int, info: ValidationInfo) -> int:
        return above({"slowperiod": "fastperiod"}, value, info)  # TA-Lib would silently swap them


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
        return above({"slow": "fast"}, value, info)


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
