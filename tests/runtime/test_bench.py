"""The benchmarks still run. Whether they are fast is for a quiet machine to say, not for a test."""

import json
import os
import subprocess
import sys

import pytest

from tests.bench import catalogue
from tests.bench.measure import Row, percentile

CHEAP = ("fifo", "fills", "growth", "replay", "replay_trading", "durable")


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `./run bench` without the shell."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-P", "-m", "tests.bench", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
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
