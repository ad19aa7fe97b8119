"""Appending fills of a file: once, exactly, whatever is there already."""

import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

import pytest

from execution import candles, corrections, ledger
from execution.corrections import Correction
from execution.importers.common import FillAppender, FillRow, Tally, instrument_of
from execution.importers.fillbook import FillbookFile
from execution.ledger import content_hash
from execution.model import Account, Candle, Side, Source
from execution.tables import GENESIS_HASH
from tests.execution.house import START, Books

HEADER = "executed_at,symbol,side,quantity,price,fee,fee_asset,order_id,venue_trade_id,triggered_by"
NOON = "2026-01-01T12:00:00Z"
MAIN = Account("main")


def bring(books: Books, *lines: str, venue: str = "import", account: Account = MAIN) -> Tally:
    data = "\n".join([HEADER, *lines]).encode()
    rows = FillbookFile(lambda: io.BytesIO(data), "fills.csv").rows()
    appender = FillAppender(account, venue=venue, triggered_by="import:test")
    fills = appender.identify(row for row in rows if isinstance(row, FillRow))
    return books.do(lambda connection: appender.append(connection, fills, START))


def counts(tally: Tally) -> tuple[int, int, int, int]:
    assert tally.read == tally.added + tally.duplicate + tally.rejected
    return tally.read, tally.added, tally.duplicate, tally.rejected


def test_fills_become_trades_with_everything_that_the_file_says(books: Books) -> None:
    assert counts(bring(books, f"{NOON},BTC-USD,SELL,2,100,1.5,USD,ORDER 7,v1,bot:rsi")) == (1, 1, 0, 0)
    (trade,) = books.trades()
    assert (trade.side, trade.quantity, trade.price, trade.fee, trade.cash_effect) == (
        Side.SELL, 2, 100, Decimal("1.5"), Decimal("198.5"),
    )  # fmt: skip
    assert (trade.order_id, trade.venue, trade.venue_trade_id, trade.source, trade.triggered_by) == (
        "ORDER 7", "import", "v1", Source.IMPORT, "bot:rsi",
    )  # fmt: skip


def test_many_at_a_time_keep_the_chain_of_hashes(books: Books) -> None:
    bring(books, *(f"{NOON},BTC-USD,BUY,{n},100,,,,," for n in range(1, 50)))
    previous = GENESIS_HASH
    for fact in books.facts():
        assert fact.hash == content_hash(fact, previous)
        previous = fact.hash
    assert books.ask(ledger.head) == ledger.Head(50, previous)


def test_the_same_file_again_adds_nothing_with_and_without_trade_ids(books: Books) -> None:
    lines = [f"{NOON},BTC-USD,BUY,1,100,,,,v1,", f"{NOON},BTC-USD,BUY,1,100,,,,,"]
    assert counts(bring(books, *lines)) == (2, 2, 0, 0)
    assert counts(bring(books, *lines)) == (2, 0, 2, 0)


def test_identical_fills_without_ids_stay_separate_and_a_grown_file_adds_the_new_ones(books: Books) -> None:
    line = f"{NOON},BTC-USD,BUY,1,100,,,,,"
    assert counts(bring(books, line, line)) == (2, 2, 0, 0)
    assert counts(bring(books, line, line, line)) == (3, 1, 2, 0)
    assert len({trade.id for trade in books.trades()}) == 3


def test_occurrences_are_counted_over_all_transactions_of_a_file(books: Books) -> None:
    appender = FillAppender(MAIN, venue="import", triggered_by="import:x")
    data = f"{HEADER}\n{NOON},BTC-USD,BUY,1,100,,,,,".encode()
    (row,) = FillbookFile(lambda: io.BytesIO(data), "x").rows()
    assert isinstance(row, FillRow)
    for _ in range(2):
        fills = appender.identify([row])
        assert books.do(partial(appender.append, fills=fills, recorded_at=START)).added == 1


def test_a_known_id_with_other_content_is_rejected_and_names_the_trade(books: Books) -> None:
    bring(books, f"{NOON},BTC-USD,BUY,1,100,,,o1,v1,")
    for line in (f"{NOON},BTC-USD,BUY,1,101,,,o1,v1,", f"{NOON},BTC-USD,BUY,1,100,,,o2,v1,"):
        tally = bring(books, line)
        assert counts(tally) == (1, 0, 0, 1)
        assert tally.conflicts == 1
        assert tally.faults[0][:3] == (2, "venue_trade_id", "v1")
        assert books.trades()[0].id in tally.faults[0].expected


def test_within_one_file_an_id_is_one_trade(books: Books) -> None:
    line = f"{NOON},BTC-USD,BUY,1,100,,,,v1,"
    assert counts(bring(books, line, line, line.replace("100", "99"))) == (3, 1, 1, 1)


