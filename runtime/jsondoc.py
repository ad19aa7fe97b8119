"""JSON documents from strangers: parsed strictly, bounded, never raising."""

import json
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from execution.model import Reason
from runtime.messages import Undecodable

Document: TypeAlias = dict[str, Any]

SHOWN = 64
"""How many characters of a refused value are repeated."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still decoded: bytes of a payload, levels of nesting."""

    payload_bytes: int = 262_144
    json_depth: int = 16


class _Malformed(Exception):
    """Raised inside the JSON parser's hooks; becomes Undecodable."""

    def __init__(self, code: str, expected: str, value: str | None = None) -> None:
        super().__init__(code)
        self.reason = Reason(code, value=None if value is None else value[:SHOWN], expected=expected)


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Malformed("duplicate_key", "each key once", twice)
    return found


def _no_constant(text: str) -> Any:
    raise _Malformed("not_json", "JSON, which has no NaN and no Infinity", text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Malformed("number_too_large", "a finite number", text)
    return value


def _short_integer(text: str) -> int:
    if len(text) > 19:
        raise _Malformed("number_too_large", "an integer of at most 18 digits", text)
    return int(text)


# One decoder for all messages: building it costs more than using it.
_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_short_integer
)


def parse_object(payload: bytes, limits: Limits) -> Document | Undecodable:
    """The payload as a JSON object, or why it is none."""
    if len(payload) > limits.payload_bytes:
        return Undecodable(
            Reason("too_large", value=f"{len(payload)} bytes", expected=f"at most {limits.payload_bytes} bytes")
        )
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        return Undecodable(Reason("not_utf8", value=f"byte {error.start}", expected="UTF-8"))
    too_deep = Undecodable(Reason("too_deep", expected=f"at most {limits.json_depth} levels"))
    # Brackets inside strings count as well here, so this only spares the exact measurement.
    suspect = text.count("[") + text.count("{") > limits.json_depth
    if suspect and _depth(text) > limits.json_depth:
        return too_deep
    try:
        document = _decoder.decode(text)
    except _Malformed as error:
        return Undecodable(error.reason)
    except json.JSONDecodeError as error:
        return Undecodable(Reason("not_json", value=text[:SHOWN], expected=f"JSON ({error})"))
    except RecursionError:
        return too_deep
    if not isinstance(document, dict):
        return Undecodable(
            Reason("not_an_object", value=text[:SHOWN], expected='a JSON object such as {"symbol": ...}')
        )
    # A raw NUL is no JSON and UTF-8 has no surrogates: both can only come from an escape.
    if "\\u" in text and not _storable(document):
        return Undecodable(Reason("bad_text", expected="text without NUL and lone surrogates"))
    return document


def _depth(text: str) -> int:
    """The deepest nesting of a JSON text, without recursion; brackets in strings do not count."""
    depth = deepest = 0
    for bracket in re.sub(r'"(?:[^"\\]|\\.)*"|[^\[\]{}"]+', "", text, flags=re.DOTALL):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    return deepest


def _storable(value: Any) -> bool:
    """Whether every text in a document can be stored: no NUL (PostgreSQL), no lone surrogate (UTF-8)."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\\u0000" not in text.replace("\\\\", "")


def shown(value: Any) -> str:
    """A value as repeated in a refusal: JSON, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
