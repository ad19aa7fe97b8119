"""Exact decimals: one form in, one form out, no rounding in between."""

import threading
from decimal import Decimal, getcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.exact import PRECISION, NotADecimal, divide, floor_to, parse_decimal, plain, round_to


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "+1",
        "1.",
        ".5",
        "1e3",
        "1_000",
        "NaN",
        "Infinity",
        "-Infinity",
        "0x1",
        "١",
        "1,5",
        "1\n",
        "1" * 19,
        "0." + "1" * 19,
    ],
)
def test_only_plain_digits_are_taken(text: str) -> None:
    with pytest.raises(NotADecimal):
        parse_decimal(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("-0.00", "0"),
        ("1E+3", "1000"),
        ("1.500", "1.5"),
        ("100", "100"),
        ("1E-18", "0.000000000000000001"),
    ],
)
def test_there_is_one_plain_text(value: str, text: str) -> None:
    assert plain(Decimal(value)) == text


@given(st.decimals(min_value=-(10**17), max_value=10**17, places=18))
def test_plain_text_and_back_is_the_same_number(value: Decimal) -> None:
    assert parse_decimal(plain(value)) == value


@given(st.decimals(min_value=0, max_value=10**17, places=18), st.decimals(min_value=0, max_value=10**17, places=18))
def test_products_do_not_round(a: Decimal, b: Decimal) -> None:
    assert int((a * b).scaleb(36)) == int(a.scaleb(18)) * int(b.scaleb(18))


def test_threads_get_the_exact_context() -> None:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(getcontext().prec))
    thread.start()
    thread.join()
    assert seen == [PRECISION]


def test_rounding_is_half_even_and_flooring_keeps_multiples() -> None:
    assert round_to(Decimal("2.345"), 2) == Decimal("2.34")
    assert round_to(Decimal("2.355"), 2) == Decimal("2.36")
    assert floor_to(Decimal("0.37"), Decimal("0.05")) == Decimal("0.35")
    assert floor_to(Decimal("0.35"), Decimal("0.05")) == Decimal("0.35")
    assert str(divide(Decimal(1), Decimal(3), 4)) == "0.3333"
