"""`portfolio`, `trades`, `orders`, `letters`: what stands in the books, with and without a daemon."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from runtime.cli.base import USAGE, CommandFailed, Place, command

if TYPE_CHECKING:
    from execution.model import Order
    from portfolio.position import Portfolio

Row = TypeVar("Row")

PANEL = "Look"
UNKNOWN_PNL = (
    "Some P&L is unknown: a sell without its purchase, a fee in a third asset without a price, or a fee in the traded"
    " asset that leaves nothing of its fill."
)
AccountFilter = Annotated[str | None, typer.Option("--account", metavar="A", help="Only this account.")]
SymbolFilter = Annotated[str | None, typer.Option("--symbol", metavar="SYM", help="Only this symbol.")]
LINES_SHOWN, ITEMS_WRITTEN = 50, 100_000
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        max=ITEMS_WRITTEN,
        help=f"At most so many (default: {LINES_SHOWN}; with --json {ITEMS_WRITTEN:,}).",
    ),
]
CursorOption = Annotated[
    str | None, typer.Option("--cursor", metavar="C", help='Go on from here: the "next" of the page before.')
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "portfolio", json=True, panel=PANEL)(portfolio)
    command(app, "trades", json=True, panel=PANEL)(trades)
    command(app, "orders", json=True, panel=PANEL)(orders)
    command(app, "letters", json=True, panel=PANEL)(letters)


def page(items: Iterable[Any], following: str | None = None) -> dict[str, Any]:
    """The JSON form of every list."""
    return {"items": list(items), "next": following}


def most(place: Place, limit: int | None) -> int:
    """How many rows are asked for: programs want all of them, people the first ones."""
    if limit is None:
        return ITEMS_WRITTEN if place.json else LINES_SHOWN
    return limit


def one_page(found: Sequence[Row], limit: int, cursor_of: Callable[[Row], str]) -> tuple[Sequence[Row], str | None]:
    """The first `limit` of what was found, which is one more when there are more, and the cursor behind them."""
    return found[:limit], cursor_of(found[limit - 1]) if len(found) > limit else None


def row_number(cursor: str, option: str) -> int:
    """A cursor that is a number. Raises BadParameter."""
    if not cursor.isascii() or not cursor.isdigit():
        raise typer.BadParameter(f'the "next" of the page before, not {cursor!r}', param_hint=option)
    return int(cursor)


def check_account(place: Place, account: str | None) -> None:
    """Raises CommandFailed for an account that does not exist, naming those that do: a filter by it finds nothing."""
    from execution import ledger

    known = place.read(ledger.accounts)
    if account is not None and account not in known:
        raise no_such_account(account, known)


def no_such_account(account: str, known: Iterable[str]) -> CommandFailed:
    """What to say of an account that does not exist."""
    return CommandFailed(f"there is no account {account!r}; there are: {', '.join(sorted(known)) or 'none'}", USAGE)


# ---- portfolio ------------------------------------------------------------------------------------------


def portfolio(
    place: Place,
    account: Annotated[
        str | None, typer.Option("--account", metavar="A", help="Whose (default: account.name).")
    ] = None,
) -> None:
    """Cash, positions and P&L of an account."""
    from portfolio.service import read_portfolios
    from runtime.cli.output import show_json

    found = place.read(read_portfolios)
    name = account or place.settings.account.name
    if name not in found:
        raise no_such_account(name, found)
    if place.json:
        show_json(found[name].to_wire())
    else:
        _show_portfolio(found[name])


def _show_portfolio(shown: "Portfolio") -> None:
    from runtime.cli.output import amounts, moment, money, number, pairs, price, show, show_table, signed

    pairs([("account", f"{shown.account}, in {shown.currency}")])
    amounts(
        [
            ("cash", money(shown.cash)),
            ("market value", money(shown.market_value)),
            ("equity", money(shown.equity)),
            ("realized P&L", signed(shown.realized_pnl)),
            ("unrealized P&L", signed(shown.unrealized_pnl)),
            ("fees", money(shown.fees)),
        ]
    )
    show()
    show_table(
        ["symbol", ">quantity", ">average cost", ">mark", ">market value", ">unrealized", ">realized", "mark of"],
        [
            [
                position.symbol,
                number(position.quantity),
                price(position.average_cost),
                price(position.mark_price),
                money(position.market_value),
                signed(position.unrealized_pnl),
                signed(position.realized_pnl),
                moment(position.mark_time),
            ]
            for position in shown.open_positions
        ],
        empty="no open positions",
    )
    flat = [position for position in shown.positions if not position.quantity]
    if flat:
        show()
        show_table(
            ["closed", ">realized", ">fees"],
            [[position.symbol, signed(position.realized_pnl), money(position.fees)] for position in flat],
            empty="",
        )
    dust = [position.symbol for position in shown.open_positions if position.is_dust]
    if dust:
        show(f"Dust, less than the symbol's threshold is left: {', '.join(dust)}. It counts like everything else.")
    if shown.incomplete:
        show(UNKNOWN_PNL)


# ---- lists ----------------------------------------------------------------------------------------------


def trades(
    place: Place,
    account: AccountFilter = None,
    symbol: SymbolFilter = None,
    triggered_by: Annotated[
        str | None, typer.Option("--triggered-by", metavar="WHO", help="Only of bot:NAME, manual, manual:WHO, ...")
    ] = None,
    limit: LimitOption = None,
    cursor: CursorOption = None,
) -> None:
    """Recorded fills, the newest first."""
    from execution import ledger
    from runtime.cli.output import moment, money, number, price, show_page, show_table
    from runtime.wire import trade_wire

    check_account(place, account)
    at_most = most(place, limit)
    before = None if cursor is None else row_number(cursor, "--cursor")
    found = place.read(
        lambda connection: ledger.trades(
            connection,
            account=account,
            symbol=symbol,
            triggered_by=triggered_by,
            newest_first=True,
            before_sequence=before,
            limit=at_most + 1,
        )
    )
    shown, following = one_page(found, at_most, lambda trade: str(trade.sequence))
    if place.json:
        taken_back = place.read(ledger.corrected_by)
        items = ({**trade_wire(trade), "corrected_by": taken_back.get(trade.id)} for trade in shown)
        show_page(items, following)
        return
    show_table(
        ["sequence", "executed at", "account", "side", ">quantity", "symbol", ">price", ">fee", ">cash", "by"],
        [
            [
                str(trade.sequence),
                moment(trade.executed_at),
                trade.account,
                str(trade.side),
                number(trade.quantity),
                trade.symbol,
                price(trade.price),
                money(trade.fee),
                money(trade.cash_effect),
                trade.triggered_by,
            ]
            for trade in shown
        ],
        empty="no trades",
    )
    _say_more(following)


def _say_more(following: str | None) -> None:
    from runtime.cli.output import show

    if following is not None:
        show(f"... older ones with --cursor {following}")


def orders(
    place: Place,
    account: AccountFilter = None,
    symbol: SymbolFilter = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="S", help="Only with this status, such as pending or filled.")
    ] = None,
    limit: LimitOption = None,
    cursor: CursorOption = None,
) -> None:
    """Orders with their status, the newest first."""
    from execution import orders as stored
    from execution.model import OrderStatus
    from runtime.cli.output import moment, money, number, price, show_page, show_table
    from runtime.wire import order_wire

    if status is not None and status not in list(OrderStatus):
        raise typer.BadParameter(f"one of {', '.join(OrderStatus)}, not {status!r}", param_hint="--status")
    check_account(place, account)
    at_most = most(place, limit)
    before = None if cursor is None else _order_cursor(cursor)
    found = place.read(
        lambda connection: stored.orders(
            connection, account=account, symbol=symbol, status=status, limit=at_most + 1, before=before
        )
    )
    shown, following = one_page(found, at_most, _cursor_of)
    if place.json:
        show_page(map(order_wire, shown), following)
        return
    show_table(
        ["created at", "status", "side", ">quantity", ">notional", "symbol", ">limit", "by", "order", "reason"],
        [
            [
                moment(order.created_at),
                str(order.status).replace("_", " "),
                str(order.side),
                "all" if order.close and order.quantity is None else number(order.quantity),
                money(order.notional),
                order.symbol,
                price(order.limit_price),
                order.triggered_by,
                order.id,
                "" if order.reason is None else str(order.reason),
            ]
            for order in shown
        ],
        empty="no orders",
    )
    _say_more(following)


def _cursor_of(order: "Order") -> str:
    from config.times import time_text

    return f"{time_text(order.created_at)},{order.id}"


def _order_cursor(cursor: str) -> tuple[datetime, str]:
    from config.times import NotATime, parse_time

    instant, _, id_ = cursor.partition(",")
    try:
        return parse_time(instant), id_
    except NotATime:
        raise typer.BadParameter(f'the "next" of the page before, not {cursor!r}', param_hint="--cursor") from None


def letters(
    place: Place,
    limit: LimitOption = None,
) -> None:
    """Messages that could not be taken: from which topic, and why."""
    from config.times import time_text
    from execution import orders as stored
    from runtime.cli.output import moment, show_json, show_table
    from runtime.wire import reason_wire

    found = place.read(lambda connection: stored.dead_letters(connection, most(place, limit)))
    if place.json:
        items = [
            {
                "id": letter.id,
                "received_at": time_text(letter.received_at),
                "topic": letter.topic,
                "payload": letter.payload.decode("utf-8", "replace"),
                "size": letter.size,
                "retained": letter.retained,
                "reason": reason_wire(letter.reason),
            }
            for letter in found
        ]
        show_json(page(items))
        return
    show_table(
        ["received at", "topic", ">bytes", "reason", "payload"],
        [
            [
                moment(letter.received_at),
                letter.topic,
                f"{letter.size:,}",
                str(letter.reason),
                ascii(letter.payload[:40].decode("utf-8", "replace"))[1:-1],
            ]
            for letter in found
        ],
        empty="no dead letters",
    )
