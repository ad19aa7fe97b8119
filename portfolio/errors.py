"""The errors of portfolio."""


class PortfolioError(Exception):
    """Base class of this package's errors."""


class FifoError(PortfolioError):
    """A number or a stored state that the FIFO engine cannot work with."""


class SequenceHole(PortfolioError):
    """Facts did not follow the ledger sequence that was applied last."""


class UnknownAccount(PortfolioError):
    """A fact names an account that the books do not know."""


class CheckpointDamaged(PortfolioError):
    """A stored checkpoint cannot be used; a full recomputation replaces it."""


class CheckpointOutdated(CheckpointDamaged):
    """A stored checkpoint is of another version of the engine: not wrong, but of no use."""


class UnknownReview(PortfolioError, KeyError):
    """The review queue has no such open entry."""


class UnknownVersion(PortfolioError):
    """There is no such version of the allocations."""


class UnknownTrade(PortfolioError):
    """There is no such trade, or more than one; the message names what exists."""
