"""The base class of this package's errors."""


class RuntimeFault(Exception):
    """The daemon or a command cannot do what was asked; the message says why and what to do."""


class Unreachable(RuntimeFault):
    """A service (the daemon, the broker, the database) is out of reach: exit code 3."""


class NotProven(RuntimeFault):
    """A check of the books fails: they are left as they are, or go back to the backup."""


class WouldLose(RuntimeFault):
    """Something would be lost that nothing can bring back; nothing was changed."""


class RoleTaken(RuntimeFault):
    """Another process holds the role."""
