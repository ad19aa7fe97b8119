"""One pass over all facts as they are stored: the chain of hashes, and the cash.

Straight from the driver's rows: a million facts take seconds. The hash is over the stored texts, so that even
another way to write the same number is noticed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from config.exact import plain
from execution import ledger, raw, tables
from execution.fees import disposal_id, disposal_symbol
from execution.model import Account, CashFlowKind
from execution.tables import GENESIS_HASH
from portfolio.books import CashBook, Scope
from portfolio.units import MONEY_DIGITS, QUANTITY_DIGITS, money_of, text_of_units, units_of_text
from portfolio.verify.results import CheckResult, Findings
from portfolio.verify.scope import Run

CASH = "cash is flows + income - standalone fees - buys + sells - trade fees"
CHAIN = "the chain of facts is unbroken"
_CASH_NUMBER = 6
_CHAIN_NUMBER = 9
_SCALE: int = 10**QUANTITY_DIGITS
_PAGE = 5_000


@dataclass(slots=True)
class Money:
    """The sums of one account in 10^-36 of its currency: `stored` adds up the stored cash effects, the others what
    they are made of."""

    stored: int = 0
    deposits: int = 0
    withdrawals: int = 0
    income: int = 0
    standalone_fees: int = 0
    bought: int = 0
    sold: int = 0
    trade_fees: int = 0

    @property
    def expected(self) -> int:
        """The cash that the parts give."""
        flows = self.deposits - self.withdrawals + self.income - self.standalone_fees
        return flows - self.bought + self.sold - self.trade_fees

    def book(self) -> CashBook:
        """The same as the books keep it."""
        return CashBook(
            cash=money_of(self.stored),
            deposits=money_of(self.deposits),
            withdrawals=money_of(self.withdrawals),
            income=money_of(self.income),
            standalone_fees=money_of(self.standalone_fees),
        )


@dataclass(slots=True)
class Sums:
    """The trades of one account and symbol, added up: the quantity that moved (10^-18, signed) and the cash."""

    trades: int = 0
    quantity: int = 0
    cash: int = 0


@dataclass(slots=True)
class Scan:
    """What the pass found."""

    facts: int = 0
    trades: int = 0
    last_hash: str = GENESIS_HASH
    chain: Findings = field(default_factory=Findings)
    cash: Findings = field(default_factory=Findings)
    money: dict[str, Money] = field(default_factory=dict)
    sums: dict[Scope, Sums] = field(default_factory=dict)


def scan(run: Run) -> Scan:
    """Read every fact once."""
    found = Scan()
    chain = _Chain(found.chain)
    cash = _Cash(run, found)
    for kind, row in _rows(run):
        found.facts += 1
        chain.take(kind, row)
        try:
            if kind == "trade":
                cash.take_trade(row)
            else:
                cash.take_flow(row)
        except (ValueError, AttributeError, IndexError) as error:
            found.cash.add(f"{_name(kind, row)}: its numbers cannot be read: {error}")
        if found.facts % _PAGE == 0:
            run.progress(_CASH_NUMBER, found.facts)
    run.progress(_CASH_NUMBER, run.head.sequence)
    found.last_hash = chain.previous
    chain.finish(run)
    cash.finish()
    return found


def _rows(run: Run) -> Iterator[tuple[str, Sequence[Any]]]:
    """All facts by sequence. A flow and a trade of one sequence both come: the chain finds that."""
    flows = _table(run, "cash_flow", tables.cash_flows)
    flow = next(flows, None)
    for trade in _table(run, "trade", tables.trades):
        while flow is not None and flow[1][0] <= trade[1][0]:
            yield flow
            flow = next(flows, None)
        yield trade
    if flow is not None:
        yield flow
        yield from flows


def _table(run: Run, kind: str, table: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    columns = ", ".join(column.name for column in table.columns)
    cursor = raw.execute(run.connection, f"SELECT {columns} FROM {table.name} ORDER BY sequence")
    while rows := cursor.fetchmany(_PAGE):
        for row in rows:
            yield kind, row


def _name(kind: str, row: Sequence[Any]) -> str:
    return f"{kind.replace('_', ' ')} {row[1]} (sequence {row[0]})"


class _Chain:
    """Follows sequences and hashes. After a fault it goes on from what is stored: one changed row is one problem."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._computed = GENESIS_HASH
        self.previous = GENESIS_HASH
        self.sequence = 0

    def take(self, kind: str, row: Sequence[Any]) -> None:
        sequence, stored = row[0], row[-1]
        if sequence != self.sequence + 1:
            self._findings.add(f"{_name(kind, row)}: follows sequence {self.sequence}")
        computed = ledger.stored_hash(kind, row, self.previous)
        # If only the hash of the row before was changed, this row still follows from what that one should be.
        if computed != stored and ledger.stored_hash(kind, row, self._computed) != stored:
            self._findings.add(f"{_name(kind, row)}: the hash does not follow from content and predecessor")
        self.previous, self._computed, self.sequence = stored, computed, sequence

    def finish(self, run: Run) -> None:
        if run.head.sequence != self.sequence:
            said = f"ledger_head: sequence {run.head.sequence}, the last fact has {self.sequence}"
            self._findings.add(said)
        elif run.head.hash != self.previous:
            self._findings.add(f"ledger_head: another hash than the last fact, sequence {self.sequence}")


