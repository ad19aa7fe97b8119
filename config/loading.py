"""Where settings come from: `--set` over the environment over fillbook.toml over the defaults.

Every source is checked by itself, so that all faults are named at once, also of values that another source
covers. Nothing here reads the process's environment: the caller hands it in.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

from config.instruments import NAME_PATTERN, is_name
from config.pydantic_errors import explained, faults_from_pydantic
from config.settings import TOGETHER, Settings
from config.toml_errors import MASK, ConfigurationInvalid, Fault, TomlDocument, key_text, value_text
from config.toml_lines import TomlPath

CONFIG_FILE = "fillbook.toml"
ENVIRONMENT_PREFIX = "FILLBOOK_"
ENVIRONMENT = "environment"
OVERRIDES = "--set"
DEFAULT = "default"

# Kubernetes sets these for a service called "fillbook"; they are no settings and no typing errors.
_SERVICE_LINK = re.compile(r"FILLBOOK_(?:SERVICE_(?:HOST|PORT)|PORT)(?:_.*)?")
_KEY_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^."'\s]+))\s*(\.|$)""")
_SECRET_HINT = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings in force and where they are from.

    `bot_overrides` are the `--set bots.<name>.<key>=VALUE`, nested by the dots of the key. `sources` names
    the source of each key that is not at its default ("fillbook.toml:12", "FILLBOOK_BROKER__PORT", "--set").
    """

    settings: Settings
    bot_overrides: dict[str, dict[str, object]]
    sources: Mapping[str, str]
    config_file: Path | None


class SettingRow(NamedTuple):
    """One line of `config show`; secrets are masked."""

    key: str
    value: str
    source: str


class SettingChange(NamedTuple):
    """A setting that differs between two loads; secrets are masked."""

    key: str
    old: str
    new: str


@dataclass(slots=True)
class _Layer:
    """What one source says: nested data, and what a person calls each of its values."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    document: TomlDocument | None = None
    variables: dict[TomlPath, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def has(self, path: TomlPath) -> bool:
        data: object = self.data
        for part in path:
            if not isinstance(data, Mapping) or part not in data:
                # An element of a list belongs to the source of the list.
                return isinstance(part, int) and isinstance(data, (list, tuple)) and part < len(data)
            data = data[part]
        return True

    def source(self, path: TomlPath) -> str:
        if self.document is not None:
            return f"{self.name}:{self.document.line_of(path)}"
        return self._variable(path) or self.name

    def _variable(self, path: TomlPath) -> str | None:
        for length in range(len(path), 0, -1):
            if (variable := self.variables.get(path[:length])) is not None:
                return variable
        return None

    def fault(self, path: TomlPath, value: str | None, expected: str) -> Fault:
        if self.document is not None:
            return Fault(self.name, self.document.line_of(path), key_text(path), value, expected)
        below = [name for known, name in self.variables.items() if known[: len(path)] == path]
        if below and path not in self.variables:  # an unknown table: name the variables that made it
            return Fault(self.name, None, ", ".join(below), None, expected)
        return Fault(self.name, None, self._variable(path) or key_text(path), value, expected)

    def faults_alone(self) -> list[Fault]:
        """What is wrong with this source whatever the others say."""
        try:
            Settings(**self.data)
        except ValidationError as error:
            if self.document is not None:
                found = faults_from_pydantic(self.document, error, Settings, select=TOGETHER.__ne__)
            else:
                details = explained(error, Settings, self.data, select=TOGETHER.__ne__)
                found = [self.fault(*detail) for detail in details]
            return [*self.faults, *dict.fromkeys(found)]
        return self.faults


def load_settings(
    *,
    config_file: Path | None,
    overrides: Sequence[str],
    environ: Mapping[str, str],
    cwd: Path,
) -> LoadedSettings:
    """The settings in force. Raises ConfigurationInvalid with the faults of all sources.

    `config_file` None: ./fillbook.toml, else <data_dir>/fillbook.toml, else none. `overrides` are texts
    "KEY=VALUE". Paths in the file are meant from its folder, all others from `cwd`; the result is absolute.
    """
    given, bot_overrides = _override_layer(overrides)
    environment = _environment_layer(environ)
    path = config_file if config_file is not None else _find_file(cwd, given, environment)
    file = _file_layer(path, cwd)
    layers = [given, environment, file]

    faults = [fault for layer in reversed(layers) for fault in layer.faults_alone()]
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = _merge(merged, layer.data)
    settings: Settings | None = None
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        faults += _faults_together(error, merged, layers)
    if faults or settings is None:
        raise ConfigurationInvalid(faults)

    bases = {layer.name: cwd for layer in layers}
    if path is not None:
        bases[file.name] = (cwd / path).parent
    return LoadedSettings(
        settings=_with_absolute_paths(settings, layers, bases, cwd),
        bot_overrides=bot_overrides,
        sources={key_text(key): source for key, _ in _leaves(settings) if (source := _source(key, layers))},
        config_file=None if path is None else (cwd / path).resolve(),
    )


def effective_rows(loaded: LoadedSettings) -> list[SettingRow]:
    """Every setting in force, in the order of default.toml, with its source."""
    return [
        SettingRow(key_text(path), shown_value(value), loaded.sources.get(key_text(path), DEFAULT))
        for path, value in _leaves(loaded.settings)
    ]


def setting_changes(before: LoadedSettings, after: LoadedSettings) -> tuple[SettingChange, ...]:
    """What differs, in the order of default.toml. A secret that changed shows as *** -> ***."""
    pairs = zip(_leaves(before.settings), _leaves(after.settings), strict=True)
    return tuple(
        SettingChange(key_text(path), shown_value(old), shown_value(new))
        for (path, old), (_, new) in pairs
        if old != new
    )


_LONGEST_SETTING = 4_096
"""Characters of one setting that are shown: the paths of a real machine are long, and people copy them."""


def shown_value(value: object) -> str:
    """A setting's value as written in TOML; "(unset)" for None, `***` for a secret."""
    if value is None:
        return "(unset)"
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key_text((key,))} = {shown_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown_value, value))}]"
    return value_text(str(value) if isinstance(value, Path) else value, _LONGEST_SETTING)


