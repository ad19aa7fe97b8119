"""`import`: fills from a file into the books; once, however often it is run."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.base import FAILED, USAGE, CommandFailed, Place, command, say

if TYPE_CHECKING:
    from execution.importers.common import Fault, Tally
    from execution.model import Account, AlertRaised

PANEL = "Set up"
FORMATS = ("fillbook",)
_SHOWN_FAULTS = 20
_SHOWN_ALERTS = 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "import", json=True, panel=PANEL)(import_)


def import_(
    place: Place,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV with a header, or JSON lines; - is stdin.")],
    format_: Annotated[str, typer.Option("--format", metavar="F", help="The file's format: fillbook.")] = "fillbook",
    account: Annotated[
        str | None, typer.Option("--account", metavar="A", help="Whose fills (default: account.name).")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="NAME", help="Tag of rows without one: import:NAME (default: of FILE)."),
    ] = None,
    venue: Annotated[
        str, typer.Option("--venue", metavar="V", help="Where the file's trade ids are unique (default: import).")
    ] = "import",
) -> None:
    """Import fills. Running it again adds nothing; rows with faults are left out and named (exit code 1)."""
    from execution.importers.common import FileInvalid
    from runtime.importing import open_fills

    if format_ not in FORMATS:
        raise typer.BadParameter(f"one of {', '.join(FORMATS)}, not {format_!r}", param_hint="--format")
    tag = f"import:{_source(source) if source is not None else _safe(file)}"
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,31}", venue) is None or venue == "paper":
        raise typer.BadParameter(
            f"lower-case letters, digits, . _ and -, and not our own paper; not {venue!r}", param_hint="--venue"
        )
    try:
        opened, size = open_fills(file)
    except FileInvalid as error:
        raise CommandFailed(str(error), USAGE) from None
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}", USAGE) from None
    owner = _account(place, account)
    tally = _append(place, opened, size, owner, venue, tag)
    _report(place, owner, tally, _catch_up(place, tally))
    if tally.rejected:
        raise typer.Exit(FAILED)


def _source(name: str) -> str:
    from execution.importers.fillbook import WHO_PATTERN

    if re.fullmatch(WHO_PATTERN, name, re.ASCII) is None:
        raise typer.BadParameter(f"letters, digits and . _ @ -, at most 64, not {name!r}", param_hint="--source")
    return name


def _safe(file: Path) -> str:
    """A source from a file's name."""
    if str(file) == "-":
        return "stdin"
    return re.sub("[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:32].rstrip("-") or "file"


def _account(place: Place, name: str | None) -> "Account":
    """The account to import to; a new database gets its first account as with `run`."""
    from execution import ledger
    from runtime.cli.offline import change

    wanted = name or place.settings.account.name
    if place.has_books or wanted == place.settings.account.name:
        found = change(place, ledger.accounts)
        if wanted in found:
            return found[wanted]
        there = f"there are: {', '.join(found)}"
    else:
        there = "there are no books yet"
    raise CommandFailed(
        f"there is no account {wanted!r} ({there}); add it with `fillbook account add {wanted}`", USAGE
    )


def _append(place: Place, opened: Any, size: int, owner: "Account", venue: str, tag: str) -> "Tally":
    from execution.importers.common import FillAppender
    from runtime.cli.bars import ByteBar
    from runtime.cli.offline import books
    from runtime.composition import spare_the_collector
    from runtime.importing import give_way, import_fills

    spare_the_collector()
    appender = FillAppender(owner, venue=venue, triggered_by=tag)
    with books(place) as engine, ByteBar("importing", size) as bar:
        rows = place.settings.portfolio.import_rows
        if place.daemon is None:
            return import_fills(engine, opened, appender, rows, bar.advance)
        return import_fills(engine, opened, appender, rows, bar.advance, rest=give_way)


def _catch_up(place: Place, tally: "Tally") -> "list[AlertRaised]":
    """The allocations of what was added."""
    from runtime.offline_books import bring_up_to_date

    return bring_up_to_date(place.settings, file=place.database) if tally.added else []


def alert_lines(alerts: "Sequence[AlertRaised]") -> list[str]:
    """Alerts for a person, the first ones."""
    lines = [alert.message for alert in alerts[:_SHOWN_ALERTS]]
    if len(alerts) > _SHOWN_ALERTS:
        lines.append(f"... and {len(alerts) - _SHOWN_ALERTS:,} more like these (`fillbook review list`)")
    return lines


# ---- the report -----------------------------------------------------------------------------------------


def _report(place: Place, owner: "Account", tally: "Tally", alerts: "list[AlertRaised]") -> None:
    from config.exact import plain
    from runtime.cli.output import show_json
    from runtime.importing import cash_of

    tally.faults.sort(key=lambda fault: fault.line)  # what only the books know of a row is found after its batch
    cash = place.read(lambda connection: cash_of(connection, owner.name))
    warnings = alert_lines(alerts)
    if tally.conflicts:
        warnings.insert(
            0, f"HIGH: {tally.conflicts:,} rows have the id of a trade that is in the books with other content"
        )
    if tally.flagged:
        warnings.append(
            f"{tally.flagged:,} fees in a third asset have no known price at their time: what is realized beside them"
            " is unknown"
        )
    if tally.consumed:
        warnings.append(
            f"{tally.consumed:,} fees in the traded asset leave nothing of their fill (fee >= quantity): what is"
            " realized beside them is unknown"
        )
    if cash < 0:
        warnings.append(f"the cash of account {owner.name} is {plain(cash)} {owner.currency}: `fillbook deposit`?")
    if place.json:
        show_json(
            {
                "account": owner.name,
                "read": tally.read,
                "added": tally.added,
                "duplicate": tally.duplicate,
                "rejected": tally.rejected,
                "errors": [fault._asdict() for fault in tally.faults],
                "symbols_registered": tally.registered,
                "fee_disposals": tally.disposals,
                "fees_without_mark": tally.flagged,
                "fees_beyond_quantity": tally.consumed,
                "cash": plain(cash),
                "warnings": warnings,
            }
        )
    else:
        _show(tally, warnings)


def _show(tally: "Tally", warnings: Iterable[str]) -> None:
    from runtime.cli.output import amounts, show

    counts = (
        ("read", tally.read),
        ("added", tally.added),
        ("duplicate", tally.duplicate),
        ("rejected", tally.rejected),
    )
    amounts([(name, f"{count:,}") for name, count in counts])
    if tally.registered:
        show(f"new symbols, with the usual precision: {', '.join(tally.registered)}")
    if tally.disposals:
        show(f"{tally.disposals:,} trades of their own pay fees in a third asset")
    _say_faults(tally.faults, tally.rejected)
    for warning in warnings:
        say(f"warning: {warning}")


def _say_faults(faults: "list[Fault]", rejected: int) -> None:
    for fault in faults[:_SHOWN_FAULTS]:
        say(str(fault))
    if len(faults) > _SHOWN_FAULTS:
        say(f"... and more: {rejected:,} rows were left out (--json lists them)")
