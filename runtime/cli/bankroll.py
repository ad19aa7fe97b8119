"""`bankroll`: what each paper account has made of its money."""

import typer

from runtime.cli.base import Place, command
from runtime.cli.books import PANEL, UNKNOWN_PNL, page


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "bankroll", json=True, panel=PANEL)(bankroll)


def bankroll(place: Place) -> None:
    """Balance, trades won and return of each paper account: the view paper_bankroll, from the books."""
    from portfolio.bankroll import read_bankrolls
    from runtime.cli.output import moment, money, show, show_json, show_table, signed

    found = place.read(read_bankrolls)
    if place.json:
        show_json(page(item.to_wire() for item in found))
        return
    show_table(
        ["account", ">balance", ">trades", ">winning", ">total P&L", ">ROI", "updated at", ""],
        [
            [
                item.account,
                money(item.balance),
                f"{item.total_trades:,}",
                f"{item.winning_trades:,}",
                signed(item.total_pnl),
                "unknown" if item.roi is None else f"{item.roi:+.4%}",
                moment(item.updated_at),
                "incomplete" if item.incomplete else "",
            ]
            for item in found
        ],
        empty="no paper accounts",
    )
    if any(item.incomplete for item in found):
        show(UNKNOWN_PNL)
