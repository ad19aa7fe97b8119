"""The scaled integers of the engine: quantities and prices in units of 10^-18, money in units of 10^-36, so that
price x quantity is exact."""

from decimal import Decimal

from config.exact import ZERO
from portfolio.errors import FifoError

QUANTITY_DIGITS = 18
MONEY_DIGITS = 36
SCALE: int = 10**QUANTITY_DIGITS
"""Units of 1, and money units of a fee of one unit."""

_POWERS: tuple[int, ...] = tuple(10**digits for digits in range(MONEY_DIGITS + 1))


def to_units(value: Decimal) -> int:
    """`value` in units of 10^-18. Raises FifoError when it has more than 18 decimals or is not finite."""
    numerator: int
    try:
        numerator, denominator = value.as_integer_ratio()  # at half the cost of a checked scaleb
    except (ValueError, OverflowError) as error:
        raise FifoError(f"a finite number, not {value}") from error
    if denominator == 1:
        return numerator * SCALE
    if SCALE % denominator:
        raise FifoError(f"at most {QUANTITY_DIGITS} decimals, not {value}")
    return numerator * (SCALE // denominator)


def quantity_of(units: int) -> Decimal:
    """Units of 10^-18 (quantities, prices) as a Decimal."""
    return Decimal(units).scaleb(-QUANTITY_DIGITS) if units else ZERO


def money_of(units: int) -> Decimal:
    """Units of 10^-36 (money) as a Decimal."""
    return Decimal(units).scaleb(-MONEY_DIGITS) if units else ZERO


def units_of_text(text: str) -> int:
    """`to_units` of a stored plain decimal, without making a Decimal of it first. Raises FifoError like it."""
    whole, _, part = text.partition(".")
    if len(part) > QUANTITY_DIGITS:
        raise FifoError(f"at most {QUANTITY_DIGITS} decimals, not {text}")
    return int(whole + part) * _POWERS[QUANTITY_DIGITS - len(part)]


def text_of_units(units: int, digits: int) -> str:
    """The plain text of `units` of 10^-digits: what `plain` makes of the Decimal."""
    if units < 0:
        return "-" + text_of_units(-units, digits)
    text = str(units)
    if len(text) <= digits:
        text = text.zfill(digits + 1)
    part = text[-digits:].rstrip("0")
    return f"{text[:-digits]}.{part}" if part else text[:-digits]
