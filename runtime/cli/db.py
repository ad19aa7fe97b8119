"""`db current|upgrade|downgrade`: the schema of the books."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.base import Place, command, say

if TYPE_CHECKING:
    from runtime.schema import Change

PANEL = "Check"
NoBackupOption = Annotated[
    bool, typer.Option("--no-backup", help="Change books that hold trades without a verified backup.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="The schema of the books: which revision, up, down.", no_args_is_help=True)
    command(group, "current", json=True)(current)
    command(group, "upgrade", json=True)(upgrade)
    command(group, "downgrade", json=True)(downgrade)
    app.add_typer(group, name="db", rich_help_panel=PANEL)


def current(place: Place) -> None:
    """The schema revision of the books, and the one of this version."""
    from runtime import schema
    from runtime.cli.output import pairs, show_json
    from runtime.database import SCHEMA_REVISION

    found = schema.current(place.database)
    if place.json:
        show_json({"database": str(place.database), "revision": found, "newest": SCHEMA_REVISION})
        return
    pairs(
        [
            ("database", str(place.database)),
            ("revision", found or "none: there are no books yet"),
            ("newest", SCHEMA_REVISION),
        ]
    )


def upgrade(place: Place, no_backup: NoBackupOption = False) -> None:
    """Bring the books to the newest schema; with trades in them only after a verified backup."""
    from runtime import schema

    if not place.has_books:
        raise place.no_books()
    _done(place, _alone(place, lambda now, folder: schema.upgrade(place.database, folder, now, backup=not no_backup)))


def downgrade(
    place: Place,
    revision: Annotated[str, typer.Argument(metavar="REV", help="A revision such as 0003; base: nothing at all.")],
    no_backup: NoBackupOption = False,
) -> None:
    """Take the books back to an older schema; refused when facts or decisions of people would be lost."""
    from runtime import schema

    if revision not in schema.REVISIONS:
        raise typer.BadParameter(f"one of {', '.join(schema.REVISIONS)}, not {revision!r}", param_hint="REV")
    if not place.has_books:
        raise place.no_books()
    found, known = schema.current(place.database), schema.REVISIONS
    if found is None or (found in known and known.index(found) < known.index(revision)):
        wanted = f"an older one than {found or 'none'}; `fillbook db upgrade` goes up"
        raise typer.BadParameter(wanted, param_hint="REV")
    change = _alone(
        place, lambda now, folder: schema.downgrade(place.database, folder, now, revision, backup=not no_backup)
    )
    _done(place, change)


def _alone(place: Place, work: Any) -> "Change":
    """Run a change while nobody else works on the books. Raises RoleTaken."""
    from runtime import backups
    from runtime.clock import WallClock
    from runtime.locks import RoleLocks

    locks = RoleLocks(place.database, ("execution", "portfolio"))
    locks.acquire()
    try:
        found: Change = work(WallClock().now(), backups.folder_of(place.settings.data_dir))
        return found
    finally:
        locks.release()


def _done(place: Place, change: "Change") -> None:
    from runtime.cli.output import show, show_json

    if place.json:
        backup = None if change.backup is None else str(change.backup)
        show_json({"before": change.before, "after": change.after, "backup": backup})
        return
    if change.before == change.after:
        show(f"the books are at revision {change.after} already")
        return
    if change.backup is not None:
        say(f"backup, verified: {change.backup}")
    show(f"the books were at revision {change.before} and are now at {change.after or 'none'}")
