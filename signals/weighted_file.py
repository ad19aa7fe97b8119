"""The schema of `class = "weighted"`: signals with weights and a threshold.

A signal is one of TA-Lib's functions and a mapper from its output to a score. What `params` may hold follows from
both, so it is checked against the rules of `signals.mappers_file` instead of a model per function.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, TypeAdapter, ValidationError, ValidationInfo
from pydantic import field_validator as check
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from config.pydantic_errors import MISSING_HERE
from signals.bot_file import BotFile
from signals.fields import Count, Real, Share, Strict, YesNo
from signals.functions import SERIES, Function, Number, Rule, function, function_names, is_function, lookback
from signals.mappers_file import PRICED, WHOLE_FUNCTION, default_mapper, fitting_mappers, rules
from signals.signal_schema import signal_schema

_WHOLE: TypeAdapter[int] = TypeAdapter(Count)
_REAL: TypeAdapter[float] = TypeAdapter(Real)


def _function_name(value: object) -> object:
    if is_function(value):
        return value
    near = get_close_matches(str(value).upper(), function_names(), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f'a TA-Lib function such as "RSI", "MACD", "SMA", "BBANDS"{hint}')


class SignalEntry(Strict):
    """One of `[[signals]]`, complete: `mapper`, `params`, `output` and `input` hold the defaults if not given."""

    function: Annotated[str, BeforeValidator(_function_name)]
    mapper: str = ""
    weight: Annotated[Real, Field(ge=0, le=1_000_000)]
    params: dict[str, Number] = Field(default_factory=dict)
    """The function's parameters and the mapper's."""
    output: str = ""
    """Which of several outputs is mapped; empty when the mapper chooses."""
    input: tuple[str, ...] = ()
    """The series that the function reads, where it can be told; by default TA-Lib's own."""
    invert: YesNo = False

    @check("mapper", mode="before")
    @classmethod
    def _fitting_mapper(cls, value: object, info: ValidationInfo) -> object:
        chosen = _chosen(info)
        if chosen is None:
            return str(value)
        if value in (None, ""):
            value = default_mapper(chosen)
        fitting = fitting_mappers(chosen)
        if value in fitting:
            return value
        expected = f"a mapper for {chosen.name}: one of {', '.join(fitting)}"
        raise ValueError(expected) if value else _missing(expected)

    @check("params", mode="before")
    @classmethod
    def _complete_params(cls, value: object, info: ValidationInfo) -> object:
        chosen, mapper = _chosen(info), info.data.get("mapper")
        if chosen is None or mapper is None:
            return {}  # its own fault is told already
        if not isinstance(value, Mapping):
            raise ValueError("a table such as { timeperiod = 14 }")
        return _params(chosen, rules(chosen, mapper), value)

    @check("output", mode="before")
    @classmethod
    def _known_output(cls, value: object, info: ValidationInfo) -> object:
        chosen, mapper = _chosen(info), info.data.get("mapper")
        if chosen is None or mapper is None:
            return ""
        if mapper in WHOLE_FUNCTION:
            if value:
                raise ValueError(f"no output (the mapper {mapper} chooses itself)")
            return ""
        if not value:
            return chosen.main_output
        if value not in chosen.outputs:
            raise ValueError(f"an output of {chosen.name}: one of {', '.join(chosen.outputs)}")
        return value

    @check("input", mode="before")
    @classmethod
    def _known_input(cls, value: object, info: ValidationInfo) -> object:
        chosen, mapper = _chosen(info), info.data.get("mapper")
        if chosen is None or mapper is None:
            return ()
        usual = tuple(chosen.inputs[place] for place in chosen.free)
        if value in (None, "", ()):
            return usual
        series = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not usual:
            raise ValueError(f"no input ({chosen.name} always reads {', '.join(chosen.inputs)})")
        if len(series) != len(usual) or not all(one in SERIES for one in series):
            names = ", ".join(SERIES)
            raise ValueError(f"one of {names}" if len(usual) == 1 else f"a list of {len(usual)} of {names}")
        if mapper in PRICED and "volume" in series:
            raise ValueError(f"a series of prices (the mapper {mapper} compares with the price)")
        return series

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """What editors are told: it depends on the function, which a model cannot say."""
        return signal_schema()