def test_an_id_belongs_to_its_venue_account_and_symbol(books: Books) -> None:
    line = f"{NOON},BTC-USD,BUY,1,100,,,,v1,"
    assert bring(books, line).added == 1
    assert bring(books, line, venue="kraken").added == 1
    assert bring(books, line, account=Account("margin")).added == 1
    assert bring(books, line.replace("BTC", "ETH")).added == 1


def test_an_order_id_that_reads_like_one_of_ours_is_kept(books: Books) -> None:
    line = f"{NOON},BTC-USD,BUY,1,100,,,order-1,v1,"
    bring(books, line, account=MAIN)
    bring(books, line, account=Account("margin"))
    assert [trade.order_id for trade in books.trades()] == ["order-1", "order-1"]


def test_unknown_symbols_are_registered_once_with_the_usual_precision(books: Books) -> None:
    tally = bring(books, f"{NOON},NEW-USD,BUY,1,1,,,,,", f"{NOON},NEW-USD,BUY,2,1,,,,,", f"{NOON},BRK-B,BUY,1,1,,,,,")
    assert tally.registered == ["NEW-USD", "BRK-B"]
    assert books.ask(ledger.instruments)["BRK-B"].currency == "USD"


def test_a_symbol_of_another_currency_is_rejected_whether_it_is_known_or_not(books: Books) -> None:
    for symbol in ("SAP-EUR", "ETH-EUR"):
        tally = bring(books, f"{NOON},{symbol},BUY,1,1,,,,,")
        assert counts(tally) == (1, 0, 0, 1)
        assert "EUR" in tally.faults[0].expected
    assert "ETH-EUR" not in books.ask(ledger.instruments)


@pytest.mark.parametrize(("symbol", "currency"), [("ETH-EUR", "EUR"), ("BRK-B", "CHF"), ("AAPL", "CHF")])
def test_the_currency_of_a_new_symbol(symbol: str, currency: str) -> None:
    assert instrument_of(symbol, "CHF").currency == currency


def test_cash_may_go_below_zero(books: Books) -> None:
    assert bring(books, f"{NOON},BTC-USD,BUY,1,1000000,,,,,").added == 1


# ---- fees in a third asset ------------------------------------------------------------------------------


def _mark(books: Books, price: str) -> None:
    opened = datetime(2026, 1, 1, 11, 59, tzinfo=UTC)
    value = Decimal(price)
    books.do(lambda c: candles.store(c, [Candle("BNB-USD", "1m", opened, value, value, value, value, Decimal(1))]))


def test_a_fee_in_a_third_asset_is_a_disposal_at_its_mark_and_leaves_cash_alone(books: Books) -> None:
    _mark(books, "600")
    tally = bring(books, f"{NOON},BTC-USD,BUY,1,100,0.01,BNB,o1,v1,bot:x")
    assert (counts(tally), tally.disposals, tally.registered) == ((1, 1, 0, 0), 1, ["BNB-USD"])
    bought, disposed = books.trades()
    assert (bought.fee, bought.fee_asset, bought.cash_effect) == (Decimal("0.01"), "BNB", -106)
    assert (disposed.symbol, disposed.side, disposed.quantity, disposed.price, disposed.cash_effect) == (
        "BNB-USD", Side.SELL, Decimal("0.01"), 600, 6,
    )  # fmt: skip
    assert (disposed.order_id, disposed.triggered_by, disposed.venue_trade_id) == ("o1", "bot:x", f"{bought.id}:fee")
    assert bring(books, f"{NOON},BTC-USD,BUY,1,100,0.01,BNB,o1,v1,bot:x").duplicate == 1
    assert len(books.trades()) == 2


def test_without_a_mark_the_fee_is_recorded_and_counted(books: Books) -> None:
    tally = bring(books, f"{NOON},BTC-USD,BUY,1,100,0.01,BNB,,,")
    assert (tally.added, tally.disposals, tally.flagged) == (1, 0, 1)
    (trade,) = books.trades()
    assert (trade.fee, trade.fee_asset, trade.cash_effect) == (Decimal("0.01"), "BNB", -100)


@pytest.mark.parametrize("together", [True, False])
def test_without_a_candle_the_last_trade_of_the_asset_until_the_fill_is_the_mark(
    books: Books, together: bool
) -> None:
    early, soon, late = (f"2026-01-01T{time}Z" for time in ("11:00:00", "11:30:00", "12:00:01"))
    rows = [
        f"{soon},BNB-USD,BUY,1,500,,,,b2,",
        f"{early},BNB-USD,BUY,1,400,,,,b1,",
        f"{late},BNB-USD,BUY,1,700,,,,b3,",
        f"{NOON},BNB-USD,BUY,1,0,,,,b4,",  # for nothing: no price
        f"{NOON},BTC-USD,BUY,1,100,0.01,BNB,,t1,",
    ]
    for some in (rows,) if together else [[row] for row in rows]:
        tally = bring(books, *some)
    assert (tally.disposals, tally.flagged) == (1, 0)
    *_, bought, disposed = books.trades()
    assert (bought.cash_effect, disposed.price, disposed.quantity) == (-105, 500, Decimal("0.01"))


