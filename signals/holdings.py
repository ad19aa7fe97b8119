"""What policies know of the accounts: positions and what opened them, cash, and each bot's last fill, followed
from the ledger.

Nothing here is stored: it is summed up from the facts at start, and each further fact is added in sequence.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal

from config.exact import ZERO
from config.instruments import Instrument, default_instrument
from execution.model import CashFlow, Fact, Trade
from execution.totals import Totals, note_opening, quantity_effect


class Holdings:
    """The sums over all facts up to `sequence`."""

    __slots__ = ("_cash", "_instruments", "_last_fills", "_opened", "_positions", "halted", "sequence")

    def __init__(self, instruments: Mapping[str, Instrument] | None = None) -> None:
        self.sequence = 0
        self.halted: set[str] = set()
        """The accounts whose trading is halted."""
        self._instruments: dict[str, Instrument] = dict(instruments or {})
        self._positions: dict[tuple[str, str], Decimal] = {}
        self._cash: dict[str, Decimal] = {}
        self._last_fills: dict[str, datetime] = {}
        self._opened: dict[tuple[str, str], int] = {}

    def load(self, totals: Totals) -> None:
        """Start from the sums over all facts."""
        self.sequence = totals.sequence
        self._positions = totals.quantities
        self._cash = totals.cash
        self._last_fills = totals.last_fills
        self._opened = totals.opened

    def learn(self, instruments: Mapping[str, Instrument]) -> None:
        """Take in (more of) the catalogue."""
        self._instruments.update(instruments)

    def instrument(self, symbol: str) -> Instrument:
        """The catalogue entry of a symbol; the default entry when it has none."""
        instrument = self._instruments.get(symbol)
        if instrument is None:
            instrument = self._instruments[symbol] = default_instrument(symbol)
        return instrument

    def quantity(self, account: str, symbol: str) -> Decimal:
        """The position in base units; negative when short."""
        return self._positions.get((account, symbol), ZERO)

    def opened(self, account: str, symbol: str) -> int | None:
        """The sequence of the fact that opened the present position; None when there is none.

        A position that was closed and opened again has another one.
        """
        return self._opened.get((account, symbol))

    def cash(self, account: str) -> Decimal:
        """The account's cash in its currency."""
        return self._cash.get(account, ZERO)

    def last_fill(self, triggered_by: str) -> datetime | None:
        """When the latest fill with this tag was executed."""
        return self._last_fills.get(triggered_by)

    def apply(self, facts: Iterable[Fact]) -> bool:
        """Add facts in sequence order; those added before are skipped.

        False: a fact is missing before one of them, and nothing from there on was added.
        """
        for fact in facts:
            if fact.sequence <= self.sequence:
                continue
            if fact.sequence != self.sequence + 1:
                return False
            if isinstance(fact, CashFlow):
                self._add_cash(fact.account, fact.cash_effect)
            else:
                self._add_trade(fact)
            self.sequence = fact.sequence
        return True

    def _add_cash(self, account: str, amount: Decimal) -> None:
        self._cash[account] = self._cash.get(account, ZERO) + amount

    def _add_trade(self, trade: Trade) -> None:
        self._add_cash(trade.account, trade.cash_effect)
        instrument = self.instrument(trade.symbol)
        key = (trade.account, trade.symbol)
        before = self._positions.get(key, ZERO)
        self._positions[key] = after = before + quantity_effect(trade, instrument.base_asset)
        note_opening(self._opened, key, trade.sequence, before, after, instrument.quantity_increment)
        last = self._last_fills.get(trade.triggered_by)
        if last is None or trade.executed_at > last:
            self._last_fills[trade.triggered_by] = trade.executed_at