# ---- the sources ----------------------------------------------------------------------------------------


def _override_layer(overrides: Sequence[str]) -> tuple[_Layer, dict[str, dict[str, object]]]:
    layer = _Layer(OVERRIDES)
    bots: dict[str, dict[str, object]] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        path = _key_path(key)
        if not equals or not path:
            shown = MASK if _SECRET_HINT.search(text) else value_text(text)
            layer.faults.append(Fault(OVERRIDES, None, None, shown, "KEY=VALUE, such as paper.taker_fee_bps=10"))
        elif path[0] == "bots":
            if len(path) < 3 or not is_name(path[1]):
                expected = f"bots.<name>.<key>=VALUE with a name matching {NAME_PATTERN}"
                layer.faults.append(Fault(OVERRIDES, None, key, None, expected))
            else:
                _put(bots.setdefault(path[1], {}), path[2:], _toml_or_text(value))
        else:
            path = _with_whole_symbol(path)
            _put(layer.data, path, _typed(path, value))
    return layer, bots


def _environment_layer(environ: Mapping[str, str]) -> _Layer:
    layer = _Layer(ENVIRONMENT)
    for variable, value in sorted(environ.items()):
        name = variable.upper()
        if not name.startswith(ENVIRONMENT_PREFIX) or _SERVICE_LINK.fullmatch(name) or not value:
            continue  # an empty variable is an unset one
        path = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        _put(layer.data, path, _typed(path, value))
        layer.variables[path] = variable
    return layer


def _file_layer(path: Path | None, cwd: Path) -> _Layer:
    if path is None:
        return _Layer(CONFIG_FILE)
    try:
        document = TomlDocument.read(cwd / path, str(path))
    except ConfigurationInvalid as error:
        return _Layer(str(path), faults=list(error.faults))
    return _Layer(document.name, document.data, document)


def _find_file(cwd: Path, given: _Layer, environment: _Layer) -> Path | None:
    default = Settings.model_fields["data_dir"].default
    data_dir = given.data.get("data_dir") or environment.data.get("data_dir") or default
    for candidate in (Path(CONFIG_FILE), Path(str(data_dir)).expanduser() / CONFIG_FILE):
        if (cwd / candidate).is_file():
            return candidate
    return None


