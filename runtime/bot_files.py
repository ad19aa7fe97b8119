"""What the bot files say now, and what has to happen so that the running bots are as they say.

Reads and compares; changes nothing. A file is one unit: it is taken whole or not at all, and what one file has
to do with another (a name that both claim) is decided here.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from config.toml_errors import ConfigurationInvalid, Fault, TomlDocument
from signals.bot_file import BotFile
from signals.isolation.limits import BotLimits
from signals.loading import Overrides, bot_files_in, check_bot


@dataclass(frozen=True, slots=True)
class Checked:
    """A file as it was found: a bot, or what is wrong. `document` None: it is no TOML."""

    bot: BotFile | None
    faults: tuple[str, ...]
    document: TomlDocument | None = None

    def refused(self, *faults: Fault) -> "Checked":
        """The same file, not taken for another reason."""
        return Checked(None, tuple(map(str, faults)), self.document)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `bots`: the bot of each good file. `kept`: names whose file is bad now; they run on.

    `faults`: what is wrong, by file.
    """

    bots: Mapping[Path, BotFile]
    kept: frozenset[str]
    faults: Mapping[Path, tuple[str, ...]]


class BotFiles:
    """The files behind `--bots`: single ones, and all `*.toml` of folders (hidden ones are an editor's)."""

    def __init__(self, sources: Sequence[Path], overrides: Overrides, limits: BotLimits | None = None) -> None:
        self._sources = tuple(sources)
        self._limits = limits
        self._overrides = overrides
        self._folders = frozenset(source for source in self._sources if source.is_dir())
        self._modules: dict[str, str | None] = {}
        self._checked: dict[tuple[Path, str], Checked] = {}

    @property
    def folders(self) -> set[Path]:
        """The folders in which something may change."""
        return {source if source in self._folders else source.parent for source in self._sources}

    def missing_folders(self) -> list[Path]:
        """Folders that are gone or cannot be read: that says nothing about the bots in them."""
        return [folder for folder in sorted(self._folders) if not _is_readable(folder)]

    def look(self) -> dict[Path, str]:
        """The digest of each file that is there."""
        found: dict[Path, str] = {}
        for source in self._sources:
            for path in _listed(source) if source in self._folders else [source]:
                digest = self._digest(path)
                if digest is not None:
                    found.setdefault(path, digest)
        return found

    def check(self, path: Path, digest: str, *, trial: bool = True) -> Checked:
        """A file, checked whole; once for each content. `trial`: user-written bots are constructed once."""
        known = self._checked.get((path, digest))
        if known is None:
            known = self._check(path, self._limits if trial else None)
            self._checked = {key: value for key, value in self._checked.items() if key[0] != path}
            self._checked[path, digest] = known
        return known

    def _check(self, path: Path, trial: BotLimits | None) -> Checked:
        try:
            document = TomlDocument.read(path)
        except ConfigurationInvalid as invalid:
            return Checked(None, tuple(map(str, invalid.faults)))
        name = document.data.get("name")
        changes = self._overrides.get(name, {}) if isinstance(name, str) else {}
        bot, faults = check_bot(document, changes, trial=trial)
        return Checked(bot, tuple(map(str, faults)), document)

    def _digest(self, path: Path) -> str | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"unreadable {error.errno}"
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._modules:
            self._modules[digest] = _module_of(content)
        module = self._modules[digest]
        return digest if module is None else f"{digest} {_module_digest(path.parent, module)}"


def owners_of(sources: Sequence[Path]) -> dict[str, Path]:
    """The names that files give to bots, each with its file. Of bots that were just loaded from there."""
    found: dict[str, Path] = {}
    for path in BotFiles(sources, {}).look():
        with suppress(ConfigurationInvalid):
            name = TomlDocument.read(path).data.get("name")
            if isinstance(name, str):
                found.setdefault(name, path)
    return found


def plan(checked: Mapping[Path, Checked], owners: Mapping[str, Path]) -> Plan:
    """Who has which name, and whose file is bad. `owners`: the file from which each name was taken last.

    A name belongs to the file that has it: another one that claims it as well is faulty. A file that went
    bad keeps the name that it had.
    """
    had = {path: name for name, path in owners.items()}
    faults = {path: found.faults for path, found in checked.items() if found.bot is None}
    while True:
        holder = {had[path]: path for path in faults if path in had}
        bots: dict[Path, BotFile] = {}
        clash: tuple[Path, Path] | None = None
        for path in sorted(checked.keys() - faults.keys(), key=lambda p: (not _owns(checked[p], p, owners), p)):
            bot = checked[path].bot
            assert bot is not None
            if bot.name in holder:
                clash = path, holder[bot.name]
                break
            holder[bot.name] = path
            bots[path] = bot
        if clash is None:
            kept = frozenset(had[path] for path in faults if path in had)
            return Plan(bots, kept, faults)
        path, other = clash
        document = checked[path].document
        assert document is not None
        fault = document.fault(("name",), f"a name of its own (also in {other})")
        faults[path] = (str(fault),)  # and from the start: it keeps its old name, which another may have got


def _owns(found: Checked, path: Path, owners: Mapping[str, Path]) -> bool:
    return found.bot is not None and owners.get(found.bot.name) == path


def _listed(folder: Path) -> list[Path]:
    try:
        return bot_files_in(folder)
    except OSError:
        return []


def _is_readable(folder: Path) -> bool:
    try:
        next(folder.iterdir(), None)
    except OSError:
        return False
    return True


def _module_of(content: bytes) -> str | None:
    """The module of `class = "module:Class"`."""
    try:
        kind = tomllib.loads(content.decode("utf-8-sig")).get("class")
    except (ValueError, RecursionError):
        return None
    module, colon, _ = kind.partition(":") if isinstance(kind, str) else ("", "", "")
    return module if colon else None


def _module_digest(folder: Path, module: str) -> str:
    """What a bot's own module comes to, when it lies beside the bot file."""
    place = folder.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            continue
    return "elsewhere"
