"""What a benchmark reports, and how it measures: best of several repetitions, percentiles, peak memory."""

import gc
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `baseline` is the same measure of the least work, named by `baseline_is`.

    `aim` is a lower bound, or an upper one with `lower_is_better`.
    """

    what: str
    measured: float
    unit: str
    baseline: float | None = None
    baseline_is: str = ""
    aim: float | None = None
    lower_is_better: bool = False

    @property
    def cost(self) -> float | None:
        """How many times what the baseline needs."""
        if not self.baseline or not self.measured:
            return None
        return self.measured / self.baseline if self.lower_is_better else self.baseline / self.measured

    @property
    def meets_aim(self) -> bool | None:
        """Whether the aim is met; None when there is none."""
        if self.aim is None:
            return None
        return self.measured <= self.aim if self.lower_is_better else self.measured >= self.aim


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: `size` scales the work, `repetitions` of which the best counts."""

    quick: bool
    folder: Path

    @property
    def repetitions(self) -> int:
        """How often a short measurement is repeated."""
        return 1 if self.quick else 3

    def size(self, full: int, quick: int) -> int:
        """The amount of work."""
        return quick if self.quick else full


def say(text: str) -> None:
    """What is being done now, for a person who waits."""
    if sys.stderr.isatty() or os.environ.get("FILLBOOK_BENCH_PROGRESS"):
        sys.stderr.write(f"\r\x1b[K{text}" if text else "\r\x1b[K")
        sys.stderr.flush()


def seconds(work: Callable[[], object]) -> float:
    """The wall time of one call, garbage collected before."""
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best_seconds(repetitions: int, work: Callable[[], object]) -> float:
    """The shortest of several calls: the one that others disturbed least."""
    return min(seconds(work) for _ in range(repetitions))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are not above (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# ---- memory -------------------------------------------------------------------------------------------


def _status(field: str, pid: int | str = "self") -> float | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return None


def process_megabytes(pid: int) -> float | None:
    """The peak resident memory of another process; None where /proc does not say."""
    return _status("VmHWM:", pid)


class PeakMemory:
    """The growth of this process's peak resident memory, in MB, since this was made."""

    def __init__(self) -> None:
        gc.collect()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
        self._before = _status("VmRSS:") or self._peak()

    @staticmethod
    def _peak() -> float:
        found = _status("VmHWM:")
        if found is not None:
            return found
        scale = 1024 * 1024 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale

    @property
    def growth(self) -> float:
        """MB above what there was; never below 0.1, the grain of the measure."""
        return max(self._peak() - self._before, 0.1)
