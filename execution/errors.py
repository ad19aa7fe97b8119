"""The errors of execution. A refusal is an outcome, not an error: see `model.Reason`."""


class ExecutionError(Exception):
    """Base class of this package's errors."""


class LedgerError(ExecutionError):
    """A fact cannot be stored or read as it must be."""


class LedgerDamaged(LedgerError):
    """Facts are missing: somebody changed the database behind our back."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the books are damaged ({what}); `fillbook verify` names the rows")


class ConflictingFact(LedgerError):
    """The same venue trade id (or idempotency key) arrived with different content."""


class StorageUnavailable(ExecutionError):
    """The database could not commit: disk full, locked, or gone."""


class LeaseLost(ExecutionError):
    """Another process took over this role; nothing was written."""


class VenueError(ExecutionError):
    """The venue is out of reach or its answer got lost; the order's outcome may be unknown."""
