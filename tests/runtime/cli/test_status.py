"""What `status` says of books that lie still."""

from pathlib import Path
from typing import Any

import pytest

from tests.runtime import full_books
from tests.runtime.cli.terminal import fillbook


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books with an order that was placed at 10:00 and is open, and a candle that closed at 11:00."""
    folder = tmp_path_factory.mktemp("data")
    full_books.make(folder / "fillbook.db")
    return folder


def open_order(data: Path, *more: str) -> Any:
    (order,) = fillbook("status", "--json", "--data-dir", data, *more).json["open_orders"]
    return order


def test_an_open_order_is_as_old_as_its_feed_is_ahead_of_it(data: Path) -> None:
    order = open_order(data, "--set", "feed.synthetic=true")
    assert (order["created_at"], order["age_seconds"]) == ("2026-01-01T10:00:00Z", 3600)


def test_without_a_feed_that_is_played_an_open_order_ages_by_the_clock_on_the_wall(data: Path) -> None:
    assert open_order(data)["age_seconds"] > 24 * 3600
