"""What people, bots and markets may do, for the tests of execution: orders, candles, prices."""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from execution.model import Side
from tests.execution.house import BTC

SYMBOLS = (BTC, "LOT")


def decimals(low: str, high: str, places: int) -> st.SearchStrategy[str]:
    """Numbers as text, with so many decimals at most."""
    return st.decimals(low, high, places=places, allow_nan=False, allow_infinity=False).map(str)


prices = decimals("5", "20", 2)


def candles(most_volume: str) -> st.SearchStrategy[tuple[str, Any]]:
    """A step: symbol, four prices, volume."""
    return st.tuples(
        st.just("candle"),
        st.tuples(st.sampled_from(SYMBOLS), prices, prices, prices, prices, decimals("0", most_volume, 1)),
    )


def wishes(
    least_halves: int,
    quantities: st.SearchStrategy[str],
    notionals: st.SearchStrategy[str],
    limit_places: int,
    **more: st.SearchStrategy[Any],
) -> st.SearchStrategy[dict[str, Any]]:
    """What an order asks for: whole and half units from `least_halves` halves on, any quantity, money, or all."""
    return st.fixed_dictionaries(
        {
            "side": st.sampled_from(Side),
            "symbol": st.sampled_from(SYMBOLS),
            "size": st.one_of(
                st.tuples(
                    st.just("quantity"),
                    st.integers(least_halves, 200).map(lambda halves: str(Decimal(halves) / 2)),
                ),
                st.tuples(st.just("quantity"), quantities),
                st.tuples(st.just("notional"), notionals),
                st.tuples(st.just("close"), st.just(True)),
            ),
            "limit": st.none() | st.decimals("5", "20", places=limit_places).map(str),
            "waits": st.booleans(),
            **more,
        }
    )


def run(make: Callable[[Path], Coroutine[Any, Any, None]]) -> None:
    """Run one example in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(make(Path(folder)))
