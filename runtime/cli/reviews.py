"""`review list|resolve`: what a person has to look at.

Resolving is a decision of a person, not a computation: it needs no role and is written directly, also beside a
running daemon, whose own writes to the queue are short transactions as well.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.allocations.scope import fresh
from runtime.cli.base import USAGE, CommandFailed, Place, command
from runtime.cli.books import page

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portfolio.reviews import Review

PANEL = "Explain"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="What a person has to look at, such as sells without a buy.", no_args_is_help=True)
    command(group, "list", json=True)(list_reviews)
    command(group, "resolve", json=True)(resolve)
    app.add_typer(group, name="review", rich_help_panel=PANEL)


def list_reviews(
    place: Place,
    all_: Annotated[bool, typer.Option("--all/--open", help="Also what was resolved, by whom and how.")] = False,
) -> None:
    """The review queue, the oldest entry first."""
    from portfolio import reviews
    from portfolio.tables import ReviewStatus
    from runtime.cli.output import moment, number, show, show_json, show_table

    fresh(place)
    found = place.read(lambda connection: reviews.reviews(connection, None if all_ else ReviewStatus.OPEN))
    if place.json:
        show_json(page(review.to_wire() for review in found))
        return
    show_table(
        ["id", "opened at", "account", "symbol", ">quantity", "what", "status"],
        [
            [
                review.id,
                moment(review.opened_at),
                review.account,
                review.symbol,
                number(review.quantity),
                str(review.kind).replace("_", " ") + ("" if review.trade_id is None else f" {review.trade_id}"),
                _status(review),
            ]
            for review in found
        ],
        empty="nothing to review" if all_ else "nothing to review (--all shows what was resolved)",
    )
    for review in found:
        if review.status is ReviewStatus.OPEN:
            show(f"{review.id}: {review.detail}")


def _status(review: "Review") -> str:
    if review.resolved_by is None:
        return str(review.status)
    return f"{review.status} by {review.resolved_by}: {review.resolution}"


def resolve(
    place: Place,
    review_id: Annotated[str, typer.Argument(metavar="ID", help="Of `review list`, or its beginning.")],
    by: Annotated[str, typer.Option("--by", metavar="WHO", help="Who decides.")],
    how: Annotated[str, typer.Option("--how", metavar="TEXT", help="What was found out, or done about it.")],
) -> None:
    """Settle an entry of the review queue. It changes no number: only a recorded buy does."""
    from portfolio import reviews
    from runtime.cli.offline import change
    from runtime.cli.output import show, show_json
    from runtime.clock import WallClock

    for name, text in (("--by", by), ("--how", how)):
        if not text.strip():
            raise typer.BadParameter("expected some text", param_hint=name)
    if not place.has_books:
        raise place.no_books()

    def work(connection: "Connection") -> "Review":
        found = _find(connection, review_id)
        return reviews.resolve(connection, found, by.strip(), how.strip(), WallClock().recorded_now())

    done = change(place, work)
    if place.json:
        show_json(done.to_wire())
    else:
        show(f"{done.id}: resolved by {done.resolved_by}: {done.resolution}")


def _find(connection: "Connection", name: str) -> str:
    """The id of an open entry. Raises CommandFailed, which says what there is."""
    from portfolio import reviews
    from portfolio.tables import ReviewStatus

    known = reviews.reviews(connection)
    fitting: list[Any] = [review for review in known if review.id == name] or [
        review for review in known if review.id.startswith((name, f"review-{name}"))
    ]
    waiting = [review.id for review in known if review.status is ReviewStatus.OPEN]
    if len(fitting) == 1 and fitting[0].status is ReviewStatus.OPEN:
        return str(fitting[0].id)
    there = f"open are: {', '.join(waiting[:10]) or 'none'}"
    if len(fitting) == 1:
        raise CommandFailed(f"{fitting[0].id} is {_status(fitting[0])}; {there}", USAGE)
    many = "fits several entries" if fitting else "is no entry of the review queue"
    raise CommandFailed(f"{name!r} {many}; {there}", USAGE)
