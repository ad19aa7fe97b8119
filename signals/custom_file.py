"""The schema of bots of one's own: `class = "module:Class"`, or the name of an entry point."""

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, WithJsonSchema, field_validator

from signals.bot_file import BotFile
from signals.errors import SignalsError

GROUP = "fillbook.bots"
"""The group of the entry points."""

_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
TARGET_PATTERN = rf"{_WORD}(?:\.{_WORD})*:{_WORD}(?:\.{_WORD})*"
_TARGET = re.compile(TARGET_PATTERN, re.ASCII)
_BUILT_IN = ("weighted", "sma-cross")

_CLASS_SCHEMA = WithJsonSchema(
    {"type": "string", "not": {"enum": list(_BUILT_IN)}, "description": '"module:Class", or an entry point\'s name'}
)


class CustomFile(BotFile):
    """A class of one's own. `params` go to its constructor as keyword arguments: whole numbers as int, others as
    Decimal."""

    kind: Annotated[str, _CLASS_SCHEMA] = Field(alias="class")
    params: dict[str, Any] = Field(default_factory=dict)
    _folder: str | None = PrivateAttr(None)

    @field_validator("params", mode="after")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not name.isidentifier():
                raise ValueError(f"names that Python can pass to a constructor, not {name!r}")
        return value

    @property
    def folder(self) -> str | None:
        """Where its file is: there its module is looked up first."""
        return self._folder

    @property
    def target(self) -> str:
        """The class as "module:Class", also when the file names an entry point. Raises SignalsError."""
        if is_target(self.kind):
            return self.kind
        known = registered()
        if self.kind not in known:
            raise SignalsError(f"the entry point {self.kind!r} is not installed any more")
        return known[self.kind]

    def in_folder(self, folder: Path | None) -> "CustomFile":
        """The same file, told where it is."""
        found = self.model_copy()
        found._folder = None if folder is None else str(folder)
        return found


def is_target(kind: str) -> bool:
    """Whether it has the form of "module:Class"."""
    return _TARGET.fullmatch(kind) is not None


def registered() -> dict[str, str]:
    """The installed entry points: name -> "module:Class". Reads metadata only; imports nothing."""
    return {entry.name: entry.value.partition("[")[0].strip() for entry in entry_points(group=GROUP)}
