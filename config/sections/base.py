"""What the tables of settings share."""

from pydantic import BaseModel, ConfigDict

TOGETHER = "settings_together"
"""The pydantic error type of rules over several settings, which one source alone cannot break."""


class Section(BaseModel):
    """A table of settings: unknown keys are refused, values never appear in pydantic's own messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)
