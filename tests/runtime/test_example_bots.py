"""The example bots do what their comments say."""

import os
import random
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from config.settings import Settings
from runtime.compare import CompareRow, compare, contenders
from signals.feeds.candle_file import CandleFile
from signals.loading import load_bots

FOLDER = Path(__file__).parents[2] / "config" / "bots"
PATHS = sorted(FOLDER.glob("*.toml"))
MEASURED = re.compile(r"expect less\): ([+-][0-9]+) % over July 2017 to October 2019 \(holding: ([+-][0-9]+) %")
DATA = os.environ.get("FILLBOOK_DATA")
REAL = Path(DATA or "-") / "btc_usd_coinbase_1h.csv"


def comment_of(path: Path) -> str:
    """The comment that the file begins with, as one line of text."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def hourly_file(path: Path, count: int = 4_000) -> CandleFile:
    """Invented candles of an hour: long waves with noise, so that every kind of bot finds something to do."""
    rng = random.Random(5)
    start, close = datetime(2026, 1, 1, tzinfo=UTC), 8_000.0
    lines = ["time,open,high,low,close,volume"]
    for number in range(count):
        opened = close
        drift = 0.0015 if number // 300 % 2 == 0 else -0.0013
        close = max(100.0, close * (1 + drift + rng.gauss(0, 0.008)))
        high, low = max(opened, close) * (1 + rng.random() * 0.003), min(opened, close) * (1 - rng.random() * 0.003)
        time = (start + timedelta(hours=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines.append(f"{time},{opened:.2f},{high:.2f},{low:.2f},{close:.2f},{50 + rng.random() * 100:.4f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CandleFile.open(path, "BTC-USD")


def rows_over(file: CandleFile) -> dict[str, CompareRow]:
    bots = load_bots([FOLDER], {"sma-cross": {"quantity": Decimal("0.2")}})
    chosen = contenders(bots, ["BTC-USD"])
    return {row.contender.name: row for row in compare(Settings(), chosen, [file], cash=Decimal(10_000))}


def test_there_are_at_least_six_examples_each_named_as_its_file() -> None:
    assert len(PATHS) >= 6
    assert [bot.name for bot in load_bots([FOLDER])] == [path.stem for path in PATHS]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_example_says_what_it_does_and_when_it_loses(path: Path) -> None:
    comment = comment_of(path)
    assert "What it does:" in comment
    assert "When it loses:" in comment


def test_no_example_trades_before_somebody_enables_it() -> None:
    assert [bot.name for bot in load_bots([FOLDER]) if bot.enabled] == []


def test_every_example_trades_on_hourly_candles_and_sells_what_it_bought(tmp_path: Path) -> None:
    rows = rows_over(hourly_file(tmp_path / "waves.csv"))
    for path in PATHS:
        row = rows[path.stem]
        assert row.totals is not None, row.warnings
        assert row.totals.measures.closing_fills >= 2, path.stem
        assert not [warning for warning in row.warnings if "refused" not in warning], row.warnings


@pytest.mark.skipif(
    not REAL.exists(), reason="NOT TESTED: real candles are not here (FILLBOOK_DATA names their folder)"
)
def test_the_figures_in_the_comments_are_what_a_replay_gives() -> None:
    rows = rows_over(CandleFile.open(REAL, "BTC-USD"))
    returns = {
        name: round(row.totals.measures.return_ratio * 100)
        for name, row in rows.items()
        if row.totals is not None and row.totals.measures.return_ratio is not None
    }
    claimed = {path.stem: MEASURED.search(comment_of(path)) for path in PATHS}
    found = {name: (int(match[1]), int(match[2])) for name, match in claimed.items() if match is not None}
    assert len(found) >= 6
    assert found == {name: (returns[name], returns["hold BTC-USD"]) for name in found}
