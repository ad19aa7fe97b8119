"""`allocations list|compute|validate|compare|explain`: sells matched with buys, recomputed and proven."""

import typer

from runtime.cli.base import command

PANEL = "Explain"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    from runtime.cli import explaining
    from runtime.cli.allocations import comparing, computing, listing, validating

    group = typer.Typer(
        help="Sells matched with buys: list, recompute, prove, compare, explain.", no_args_is_help=True
    )
    command(group, "list", json=True)(listing.list_allocations)
    command(group, "compute", json=True)(computing.compute)
    command(group, "validate", json=True)(validating.validate)
    command(group, "compare", json=True)(comparing.compare)
    command(group, "explain", json=True)(explaining.explain)
    app.add_typer(group, name="allocations", rich_help_panel=PANEL)
    command(app, "explain", json=True, panel=PANEL)(explaining.explain)
