"""Limits of risk as a person sees them: in `status`, in a refusal, and in a fault of the configuration."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from config.loading import load_settings
from config.settings import Settings
from execution.limits import RiskLimits
from runtime.composition import risk_limits
from runtime.limits import LIMITS, configured, limits_from
from tests.runtime.cli.terminal import SMA_CROSS, candle_file, demo, fillbook, until_trade

USED = ("risk.max_orders_per_minute", "risk.max_symbol_exposure", "risk.max_total_exposure", "risk.max_daily_loss")


def settings(**risk: str) -> Settings:
    overrides = [f"risk.{name}={value}" for name, value in risk.items()]
    return load_settings(config_file=None, overrides=overrides, environ={}, cwd=Path("/nowhere")).settings


@pytest.fixture(scope="module")
def halted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books of a replay that a limit halted."""
    data = tmp_path_factory.mktemp("halted")
    file = candle_file(data / "btc.csv")
    found = fillbook(
        "replay", "--data-dir", data, "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", "--cash", "10000",
        "--set", "bots.sma-cross.quantity=0.01", "--set", "risk.max_drawdown_pct=0.05", "--db", data / "fillbook.db",
        "--json",
    )  # fmt: skip
    assert found.code == 0
    return data


def status(data: Path, *sets: str) -> Any:
    options = [option for value in sets for option in ("--set", value)]
    return fillbook("status", "--data-dir", data, *options, "--json").json


def test_every_setting_of_a_limit_reaches_execution() -> None:
    chosen = settings(
        max_symbol_exposure="1", max_total_exposure="2", max_orders_per_minute="3", max_daily_loss="4.5",
        max_drawdown_pct="6", price_collar_pct="7",
    )  # fmt: skip
    found = risk_limits(chosen)
    assert found == RiskLimits(
        stale_price=found.stale_price,
        max_symbol_exposure=Decimal(1),
        max_total_exposure=Decimal(2),
        max_orders_per_minute=3,
        max_daily_loss=Decimal("4.5"),
        max_drawdown_pct=Decimal(6),
        price_collar_pct=Decimal(7),
    )
    assert found.stale_price.total_seconds() == 86_400
    assert limits_from(configured(chosen)) == found


def test_no_setting_of_risk_is_left_out_of_the_list() -> None:
    assert {f"risk.{name}" for name in type(settings().risk).model_fields} <= {limit.setting for limit in LIMITS}


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("max_drawdown_pct", "101", "a number from 0 to 100"),
        ("max_daily_loss", "-1", "a number from 0 to 1000000000000000"),
        ("max_orders_per_minute", "1.5", "a whole number from 0 to 1000000"),
        ("price_collar_pct", "-0.1", "a number from 0 to 100"),
    ],
)
def test_a_value_out_of_range_is_explained(tmp_path: Path, setting: str, value: str, expected: str) -> None:
    found = fillbook("status", "--data-dir", tmp_path, "--set", f"risk.{setting}={value}")
    assert found.code == 2
    assert f"risk.{setting} = {value}: expected {expected}" in found.err


def test_status_names_every_limit_its_value_and_its_refusal(halted: Path) -> None:
    found = status(halted, "risk.max_daily_loss=500")["limits"]
    rows = {row["setting"]: (row["value"], row["refusal"]) for row in found["settings"]}
    assert rows == {
        "execution.maximum_notional": (None, "above_maximum"),
        "execution.stale_price_seconds": ("86400", "stale_price"),
        "risk.price_collar_pct": (None, "price_collar"),
        "risk.max_orders_per_minute": (None, "order_rate"),
        "risk.max_symbol_exposure": (None, "symbol_exposure"),
        "risk.max_total_exposure": (None, "total_exposure"),
        "risk.max_daily_loss": ("500", "daily_loss"),
        "risk.max_drawdown_pct": (None, "drawdown"),
    }


def test_without_limits_nothing_is_measured(halted: Path) -> None:
    assert status(halted)["limits"]["accounts"] == []


@pytest.mark.parametrize("setting", USED)
def test_status_shows_how_much_of_a_limit_each_account_uses(halted: Path, setting: str) -> None:
    found = status(halted, f"{setting}=9")
    (account,) = found["limits"]["accounts"]
    portfolio = fillbook("portfolio", "--data-dir", halted, "--json").json
    assert account["equity"] == portfolio["equity"]
    assert account["total_exposure"] == portfolio["market_value"]
    assert account["exposure"] == [{"symbol": "BTC-USD", "value": portfolio["market_value"]}]
    assert Decimal(account["drawdown_pct"]) > 0
    assert account["orders_last_minute"] == 0
    assert account["halted_by_limit"] == "drawdown"


def test_a_halt_by_a_limit_is_seen_on_the_screen_with_its_figures(halted: Path) -> None:
    shown = fillbook("status", "--data-dir", halted, "--set", "risk.max_drawdown_pct=0.05").out
    assert "HALTED        main by limit:drawdown at 2000-01-01T02:47:00Z" in shown
    assert "below its peak of" in shown
    assert "risk.max_drawdown_pct          0.05 %" in shown
    halts = status(halted)["halts"]
    assert [halt["by"] for halt in halts] == ["limit:drawdown"]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running daemon with limits, which knows prices."""
    folder = tmp_path_factory.mktemp("limited") / "data"
    with demo(folder, "--set", "risk.max_symbol_exposure=777", "--set", "risk.price_collar_pct=5") as running:
        until_trade(running)
        yield folder


def test_status_shows_the_limits_that_the_daemon_runs_with(limited: Path) -> None:
    found = status(limited)["limits"]
    values = {row["setting"]: row["value"] for row in found["settings"]}
    assert values["risk.max_symbol_exposure"] == "777"
    assert values["risk.price_collar_pct"] == "5"
    (account,) = found["accounts"]
    assert account["account"] == "main"
    assert account["total_exposure"] is not None


def test_a_refusal_names_its_limit(limited: Path) -> None:
    found = fillbook("trade", "BTC-USD", "BUY", "--notional", "778", "--data-dir", limited)
    assert found.code == 1
    assert "symbol_exposure" in found.err
    assert "at most 777 USD in BTC-USD" in found.err
    slip = fillbook("trade", "BTC-USD", "BUY", "--notional", "10", "--limit", "9999999", "--data-dir", limited)
    assert slip.code == 1
    assert "price_collar" in slip.err
    assert "5 % above the last price" in slip.err
