"""What every command shares: the global options, where the books are, how errors end the process.

Only light modules are imported at the top here and in the command modules, so that `--help` is quick; what
a command needs it imports when it runs.
"""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from runtime.cli import interrupts
from runtime.cli.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from config.loading import LoadedSettings
    from config.settings import Settings
    from runtime.rundir import DaemonInfo

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., None])

OK, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3
"""The exit codes."""

_SHARED = "Every command"

DataDirOption = Annotated[
    str | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="Folder of the books (default: ./fillbook-data).", rich_help_panel=_SHARED
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings file (default: ./fillbook.toml).", rich_help_panel=_SHARED
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting, or a bot's key: paper.taker_fee_bps=10, bots.NAME.quantity=5. Repeatable.",
        rich_help_panel=_SHARED,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout.", rich_help_panel=_SHARED)]


class CommandFailed(Exception):
    """A command ends here: its message for stderr and its exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Place:
    """Where a command works: the global options, and what follows from them."""

    data_dir: str | None = None
    config: Path | None = None
    sets: list[str] = field(default_factory=list)
    json: bool = False
    implied: tuple[str, ...] = ()
    """Settings that the command's own options stand for; `--set` wins over them."""

    @cached_property
    def loaded(self) -> "LoadedSettings":
        """The settings. Raises ConfigurationInvalid."""
        return self.load()

    def load(self) -> "LoadedSettings":
        """The settings as they are on disk now, from the same sources. Raises ConfigurationInvalid."""
        from config.loading import load_settings

        data_dir = [] if self.data_dir is None else [f"data_dir={self.data_dir}"]
        return load_settings(
            config_file=self.config,
            overrides=[*self.implied, *self.sets, *data_dir],
            environ=os.environ,
            cwd=Path.cwd(),
        )

    @property
    def settings(self) -> "Settings":
        """The settings in force."""
        return self.loaded.settings

    @cached_property
    def daemon(self) -> "DaemonInfo | None":
        """The daemon that runs on these books."""
        from runtime.rundir import running_daemon

        return running_daemon(self.settings)

    @cached_property
    def database(self) -> Path:
        """The file of the books: the running daemon's, else the configured one."""
        return self.settings.database_file if self.daemon is None else self.daemon.database

    @property
    def has_books(self) -> bool:
        """Whether there is a database."""
        return self.database.is_file() and self.database.stat().st_size > 0

    def read(self, query: "Callable[[Connection], T]") -> T:
        """One consistent read of the books. Raises CommandFailed (exit code 3) when there are none."""
        import sqlite3

        from execution.errors import StorageUnavailable
        from runtime import database

        if not self.has_books:
            raise self.no_books()
        engine = database.reader_engine(
            database.sqlite_url(self.database), busy_timeout_ms=self.settings.writer.busy_timeout_ms
        )
        try:
            self._check_revision(database.read(engine, database.revision))
            return database.read(engine, query)
        except sqlite3.Error as error:
            raise StorageUnavailable(f"the database {self.database} could not be read: {error}") from error
        except StorageUnavailable as error:
            hint = database.why_not_opened(self.database, error)
            raise StorageUnavailable(f"{self.database}: {error}{hint}") from error
        finally:
            engine.dispose()

    def _check_revision(self, found: str | None) -> None:
        from runtime.database import SCHEMA_REVISION

        if found is None:
            raise self.no_books()
        if found != SCHEMA_REVISION:
            raise CommandFailed(
                f"the books in {self.database} have schema revision {found}, this version of fillbook has "
                f"{SCHEMA_REVISION}: `fillbook db upgrade` upgrades older books; newer ones need a newer fillbook",
                UNREACHABLE,
            )

    def no_books(self) -> CommandFailed:
        """Nothing has been started here yet."""
        return CommandFailed(
            f"there are no books in {self.settings.data_dir} yet. Start with `fillbook demo` (invented candles) or "
            "`fillbook run`, or name the folder with --data-dir or FILLBOOK_DATA_DIR",
            UNREACHABLE,
        )

    @property
    def option_text(self) -> str:
        """ " --data-dir DIR" for hints, when the books are not where every command looks anyway."""
        return "" if self.data_dir is None else f" --data-dir {self.data_dir}"


def say(*lines: str) -> None:
    """Something for the person, not for the pipe: to stderr."""
    sys.stderr.write("\n".join(lines) + "\n")


# ---- registering commands -------------------------------------------------------------------------------

_COMMON = {"ctx": typer.Context, "data_dir": DataDirOption, "config": ConfigOption, "set_": SetOption}


def command(app: typer.Typer, name: str, *, json: bool = False, panel: str | None = None) -> Callable[[F], F]:
    """Register `function(place, ...)` as a command that also takes the global options.

    `json`: it reads, and takes `--json`.
    """

    def decorate(function: F) -> F:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        kinds = {**_COMMON, **({"json": JsonOption} if json else {})}
        common = [
            inspect.Parameter(
                key,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=kind,
                default=inspect.Parameter.empty if key == "ctx" else (False if key == "json" else None),
            )
            for key, kind in kinds.items()
        ]

        def run(**values: Any) -> None:
            given = {key: values.pop(key) for key in kinds}
            guarded(lambda: function(_place(given), **values))

        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]  # read by `inspect`
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *common]}
        run.__doc__ = function.__doc__
        app.command(name, rich_help_panel=panel)(run)
        return function

    return decorate