def test_a_candle_goes_before_the_last_trade_as_it_does_for_positions(books: Books) -> None:
    _mark(books, "600")
    bring(books, f"{NOON},BNB-USD,BUY,1,500,,,,b1,", f"{NOON},BTC-USD,BUY,1,100,0.01,BNB,,t1,")
    assert books.trades()[-1].price == 600


def test_the_trade_of_another_account_is_a_mark_and_one_that_was_taken_back_is_none(books: Books) -> None:
    bring(books, f"{NOON},BNB-USD,BUY,1,500,,,,b1,", f"{NOON},BNB-USD,BUY,1,900,,,,b2,", account=Account("margin"))
    wrong = books.trades()[-1]
    books.do(lambda c: corrections.correct(c, Correction(wrong.id, "mistyped", "manual"), wrong.recorded_at))
    bring(books, f"{NOON},BTC-USD,BUY,1,100,0.01,BNB,,t1,")
    assert books.trades()[-1].price == 500


def test_a_trade_that_comes_after_the_fee_was_recorded_changes_no_fact(books: Books) -> None:
    fill = f"{NOON},BTC-USD,BUY,1,100,0.01,BNB,,t1,"
    assert bring(books, fill).flagged == 1
    tally = bring(books, "2026-01-01T11:00:00Z,BNB-USD,BUY,1,500,,,,b1,", fill)
    assert (tally.added, tally.duplicate, tally.disposals) == (1, 1, 0)


def test_a_fee_in_the_base_asset_takes_no_cash_and_needs_no_mark(books: Books) -> None:
    tally = bring(books, f"{NOON},BTC-USD,BUY,1,100,0.01,BTC,,,")
    assert (tally.disposals, tally.flagged) == (0, 0)
    assert books.trades()[0].cash_effect == -100


@pytest.mark.parametrize(
    ("side", "fee", "asset", "consumed"),
    [
        ("BUY", "1", "BTC", 1),
        ("BUY", "0.999", "BTC", 0),
        ("BUY", "-2", "BTC", 0),
        ("BUY", "2", "USD", 0),
        ("SELL", "-1", "BTC", 1),
        ("SELL", "2", "BTC", 0),
    ],
)
def test_a_fee_in_the_base_asset_that_leaves_nothing_of_its_fill_is_counted_by_itself(
    books: Books, side: str, fee: str, asset: str, consumed: int
) -> None:
    tally = bring(books, f"{NOON},BTC-USD,{side},1,100,{fee},{asset},,,")
    assert (tally.added, tally.consumed, tally.flagged) == (1, consumed, 0)


def test_the_mark_that_an_export_carries_is_taken(books: Books) -> None:
    tally = bring(books, f"{NOON},BTC-USD,BUY,1,100,0.01,BNB,,t1,", f"{NOON},BNB-USD,SELL,0.01,500,,,,t1:fee,")
    assert counts(tally) == (2, 2, 0, 0)
    assert [trade.cash_effect for trade in books.trades()] == [-105, 5]


def test_a_file_is_known_again_by_our_own_ids(books: Books) -> None:
    bring(books, f"{NOON},BTC-USD,BUY,1,100,,,,v1,", venue="kraken")
    (trade,) = books.trades()
    again = f"{NOON},BTC-USD,BUY,1,100,,,,{trade.id},"
    assert counts(bring(books, again)) == (1, 0, 1, 0)
    assert bring(books, again, account=Account("margin")).added == 1, "another account has no such trade"


def test_the_mark_is_the_last_candle_that_had_closed(books: Books) -> None:
    from execution.fees import mark_at

    at = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def candle(timeframe: str, opened: datetime, close: str) -> Candle:
        value = Decimal(close)
        return Candle("BNB-USD", timeframe, opened, value, value, value, value, Decimal(1))

    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    stored = [candle("1h", at - 2 * hour, "1"), candle("1h", at - hour, "2"), candle("1h", at, "3")]
    stored += [candle("1m", at - 2 * minute, "4"), candle("1m", at - minute, "5"), candle("1m", at, "6")]
    books.do(lambda c: candles.store(c, stored))
    asked = [at + minute, at, at - timedelta(seconds=1), at - 2 * minute, at - 3 * hour]
    found = [books.ask(partial(mark_at, symbol="BNB-USD", instant=when)) for when in asked]
    assert found == [6, 5, 4, 1, None]
