"""The JSON Schema of one of `[[signals]]`: what an editor needs for completion, descriptions and checks."""

from collections.abc import Mapping
from json import dumps
from typing import Any

from signals.functions import SERIES, Function, Rule, function, function_names
from signals.mappers_file import MAPPERS, default_mapper, fitting_mappers, rules


def signal_schema() -> dict[str, Any]:
    """The schema; which parameters a function takes is said in one condition per kind of function."""
    functions = [function(name) for name in function_names()]
    return {
        "title": "SignalEntry",
        "description": "One opinion: a TA-Lib function, a mapper from its output to a score, a weight.",
        "type": "object",
        "additionalProperties": False,
        "required": ["function", "weight"],
        "properties": {
            "function": {
                "description": "A TA-Lib function.",
                "enum": [each.name for each in functions],
                "x-taplo": {"docs": {"enumValues": [describe(each) for each in functions]}},
            },
            "mapper": {
                "description": "How the output becomes a score in [-1, 1], +1 the strongest BUY.",
                "enum": list(MAPPERS),
                "x-taplo": {"docs": {"enumValues": list(MAPPERS.values())}},
            },
            "weight": {
                "description": "Its share in the score.",
                "type": "number",
                "minimum": 0,
                "maximum": 1_000_000,
            },
            "params": {"description": "The function's parameters and the mapper's.", "type": "object"},
            "output": {"description": "Which of several outputs is mapped, by TA-Lib's name.", "type": "string"},
            "input": {
                "description": "The series that a function of one series reads; close if not given.",
                "anyOf": [
                    {"enum": list(SERIES)},
                    {"type": "array", "items": {"enum": list(SERIES)}, "minItems": 1, "maxItems": 2},
                ],
            },
            "invert": {"description": "Turns the score around.", "type": "boolean", "default": False},
        },
        "allOf": _conditions(functions),
    }


def describe(each: Function) -> str:
    """A function in one line: its title, parameters with defaults, outputs, and the mapper without one named."""
    words = [f"{each.title} ({each.group})"]
    if each.rules:
        words.append("params: " + ", ".join(f"{rule.name} = {rule.default:g}" for rule in each.rules))
    if len(each.outputs) > 1:
        words.append(f"outputs: {', '.join(each.outputs)}")
    words.append(f"mapper: {default_mapper(each) or 'must be named'}")
    return "; ".join(words)


def _conditions(functions: list[Function]) -> list[dict[str, Any]]:
    """Functions whose entries look alike share a condition."""
    alike: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for each in functions:
        then = _then(each)
        alike.setdefault(dumps(then, sort_keys=True), (then, []))[1].append(each.name)
    return [
        {"if": {"properties": {"function": {"enum": names}}, "required": ["function"]}, "then": then}
        for then, names in alike.values()
    ]


def _then(each: Function) -> dict[str, Any]:
    default = default_mapper(each)
    mapper: dict[str, Any] = {"enum": fitting_mappers(each)}
    if default is not None:
        mapper["default"] = default
    properties: dict[str, Any] = {
        "mapper": mapper,
        "params": {"properties": _params(each), "additionalProperties": False},
    }
    if len(each.outputs) > 1:
        properties["output"] = {"enum": list(each.outputs), "default": each.main_output}
    then: dict[str, Any] = {"properties": properties}
    if default is None:
        then["required"] = ["mapper"]
    return then


def _params(each: Function) -> Mapping[str, Any]:
    """The parameters of every mapper that fits; where two mappers share a name the default one's counts."""
    found: dict[str, Any] = {}
    for mapper in sorted(fitting_mappers(each), key=lambda name: name != default_mapper(each)):
        for rule in rules(each, mapper):
            found.setdefault(rule.name, _rule(rule))
    return found


def _rule(rule: Rule) -> dict[str, Any]:
    least = "exclusiveMinimum" if rule.positive else "minimum"
    schema: dict[str, Any] = {"type": "integer" if rule.whole else "number", least: rule.low, "maximum": rule.high}
    if rule.default is not None:
        schema["default"] = rule.default
    schema["description"] = rule.expected
    return schema
