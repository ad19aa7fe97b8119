"""Frozen dataclasses that take no longer to make than others.

The `__init__` of a frozen dataclass sets each field through `object.__setattr__`: 22 fields take five times as long
as without `frozen`, and a fill makes a dozen such objects. The one here fills an object while it still belongs to a
class that is the same but for being open, and then gives it its own.
"""

from dataclasses import MISSING, fields
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


def quickly_made(cls: type[T]) -> type[T]:
    """Decorates a dataclass with `frozen=True, slots=True`, fields without factories and no `__post_init__`.

    It cannot have subclasses: their objects would become its own.
    """
    own: Any = cls
    names = [each.name for each in fields(own)]
    if any(each.default_factory is not MISSING for each in fields(own)) or hasattr(cls, "__post_init__"):
        raise TypeError(f"{cls.__name__}: neither factories nor __post_init__")
    as_usual = {"__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    while_open = type(cls.__name__, (cls,), {"__slots__": (), **as_usual})
    lines = [
        f"def __init__(self, {', '.join(names)}):",
        "become(self, '__class__', while_open)",
        *(f"self.{name} = {name}" for name in names),
        "self.__class__ = own",
    ]
    made: dict[str, Any] = {"become": object.__setattr__, "while_open": while_open, "own": own}
    exec("\n ".join(lines), made)  # noqa: S102 - of the fields' names alone, as dataclasses do
    made["__init__"].__defaults__ = own.__init__.__defaults__
    own.__init__ = made["__init__"]
    own.__init_subclass__ = classmethod(_no_subclass)
    return cls


def _no_subclass(cls: type) -> NoReturn:
    raise TypeError(f"{cls.__name__}: what is quickly made has no subclasses")
