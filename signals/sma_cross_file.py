"""The schema of `class = "sma-cross"`."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from signals.bot_file import SIZES, BotFile
from signals.fields import Count, Minutes, Period, above


class SmaCrossFile(BotFile):
    """The exact SMA cross: a fixed quantity in, the whole position out; no confirmation, no cooldown."""

    kind: Literal["sma-cross"] = Field(alias="class")
    fast: Annotated[Count, Field(ge=1, le=10_000)] = 10
    slow: Period = 30
    confirmation_minutes: Minutes = Decimal(0)
    cooldown_minutes: Minutes = Decimal(0)
    exit: Literal["size", "close"] = "close"

    @model_validator(mode="before")
    @classmethod
    def _default_quantity(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.keys() & set(SIZES):
            return {**data, "quantity": Decimal(100)}
        return data

    @field_validator("slow", mode="after")
    @classmethod
    def _ordered(cls, value: int, info: ValidationInfo) -> int:
        return above({"slow": "fast"}, value, info)
