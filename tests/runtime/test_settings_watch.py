"""The settings file that changes beside a running daemon."""

from pathlib import Path
from typing import Any

from config.loading import load_settings
from runtime.settings_watch import SettingsWatch


def watched(tmp_path: Path, text: str) -> tuple[Path, SettingsWatch, list[Any]]:
    file = tmp_path / "fillbook.toml"
    file.write_text(text)

    def load() -> Any:
        return load_settings(config_file=None, overrides=["paper.maker_fee_bps=1"], environ={}, cwd=tmp_path)

    published: list[Any] = []
    return file, SettingsWatch(load(), load, published.append), published


def test_a_changed_setting_says_old_and_new_and_that_it_needs_a_restart(tmp_path: Path) -> None:
    file, watch, published = watched(tmp_path, "[paper]\ntaker_fee_bps = 10\n")
    watch.look()
    assert published == []
    file.write_text("# a remark\n[paper]\ntaker_fee_bps = 10\nmaker_fee_bps = 7\n")  # --set goes over it
    watch.look()
    assert published == []
    file.write_text("[paper]\ntaker_fee_bps = 12.5\n[log]\nlevel = 'debug'\n")
    watch.look()
    (alert,) = published
    assert (alert.code, alert.account) == ("settings_changed", None)
    assert "needs a restart of the daemon" in alert.message
    assert alert.about["changes"] == 'paper.taker_fee_bps: 10 -> 12.5\nlog.level: "info" -> "debug"'
    file.write_text("[log]\nlevel = 'debug'\n[paper]\ntaker_fee_bps = 12.5\n")
    watch.look()
    assert len(published) == 1  # the same changes, written otherwise


async def test_a_settings_file_that_is_being_written_is_looked_at_once_it_stands_still(tmp_path: Path) -> None:
    file, watch, published = watched(tmp_path, "[paper]\ntaker_fee_bps = 10\n")
    pieces = ["[paper]\ntaker_fee_b", "[paper]\ntaker_fee_bps = 12\n"]
    file.write_text("")

    async def pause() -> None:
        if pieces:
            file.write_text(pieces.pop(0))

    await watch.look_when_still(pause)
    (alert,) = published
    assert alert.about["changes"] == "paper.taker_fee_bps: 10 -> 12"
    await watch.look_when_still(pause)
    assert len(published) == 1


def test_an_invalid_settings_file_is_told_with_its_faults(tmp_path: Path) -> None:
    file, watch, published = watched(tmp_path, "[paper]\ntaker_fee_bps = 10\n")
    file.write_text("[paper]\ntaker_fee_bps = -1\ntypo = 1\n")
    watch.look()
    watch.look()
    (alert,) = published
    assert alert.code == "settings_invalid"
    assert "fillbook.toml:2: paper.taker_fee_bps = -1" in alert.message
    assert "fillbook.toml:3: paper.typo" in alert.message


def test_a_changed_secret_is_not_shown(tmp_path: Path) -> None:
    text = "[broker]\nembedded = false\nusername = 'me'\npassword = '{}'\n"
    file, watch, published = watched(tmp_path, text.format("canary-one"))
    file.write_text(text.format("canary-two"))
    watch.look()
    (alert,) = published
    assert "broker.password: *** -> ***" in alert.message
    assert "canary" not in str(alert)
