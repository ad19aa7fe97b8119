"""The benchmarks still run. Whether they are fast is for a quiet machine to say, not for a test."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.bench import catalogue, many_bots
from tests.bench.measure import Row, percentile

CHEAP = ("fifo", "fills", "growth", "replay", "replay_trading", "durable")


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `./run bench` without the shell."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-P", "-m", "tests.bench", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
        check=False,
    )


def test_the_cheap_benchmarks_print_every_row_beside_a_baseline() -> None:
    done = bench("--quick", "--json", *CHEAP)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == []
    assert list(found["megabytes"]) == list(CHEAP)
    rows = found["items"]
    assert {row["benchmark"] for row in rows} == set(CHEAP)
    assert all(row["measured"] > 0 and row["unit"] for row in rows)
    with_aim = [row for row in rows if row["aim"] is not None]
    assert len(with_aim) == 6
    assert all(row["meets_aim"] in (True, False) for row in with_aim)
    assert all(row["cost"] > 0 and row["baseline_is"] for row in rows if row["baseline"] is not None)


def test_the_table_is_for_people() -> None:
    done = bench("--quick", "fifo")
    assert done.returncode == 0, done.stderr
    assert "--quick: a smoke test" in done.stdout
    assert "FIFO engine alone" in done.stdout
    assert "bare FIFO of integers" in done.stdout


def test_an_unknown_benchmark_is_a_usage_error() -> None:
    done = bench("nonsense")
    assert done.returncode == 2
    assert "no benchmark called nonsense" in done.stderr


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_every_benchmark_can_be_loaded(name: str) -> None:
    assert callable(catalogue.load(name))


def test_a_row_knows_its_cost_and_whether_its_aim_is_met() -> None:
    fast = Row("speed", 50.0, "fills/s", baseline=100.0, aim=60.0)
    assert fast.cost == 2.0
    assert fast.meets_aim is False
    slow = Row("latency", 4.0, "ms", baseline=1.0, aim=5.0, lower_is_better=True)
    assert slow.cost == 4.0
    assert slow.meets_aim is True
    assert Row("no aim", 1.0, "MB").meets_aim is None


def test_a_percentile_is_the_nearest_rank() -> None:
    assert percentile([5.0, 1.0, 3.0], 0.5) == 3.0
    assert percentile([1.0], 0.99) == 1.0


def test_many_bots_are_measured_at_every_number_with_their_growth_and_memory() -> None:
    done = bench("--quick", "--json", "many_bots")
    assert done.returncode == 0, done.stderr
    rows = {row["what"].strip(): row for row in json.loads(done.stdout)["items"]}
    assert rows["replay, 50 bots on 20 symbols"]["measured"] > 0
    assert {f"a candle of a bot, among {count} bots" for count in (5, 10, 25, 50, 100)} <= set(rows)
    assert rows["growth 10 -> 100 bots"]["aim"] == 1.25
    assert rows["peak memory, 50 bots"]["measured"] > 0


def test_the_mix_of_many_bots_is_the_same_at_every_number_and_covers_all_symbols() -> None:
    def mix(count: int) -> dict[str, float]:
        made = many_bots.bots(count)
        kinds = Counter(f"{bot.kind} {bot.stop_loss_pct} {bot.trailing_stop_pct} {bot.exit}" for bot in made)
        return {kind: number / count for kind, number in kinds.items()}

    assert len(mix(5)) == 5
    assert all(mix(count) == mix(5) for count in many_bots.COUNTS)
    fifty = Counter(bot.symbol for bot in many_bots.bots(50))
    assert len(fifty) == 20
    assert set(fifty.values()) == {2, 3}


def test_long_books_are_measured_from_the_import_to_the_fill_on_top_of_them() -> None:
    done = bench("--quick", "--json", "imports", "recompute", "late_trade", "fill_growth")
    assert done.returncode == 0, done.stderr
    rows = {row["what"].strip(): row for row in json.loads(done.stdout)["items"]}
    assert rows["import of 1,200 fills"]["unit"] == "rows/s"
    assert rows["full recomputation of 1,200 trades, stored"]["cost"] > 0
    assert rows["a late trade at 90 % of 600"]["aim"] == 0.3
    assert rows["growth 300 -> 1,200"]["aim"] == 1.25
    assert all(row["measured"] > 0 for row in rows.values())


def test_commands_over_long_books_are_measured_beside_one_that_reads_none() -> None:
    done = bench("--quick", "--json", "reads")
    assert done.returncode == 0, done.stderr
    rows = {row["what"]: row for row in json.loads(done.stdout)["items"]}
    assert [rows[f"fillbook {words}, 1,200 trades"]["aim"] for words in ("bankroll", "report pnl", "portfolio")] == [
        1.0
    ] * 3
    assert rows["daemon up, 1,200 trades"]["measured"] > 0