def _place(given: dict[str, Any]) -> Place:
    """The options behind the command, over those before it."""
    before: dict[str, Any] = given["ctx"].find_root().obj or {}
    return Place(
        data_dir=given["data_dir"] if given["data_dir"] is not None else before.get("data_dir"),
        config=given["config"] or before.get("config"),
        sets=[*(before.get("sets") or ()), *(given["set_"] or ())],
        json=bool(given.get("json") or before.get("json")),
    )


# ---- how a command ends ---------------------------------------------------------------------------------


def guarded(work: Callable[[], None]) -> None:
    """Run a command; what went wrong becomes one message on stderr and an exit code."""
    try:
        with interrupts.raised():
            work()
            sys.stdout.flush()
    except (typer.Exit, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        interrupts.end_as_asked()
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        silence_stdout()
        raise typer.Exit(OK) from None
    except Exception as error:
        if interrupts.came():
            interrupts.end_as_asked()
            raise typer.Exit(INTERRUPTED) from None
        found = explain(error)
        if found is None:
            raise  # a mistake of ours: the traceback is what helps
        message, code = found
        say(f"fillbook: {message}")
        raise typer.Exit(code) from None


def silence_stdout() -> None:
    """Nobody reads our output any more (`fillbook trades | head`): say nothing about it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain(error: Exception) -> tuple[str, int] | None:
    """The message and exit code of an expected error; None for a mistake of ours."""
    # Imported here: by the time that something fails, most of these are loaded anyway.
    from config.errors import ConfigError
    from execution.errors import ExecutionError, LedgerError
    from portfolio.errors import FifoError, SequenceHole, UnknownAccount
    from runtime.broker import PortTaken
    from runtime.errors import NotProven, RuntimeFault, WouldLose
    from runtime.supervisor import ChildError
    from signals.errors import SignalsError

    codes: Sequence[tuple[type[Exception], int]] = (
        (CommandFailed, getattr(error, "code", FAILED)),
        (ConfigError, USAGE),
        (SignalsError, USAGE),  # a candle file with faults
        (PortTaken, USAGE),
        (ChildError, UNREACHABLE),
        (NotProven, FAILED),
        (WouldLose, FAILED),
        (RuntimeFault, UNREACHABLE),
        (LedgerError, FAILED),
        (ExecutionError, UNREACHABLE),
    )
    for kind, code in codes:
        if isinstance(error, kind):
            return str(error), code
    if isinstance(error, SequenceHole | UnknownAccount | FifoError):  # only facts changed behind our back make these
        return f"the books are damaged ({error}); `fillbook verify` names the rows", FAILED
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", UNREACHABLE
    return None
