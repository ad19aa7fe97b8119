"""Several symbols as one stream."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from execution.model import Candle
from signals.feeds.candle_file import CandleFile
from signals.feeds.feed import Feed
from signals.feeds.merge import FileFeed, merge_candles

START = datetime(2026, 1, 1, tzinfo=UTC)
ONE = Decimal(1)


def stream(symbol: str, timeframe: str, *minutes: int) -> Iterator[Candle]:
    return (Candle(symbol, timeframe, START + timedelta(minutes=n), ONE, ONE, ONE, ONE, ONE) for n in minutes)


def order(candles: Iterator[Candle]) -> list[tuple[str, int]]:
    return [(candle.symbol, (candle.time - START) // timedelta(minutes=1)) for candle in candles]


def test_candles_come_by_close_time_then_symbol() -> None:
    streams = {
        ("B", "1m"): stream("B", "1m", 0, 1, 4, 5),
        ("A", "1m"): stream("A", "1m", 1, 4, 6),
        ("C", "5m"): stream("C", "5m", 0, 5),
    }
    assert order(merge_candles(streams)) == [
        ("B", 0), ("A", 1), ("B", 1), ("A", 4), ("B", 4), ("C", 0), ("B", 5), ("A", 6), ("C", 5),
    ]  # fmt: skip


def test_the_order_in_which_streams_are_named_does_not_matter() -> None:
    def streams() -> dict[tuple[str, str], Iterator[Candle]]:
        return {(symbol, "1m"): stream(symbol, "1m", 0, 1, 2) for symbol in "ABC"}

    backwards = dict(reversed(streams().items()))
    assert order(merge_candles(backwards)) == order(merge_candles(streams()))


def test_one_stream_is_passed_on() -> None:
    assert order(merge_candles({("A", "1m"): stream("A", "1m", 0, 3)})) == [("A", 0), ("A", 3)]


@pytest.fixture
def files(tmp_path: Path) -> list[CandleFile]:
    found = []
    for symbol, minutes in (("MSFT", (0, 1, 2, 3)), ("AAPL", (1, 2, 4))):
        path = tmp_path / f"{symbol}.csv"
        lines = [f"2026-01-01T00:{n:02}:00Z,1,1,1,1,1" for n in minutes]
        path.write_text("\n".join(["time,open,high,low,close,volume", *lines]))
        found.append(CandleFile.open(path, symbol))
    return found


def test_files_are_a_feed(files: list[CandleFile]) -> None:
    feed: Feed = FileFeed(files)
    assert feed.source == "file"
    assert feed.symbols == ("AAPL", "MSFT")
    assert feed.timeframe("AAPL") == "1m"
    expected = [("MSFT", 0), ("AAPL", 1), ("MSFT", 1), ("AAPL", 2), ("MSFT", 2), ("MSFT", 3), ("AAPL", 4)]
    assert order(feed.candles({})) == expected
    after = {"MSFT": START + timedelta(minutes=2), "AAPL": START}
    assert order(feed.candles(after)) == [("AAPL", 1), ("AAPL", 2), ("MSFT", 3), ("AAPL", 4)]


def test_two_files_of_one_symbol_are_refused(files: list[CandleFile]) -> None:
    with pytest.raises(ValueError, match="one candle file per symbol"):
        FileFeed([files[0], files[0]])


def test_the_head_of_a_file_can_warm_the_indicators_of_new_books(files: list[CandleFile]) -> None:
    history, after = FileFeed(files, warmup=2).opening({"AAPL": START + timedelta(minutes=1)})
    assert order(iter(history)) == [("MSFT", 0), ("MSFT", 1)]
    assert after == dict.fromkeys(("AAPL", "MSFT"), START + timedelta(minutes=1))
    assert FileFeed(files).opening({}) == ([], {})
