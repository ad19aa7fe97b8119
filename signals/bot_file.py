"""The schema of bot files: one TOML file is one bot.

A file's `class` decides which model it is checked against (`signals.bot_classes`). Here are the keys that every
bot has, whichever class it is.
"""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from signals.fields import AccountName, BotName, Exact, Minutes, Share, Strict, SymbolName, Timeframe, YesNo

DEFAULT_NOTIONAL = Decimal(10)
SIZES = ("notional", "quantity", "fraction")
"""The keys that say how much a bot trades; at most one is given."""


class TemperatureCuts(Strict):
    """Lower bounds of |score|. With the shipped weighted bot on hourly BTC-USD candles: HOT 16 %, WARM 38 %,
    COOL 29 %, COLD 16 %."""

    hot: Share = 0.30
    warm: Share = 0.15
    cool: Share = 0.05

    @field_validator("warm", "cool", mode="after")
    @classmethod
    def _ordered(cls, value: float, info: ValidationInfo) -> float:
        above = "hot" if info.field_name == "warm" else "warm"
        if value > info.data.get(above, value):
            raise ValueError(f"{info.field_name} ({value:g}) not above {above} ({info.data[above]:g})")
        return value


class BotFile(Strict):
    """The keys that every bot has, whichever class it is.

    Of `notional` (quote), `quantity` (base) and `fraction` (of the account's cash) at most one may be
    given; without any a bot trades for a notional of 10. `exit`: a SELL sells as much, or ("close") the
    whole position. `timeframe` left out: whatever timeframe the symbol's candles have.

    The three stops are per cent of the account's average cost (the trailing stop: of the highest close since
    the position was opened), tested on closes; each closes the whole position.
    """

    name: BotName
    symbol: SymbolName
    timeframe: Timeframe | None = None
    account: AccountName = "main"
    enabled: YesNo = True
    kind: str = Field(alias="class")
    temperature: TemperatureCuts = TemperatureCuts()
    confirmation_minutes: Minutes = Decimal(5)
    cooldown_minutes: Minutes = Decimal(15)
    backoff_minutes: Minutes = Decimal(5)
    notional: Annotated[Exact, Field(gt=0)] | None = None
    quantity: Annotated[Exact, Field(gt=0)] | None = None
    fraction: Annotated[Exact, Field(gt=0, le=1)] | None = None
    exit: Literal["size", "close"] = "size"
    stop_loss_pct: Annotated[Exact, Field(gt=0, lt=100)] | None = None
    take_profit_pct: Annotated[Exact, Field(gt=0, le=100_000)] | None = None
    trailing_stop_pct: Annotated[Exact, Field(gt=0, lt=100)] | None = None

    @field_validator("quantity", "fraction", mode="after")
    @classmethod
    def _one_size(cls, value: Decimal | None, info: ValidationInfo) -> Decimal | None:
        given = [key for key in SIZES if info.data.get(key) is not None]
        if value is not None and given:
            raise ValueError(f"only one of notional, quantity and fraction ({given[0]} is given too)")
        return value
