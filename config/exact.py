"""Exact decimals: one context, one textual form, one way to parse.

Money and quantities are `decimal.Decimal` everywhere, written as plain strings. Numbers have at most
18 digits before and 18 after the point, so that a product of two has at most 72 digits and every sum
that a ledger of billions of rows can form stays far below `PRECISION`: additions, subtractions and
multiplications never round. Division rounds and is therefore only done by the functions here.
"""

import decimal
import re
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal

from config.errors import ConfigError

PRECISION = 160
MAX_FRACTION_DIGITS = 18
ZERO = Decimal(0)

# ASCII digits only: Decimal() itself also takes Arabic digits, "1_000", "Infinity" and "1e999".
_PLAIN = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?", re.ASCII)


class NotADecimal(ConfigError, ValueError):
    """The text is not a plain decimal of at most 18 + 18 digits."""


def install_exact_context() -> None:
    """Make the exact context the default of this thread and of every thread started later."""
    decimal.DefaultContext.prec = PRECISION
    decimal.DefaultContext.rounding = ROUND_HALF_EVEN
    decimal.setcontext(decimal.Context(prec=PRECISION, rounding=ROUND_HALF_EVEN))


install_exact_context()


def parse_decimal(text: str) -> Decimal:
    """`text` as a Decimal; only plain digits such as "50" or "-0.125" (no exponent, sign +, or space).

    Raises NotADecimal when the form or the number of digits is wrong.
    """
    if _PLAIN.fullmatch(text) is None:
        raise NotADecimal("a plain decimal string of at most 18 digits before and 18 after the point")
    return Decimal(text)


def plain(value: Decimal) -> str:
    """The one textual form of a number: no exponent, no trailing zeros, no "-0"."""
    text = str(value)  # twice as fast as format(value, "f"), and almost always plain already
    if "E" in text:
        text = format(value, "f")
    if text[-1] == "0" and "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


class _Quanta(dict[int, Decimal]):
    """The smallest step of so many decimals."""

    def __missing__(self, places: int) -> Decimal:
        step = self[places] = Decimal(1).scaleb(-places)
        return step


_QUANTA = _Quanta()


def round_to(value: Decimal, places: int) -> Decimal:
    """`value` to `places` decimals, ROUND_HALF_EVEN."""
    return value.quantize(_QUANTA[places], rounding=ROUND_HALF_EVEN)


def floor_to(value: Decimal, increment: Decimal) -> Decimal:
    """The largest multiple of `increment` (> 0) not above `value` (>= 0)."""
    return (value / increment).to_integral_value(rounding=ROUND_DOWN) * increment


def divide(numerator: Decimal, denominator: Decimal, places: int = MAX_FRACTION_DIGITS) -> Decimal:
    """A ratio for display or sizing, to `places` decimals; never used to split a total."""
    return round_to(numerator / denominator, places)