def _key_path(key: str) -> tuple[str, ...]:
    """`feed.candles."BRK.B"` as its parts; () when it is no key."""
    parts: list[str] = []
    at = 0
    while at < len(key):
        match = _KEY_PART.match(key, at)
        if match is None or (match[4] == "." and match.end() == len(key)):
            return ()
        parts.append(match[1] or match[2] or match[3] or "")
        at = match.end()
    return tuple(parts)


def _with_whole_symbol(path: tuple[str, ...]) -> tuple[str, ...]:
    """Symbols may contain dots: what follows feed.candles is one key."""
    return (*path[:2], ".".join(path[2:])) if path[:2] == ("feed", "candles") and len(path) > 3 else path


def _put(data: dict[str, Any], path: Sequence[str], value: object) -> None:
    for part in path[:-1]:
        inner = data.get(part)
        if not isinstance(inner, dict):
            inner = data[part] = {}
        data = inner
    data[path[-1]] = value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = _merge(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return merged


# ---- values given as text -------------------------------------------------------------------------------


def _typed(path: Sequence[str], text: str) -> object:
    """The value of a text for a setting: lists and tables parsed, everything else left to the field."""
    annotation = _annotation_at(path)
    kinds = _plain_kinds(annotation)
    if kinds & {"list", "table"}:
        value = _toml_or_text(text)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(text, parse_float=Decimal)  # environments are often written by JSON tools
        except (ValueError, RecursionError):
            return text
    if "text" in kinds and text[:1] not in ('"', "'"):
        return text  # a password of digits is still a text
    return _toml_or_text(text) if annotation is not None else text


def _toml_or_text(text: str) -> object:
    try:
        parsed = tomllib.loads(f"v = {text}", parse_float=Decimal)
    except (ValueError, InvalidOperation, RecursionError):
        return text
    return parsed["v"] if parsed.keys() == {"v"} else text


def _annotation_at(path: Sequence[str]) -> object:
    """The type of a setting; None for an unknown one."""
    model: object = Settings
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            found = model.model_fields.get(part)
            model = None if found is None else found.annotation
        elif get_origin(model) is dict:
            model = get_args(model)[1]
        else:
            return None
    return model


def _plain_kinds(annotation: object) -> set[str]:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _plain_kinds(part)}
    if origin in (list, tuple):
        return {"list"}
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return {"table"}
    if origin is Literal or annotation in (str, Path, SecretStr):
        return {"text"}
    return {"text"} if get_args(annotation)[:1] == (str,) else set()


# ---- faults, sources, paths -----------------------------------------------------------------------------


def _faults_together(error: ValidationError, merged: Mapping[str, Any], layers: Sequence[_Layer]) -> list[Fault]:
    """The rules over several settings, blamed on the source that has the last word on the key."""
    faults = []
    for path, value, expected in explained(error, Settings, merged, select=TOGETHER.__eq__):
        candidates = [layer for layer in layers if layer.has(path)]
        candidates += [layer for layer in layers if layer.has(path[:-1])]  # the key itself is at its default
        faults.append(candidates[0].fault(path, value, expected))
    return faults


def _source(path: TomlPath, layers: Sequence[_Layer]) -> str | None:
    return next((layer.source(path) for layer in layers if layer.has(path)), None)


def _leaves(model: BaseModel, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def _with_absolute_paths(
    settings: Settings, layers: Sequence[_Layer], bases: Mapping[str, Path], cwd: Path
) -> Settings:
    def absolute(path: Path, *key: str) -> Path:
        base = next((bases[layer.name] for layer in layers if layer.has(key)), cwd)
        return (base / path.expanduser()).resolve()

    update: dict[str, object] = {"data_dir": absolute(settings.data_dir, "data_dir")}
    if settings.bots_dir is not None:
        update["bots_dir"] = absolute(settings.bots_dir, "bots_dir")
    if settings.database_url is not None:
        update["database_url"] = f"sqlite:///{absolute(settings.database_file, 'database_url')}"
    candles = {symbol: absolute(path, "feed", "candles", symbol) for symbol, path in settings.feed.candles.items()}
    update["feed"] = settings.feed.model_copy(update={"candles": candles})
    return settings.model_copy(update=update)
