"""Reading bot files: all of them, with all of their faults at once."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.pydantic_errors import explained
from config.toml_errors import ConfigurationInvalid, Fault, TomlDocument, key_text, value_text
from signals.bot_classes import DEFAULT_CLASS, known_classes, model_of
from signals.bot_file import SIZES, BotFile
from signals.custom_file import CustomFile
from signals.isolation.limits import BotLimits
from signals.isolation.trial import class_faults

COMMAND_LINE = "--set"

Overrides = Mapping[str, Mapping[str, object]]


def load_bots(
    paths: Sequence[Path], overrides: Overrides | None = None, *, trial: BotLimits | None = None
) -> list[BotFile]:
    """The bots in files and in the directories' *.toml files, in the order of their names.

    `overrides` are the values of `--set bots.<name>.<key>=VALUE`: bot name -> key (dotted for nested keys,
    `signals.0.weight`) -> value. `trial`: construct user-written bots once, within these limits, in a process
    of their own. Raises ConfigurationInvalid with every fault of every file.
    """
    overrides = overrides or {}
    faults: list[Fault] = []
    bots: dict[str, BotFile] = {}
    seen: dict[str, str] = {}
    for path in _files(paths, faults):
        try:
            document = TomlDocument.read(path)
        except ConfigurationInvalid as invalid:
            faults.extend(invalid.faults)
            continue
        name = document.data.get("name")
        if isinstance(name, str):
            if name in seen:
                expected = f"a name of its own (also in {seen[name]})"
                faults.append(document.fault(("name",), expected))
                continue
            seen[name] = document.name
        changes = overrides.get(name, {}) if isinstance(name, str) else {}
        bot, found = check_bot(document, changes, trial=trial)
        faults.extend(found)
        if bot is not None:
            bots[bot.name] = bot
    for name in overrides:
        if name not in seen:
            known = ", ".join(sorted(seen)) or "none"
            faults.append(Fault(COMMAND_LINE, None, f"bots.{name}", None, f"the name of a bot (there are: {known})"))
    if faults:
        raise ConfigurationInvalid(faults)
    return [bots[name] for name in sorted(bots)]


def check_bot(
    document: TomlDocument, overrides: Mapping[str, object] | None = None, *, trial: BotLimits | None = None
) -> tuple[BotFile | None, list[Fault]]:
    """One file as a bot, or None and what is wrong with it. `trial` as in `load_bots`."""
    overrides = overrides or {}
    data = deepcopy(document.data)
    faults: list[Fault] = []
    changed: set[tuple[str | int, ...]] = set()
    for key, value in overrides.items():
        path = _override_path(key)
        if path == ("name",):
            faults.append(_override_fault(document, key, value, "any key but name"))
        elif _put(data, path, value):
            changed.add(path)
            if key in SIZES:  # another way to size replaces the file's
                for other in set(SIZES) - overrides.keys():
                    data.pop(other, None)
        else:
            faults.append(_override_fault(document, key, value, "a key of this bot"))
    kind = data.get("class", DEFAULT_CLASS)
    model = model_of(kind)
    if model is None:
        expected = known_classes()
        faults.append(
            _override_fault(document, "class", kind, expected)
            if ("class",) in changed
            else document.fault(("class",), expected)
        )
        return None, faults
    try:
        bot = model.model_validate(data)
    except ValidationError as error:
        return None, [*faults, *_validation_faults(document, data, error, model, changed)]
    if isinstance(bot, CustomFile):
        bot = bot.in_folder(document.folder)
        if trial is not None and not faults:
            faults += _trial_faults(document, bot, trial, changed)
    return (bot if not faults else None), faults


def _trial_faults(
    document: TomlDocument, bot: CustomFile, limits: BotLimits, changed: set[tuple[str | int, ...]]
) -> list[Fault]:
    """What is wrong with the class and its parameters; values from the command line point there."""
    faults = []
    for path, value, expected in class_faults(bot, limits):
        shown = None if value is None else value_text(value)
        key = key_text(path)
        if any(path[: len(place)] == place for place in changed):
            faults.append(Fault(COMMAND_LINE, None, f"bots.{bot.name}.{key}", shown, expected))
        else:
            line = document.line_of(path if path[0] in document.data else ("class",))
            faults.append(Fault(document.name, line, key, shown, expected))
    return faults


def _files(paths: Sequence[Path], faults: list[Fault]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)  # a missing file becomes a fault when it is read
            continue
        found = bot_files_in(path)
        if not found:
            faults.append(Fault(str(path), None, None, None, "a directory with at least one *.toml file"))
        files.extend(found)
    return list(dict.fromkeys(files))


def bot_files_in(folder: Path) -> list[Path]:
    """The `*.toml` of a folder by name. Hidden ones are an editor's; opening a pipe would wait for its writer."""
    return sorted(path for path in folder.glob("*.toml") if not path.name.startswith(".") and not path.is_fifo())


def _override_path(key: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isascii() and part.isdigit() else part for part in key.split("."))


def _put(data: dict[str, Any], path: Sequence[str | int], value: object) -> bool:
    """Set a value at a path, making tables on the way; False when the path leads nowhere."""
    place: Any = data
    for part, following in pairwise(path):
        if isinstance(place, dict) and isinstance(part, str):
            if part not in place and isinstance(following, int):
                return False  # there is no such list
            place = place.setdefault(part, {})
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            place = place[part]
        else:
            return False
    last = path[-1]
    if isinstance(place, dict) and isinstance(last, str):
        place[last] = value
        return True
    if isinstance(place, list) and isinstance(last, int) and last < len(place):
        place[last] = value
        return True
    return False


def _override_fault(document: TomlDocument, key: str, value: object, expected: str) -> Fault:
    name = document.data.get("name")
    return Fault(COMMAND_LINE, None, f"bots.{name}.{key}", value_text(value), expected)


def _validation_faults(
    document: TomlDocument,
    data: dict[str, Any],
    error: ValidationError,
    model: type[BotFile],
    changed: set[tuple[str | int, ...]],
) -> list[Fault]:
    """pydantic's errors; those at a value from the command line point there instead of into the file."""
    faults = []
    for path, value, expected in explained(error, model, data):
        shown = value if _is_single(data, path) else None
        key = key_text(path)
        if any(path[: len(place)] == place for place in changed):
            faults.append(Fault(COMMAND_LINE, None, f"bots.{data.get('name')}.{key}", shown, expected))
        else:
            faults.append(Fault(document.name, document.line_of(path), key or None, shown, expected))
    return sorted(faults, key=lambda fault: fault.line or 0)


def _is_single(data: Any, path: Sequence[str | int]) -> bool:
    """Whether a path leads to one value: a whole table, or a default inside of it, is not worth showing."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        else:
            return True
    return not isinstance(data, dict | list)
