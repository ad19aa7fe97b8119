"""Progress on stderr, only on a terminal."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runtime.ctrl_c import deferred

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID


class _Bar:
    """A bar that is gone when it is done; nothing when stderr is not a terminal."""

    def __init__(self, label: str, total: int | None, **fields: Any) -> None:
        self._label = label
        self._total = total
        self._fields = fields
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def _columns(self) -> "tuple[ProgressColumn, ...]":
        """What stands beside the label."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress, TextColumn

            columns = (TextColumn("{task.description}"), *self._columns())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._label, total=self._total, **self._fields)
            try:
                with deferred():
                    self._bar.start()
            except BaseException:  # nobody leaves what was not entered, and the cursor is hidden
                self._stop()
                raise
        return self

    def _update(self, **values: Any) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, **values)

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        """Half of this would leave a terminal without its cursor."""
        if self._bar is not None:
            with deferred():
                self._bar.stop()


class ByteBar(_Bar):
    """How far a file has been read."""

    def __init__(self, label: str, size: int) -> None:
        super().__init__(label, size, rows=0)

    def _columns(self) -> "tuple[ProgressColumn, ...]":
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        return BarColumn(), TextColumn("{task.fields[rows]:,} rows"), TimeRemainingColumn()

    def advance(self, position: int, rows: int) -> None:
        """Show that the file was read up to a byte, and how many rows that were."""
        self._update(completed=position, rows=rows)


class TradeBar(_Bar):
    """How many trades are done."""

    def __init__(self, label: str) -> None:
        super().__init__(label, None)

    def _columns(self) -> "tuple[ProgressColumn, ...]":
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

        return BarColumn(), TextColumn("{task.completed:,.0f} trades"), TimeElapsedColumn()

    def update(self, done: int, total: int) -> None:
        """So many of so many."""
        self._update(completed=done, total=total)

    def count(self, done: int) -> None:
        """So many of nobody knows how many."""
        self._update(completed=done)


class CountBar(_Bar):
    """How many of a known number are done."""

    def __init__(self, label: str, total: int) -> None:
        super().__init__(label, total)

    def _columns(self) -> "tuple[ProgressColumn, ...]":
        from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

        return BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()

    @property
    def listener(self) -> Callable[[int], None] | None:
        """Takes how many are done; None where nobody would see it."""
        return None if self._bar is None else lambda done: self._update(completed=done)
