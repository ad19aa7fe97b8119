"""Inside the worker: from `package.module:Class` and parameters to a bot.

Every failure is a BotUnusable whose text reads on from "expected", because it becomes a fault of the bot file.
"""

import importlib
import inspect
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from signals.bot import BaseBot
from signals.isolation.errors import BotUnusable

NEEDED = ("update", "decide")


def find_class(target: str, folder: str | None) -> type:
    """The class behind `module:Class`; modules are looked up in `folder` first, then among the installed ones.

    Raises BotUnusable.
    """
    module_name, _, path = target.partition(":")
    if folder is not None:
        sys.path.insert(0, folder)
    module = _import(module_name, folder)
    found: object = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise BotUnusable("class", f"a class in {_place(module)}; there is no {path}{_nearest(name, found)}")
        found = getattr(found, name)
    if not isinstance(found, type):
        raise BotUnusable("class", f"a class; {path} in {_place(module)} is a {type(found).__name__}")
    lacking = [name for name in NEEDED if not _has(found, name)]
    if lacking:
        raise BotUnusable("class", f"a bot; {path} in {_place(module)} lacks {_calls(lacking)}")
    return found


def construct(found: type, params: Mapping[str, Any]) -> Any:
    """An instance with the parameters. Raises BotUnusable when the class does not take them."""
    _check_names(found, params)
    try:
        return found(**params)
    except (TypeError, ValueError) as error:
        text = f"parameters that {found.__name__} takes ({type(error).__name__}: {error})"
        raise BotUnusable("params", text) from error


def _import(name: str, folder: str | None) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            looked = "among the installed modules" if folder is None else f"in {folder}, then the installed modules"
            raise BotUnusable("module", f"a module that exists; {error.name} was looked for {looked}") from error
        raise BotUnusable("module", f"a module that can be imported; {name} needs {error.name}") from error
    except BaseException as error:  # a module may raise anything, SystemExit too
        raise BotUnusable(
            "module", f"a module that can be imported; {name} raised {type(error).__name__}: {error}"
        ) from error


def _check_names(found: type, params: Mapping[str, Any]) -> None:
    """Each parameter that the constructor does not know, and each that it misses, by name."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # a class made elsewhere than in Python
        return
    takes = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    names = [parameter.name for parameter in takes]
    guilty: dict[str, str] = {}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        for name in (name for name in params if name not in names):
            nearest = get_close_matches(name, names, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"it takes {', '.join(names) or 'none'}"
            guilty[name] = f"a parameter of {found.__name__} ({hint})"
    for parameter in takes:
        if parameter.default is parameter.empty and parameter.name not in params:
            guilty[parameter.name] = f"a value ({found.__name__} needs this parameter)"
    if guilty:
        raise BotUnusable("params", f"parameters that {found.__name__} takes", guilty)


def _has(found: type, name: str) -> bool:
    method = getattr(found, name, None)
    return callable(method) and method is not getattr(BaseBot, name)


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__


def _nearest(name: str, owner: object) -> str:
    classes = [key for key, value in vars(owner).items() if isinstance(value, type) and _has(value, "decide")]
    nearest = get_close_matches(name, classes, n=1) or classes[:1]
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _calls(names: list[str]) -> str:
    return " and ".join(f"{name}()" for name in names)