class _Cash:
    """Follows the money: each cash effect must follow from its own trade."""

    def __init__(self, run: Run, found: Scan) -> None:
        self._run = run
        self._found = found
        self._fault = found.cash.add
        self._pending: dict[str, tuple[str, Sequence[Any], int]] = {}
        """Fees in a third asset that were valued, by the id of the trade that must dispose of the asset."""
        self._undisposed: dict[str, str] = {}
        """Such disposals that must be taken back, each with the entry that takes its trade back."""

    def take_flow(self, row: Sequence[Any]) -> None:
        account, kind, amount, currency = row[2], CashFlowKind(row[3]), _money(row[4]), row[5]
        owner = self._owner("cash_flow", row, account)
        if owner is None:
            return
        if currency != owner.currency:
            self._fault(f"{_name('cash_flow', row)}: currency {currency}, the account's is {owner.currency}")
        money = self._found.money.setdefault(account, Money())
        money.stored += kind.sign * amount
        match kind:
            case CashFlowKind.DEPOSIT:
                money.deposits += amount
            case CashFlowKind.WITHDRAWAL:
                money.withdrawals += amount
            case CashFlowKind.INCOME:
                money.income += amount
            case CashFlowKind.FEE:
                money.standalone_fees += amount

    def take_trade(self, row: Sequence[Any]) -> None:
        (
            _, trade_id, account, symbol, side, quantity_text, price_text, _, _, fee_text, fee_asset, cash_text, *_,
            corrects, _,
        ) = row  # fmt: skip
        owner = self._owner("trade", row, account)
        if owner is None:
            return
        found = self._found
        found.trades += 1
        sign = 1 if side == "BUY" else -1
        quantity, price, cash = units_of_text(quantity_text), units_of_text(price_text), _money(cash_text)
        fee = 0 if fee_text == "0" else units_of_text(fee_text)
        value = quantity * price
        charged = moved = 0
        if not fee:
            pass
        elif fee_asset == owner.currency:
            charged = fee * _SCALE
        elif symbol == disposal_symbol(fee_asset, owner.currency):
            moved = fee if quantity > sign * fee else 0
        elif cash != -sign * value:
            charged = -sign * value - cash
            self._expect_disposal(row, owner, fee, charged)
        money = found.money.get(account)
        if money is None:
            money = found.money[account] = Money()
        money.stored += cash
        money.trade_fees += charged
        if sign > 0:
            money.bought += value
        else:
            money.sold += value
        expected = -sign * value - charged
        if cash != expected:
            self._fault(f"{_name('trade', row)}: cash effect {cash_text}, expected {_text(expected)}")
        sums = found.sums.get((account, symbol))
        if sums is None:
            sums = found.sums[account, symbol] = Sums()
        sums.trades += 1
        sums.quantity += sign * quantity - moved
        sums.cash += cash
        if self._pending and trade_id in self._pending:
            self._check_disposal(row, quantity, value)
        if corrects is not None:
            self._undisposed.pop(corrects, None)
            self._check_taken_back(row, corrects)

    def finish(self) -> None:
        for owner_row, row, _ in self._pending.values():
            self._fault(f"{owner_row}: its fee of {row[9]} {row[10]} is valued, but no trade disposes of it")
        for disposal, name in self._undisposed.items():
            self._fault(f"{name}: {disposal}, which paid the fee of the trade that it takes back, was not taken back")
        for account, money in sorted(self._found.money.items()):
            if money.stored != money.expected:
                said = f"cash {_text(money.stored)}, flows and trades give {_text(money.expected)}"
                self._fault(f"account {account}: {said}")

    def _owner(self, kind: str, row: Sequence[Any], account: str) -> Account | None:
        owner = self._run.accounts.get(account)
        if owner is None:
            self._fault(f"{_name(kind, row)}: account {account} does not exist")
        return owner

    def _expect_disposal(self, row: Sequence[Any], owner: Account, fee: int, value: int) -> None:
        """A valued fee in a third asset leaves by a trade of its own; the one of an entry that takes a trade back
        is taken back by itself."""
        if (value > 0) != (fee > 0):
            self._fault(f"{_name('trade', row)}: its fee of {row[9]} {row[10]} is worth {_text(value)}")
        elif row[-2] is None:
            self._pending[disposal_id(row[1])] = (_name("trade", row), row, value)
        else:
            self._undisposed[disposal_id(row[-2])] = _name("trade", row)

    def _check_disposal(self, row: Sequence[Any], quantity: int, value: int) -> None:
        name, source, worth = self._pending.pop(row[1])
        fee = units_of_text(source[9])
        owner = self._run.accounts[source[2]]
        wanted = (source[2], disposal_symbol(source[10], owner.currency), "SELL" if fee > 0 else "BUY")
        if tuple(row[2:5]) != wanted or quantity != abs(fee) or value != abs(worth):
            fault = f"does not dispose of the fee of {name}, {source[9]} {source[10]} worth {_text(worth)}"
            self._fault(f"{_name('trade', row)}: {fault}")

    def _check_taken_back(self, row: Sequence[Any], corrects: str) -> None:
        """An entry that takes a trade back is that trade with the other side: together they are nothing."""
        columns = (
            "account, symbol, side, quantity, price, executed_at, fee, fee_asset, cash_effect, sequence, corrects"
        )
        sql = f"SELECT {columns} FROM trades WHERE id = ?"
        original = raw.execute(self._run.connection, sql, (corrects,)).fetchone()
        name = _name("trade", row)
        if original is None:
            return  # check 4 says so
        mirrored = (*original[:2], "SELL" if original[2] == "BUY" else "BUY", *original[3:6])
        if tuple(row[2:8]) != mirrored or row[10] != original[7]:
            self._fault(f"{name}: is not the trade that it takes back, {corrects}, the other way round")
        elif units_of_text(row[9]) != -units_of_text(original[6]) or _money(row[11]) != -_money(original[8]):
            self._fault(f"{name}: fee and cash effect are not those of {corrects} taken back")
        if original[9] >= row[0] or original[10] is not None:
            self._fault(f"{name}: {corrects} is no trade before it that can be taken back")


def check_cash(run: Run, found: Scan) -> CheckResult:
    """6: each stored cash effect follows from its own trade, and cash is the exact sum of its parts."""
    figures = {"facts": str(found.facts)}
    for name, money in sorted(found.money.items()):
        if run.wants(name):
            figures[f"cash {name}"] = _text(money.stored)
    return found.cash.result(_CASH_NUMBER, CASH, figures)


def check_chain(run: Run, found: Scan) -> CheckResult:
    """9: no hole in the sequences, each hash follows from content and predecessor, the head is the last."""
    return found.chain.result(_CHAIN_NUMBER, CHAIN, {"facts": str(found.facts), "head": run.head.hash})


def _money(text: str) -> int:
    whole, _, part = text.partition(".")
    if len(part) > MONEY_DIGITS:
        raise ValueError(f"at most {MONEY_DIGITS} decimals, not {text}")
    return int(whole + part.ljust(MONEY_DIGITS, "0"))


def _text(units: int) -> str:
    return text_of_units(units, MONEY_DIGITS)


def decimal_text(value: Decimal | None) -> str:
    """A number for people; a dash when it is not known."""
    return "-" if value is None else plain(value)
