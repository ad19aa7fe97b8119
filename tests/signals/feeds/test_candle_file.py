"""Candle files: what is read, how the timeframe is told, and every fault with its line."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path

import pytest

from config.times import time_text
from execution.model import Candle
from signals.feeds import candle_file
from signals.feeds.candle_file import CandleFile, CandleFileInvalid

HEADER = "time,open,high,low,close,volume\n"
GOOD = HEADER + "2026-01-01T00:00:00Z,10,12,9,11,100\n2026-01-01T00:01:00Z,11,11.5,10.25,10.5,0\n"


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "c.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def bars(times: list[datetime]) -> str:
    return HEADER + "".join(f"{time_text(time)},10,12,9,11,100\n" for time in times)


def read(path: Path, after: datetime | None = None) -> list[Candle]:
    return list(CandleFile.open(path, "BTC-USD").candles(after))


def faults(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(CandleFileInvalid) as caught:
        CandleFile.open(written(tmp_path, text), "X", timeframe="1m").check()
    return [str(fault).replace(f"{tmp_path}/", "") for fault in caught.value.faults]


def test_a_file_gives_exact_candles(tmp_path: Path) -> None:
    first, second = read(written(tmp_path, GOOD))
    assert first == Candle(
        "BTC-USD",
        "1m",
        datetime(2026, 1, 1, tzinfo=UTC),
        Decimal(10),
        Decimal(12),
        Decimal(9),
        Decimal(11),
        Decimal(100),
    )
    assert isinstance(first, Candle)
    assert first.close_time == second.time
    assert str(second.low) == "10.25"


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.rstrip("\n"),
        GOOD + "\n\n",
        GOOD.replace("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00"),
        GOOD.replace("Z", "+00:00"),
        GOOD.replace("10,12", '"10",12'),
    ],
)
def test_line_ends_blank_lines_zones_and_quotes_do_not_matter(tmp_path: Path, text: str) -> None:
    assert read(written(tmp_path, text)) == read(written(tmp_path, GOOD))


def test_columns_may_come_in_any_order(tmp_path: Path) -> None:
    text = "volume,close,time,low,high,open\n100,11,2026-01-01T00:00:00Z,9,12,10\n"
    text += "0,10.5,2026-01-01T00:01:00Z,10.25,11.5,11\n"
    assert read(written(tmp_path, text)) == read(written(tmp_path, GOOD))


def test_dates_mean_midnight_utc(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "2026-01-01,10,12,9,11,100\n2026-01-02,10,12,9,11,100\n")
    assert CandleFile.open(path, "X").timeframe == "1d"
    assert read(path)[1].time == datetime(2026, 1, 2, tzinfo=UTC)


START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
MINUTES = [START + timedelta(minutes=n) for n in range(100) if n not in (3, 4, 5, 17, 40)]
HOURS = [START + timedelta(hours=n) for n in range(50)]
WEEKDAYS = [day for n in range(100) if (day := START + timedelta(days=n)).weekday() < 5]


@pytest.mark.parametrize(
    ("times", "timeframe"),
    [
        (MINUTES, "1m"),
        (HOURS, "1h"),
        (WEEKDAYS, "1d"),
        ([START, START + timedelta(minutes=15), START + timedelta(minutes=45)], "15m"),
        ([START, START + timedelta(hours=4)], "4h"),
    ],
    ids=["1m with gaps", "1h", "daily with weekends", "a tie is the smaller", "two candles"],
)
def test_the_timeframe_is_the_most_common_step(tmp_path: Path, times: list[datetime], timeframe: str) -> None:
    path = written(tmp_path, bars(times))
    assert CandleFile.open(path, "X").timeframe == timeframe


def test_gaps_stay_gaps(tmp_path: Path) -> None:
    assert [candle.time for candle in read(written(tmp_path, bars(MINUTES)))] == MINUTES


def test_a_restart_goes_on_after_the_last_stored_candle(tmp_path: Path) -> None:
    path = written(tmp_path, bars(MINUTES))
    for index in (0, 50, len(MINUTES) - 1):
        assert [candle.time for candle in read(path, after=MINUTES[index])] == MINUTES[index + 1 :]
    assert [candle.time for candle in read(path, after=START - timedelta(days=1))] == MINUTES
    in_a_gap = START + timedelta(minutes=4)
    assert next(iter(read(path, after=in_a_gap))).time == START + timedelta(minutes=6)


def test_chunks_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, bars(MINUTES))
    whole = read(path)
    monkeypatch.setattr(candle_file, "CHUNK_LINES", 7)
    assert read(path) == whole
    assert read(path, after=MINUTES[30]) == whole[31:]


def test_the_summary_counts_the_whole_file(tmp_path: Path) -> None:
    summary = CandleFile.open(written(tmp_path, bars(HOURS)), "X").check()
    assert (summary.candles, summary.first, summary.last) == (50, HOURS[0], HOURS[-1])


LINE = "2026-01-01T00:00:00Z,10,12,9,11,100\n"
PLAIN = "of at most 18 digits before and 18 after the point"
TIME = "an RFC 3339 time with a zone, such as 2026-01-31T12:00:00Z, or a date"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2026-01-01T00:00:00,10,12,9,11,1", f'time = "2026-01-01T00:00:00": expected {TIME}'),
        ("1767225600,10,12,9,11,1", f'time = "1767225600": expected {TIME}'),
        ("2026-02-31T00:00:00Z,10,12,9,11,1", f'time = "2026-02-31T00:00:00Z": expected {TIME}'),
        ("2026-02-31,10,12,9,11,1", f'time = "2026-02-31": expected {TIME}'),
        ("2026-01-02T24:00:00Z,10,12,9,11,1", f'time = "2026-01-02T24:00:00Z": expected {TIME}'),
        (",10,12,9,11,1", f'time = "": expected {TIME}'),
        (
            "2026-01-01T00:00:00Z,10,12,9,11,1",
            'time = "2026-01-01T00:00:00Z": expected a time after the line before (2026-01-01T00:00:00Z)',
        ),
        (
            "2025-12-31T23:59:00Z,10,12,9,11,1",
            'time = "2025-12-31T23:59:00Z": expected a time after the line before (2026-01-01T00:00:00Z)',
        ),
        ("2026-01-02T00:00:00Z,1e3,12,9,11,1", f'open = "1e3": expected a plain number above 0, {PLAIN}'),
        ("2026-01-02T00:00:00Z,10,NaN,9,11,1", f'high = "NaN": expected a plain number above 0, {PLAIN}'),
        ("2026-01-02T00:00:00Z,10,Infinity,9,11,1", f'high = "Infinity": expected a plain number above 0, {PLAIN}'),
        ("2026-01-02T00:00:00Z,10,12,٩,11,1", f'low = "٩": expected a plain number above 0, {PLAIN}'),
        ("2026-01-02T00:00:00Z,10,12,9,,1", f'close = "": expected a plain number above 0, {PLAIN}'),
        ("2026-01-02T00:00:00Z,10,12,9, 11,1", f'close = " 11": expected a plain number above 0, {PLAIN}'),
        ("2026-01-02T00:00:00Z,10,12,9,11,1_0", f'volume = "1_0": expected a plain number of at least 0, {PLAIN}'),
        (
            "2026-01-02T00:00:00Z,10,12,9,11,0.1234567890123456789",
            f'volume = "0.1234567890123456789": expected a plain number of at least 0, {PLAIN}',
        ),
        ("2026-01-02T00:00:00Z,10,12,9,11,-1", 'volume = "-1": expected a number of at least 0'),
        ("2026-01-02T00:00:00Z,10,12,0,11,1", 'low = "0": expected a number above 0'),
        ("2026-01-02T00:00:00Z,10,12,-9,11,1", 'low = "-9": expected a number above 0'),
        ("2026-01-02T00:00:00Z,10,10.5,9,11,1", "high = 10.5: expected at least open and close (11)"),
        ("2026-01-02T00:00:00Z,10,12,10.5,11,1", "low = 10.5: expected at most open and close (10)"),
        ("2026-01-02T00:00:00Z,10,12,9,11", '"2026-01-02T00:00:00Z,10,12,9,11": expected 6 values, not 5'),
        ('2026-01-02T00:00:00Z,10,12,9,11,"1', "expected a line of 6 values (unexpected end of data)"),
    ],
)  # fmt: skip
def test_a_bad_line_is_said_with_line_column_value_and_expectation(tmp_path: Path, line: str, message: str) -> None:
    (fault,) = faults(tmp_path, HEADER + LINE + line + "\n")
    assert fault.startswith("c.csv:3: ")
    assert fault.endswith(message)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "time,open,high,low,close\n" + LINE,
            ["c.csv:1: volume: expected this column in the header (time,open,high,low,close,volume in any order)"],
        ),
        (
            "time,open,high,low,close,close,x\n",
            [
                "c.csv:1: close: expected this column only once (time,open,high,low,close,volume in any order)",
                "c.csv:1: volume: expected this column in the header (time,open,high,low,close,volume in any order)",
                'c.csv:1: "x": expected only the columns time,open,high,low,close,volume',
            ],
        ),
        (HEADER, ["c.csv:1: expected at least one candle"]),
    ],
)
def test_a_bad_header_is_said_whole(tmp_path: Path, text: str, messages: list[str]) -> None:
    assert faults(tmp_path, text) == messages


def test_an_empty_file_lacks_every_column(tmp_path: Path) -> None:
    assert len(faults(tmp_path, "")) == 6


def test_bytes_that_are_no_text_are_named_by_line(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, (HEADER + LINE).encode() + b"2026-01-02T00:00:00Z,\xff,12,9,11,1\n")
    assert fault.startswith("c.csv:3: open = ")


def test_a_missing_file_and_a_folder_are_faults(tmp_path: Path) -> None:
    with pytest.raises(CandleFileInvalid, match=r"nowhere\.csv: expected a readable file \(no such file"):
        CandleFile.open(tmp_path / "nowhere.csv", "X")
    with pytest.raises(CandleFileInvalid, match="expected a readable file"):
        CandleFile.open(tmp_path, "X")


def test_one_candle_does_not_tell_a_timeframe(tmp_path: Path) -> None:
    with pytest.raises(CandleFileInvalid, match="expected at least two candles, to tell the timeframe"):
        CandleFile.open(written(tmp_path, HEADER + LINE), "X")
    path = written(tmp_path, HEADER + LINE)
    assert CandleFile.open(path, "X", timeframe="1d").check().candles == 1


def test_fractions_of_a_second_are_no_timeframe(tmp_path: Path) -> None:
    times = [START + timedelta(milliseconds=500 * n) for n in range(3)]
    with pytest.raises(CandleFileInvalid, match="expected candles whole seconds apart"):
        CandleFile.open(written(tmp_path, bars(times)), "X")


def test_all_faults_come_at_once_the_first_twenty_and_their_count(tmp_path: Path) -> None:
    text = bars(MINUTES).replace(",12,9,", ",1,9,")
    with pytest.raises(CandleFileInvalid) as caught:
        CandleFile.open(written(tmp_path, text), "X", timeframe="1m").check()
    assert caught.value.total == len(MINUTES)
    assert [fault.line for fault in caught.value.faults] == list(range(2, 22))
    assert str(caught.value).splitlines()[-1] == f"... and {len(MINUTES) - 20} more faults in this file"


def test_several_faults_of_one_line_are_all_named_and_one_slip_of_time_is_one_fault(tmp_path: Path) -> None:
    text = bars(MINUTES[:2]) + "2020-01-01T00:00:00Z,x,12,9,y,1\n" + bars(MINUTES[2:4]).removeprefix(HEADER)
    assert [fault.split(" = ")[0] for fault in faults(tmp_path, text)] == [
        "c.csv:4: time",
        "c.csv:4: open",
        "c.csv:4: close",
    ]


def test_a_slip_between_two_chunks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candle_file, "CHUNK_LINES", 3)
    (fault,) = faults(tmp_path, bars([*MINUTES[:3], MINUTES[2], *MINUTES[3:]]))
    assert fault.startswith("c.csv:5: time")


def test_no_candle_of_a_bad_chunk_is_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candle_file, "CHUNK_LINES", 10)
    path = written(tmp_path, bars(MINUTES).replace("T00:25:00Z,10", "T00:25:00Z,0"))
    stream = CandleFile.open(path, "X", timeframe="1m").candles()
    assert len(list(islice(stream, 20))) == 20
    with pytest.raises(CandleFileInvalid, match='open = "0"'):
        next(stream)


def test_a_file_of_many_chunks_is_read_whole_and_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, bars([START + timedelta(minutes=n) for n in range(30_000)]))
    times = [candle.time for candle in CandleFile.open(path, "X").candles()]
    assert times == [START + timedelta(minutes=n) for n in range(30_000)]
