"""Bots that change while the daemon runs: exchanged one file at a time, each taken whole or not at all.

What counts is what the files say when they are looked at, not how one learned that they changed. A file is
acted on once it has stood still for a moment, since editors truncate, write in pieces and rename.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from config.toml_errors import Fault
from execution import ledger
from execution.errors import LeaseLost, StorageUnavailable
from execution.model import AlertRaised, Severity
from execution.ports import Reader
from runtime.bot_files import BotFiles, Checked, plan
from runtime.core import Published
from signals.bot_file import BotFile
from signals.errors import BotNotTaken
from signals.service import Output

log = structlog.get_logger(__name__)

T = TypeVar("T")

_FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class BotChanged:
    """A bot's file was taken, for whoever shows it. `what`: added, changed or removed."""

    bot: str
    what: str
    file: str


class BotHost(Protocol):
    """What a reload needs of the signals service."""

    async def put_bot(self, file: BotFile) -> list[Output]:
        """See `SignalsService.put_bot`."""
        ...

    async def remove_bot(self, name: str) -> list[Output]:
        """See `SignalsService.remove_bot`."""
        ...

    def set_file_error(self, name: str, text: str | None) -> Sequence[Output]:
        """See `SignalsService.set_file_error`."""
        ...


class BotReloader:
    """Keeps the running bots as their files say. `running` are the bots that run already, `owners` tells from
    which files."""

    def __init__(
        self,
        files: BotFiles,
        running: Iterable[BotFile],
        host: BotHost,
        reader: Reader,
        publish: Callable[[Published], None],
        observe: Callable[[BotChanged], None],
        *,
        settle_seconds: float,
        owners: Mapping[str, Path] | None = None,
    ) -> None:
        self._files = files
        self._host = host
        self._reader = reader
        self._publish = publish
        self._observe = observe
        self._settle = settle_seconds
        self._running = {bot.name: bot for bot in running}
        self._owners: dict[str, Path] = dict(owners or {})
        self._taken: dict[str, str] = {}
        """Of each bot that runs: the digest of its file, which a changed module changes too."""
        self._acted: dict[Path, str] = {}
        self._refused: dict[Path, tuple[str, Checked]] = {}
        self._said: dict[Path, tuple[str, tuple[str, ...]]] = {}
        self._missing: list[Path] = []
        self.unfinished = True
        """Whether something is to be done although no file changed: the first look, a failed storage."""

    @property
    def folders(self) -> set[Path]:
        """The folders in which something may change."""
        return self._files.folders

    def forget_refusals(self) -> None:
        """Try again what failed for another reason than its text."""
        self._refused.clear()
        self.unfinished = True

    async def look(self) -> None:
        """Look at the files and act on what has stood still; returns when there is nothing left to do.

        A change that cannot be stored stays `unfinished`. Raises LeaseLost.
        """
        while True:
            seen = await asyncio.to_thread(self._look)
            changed = {path for path in seen.keys() | self._acted.keys() if seen.get(path) != self._acted.get(path)}
            if not changed and not self.unfinished:
                return
            again = seen
            if changed:
                await asyncio.sleep(self._settle)
                again = await asyncio.to_thread(self._look)
            still = {path for path in changed if again.get(path) == seen.get(path)}
            if still or self.unfinished:
                view = {path: digest for path, digest in self._acted.items() if path not in still}
                view |= {path: seen[path] for path in still if path in seen}
                await self._act(view, changed - still)
                self._acted = view
            if still == changed:
                return

    def _look(self) -> dict[Path, str]:
        """As `BotFiles.look`; of a folder that is gone, what was there last (it says nothing about bots)."""
        missing = self._files.missing_folders()
        if missing != self._missing:
            self._missing = missing
            for folder in missing:
                log.warning("bot folder missing", folder=str(folder))
        found = self._files.look()
        return found | {path: digest for path, digest in self._acted.items() if path.parent in missing}

    # ---- acting ---------------------------------------------------------------------------------------

    async def _act(self, view: Mapping[Path, str], moving: set[Path]) -> None:
        """Make the bots as the files of `view` say. Of files that are `moving` nothing is known yet."""
        self.unfinished = False
        checked = await _unwaited(partial(self._check, view))
        await self._refuse_unknown(checked, view)
        wanted = plan(checked, self._owners)
        targets = {bot.name: path for path, bot in wanted.bots.items()}
        kept = wanted.kept | {name for name, path in self._owners.items() if path in moving}
        if wanted.faults or moving:
            kept |= {name for name in self._running if name not in self._owners}
        for name in sorted(self._running.keys() - targets.keys() - kept):
            await self._remove(name)
        for path in sorted(wanted.bots, key=lambda p: wanted.bots[p].name):
            await self._put(path, wanted.bots[path], view[path])
        faults = dict(wanted.faults)
        faults |= {path: found.faults for path, (digest, found) in self._refused.items() if view.get(path) == digest}
        self._tell_faults(faults, view)

    def _check(self, view: Mapping[Path, str]) -> dict[Path, Checked]:
        """Every file. What runs already was tried when the daemon started."""
        return {path: self._files.check(path, digest, trial=bool(self._acted)) for path, digest in view.items()}

    async def _refuse_unknown(self, checked: dict[Path, Checked], view: Mapping[Path, str]) -> None:
        """What a running bot may not be changed to: a symbol or account that these books do not know."""
        for path in checked:
            refusal = self._refused.get(path)
            if refusal is not None and refusal[0] == view[path]:
                checked[path] = refusal[1]
        new = {path: f for path, f in checked.items() if f.bot is not None and f.bot != self._running.get(f.bot.name)}
        if not new:
            return
        try:
            symbols, accounts = await self._reader.read(lambda c: (ledger.instruments(c), ledger.accounts(c)))
        except StorageUnavailable:
            return  # putting it fails as well, and is tried again
        for path, found in new.items():
            assert found.bot is not None
            assert found.document is not None
            faults = []
            if found.bot.symbol not in symbols:
                expected = "a symbol of the catalogue (`fillbook instruments` lists it)"
                faults.append(found.document.fault(("symbol",), expected))
            if found.bot.account not in accounts:
                expected = f"an account of these books (there are: {', '.join(accounts)})"
                faults.append(found.document.fault(("account",), expected))
            if faults:
                checked[path] = found.refused(*faults)

    async def _put(self, path: Path, bot: BotFile, digest: str) -> None:
        name = bot.name
        before = self._running.get(name)
        same_module = self._taken.get(name, digest).partition(" ")[2] == digest.partition(" ")[2]
        if bot == before and same_module:
            self._owners[name], self._taken[name] = path, digest
            return
        try:
            outputs = await self._host.put_bot(bot)
        except LeaseLost:
            raise
        except StorageUnavailable as error:
            self._storage_failed(name, error)
            return
        except BotNotTaken as error:
            self._refuse(path, digest, bot, str(error))
            return
        what = "added" if before is None else "changed"
        self._running[name], self._owners[name], self._taken[name] = bot, path, digest
        self._done(name, what, path, outputs)

    def _refuse(self, path: Path, digest: str, bot: BotFile, why: str) -> None:
        fault = Fault(
            str(path), None, "class", bot.kind, f"a bot that can be started with the stored candles ({why})"
        )
        self._refused[path] = digest, Checked(None, (str(fault),))

    async def _remove(self, name: str) -> None:
        try:
            outputs = await self._host.remove_bot(name)
        except LeaseLost:
            raise
        except StorageUnavailable as error:
            self._storage_failed(name, error)
            return
        path = self._owners.pop(name, Path())
        del self._running[name]
        self._taken.pop(name, None)
        self._done(name, "removed", path, outputs)

    def _storage_failed(self, name: str, error: StorageUnavailable) -> None:
        self.unfinished = True
        log.error("a changed bot file waits for the storage", bot=name, error=str(error))

    def _done(self, name: str, what: str, path: Path, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self._publish(output)
        log.info(f"bot {what}", bot=name, file=str(path))
        self._observe(BotChanged(name, what, str(path)))

    # ---- telling --------------------------------------------------------------------------------------

    def _tell_faults(self, faults: Mapping[Path, tuple[str, ...]], view: Mapping[Path, str]) -> None:
        names = {path: name for name, path in self._owners.items()}
        for path in [path for path in self._said if path not in faults]:
            del self._said[path]
            if path in view:
                log.info("bot file valid again", file=str(path))
            if path in names:
                self._mark(names[path], None)
        for path, found in sorted(faults.items()):
            said = (view[path], found)
            if self._said.get(path) != said:
                self._said[path] = said
                self._tell_fault(path, found, names.get(path))

    def _tell_fault(self, path: Path, faults: tuple[str, ...], name: str | None) -> None:
        log.warning("bot file invalid", file=str(path), bot=name, faults=list(faults))
        text = "; ".join(faults[:_FAULTS_SHOWN])
        if len(faults) > _FAULTS_SHOWN:
            text += f"; and {len(faults) - _FAULTS_SHOWN} more"
        effect = "no bot was started from it" if name is None else f"bot {name} runs on as it was"
        if name is not None:
            self._mark(name, text)
        bot = None if name is None else self._running.get(name)
        about = {"file": str(path), "bot": name or "", "faults": "\n".join(faults)}
        self._publish(
            AlertRaised(
                Severity.WARNING,
                "bot_file_invalid",
                f"{path} is not taken, {effect}: {text}",
                None if bot is None else bot.account,
                about,
            )
        )

    def _mark(self, name: str, text: str | None) -> None:
        for output in self._host.set_file_error(name, text):
            self._publish(output)


async def _unwaited(work: Callable[[], T]) -> T:
    """What a work gives, done in a thread for which the end of this process does not wait: a bot may hang when it is
    tried, and its process ends with ours."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # what the work gave, since it raised nothing

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - whatever it is belongs to who waits
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="bot files", daemon=True).start()
    return await done
