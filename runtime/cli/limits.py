"""The limits of risk on the screen of `fillbook status`."""

from typing import Any

from rich.text import Text

from runtime.cli.output import MISSING, Cell, money, number, show, show_table, signed, to_decimal
from runtime.limits import LIMITS


def show_limits(found: dict[str, Any]) -> None:
    """Each limit with its value, then how much of them every account uses."""
    units = {limit.setting: limit.unit for limit in LIMITS}
    show_table(
        ["limit", "at most", "what", "refusal"],
        [
            [
                item["setting"],
                "off" if item["value"] is None else f"{number(to_decimal(item['value']))} {units[item['setting']]}",
                item["meaning"],
                item["refusal"],
            ]
            for item in found["settings"]
        ],
        empty="",
    )
    if found["accounts"]:
        show()
        show_table(
            ["account", ">orders in 60 s", ">exposure", "of which", ">P&L today", ">drawdown %", "halted by"],
            [_row(item) for item in found["accounts"]],
            empty="",
        )


def _row(item: dict[str, Any]) -> list[Cell]:
    parts = [f"{part['symbol']} {money(to_decimal(part['value']))}" for part in item["exposure"]]
    halted = item["halted_by_limit"]
    return [
        item["account"],
        str(item["orders_last_minute"]),
        money(to_decimal(item["total_exposure"])),
        ", ".join(parts) or MISSING,
        signed(to_decimal(item["daily_pnl"])),
        number(to_decimal(item["drawdown_pct"]), most=2),
        MISSING if halted is None else Text(halted, style="bold red"),
    ]
