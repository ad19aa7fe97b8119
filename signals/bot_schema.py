"""The JSON Schema of bot files, for editors: which keys there are, what they mean, what they may hold.

It says less than loading does: that `slow` is above `fast`, or that a module exists, no schema can say. What it
refuses, loading refuses as well; only numbers in quotes, which loading takes, it finds fault with.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from signals.bot_classes import CLASSES, DEFAULT_CLASS
from signals.bot_file import SIZES, BotFile, TemperatureCuts
from signals.custom_file import CustomFile

SCHEMA_FILE = "bot-file.schema.json"
"""Its name beside the example bots; their first line names it: `#:schema ./bot-file.schema.json`."""

_LINE = 118
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}

_WORDS = {
    "name": "Unique among the bots; its trades carry the tag bot:<name>.",
    "symbol": 'What it watches and trades, such as "BTC-USD".',
    "timeframe": 'Of the candles it decides on, such as "1m", "1h", "1d"; left out: whatever the symbol\'s have.',
    "account": "Whom it trades for.",
    "enabled": "Whether the daemon runs it; replay runs it anyway.",
    "class": '"weighted" (the default), "sma-cross", or a class of your own as "module:Class".',
    "temperature": "Lower bounds of the score's strength, for people to read: hot, warm, cool.",
    "confirmation_minutes": "How long a side must hold before it acts; 0 = at once.",
    "cooldown_minutes": "Pause after its own last fill, for both sides; stops do not wait for it.",
    "backoff_minutes": "Pause after a request that was refused or rejected.",
    "notional": "How much a BUY buys, in the account's currency. Only one of notional, quantity, fraction.",
    "quantity": "How much a BUY buys, in units of the symbol. Only one of notional, quantity, fraction.",
    "fraction": "How much a BUY buys, as a share of the account's cash. Only one of notional, quantity, fraction.",
    "exit": 'A SELL sells as much as a BUY buys ("size"), or the whole position ("close").',
    "stop_loss_pct": "Closes the position at a close so many per cent below the average cost.",
    "take_profit_pct": "Closes the position at a close so many per cent above the average cost.",
    "trailing_stop_pct": "Closes the position at a close so many per cent below its highest close.",
    "signals": "The opinions that are weighed into one score.",
    "threshold": "The strength of the score from which on it acts.",
    "max_gap_candles": "A longer gap in the candles starts the indicators anew.",
    "fast": "Candles in the fast average.",
    "slow": "Candles in the slow average; above fast.",
    "params": "What the class of your own takes.",
}
"""What a key means, in a line."""


def bot_file_schema() -> dict[str, Any]:
    """The JSON Schema of bot files.

    The keys of all classes stand at the top, so that editors offer and explain them; conditions on `class` then
    say which model counts, so that a fault names its key instead of "matches none of three models".
    """
    models: dict[str, type[BotFile]] = {**CLASSES, "": CustomFile}
    schema = TypeAdapter[Any](_any_of(tuple(models.values()))).json_schema(by_alias=True)
    definitions = schema["$defs"]
    for model in models.values():
        _explain(definitions[model.__name__])
    tables: list[type[BaseModel]] = [*models.values(), TemperatureCuts]
    for table in tables:
        _bound(table, definitions[table.__name__]["properties"])
    _share(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Fillbook bot file",
        "description": "One bot. Written by `fillbook config schema bot`.",
        "type": "object",
        "required": ["name", "symbol"],
        "properties": _all_properties(definitions, models),
        "allOf": [*_class_conditions(models), *_one_size()],
        "$defs": definitions,
    }


def schema_text(schema: Mapping[str, Any]) -> str:
    """The schema as a file: what fits in a line is in a line."""
    return _text(schema, 0) + "\n"


def _any_of(models: tuple[type[BotFile], ...]) -> Any:
    union: Any = models[0]
    for model in models[1:]:
        union = union | model
    return union


def _explain(definition: dict[str, Any]) -> None:
    for key, words in _WORDS.items():
        if key in definition["properties"]:
            definition["properties"][key]["description"] = words


def _bound(model: type[BaseModel], properties: dict[str, Any]) -> None:
    """pydantic drops the bounds of a number that a validator of ours reads first; here they come back."""
    for name, field in model.model_fields.items():
        described = properties[field.alias or name]
        numbers = [
            one for one in (described, *described.get("anyOf", ())) if one.get("type") in ("number", "integer")
        ]
        for rule in (*field.metadata, *_rules_inside(field.annotation)):
            for attribute, word in _BOUNDS.items():
                if numbers and hasattr(rule, attribute):
                    numbers[0][word] = _number(getattr(rule, attribute))
        for one in numbers:
            for attribute in _BOUNDS:
                one.pop(attribute, None)  # pydantic's own word for it, which no validator knows


def _rules_inside(annotation: Any) -> Iterator[Any]:
    """The rules on the members of a union: Annotated[Decimal, Field(gt=0)] | None."""
    for member in get_args(annotation):
        for rule in getattr(member, "__metadata__", ()):
            yield from rule.metadata if isinstance(rule, FieldInfo) else (rule,)


def _number(bound: Any) -> int | float:
    return int(bound) if bound == int(bound) else float(bound)


def _share(definitions: dict[str, Any]) -> None:
    """The same parameter of many functions is described once."""
    names: dict[str, str] = {}
    for condition in definitions["SignalEntry"]["allOf"]:
        params = condition["then"]["properties"]["params"]["properties"]
        for key, rule in params.items():
            name = names.setdefault(json.dumps(rule, sort_keys=True), f"parameter-{len(names) + 1}")
            definitions[name] = rule
            params[key] = {"$ref": f"#/$defs/{name}"}


def _all_properties(definitions: Mapping[str, Any], models: Mapping[str, type[BotFile]]) -> dict[str, Any]:
    """Every key of every class. Where the classes differ in more than defaults, only the meaning is said."""
    found: dict[str, Any] = {}
    for model in models.values():
        for key, described in definitions[model.__name__]["properties"].items():
            here = {word: value for word, value in described.items() if word not in ("default", "title")}
            if found.setdefault(key, here) != here:
                found[key] = {"description": _WORDS[key]}
    found["class"] = {"description": _WORDS["class"], "anyOf": [{"enum": list(CLASSES)}, {"type": "string"}]}
    return found


def _class_conditions(models: Mapping[str, type[BotFile]]) -> Iterator[dict[str, Any]]:
    for kind, model in models.items():
        value: dict[str, Any] = {"const": kind} if kind else {"not": {"enum": list(CLASSES)}}
        named: dict[str, Any] = {"properties": {"class": value}}
        if kind != DEFAULT_CLASS:
            named["required"] = ["class"]
        yield {"if": named, "then": {"$ref": f"#/$defs/{model.__name__}"}}


def _one_size() -> Iterator[dict[str, Any]]:
    for pair in combinations(SIZES, 2):
        yield {"not": {"required": list(pair)}, "description": "Only one of notional, quantity and fraction."}


def _text(value: Any, depth: int) -> str:
    short = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or len(short) + 2 * depth <= _LINE:
        return short
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {_text(each, depth + 1)}" for key, each in value.items()]
        return "{\n" + ",\n".join(inner + line for line in lines) + f"\n{outer}}}"
    return "[\n" + ",\n".join(inner + _text(each, depth + 1) for each in value) + f"\n{outer}]"
