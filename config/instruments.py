"""Symbols and the catalogue entry behind each: precision, increments, minimums, dust."""

import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from config.errors import ConfigError

SYMBOL_PATTERN = r"[A-Z0-9][A-Z0-9._-]{0,31}"
NAME_PATTERN = r"[a-z0-9][a-z0-9-]{0,31}"
_SYMBOL = re.compile(SYMBOL_PATTERN, re.ASCII)
_NAME = re.compile(NAME_PATTERN, re.ASCII)


class NotASymbol(ConfigError, ValueError):
    """The text is not a symbol."""


def is_symbol(text: str) -> bool:
    """Whether `text` can name an instrument: such a text is safe in a topic and in a file name."""
    return _SYMBOL.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` can name a bot or an account."""
    return _NAME.fullmatch(text) is not None


class InstrumentKind(StrEnum):
    """What kind of thing is traded."""

    CRYPTO = "crypto"
    STOCK = "stock"
    FUND = "fund"
    OPTION = "option"
    CASH = "cash"


@dataclass(frozen=True, slots=True)
class Instrument:
    """A catalogue entry. Quantities are in the base unit, notionals and prices in `currency`.

    `quantity_increment` and `price_increment` are the smallest steps an order may use, `dust` is the
    quantity below which a position is reported as dust (never skipped in the matching).
    """

    symbol: str
    kind: InstrumentKind = InstrumentKind.CRYPTO
    currency: str = "USD"
    base_decimals: int = 8
    quote_decimals: int = 2
    quantity_increment: Decimal = Decimal("0.00000001")
    price_increment: Decimal = Decimal("0.00000001")
    minimum_notional: Decimal = Decimal("1")
    minimum_quantity: Decimal = Decimal("0")
    maximum_notional: Decimal | None = None
    dust: Decimal = Decimal("0.00000001")
    enabled: bool = True

    @property
    def base_asset(self) -> str:
        """ "BTC" of "BTC-USD"; the symbol itself when it has no quote part."""
        return base_asset(self.symbol, self.currency)


def base_asset(symbol: str, currency: str) -> str:
    """ "BTC" of "BTC-USD" in USD; the symbol itself when it has no quote part."""
    return symbol.removesuffix(f"-{currency}")


def default_instrument(symbol: str) -> Instrument:
    """The entry that a symbol unknown to the catalogue gets when it is given with candles or imported."""
    if not is_symbol(symbol):
        raise NotASymbol(f"a symbol matching {SYMBOL_PATTERN}, not {symbol!r}")
    kind = InstrumentKind.CRYPTO if "-" in symbol else InstrumentKind.STOCK
    return Instrument(symbol=symbol, kind=kind)


BUILT_IN: tuple[Instrument, ...] = tuple(
    default_instrument(symbol)
    for symbol in (
        "BTC-USD",
        "ETH-USD",
        "SOL-USD",
        "ADA-USD",
        "DOGE-USD",
        "XRP-USD",
        "LTC-USD",
        "AAPL",
        "MSFT",
        "NVDA",
        "SPY",
    )
)
"""What a new database knows; `fillbook instruments add` registers more."""
