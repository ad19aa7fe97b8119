"""`fillbook replay`: candle files through bots, execution and portfolio, as fast as they go."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli.base import Place, command, say
from runtime.cli.inputs import BotsOption, CandlesOption, gather, invalid_input

if TYPE_CHECKING:
    from decimal import Decimal

    from runtime.replay import ReplayResult


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "replay", json=True, panel="Run")(replay)


def replay(
    place: Place,
    bots: BotsOption = None,
    candles: CandlesOption = None,
    cash: Annotated[
        str | None,
        typer.Option("--cash", metavar="N", help="Cash to start with (default: account.initial_deposit)."),
    ] = None,
    db: Annotated[
        Path | None, typer.Option("--db", metavar="PATH", help="Keep the books in this file (default: in memory).")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Run each bot alone, in books of its own, beside buying and holding."),
    ] = False,
    together: Annotated[
        bool,
        typer.Option("--together", help="With --compare: also all bots in the same books, as the daemon runs them."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", min=1, help="With --compare: runs at a time (default: the cores)."),
    ] = None,
) -> None:
    """Run candle files through the bots and print the trades, P&L and a hash of the books."""
    if not candles:
        raise typer.BadParameter("name at least one candle file: SYM=FILE", param_hint="--candles")
    _only_together(compare, db, together, jobs)
    inputs = gather(place, bots, candles)
    amount = _cash(place, cash)
    if compare:
        from runtime.cli.compare import show_comparison

        show_comparison(place, inputs, amount, together=together, jobs=jobs)
        return

    from runtime.cli.bars import CountBar
    from runtime.ctrl_c import run_inline
    from runtime.replay import Replay
    from signals.feeds.merge import FileFeed

    run = Replay(place.settings, inputs.bots, FileFeed(inputs.files), cash=amount, database=db)
    with CountBar("candles", sum(summary.candles for summary in inputs.summaries)) as bar:
        result = run_inline(run.run(bar.listener))
    for warning in result.warnings:
        say(f"fillbook: warning: {warning}")
    if place.json:
        from runtime.cli.output import show_json

        show_json(result.to_wire())
    else:
        _show(result)


def _only_together(compare: bool, db: Path | None, together: bool, jobs: int | None) -> None:
    """Options that mean something only with, or only without, `--compare`."""
    if compare and db is not None:
        raise typer.BadParameter("the books of one run; --compare makes many", param_hint="--db")
    if not compare and together:
        raise typer.BadParameter(
            "only with --compare: without it the bots share their books anyway", param_hint="--together"
        )
    if not compare and jobs is not None:
        raise typer.BadParameter("only with --compare: one run takes one core", param_hint="--jobs")


def _cash(place: Place, text: str | None) -> "Decimal":
    from config.exact import NotADecimal, parse_decimal
    from config.toml_errors import Fault

    if text is None:
        return place.settings.account.initial_deposit
    try:
        amount = parse_decimal(text)
    except NotADecimal as error:
        raise invalid_input([str(Fault("--cash", None, None, text, str(error)))]) from None
    if amount < 0:
        raise invalid_input([str(Fault("--cash", None, None, text, "0 or more"))])
    return amount


def _show(result: "ReplayResult") -> None:
    from runtime.cli.output import amounts, moment, money, number, pairs, price, show, show_table, signed

    show_table(
        ["time", "side", ">quantity", "symbol", ">price", ">fee", ">realized P&L", "by"],
        [
            [
                moment(trade.executed_at),
                str(trade.side),
                number(trade.quantity),
                trade.symbol,
                price(trade.price),
                money(trade.fee),
                signed(realized),
                trade.triggered_by,
            ]
            for trade, realized in result.trades
        ],
        empty="no trades",
    )
    show()
    speed = f", {result.candles / result.seconds:,.0f} a second" if result.seconds else ""
    pairs(
        [
            ("candles", f"{result.candles:,} in {result.seconds:.2f} s{speed}"),
            ("recommendations", f"{result.recommendations:,}"),
            ("orders", f"{result.orders:,} ({result.refused:,} requests refused)"),
            ("fills", f"{result.fills:,}"),
            ("state hash", result.state_hash),
        ]
    )
    for portfolio in (result.portfolio, *result.others):
        show()
        if result.others:
            show(f"account {portfolio.account}")
        amounts(
            [
                (f"cash, {portfolio.currency}", money(portfolio.cash)),
                ("market value", money(portfolio.market_value)),
                ("equity", money(portfolio.equity)),
                ("realized P&L", signed(portfolio.realized_pnl)),
                ("unrealized P&L", signed(portfolio.unrealized_pnl)),
                ("fees", money(portfolio.fees)),
            ]
        )