def _chosen(info: ValidationInfo) -> Function | None:
    name = info.data.get("function")
    return None if name is None else function(name)


def _params(chosen: Function, allowed: tuple[Rule, ...], given: Mapping[str, object]) -> dict[str, Number]:
    """The given parameters over the defaults. Raises pydantic's ValidationError with every fault."""
    values: dict[str, Number] = {rule.name: rule.default for rule in allowed if rule.default is not None}
    faults = list(_faults(chosen, allowed, given, values))
    if faults:
        raise ValidationError.from_exception_data("params", faults, hide_input=True)
    own = {rule.name for rule in chosen.rules}
    if lookback(chosen.name, {name: value for name, value in values.items() if name in own}) < 0:
        raise ValueError(f"parameters that TA-Lib takes together for {chosen.name}")
    return values


def _faults(
    chosen: Function, allowed: tuple[Rule, ...], given: Mapping[str, object], values: dict[str, Number]
) -> Iterator[InitErrorDetails]:
    known = {rule.name: rule for rule in allowed}
    bad = set()
    for name, value in given.items():
        rule = known.get(name)
        number = None if rule is None else _number(rule, value)
        if number is None:
            bad.add(name)
            expected = _unknown(chosen, name, known) if rule is None else rule.expected
            yield _fault((name,), value, expected)
        else:
            values[name] = number
    missing = [rule.name for rule in allowed if rule.name not in values and rule.name not in bad]
    if missing:
        expected = f"{', '.join(missing)} among the params ({chosen.name} has no defaults for them)"
        yield InitErrorDetails(type=_missing(expected), loc=(), input=given)
    for rule in allowed:
        if rule.above in values and rule.name in values and not bad & {rule.name, rule.above}:
            low, high = values[rule.above], values[rule.name]
            if high <= low:
                place = rule.name if rule.name in given or rule.above not in given else rule.above
                yield _fault((place,), given.get(place), f"{rule.name} ({high:g}) above {rule.above} ({low:g})")


def _number(rule: Rule, value: object) -> Number | None:
    kind: TypeAdapter[int] | TypeAdapter[float] = _WHOLE if rule.whole else _REAL
    try:
        number = kind.validate_python(value)
    except ValidationError:
        return None
    if not rule.low <= number <= rule.high or (rule.positive and number <= rule.low):
        return None
    return number


def _unknown(chosen: Function, name: str, known: Mapping[str, Rule]) -> str:
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    if near:
        return f"a parameter of {chosen.name} (did you mean {near[0]}?)"
    return f"a parameter of {chosen.name} (one of {', '.join(known)})" if known else "no parameters"


def _missing(expected: str) -> PydanticCustomError:
    return PydanticCustomError(MISSING_HERE, "{expected}", {"expected": expected})


def _fault(place: tuple[str, ...], value: object, expected: str) -> InitErrorDetails:
    kind = PydanticCustomError("signal_parameter", "{expected}", {"expected": expected})
    return InitErrorDetails(type=kind, loc=place, input=value)


class WeightedFile(BotFile):
    """Several signals combined into one score, acted on from `threshold` on."""

    kind: Literal["weighted"] = Field("weighted", alias="class")
    signals: Annotated[tuple[SignalEntry, ...], Field(max_length=64, json_schema_extra={"minItems": 1})]
    threshold: Share = 0.30
    max_gap_candles: Annotated[Count, Field(ge=0)] = 250

    @check("signals", mode="after")
    @classmethod
    def _some_weight(cls, value: tuple[SignalEntry, ...]) -> tuple[SignalEntry, ...]:
        if not any(signal.weight > 0 for signal in value):
            raise ValueError("at least one signal with a weight above 0")
        return value
