"""The field types of the settings: exact numbers, names, addresses; each refuses with a phrase after "expected"."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticKnownError

from config.exact import NotADecimal, parse_decimal, plain
from config.instruments import NAME_PATTERN, SYMBOL_PATTERN, is_name, is_symbol

_SYNC_INTERVAL = re.compile(r"always|[1-9][0-9]{0,5}(?:ms|s|m)", re.ASCII)
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}(?:/[A-Za-z0-9_-]{1,32}){0,3}", re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3,5}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,253}", re.ASCII)
_WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)


def _whole(value: object) -> int:
    """A whole number given as such or as its digits; never true, 1.0, "1_000" or Arabic digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    raise PydanticKnownError("int_parsing")


def _exact(value: object) -> Decimal:
    """A number without loss, of at most 18 + 18 digits; a float has already lost some and is refused."""
    try:
        if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) <= 18:
            return parse_decimal(plain(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return parse_decimal(str(value))
        if isinstance(value, str):
            return parse_decimal(value)
    except (NotADecimal, InvalidOperation, ValueError):
        pass
    raise PydanticKnownError("decimal_parsing")


def _seconds(value: object) -> float:
    """A duration: any exact number, or the float of a default."""
    return value if isinstance(value, float) else float(_exact(value))


def _matches(test: Callable[[str], object], expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if not test(text):
            raise ValueError(expected)
        return text

    return AfterValidator(check)


Whole: TypeAlias = Annotated[int, BeforeValidator(_whole)]
Exact: TypeAlias = Annotated[Decimal, BeforeValidator(_exact)]
Seconds: TypeAlias = Annotated[float, BeforeValidator(_seconds)]
Name: TypeAlias = Annotated[str, _matches(is_name, f"a name matching {NAME_PATTERN}")]
Symbol: TypeAlias = Annotated[str, _matches(is_symbol, f"a symbol matching {SYMBOL_PATTERN}")]
Host: TypeAlias = Annotated[str, _matches(_HOST.fullmatch, "a host name or an IP address")]
Port: TypeAlias = Annotated[Whole, Field(ge=1, le=65535)]
Bps: TypeAlias = Annotated[Exact, Field(ge=Decimal(0), le=Decimal(10_000))]
Currency: TypeAlias = Annotated[
    str, _matches(_CURRENCY.fullmatch, "a currency of 3 to 5 capital letters, such as USD")
]
SyncInterval: TypeAlias = Annotated[
    str, _matches(_SYNC_INTERVAL.fullmatch, '"always" or an interval such as "500ms", "1s", "1m"')
]
Topic: TypeAlias = Annotated[
    str, _matches(_TOPIC.fullmatch, "1 to 4 levels of letters, digits, _ and -, parted by /")
]
