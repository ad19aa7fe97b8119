"""What a check says: its result, and how problems are collected."""

from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[int, int, int], None]
"""Told (check number, rows done, rows in all)."""

MAX_PROBLEMS = 100
"""Problems named per check; the figure `problems` counts them all."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found. `figures` are plain texts; `problems` name the rows at fault.

    `skipped`: why it could not be made on this database (`ok` is then true); None when it was made.
    """

    number: int
    name: str
    ok: bool
    figures: dict[str, str]
    problems: list[str]
    skipped: str | None = None


@dataclass(slots=True)
class Findings:
    """Collects problems: all are counted, the first ones are named."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """One more."""
        self.count += 1
        if len(self.named) < MAX_PROBLEMS:
            self.named.append(problem)

    def result(self, number: int, name: str, figures: dict[str, str]) -> CheckResult:
        """The check's result: ok when nothing was found."""
        if self.count:
            figures = {**figures, "problems": str(self.count)}
        return CheckResult(number, name, not self.count, figures, self.named)
