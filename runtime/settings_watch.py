"""The settings file while the daemon runs: nothing of it is applied, but a person learns what a restart would do."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from config.loading import LoadedSettings, SettingChange, setting_changes
from config.toml_errors import ConfigurationInvalid
from execution.model import AlertRaised, Severity
from runtime.core import Published

log = structlog.get_logger(__name__)


class SettingsWatch:
    """Tells which settings would be others after a restart; applies none."""

    def __init__(
        self, loaded: LoadedSettings, load: Callable[[], LoadedSettings], publish: Callable[[Published], None]
    ) -> None:
        self._loaded = loaded
        self._load = load
        self._publish = publish
        self._text = self._read()
        self._said: tuple[SettingChange, ...] = ()

    @property
    def file(self) -> Path | None:
        """The settings file that was loaded."""
        return self._loaded.config_file

    def _read(self) -> bytes | None:
        file = self._loaded.config_file
        try:
            return None if file is None else file.read_bytes()
        except OSError:
            return b""

    async def look_when_still(self, pause: Callable[[], Awaitable[None]]) -> None:
        """Say what changed, once the file has been the same before and after a `pause`: editors write in pieces."""
        seen = self._read()
        while seen != self._text:
            await pause()
            now = self._read()
            if now == seen:
                self.look()
                return
            seen = now

    def look(self) -> None:
        """Say what changed since the last look."""
        text = self._read()
        if text == self._text:
            return
        self._text = text
        try:
            changes = setting_changes(self._loaded, self._load())
        except ConfigurationInvalid as invalid:
            self._tell_invalid([str(fault) for fault in invalid.faults])
            return
        if changes != self._said:
            self._said = changes
            self._tell(changes)

    def _tell_invalid(self, faults: list[str]) -> None:
        log.warning("settings invalid", file=str(self.file), faults=faults)
        message = f"{self.file} is not valid any more; the daemon runs on as it started: {'; '.join(faults)}"
        self._alert("settings_invalid", message, {"file": str(self.file), "faults": "\n".join(faults)})

    def _tell(self, changes: tuple[SettingChange, ...]) -> None:
        texts = [f"{change.key}: {change.old} -> {change.new}" for change in changes]
        if not texts:
            log.info("settings are again as the daemon runs", file=str(self.file))
            return
        log.warning("settings changed: this needs a restart of the daemon", file=str(self.file), changes=texts)
        message = f"{self.file} has changed, which needs a restart of the daemon: {'; '.join(texts)}"
        self._alert("settings_changed", message, {"file": str(self.file), "changes": "\n".join(texts)})

    def _alert(self, code: str, message: str, about: dict[str, str]) -> None:
        self._publish(AlertRaised(Severity.WARNING, code, message, None, about))
