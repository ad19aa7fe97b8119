"""The product's engines over trades in memory, and their results as the oracles say them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from execution.model import Trade
from portfolio.fifo import LotEngine
from portfolio.fills import fill_of
from portfolio.lots import Method, Selection, engine_for
from portfolio.matches import Allocation, FillResult
from portfolio.units import QUANTITY_DIGITS
from tests.portfolio.bookkeeping import MARGIN, SPOT
from tests.portfolio.oracles.histories import fee_in
from tests.portfolio.oracles.naive import Chosen, Piece


@dataclass(frozen=True)
class Ours:
    """What an engine made of trades in their order."""

    trades: Sequence[Trade]
    engine: LotEngine
    results: Mapping[str, FillResult]

    @property
    def allocations(self) -> list[Allocation]:
        """All rows, in the order in which they were matched."""
        return [row for result in self.results.values() for row in result.allocations]

    @property
    def pieces(self) -> list[Piece]:
        """The rows as fractions."""
        return [piece_of(row) for row in self.allocations]

    @property
    def remaining(self) -> list[tuple[str, Fraction, Fraction]]:
        """(trade, quantity, cost) of the open lots."""
        return [(lot.trade_id, Fraction(lot.quantity), Fraction(lot.cost_basis)) for lot in self.engine.open_lots()]


def piece_of(row: Allocation) -> Piece:
    """A row as fractions."""
    return Piece(
        row.sell_trade,
        row.buy_trade,
        Fraction(row.quantity),
        None if row.cost_basis is None else Fraction(row.cost_basis),
        Fraction(row.proceeds),
        Fraction(row.net_proceeds),
        None if row.pnl is None else Fraction(row.pnl),
    )


def units(quantity: Fraction) -> int:
    """An exact quantity in the engine's units."""
    numerator, denominator = (quantity * Fraction(10) ** QUANTITY_DIGITS).as_integer_ratio()
    assert denominator == 1
    return numerator


def selections_of(chosen: Mapping[str, Chosen]) -> dict[str, list[Selection]]:
    """Choices of an oracle as the engine takes them."""
    return {
        trade: [Selection(lot, units(quantity)) for lot, quantity in lines]
        for trade, lines in chosen.items()
        if lines
    }


def book(
    trades: Sequence[Trade],
    method: Method = Method.FIFO,
    *,
    margin: bool = False,
    selections: Mapping[str, Chosen] | None = None,
) -> Ours:
    """Match trades in their order."""
    engine = engine_for(method, (MARGIN if margin else SPOT).mode, selections_of(selections or {}))
    return Ours(trades, engine, {trade.id: engine.apply_fill(fill_of(trade, fee_in(trade))) for trade in trades})
