"""Instants and timeframes, symbols and names."""

from datetime import UTC, datetime, timedelta

import pytest

from config.instruments import NotASymbol, default_instrument, is_name, is_symbol
from config.times import (
    NotATime,
    NotATimeframe,
    parse_time,
    stored_time,
    time_text,
    timeframe_length,
    timeframe_of,
)


def test_an_instant_is_read_in_utc_and_written_with_z() -> None:
    instant = parse_time("2026-01-31T12:00:00.25+01:00")
    assert instant == datetime(2026, 1, 31, 11, 0, 0, 250_000, tzinfo=UTC)
    assert time_text(instant) == "2026-01-31T11:00:00.250000Z"
    assert time_text(parse_time("2026-01-31t12:00:00z")) == "2026-01-31T12:00:00Z"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-02-31T12:00:00Z",
        "1767225600",
        "٢026-01-31T12:00:00Z",
        "0001-01-01T00:00:00+14:00",
    ],
)
def test_a_time_without_zone_or_sense_is_refused(text: str) -> None:
    with pytest.raises(NotATime):
        parse_time(text)


def test_a_time_in_nanoseconds_is_not_cut_but_refused_with_the_reason() -> None:
    with pytest.raises(NotATime, match="at most 6 digits of a second"):
        parse_time("2026-01-31T12:00:00.123456789Z")


def test_stored_times_sort_as_text() -> None:
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=n * 333_333) for n in range(10)]
    texts = [stored_time(instant) for instant in times]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {27}
    assert [datetime.fromisoformat(text) for text in texts] == times


@pytest.mark.parametrize(
    ("timeframe", "seconds", "name"),
    [
        ("1s", 1, "1s"),
        ("1m", 60, "1m"),
        ("90s", 90, "90s"),
        ("60m", 3600, "1h"),
        ("24h", 86_400, "1d"),
        ("1w", 604_800, "7d"),
    ],
)
def test_timeframes_have_lengths_and_lengths_names(timeframe: str, seconds: int, name: str) -> None:
    assert timeframe_length(timeframe) == timedelta(seconds=seconds)
    assert timeframe_of(timedelta(seconds=seconds)) == name


@pytest.mark.parametrize("timeframe", ["", "m", "0m", "1M", "1.5h", "-1m", "1 m", "١m"])
def test_other_timeframes_are_refused(timeframe: str) -> None:
    with pytest.raises(NotATimeframe):
        timeframe_length(timeframe)


@pytest.mark.parametrize("text", ["BTC-USD", "AAPL", "BRK.B", "X_1", "7203"])
def test_symbols(text: str) -> None:
    assert is_symbol(text)
    assert default_instrument(text).symbol == text


@pytest.mark.parametrize("text", ["", "btc", "BTC/USD", "A B", "A+", "#", "-A", ".A", "A" * 33, "A\n", "Ä"])
def test_what_is_no_symbol(text: str) -> None:
    assert not is_symbol(text)
    with pytest.raises(NotASymbol):
        default_instrument(text)


def test_names_are_small_letters_digits_and_dashes() -> None:
    assert is_name("sma-cross-2")
    assert not any(is_name(text) for text in ("", "-a", "A", "a_b", "a.b", "a" * 33, "a\n"))
