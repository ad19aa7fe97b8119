"""The decimal functions of SQLite's shell, for every other connection: the same names, the same values.

The shell (`sqlite3 fillbook.db`) has decimal_add, decimal_sub, decimal_mul, decimal_cmp, decimal and the
aggregate decimal_sum built in; a program's connection has none of them. With these registered, a view that
uses them gives the same in both. The text of a sum has as many decimals as the longest of its parts ("1.50"),
never an exponent. What differs, so that views must not rest on it: zeros at the end of a product, "-0", and that
the shell's decimal_cmp counts zeros at the end ("1.0" is above "1").

NULL in, NULL out; decimal_sum passes over NULLs: "0" when there was nothing else, NULL for no rows at all.
"""

import sqlite3
from collections.abc import Callable
from decimal import Context, Decimal

from config.exact import PRECISION, ZERO

# Of our own: contexts belong to threads, and SQLite calls from whichever thread reads.
_exact = Context(prec=PRECISION)


def _text(value: Decimal) -> str:
    text = str(value)
    return format(value, "f") if "E" in text else text


def _binary(function: Callable[[Decimal, Decimal], Decimal]) -> Callable[[object, object], str | None]:
    def apply(left: object, right: object) -> str | None:
        if left is None or right is None:
            return None
        return _text(function(Decimal(str(left)), Decimal(str(right))))

    return apply


def _compare(left: object, right: object) -> int | None:
    if left is None or right is None:
        return None
    return int(Decimal(str(left)).compare(Decimal(str(right))))


def _decimal(value: object) -> str | None:
    return None if value is None else _text(Decimal(str(value)))


class _Sum:
    """The exact sum of a column."""

    def __init__(self) -> None:
        self._total = ZERO

    def step(self, value: object) -> None:
        """One more row."""
        if value is not None:
            self._total = _exact.add(self._total, Decimal(value if type(value) is str else str(value)))

    def finalize(self) -> str:
        """The sum; SQLite does not ask when there was no row."""
        return _text(self._total)


def register(connection: sqlite3.Connection) -> None:
    """Give a connection the functions. A text that is no number is an error there, not 0 as in the shell."""
    functions: tuple[tuple[str, int, Callable[..., str | int | None]], ...] = (
        ("decimal_add", 2, _binary(_exact.add)),
        ("decimal_sub", 2, _binary(_exact.subtract)),
        ("decimal_mul", 2, _binary(_exact.multiply)),
        ("decimal_cmp", 2, _compare),
        ("decimal", 1, _decimal),
    )
    for name, arguments, function in functions:
        connection.create_function(name, arguments, function, deterministic=True)
    connection.create_aggregate("decimal_sum", 1, _Sum)  # type: ignore[arg-type]  # typeshed knows int sums only
