"""When to look at the files of a running daemon: bots are exchanged then, changed settings reported.

The system's notice of a change is no more than a wake-up, so that one that is lost, doubled or late changes
nothing: the files are looked at now and then anyway.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from config.loading import LoadedSettings
from config.settings import Settings, SignalSettings
from execution.errors import LeaseLost
from execution.ports import Reader
from runtime.bot_files import BotFiles
from runtime.bot_reload import BotHost, BotReloader
from runtime.composition import bot_limits
from runtime.core import Published
from runtime.settings_watch import SettingsWatch
from signals.bot_file import BotFile
from signals.loading import Overrides

log = structlog.get_logger(__name__)

_STORAGE_PAUSE = 1.0
"""Seconds after which a change that could not be stored is tried again."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the daemon's bots and settings are from, to look there again.

    `bots` are the files and folders of `--bots`, `overrides` the `--set bots.<name>...` that go over them,
    `owners` the file of each bot: it may go bad before the daemon is up.
    `load_settings` loads the settings once more, the same way as `settings` were.
    """

    bots: tuple[Path, ...] = ()
    overrides: Overrides = field(default_factory=dict)
    owners: Mapping[str, Path] = field(default_factory=dict)
    settings: LoadedSettings | None = None
    load_settings: Callable[[], LoadedSettings] | None = None


class Reloader:
    """Looks at the files whenever something may have changed. `bots`, `settings` None: not here."""

    def __init__(
        self, chosen: SignalSettings, bots: BotReloader | None, settings: SettingsWatch | None, *, busy: Path
    ) -> None:
        self._chosen = chosen
        self._bots = bots
        self._settings = settings
        self._busy = busy.resolve()
        """A folder in which something changes all the time: it is swept, not watched."""
        self._wake = asyncio.Event()

    def check_soon(self) -> None:
        """Look at all files now (SIGHUP)."""
        log.info("looking at all files again")
        if self._bots is not None:
            self._bots.forget_refusals()
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. Raises LeaseLost."""
        watching = asyncio.create_task(self._watch(), name="file-watch")
        try:
            while True:
                self._wake.clear()
                await self._look()
                unfinished = self._bots is not None and self._bots.unfinished
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STORAGE_PAUSE if unfinished else self._chosen.reload_sweep_seconds):
                        await self._wake.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _look(self) -> None:
        try:
            if self._settings is not None:
                await self._settings.look_when_still(lambda: asyncio.sleep(self._chosen.reload_settle_ms / 1000))
            if self._bots is not None:
                await self._bots.look()
        except LeaseLost:
            raise
        except Exception:  # trading goes on whatever is wrong with the files; the next change is looked at again
            log.exception("looking at changed files failed")

    # ---- the system's notices -------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Wake at each notice; without any (no inotify, too many watches) there is still the sweep."""
        polling: bool | None = None
        while True:
            try:
                await self._watch_folders(self._folders(), polling)
            except (OSError, RuntimeError) as error:
                log.warning("no notice of changed files from the system; looking now and then", error=str(error))
                if polling:
                    return
                polling = True

    async def _watch_folders(self, folders: dict[str, tuple[int, int]], polling: bool | None) -> None:
        """Until one of them is another one than it was: a notice is about the folder, not about its name."""
        from watchfiles import awatch

        if not folders:
            await asyncio.sleep(self._chosen.reload_sweep_seconds)
            return
        timeout = max(1, int(self._chosen.reload_sweep_seconds * 1000))
        notices = awatch(
            *folders,
            watch_filter=None,
            rust_timeout=timeout,
            yield_on_timeout=True,
            recursive=False,
            force_polling=polling,
            ignore_permission_denied=True,
        )
        async with aclosing(notices):
            async for _ in notices:
                self._wake.set()
                if self._folders() != folders:
                    return

    def _folders(self) -> dict[str, tuple[int, int]]:
        """The folders to watch, each with what tells it from another one of that name."""
        folders = set() if self._bots is None else self._bots.folders
        if self._settings is not None and self._settings.file is not None:
            folders |= {self._settings.file.parent}
        found = {}
        for folder in sorted(folders):
            with suppress(OSError):
                stat = folder.stat()
                if folder.resolve() != self._busy:
                    found[str(folder)] = (stat.st_dev, stat.st_ino)
        return found


def make_reloader(
    sources: Sources,
    settings: Settings,
    *,
    running: Iterable[BotFile],
    host: BotHost | None,
    reader: Reader,
    publish: Callable[[Published], None],
    observe: Callable[[object], None],
) -> Reloader:
    """The reloader of a daemon; `host` None: another process runs the bots."""
    bots = watch = None
    chosen = settings.signals
    if host is not None and sources.bots:
        files = BotFiles(sources.bots, sources.overrides, bot_limits(settings))
        settle = chosen.reload_settle_ms / 1000
        bots = BotReloader(
            files, running, host, reader, publish, observe, settle_seconds=settle, owners=sources.owners
        )
    if sources.settings is not None and sources.load_settings is not None:
        watch = SettingsWatch(sources.settings, sources.load_settings, publish)
    return Reloader(chosen, bots, watch, busy=settings.data_dir)
