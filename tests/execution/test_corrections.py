"""Corrections: what is appended, what it does to cash and quantities, what cannot be corrected."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from config.exact import ZERO
from config.instruments import default_instrument
from execution import candles, fees, ledger
from execution.corrections import Change, Correction, NotCorrectable, correct, replaced
from execution.model import Candle, Side, Source, Trade
from execution.totals import read_totals
from tests.execution.house import BTC, START, Books, fill

WHY = "typed wrong"
WHO = "manual:ann"


def do(books: Books, trade_id: str, change: Change | None = None) -> list[Trade]:
    return books.do(lambda c: correct(c, Correction(trade_id, WHY, WHO, change), START))


def held(books: Books) -> tuple[Decimal, Decimal]:
    totals = books.ask(read_totals)
    return totals.cash["main"], totals.quantities.get(("main", BTC), ZERO)


def recorded(books: Books, **more: Any) -> Trade:
    books.record(fill(1, quantity="2", price="100", **more))
    return books.trades()[-1]


@pytest.mark.parametrize(("fee", "asset"), [("1.5", "USD"), ("0.01", "BTC"), ("0", "USD")])
def test_a_trade_that_is_taken_back_leaves_cash_and_quantity_as_they_were(books: Books, fee: str, asset: str) -> None:
    before = held(books)
    trade = recorded(books, fee=fee, fee_asset=asset)
    (entry,) = do(books, trade.id)
    assert held(books) == before
    assert (entry.side, entry.quantity, entry.price, entry.executed_at) == (
        Side.SELL, trade.quantity, trade.price, trade.executed_at,
    )  # fmt: skip
    assert (entry.fee, entry.cash_effect, entry.corrects) == (-trade.fee, -trade.cash_effect, trade.id)
    assert (entry.source, entry.triggered_by) == (Source.MANUAL, WHO)
    assert entry.signal_context == {"correction": {"reason": WHY, "by": WHO}}


def test_the_replacement_has_what_was_not_changed_from_the_trade(books: Books) -> None:
    trade = recorded(books, triggered_by="bot:rsi", signal_context={"score": 0.5})
    later = trade.executed_at + timedelta(minutes=1)
    _, new = do(books, trade.id, Change(quantity=Decimal("0.2"), fee=Decimal(1), executed_at=later))
    assert (new.side, new.quantity, new.price, new.fee, new.executed_at) == (
        trade.side, Decimal("0.2"), trade.price, 1, later,
    )  # fmt: skip
    assert (new.cash_effect, new.triggered_by, new.venue_sequence) == (-21, "bot:rsi", trade.venue_sequence)
    assert new.signal_context is not None
    assert new.signal_context["score"] == 0.5
    assert replaced(new) == trade.id
    assert held(books) == (10_000 - 21, Decimal("0.2"))


def test_a_trade_is_taken_back_once_and_its_replacement_can_be_corrected_again(books: Books) -> None:
    trade = recorded(books)
    entry, new = do(books, trade.id, Change(price=Decimal(90)))
    with pytest.raises(NotCorrectable, match=entry.id):
        do(books, trade.id)
    with pytest.raises(NotCorrectable, match="takes back"):
        do(books, entry.id)
    do(books, new.id)
    assert held(books) == (10_000, 0)
    assert books.ask(ledger.corrected_by).keys() == {trade.id, new.id}


def test_a_fee_that_had_no_mark_is_a_disposal_when_it_is_corrected_with_one(books: Books) -> None:
    charged = recorded(books, fee="0.1", fee_asset="BNB")
    assert charged.cash_effect == -200
    opened = charged.executed_at - timedelta(hours=1)
    mark = Decimal(600)
    bar = Candle("BNB-USD", "1m", opened, mark, mark, mark, mark, Decimal(1))
    books.do(lambda c: candles.store(c, [bar]))

    _, new, disposal = do(books, charged.id, Change(fee=Decimal("0.1")))

    assert (new.fee, new.fee_asset, new.cash_effect) == (Decimal("0.1"), "BNB", -260)
    assert (disposal.symbol, disposal.quantity, disposal.price) == ("BNB-USD", Decimal("0.1"), 600)
    assert held(books) == (10_000 - 200, 2)


def test_an_unknown_trade_is_named(books: Books) -> None:
    with pytest.raises(NotCorrectable, match="'nothing'"):
        do(books, "nothing")


def test_the_disposal_of_a_fee_goes_back_with_its_trade_and_keeps_its_mark(books: Books) -> None:
    charged, disposal = fees.dispose(
        fill(1, quantity="2", price="100", fee="0.1", fee_asset="BNB"), "USD", Decimal(600)
    )
    books.do(lambda c: ledger.add_instrument(c, default_instrument("BNB-USD")))
    books.record(charged, disposal)
    with pytest.raises(NotCorrectable, match="correct that one"):
        do(books, disposal.id)
    appended = do(books, charged.id, Change(fee=Decimal("0.01")))
    assert [trade.corrects for trade in appended] == [charged.id, disposal.id, None, None]
    assert (appended[2].cash_effect, appended[3].quantity, appended[3].price) == (-206, Decimal("0.01"), 600)
    assert held(books) == (10_000 - 200, 2), "a fee in a third asset takes no cash"
