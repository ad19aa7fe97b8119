"""What the checks of one run share: the connection, what is asked for, how far the ledger and the caches are."""

from collections.abc import Iterator

from sqlalchemy import Connection, inspect

from execution import followers, ledger, raw
from portfolio import allocations
from portfolio.allocator import FOLLOWER
from portfolio.books import Scope
from portfolio.verify.results import Progress


def _tables(connection: Connection) -> frozenset[str]:
    """The names of all tables."""
    if connection.dialect.name != "sqlite":
        return frozenset(inspect(connection).get_table_names())
    rows = raw.execute(connection, "SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return frozenset(name for (name,) in rows)


class Run:
    """One run of the checks, in one read transaction. `account` and `symbol` narrow the checks of scopes; the
    chain of facts is one and is always read whole."""

    def __init__(
        self, connection: Connection, progress: Progress, account: str | None = None, symbol: str | None = None
    ) -> None:
        self.connection = connection
        self.account = account
        self.symbol = symbol
        self.head = ledger.head(connection)
        self.accounts = ledger.accounts(connection)
        self.tables = _tables(connection)
        self._progress = progress

    def progress(self, number: int, done: int, total: int | None = None) -> None:
        """Tell how far a check is."""
        self._progress(number, done, self.head.sequence if total is None else total)

    def has(self, *tables: str) -> bool:
        """Whether the schema of the database has these tables; older ones lack some."""
        return self.tables.issuperset(tables)

    def wants(self, account: str, symbol: str | None = None) -> bool:
        """Whether a scope (or an account) is asked for."""
        return self.account in (None, account) and (symbol is None or self.symbol in (None, symbol))

    def last_trades(self) -> Iterator[tuple[Scope, int, int]]:
        """The scopes that are asked for, each with its last trade's sequence and the number of its trades."""
        sql = "SELECT account, symbol, MAX(sequence), COUNT(*) FROM trades GROUP BY account, symbol ORDER BY 1, 2"
        for account, symbol, last, count in raw.execute(self.connection, sql).fetchall():
            if self.wants(account, symbol):
                yield (account, symbol), last, count

    @property
    def stored_position(self) -> int:
        """The ledger sequence up to which allocations are stored; 0 when the schema keeps none."""
        if not self.has("fifo_allocations", "fifo_pointers", "followers"):
            return 0
        return followers.position(self.connection, FOLLOWER)

    def stored_up_to(self) -> dict[Scope, int]:
        """The same of each scope that has a current version."""
        if not self.has("fifo_allocations", "fifo_pointers", "followers"):
            return {}
        position = self.stored_position
        pointers = allocations.pointers(self.connection)
        return {scope: max(position, pointer.sequence) for scope, pointer in pointers.items()}
