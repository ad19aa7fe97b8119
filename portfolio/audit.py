"""An audit of lots and allocations by plain addition: independent of how the FIFO engine computes them.

For trades whose allocations are not stored yet; stored ones are proven by `validation`.
"""

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from config.exact import ZERO, plain
from execution.model import Account, AccountMode, Side, Trade
from portfolio.books import SymbolBook
from portfolio.fifo import LotEngine
from portfolio.matches import Allocation, FillResult, OpenLot
from portfolio.validation import Check, Report


@dataclass(slots=True)
class _Open:
    """What must still be open of a trade, by subtraction of the parts that were closed."""

    trade_id: str
    price: Decimal
    quantity: Decimal
    fee: Decimal
    opened_at: datetime
    flagged: bool
    """Its fee could not be valued."""


class LotAudit:
    """Follows the trades of one account and symbol in total order; reports what does not add up.

    `report` gets one text for each fault, naming the trade. Trades that were taken back, and the entries that did
    it, must be left out. Memory: the open lots.
    """

    def __init__(self, account: Account, symbol: str, report: Report) -> None:
        self.sells = 0
        self.allocations = 0
        self.unmatched = ZERO
        self._account = account
        self._name = f"{account.name}/{symbol}"
        self._report = report
        self._book = SymbolBook(account, symbol)
        self._lots: deque[_Open] = deque()
        self._side = Side.BUY  # of the open lots

    def apply(self, trade: Trade) -> None:
        """Match the trade with the engine and check what the engine says about it."""
        self.sells += trade.side is Side.SELL
        result = self._book.apply(trade)
        if result is None:
            self._fault(Check.ORDER, trade, "sorts before the trade in front of it")
            return
        quantity, fee = self._expected(trade, result)
        if result.fee != fee:
            self._fault(Check.SUMS, trade, f"fee {plain(result.fee)}, expected {plain(fee)}")
        self.allocations += len(result.allocations)
        for piece in result.allocations:
            self._check_piece(trade, piece)
            self._check_pnl(trade, piece, result)
            quantity -= piece.quantity
            own_fee = piece.sell_fee if trade.side is Side.SELL else piece.buy_fee
            fee -= own_fee or ZERO
            if piece.buy_trade is None:
                self.unmatched += piece.quantity
            else:
                self._close(trade, piece)
        self._keep(trade, quantity, fee, result.fee_flagged)

    def finish(self, engine: LotEngine) -> None:
        """Compare what must be open with the open lots of the books."""
        sign = self._side.sign
        expected = [
            OpenLot(lot.trade_id, sign * lot.quantity, sign * lot.quantity * lot.price + lot.fee, lot.opened_at)
            for lot in self._lots
        ]
        if expected != list(engine.open_lots()):
            self._report(Check.LOTS, f"{self._name}: the open lots are not what the trades leave open")
        cost = sum((lot.cost_basis for lot in expected), ZERO)
        if cost != engine.cost_basis:
            said = f"cost basis {plain(engine.cost_basis)}, the lots give {plain(cost)}"
            self._report(Check.SUMS, f"{self._name}: {said}")

    def _expected(self, trade: Trade, result: FillResult) -> tuple[Decimal, Decimal]:
        """The quantity that moved and the fee in quote currency."""
        if not trade.fee or result.fee_flagged:
            return trade.quantity, ZERO
        if trade.fee_asset == self._account.currency:
            return trade.quantity, trade.fee
        if trade.symbol == f"{trade.fee_asset}-{self._account.currency}":
            return trade.quantity - trade.side.sign * trade.fee, trade.fee * trade.price
        # A third asset: its value was recorded as a part of the cash that the trade moved.
        return trade.quantity, -trade.cash_effect - trade.side.sign * trade.quantity * trade.price

    def _check_piece(self, trade: Trade, piece: Allocation) -> None:
        """The sums inside one allocation."""
        wrong = piece.quantity <= 0
        wrong |= piece.proceeds != piece.quantity * piece.sell_price
        wrong |= piece.net_proceeds != piece.proceeds - piece.sell_fee
        if piece.buy_price is not None and piece.buy_fee is not None and piece.cost_basis is not None:
            wrong |= piece.cost_basis != piece.quantity * piece.buy_price + piece.buy_fee
            wrong |= piece.pnl is not None and piece.pnl != piece.net_proceeds - piece.cost_basis
        else:
            wrong |= (piece.buy_trade, piece.pnl) != (None, None)
        wrong |= (piece.sell_price if trade.side is Side.SELL else piece.buy_price) != trade.price
        if wrong:
            self._fault(Check.SUMS, trade, f"an allocation to {piece.buy_trade} does not add up")

    def _check_pnl(self, trade: Trade, piece: Allocation, result: FillResult) -> None:
        """Unknown exactly where there is no buy, or where a fee on one of the two sides could not be valued."""
        flagged = result.fee_flagged or (bool(self._lots) and self._lots[0].flagged)
        if (piece.pnl is None) != (piece.buy_trade is None or flagged):
            known = "known" if piece.pnl is not None else "unknown"
            self._fault(Check.SUMS, trade, f"the P&L of its allocation to {piece.buy_trade} is {known}")

    def _close(self, trade: Trade, piece: Allocation) -> None:
        """Take an allocation off the oldest open lot."""
        opening_id = piece.buy_trade if trade.side is Side.SELL else piece.sell_trade
        if not self._lots or self._side is trade.side or self._lots[0].trade_id != opening_id:
            self._fault(Check.LOTS, trade, f"closes {opening_id}, which is not the oldest open lot")
            return
        lot = self._lots[0]
        price, fee = (
            (piece.buy_price, piece.buy_fee) if trade.side is Side.SELL else (piece.sell_price, piece.sell_fee)
        )
        lot.quantity -= piece.quantity
        lot.fee -= fee or ZERO
        if lot.quantity < 0:
            self._fault(Check.LOTS, trade, f"takes more of {lot.trade_id} than is left")
        if price != lot.price or lot.opened_at > trade.executed_at:
            self._fault(Check.ORDER, trade, f"closes {lot.trade_id} at another price, or before it was opened")
        if lot.quantity <= 0:
            self._lots.popleft()
            if lot.fee:
                self._fault(Check.SUMS, trade, f"leaves {plain(lot.fee)} of the fee of {lot.trade_id} behind")

    def _keep(self, trade: Trade, quantity: Decimal, fee: Decimal, flagged: bool) -> None:
        """What the allocations left of the trade: an open lot, or it must be nothing."""
        if not quantity:
            if fee:
                self._fault(Check.SUMS, trade, f"parts of its fee miss {plain(fee)}")
            return
        can_open = trade.side is Side.BUY or self._account.mode is AccountMode.MARGIN
        if quantity < 0 or not can_open or (self._lots and self._side is not trade.side):
            self._fault(Check.SELLS, trade, f"allocated with a difference of {plain(quantity)}")
            return
        self._side = trade.side
        self._lots.append(_Open(trade.id, trade.price, quantity, fee, trade.executed_at, flagged))

    def _fault(self, check: Check, trade: Trade, text: str) -> None:
        self._report(check, f"{self._name}: trade {trade.id} (sequence {trade.sequence}): {text}")
