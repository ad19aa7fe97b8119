"""Bot files that change beside running bots."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from config.settings import SignalSettings
from execution.errors import LeaseLost, StorageUnavailable
from execution.model import AlertRaised
from runtime.bot_files import BotFiles, owners_of
from runtime.bot_reload import BotChanged, BotReloader
from runtime.reload import Reloader
from signals.loading import load_bots
from signals.model import BotRemoved, BotState
from tests.integration.brokers import PATIENCE
from tests.signals.stage import SMA, WEIGHTED, Stage, advices, candle, requests

OTHER = SMA.replace('name = "sma"', 'name = "other"')


class Moving(BotFiles):
    """Files that change right after they were looked at."""

    then: Callable[[], object] | None = None

    def look(self) -> dict[Path, str]:
        found = super().look()
        change, self.then = self.then, None
        if change is not None:
            change()
        return found


class House:
    """A folder of bot files, a signals service that runs them, and the reloader between them."""

    def __init__(self, folder: Path, **texts: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            self.write(name, text)
        self.sources: list[Path] = [folder]
        self.overrides: dict[str, dict[str, object]] = {}
        self.published: list[Any] = []
        self.changes: list[BotChanged] = []

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def write(self, name: str, text: str) -> None:
        self.file(name).write_text(text, encoding="utf-8")

    async def open(self) -> "House":
        bots = load_bots(self.sources, self.overrides)
        self.stage = Stage(bots)
        await self.stage.service.start()
        self.files = Moving(self.sources, self.overrides)
        self.reloader = BotReloader(
            self.files, bots, self.stage.service, self.stage.reader, self.published.append, self.changes.append,
            settle_seconds=0,
        )  # fmt: skip
        await self.reloader.look()
        return self

    async def look(self) -> list[tuple[str, str]]:
        """Have it look; what changed since the last time."""
        self.changes.clear()
        await self.reloader.look()
        return [(change.bot, change.what) for change in self.changes]

    def alerts(self) -> list[AlertRaised]:
        """The alerts since the last time."""
        found = [message for message in self.published if isinstance(message, AlertRaised)]
        self.published.clear()
        return found

    def states(self) -> dict[str, BotState]:
        return {state.bot: state for state in self.stage.service.states()}

    def running(self, name: str = "sma") -> Any:
        return self.stage.service._crew.runners[name].file


async def house(tmp_path: Path, **texts: str) -> House:
    return await House(tmp_path / "bots", **texts).open()


async def test_what_runs_already_is_left_alone_at_the_start_and_when_touched(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    assert (found.changes, found.published) == ([], [])
    os.utime(found.file("sma"))
    found.write("sma", SMA + "\n# only a remark\n")
    assert await found.look() == []
    assert found.published == []


async def test_a_file_that_changed_between_its_load_and_the_first_look_is_taken(tmp_path: Path) -> None:
    found = House(tmp_path / "bots", sma=SMA)
    real = load_bots(found.sources)
    found.write("sma", SMA.replace("quantity = 1", "quantity = 2"))
    await found.open()
    late = BotReloader(
        BotFiles(found.sources, {}), real, found.stage.service, found.stage.reader, found.published.append,
        found.changes.append, settle_seconds=0,
    )  # fmt: skip
    await late.look()
    assert [change.what for change in found.changes] == ["changed"]


async def test_a_file_that_went_bad_before_the_first_look_is_told_as_that_of_its_bot(tmp_path: Path) -> None:
    found = House(tmp_path / "bots", sma=SMA)
    bots, owners = load_bots(found.sources), owners_of(found.sources)
    await found.open()
    found.write("sma", "")
    late = BotReloader(
        BotFiles(found.sources, {}), bots, found.stage.service, found.stage.reader, found.published.append,
        found.changes.append, settle_seconds=0, owners=owners,
    )  # fmt: skip
    await late.look()
    (alert,) = found.alerts()
    assert (alert.about["bot"], alert.account) == ("sma", "main")
    assert found.states()["sma"].file_error is not None


@pytest.mark.parametrize("known", [True, False], ids=["owners known", "owners unknown"])
async def test_a_file_that_moves_during_the_first_look_ends_no_bot(tmp_path: Path, known: bool) -> None:
    found = House(tmp_path / "bots", sma=SMA, other=OTHER)
    bots, owners = load_bots(found.sources), owners_of(found.sources) if known else {}
    await found.open()
    files = Moving(found.sources, {})
    files.then = lambda: found.write("sma", SMA.replace("quantity = 1", "quantity = 2"))
    late = BotReloader(
        files, bots, found.stage.service, found.stage.reader, found.published.append, found.changes.append,
        settle_seconds=0, owners=owners,
    )  # fmt: skip
    await late.look()
    assert [(change.bot, change.what) for change in found.changes] == [("sma", "changed")]


async def test_a_changed_file_replaces_its_bot(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    found.write("sma", SMA.replace("quantity = 1", "quantity = 2"))
    assert await found.look() == [("sma", "changed")]
    assert found.running().quantity == 2
    assert isinstance(found.published[-1], BotState)


async def test_a_bad_file_keeps_the_old_bot_and_is_told_once_with_every_fault(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    found.write("sma", SMA.replace("quantity = 1", "quantity = -1").replace("fast = 3", "fats = 3"))
    assert await found.look() == []
    (alert,) = found.alerts()
    assert (alert.code, alert.severity, alert.account) == ("bot_file_invalid", "warning", "main")
    path = found.file("sma")
    assert f"{path}:4: fats = 3: expected a known key (did you mean fast?)" in alert.message
    assert f"{path}:6: quantity = -1: expected" in alert.message
    assert alert.about["bot"] == "sma"
    state = found.states()["sma"]
    assert (state.status, state.file_error is not None) == ("RUNNING", True)
    assert found.running().quantity == 1
    os.utime(path)
    await found.look()
    assert found.alerts() == []


async def test_the_next_good_version_clears_the_fault_also_when_it_is_the_old_one(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    for good, changes in ((SMA, []), (SMA.replace("slow = 7", "slow = 8"), [("sma", "changed")])):
        found.write("sma", "name = ")
        await found.look()
        assert found.states()["sma"].file_error is not None
        assert len(found.alerts()) == 1  # the same fault after a good version is news
        found.write("sma", good)
        assert await found.look() == changes
        assert found.states()["sma"].file_error is None
        assert [m.file_error for m in found.published if isinstance(m, BotState)] == [None]
        found.published.clear()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'name = "sma"\nclass', b"\0"])
async def test_an_empty_cut_off_or_binary_file_is_a_bad_file(tmp_path: Path, content: bytes) -> None:
    found = await house(tmp_path, sma=SMA)
    found.file("sma").write_bytes(content)
    assert await found.look() == []
    assert [alert.code for alert in found.alerts()] == ["bot_file_invalid"]
    assert found.running().quantity == 1


async def test_a_half_written_file_is_not_looked_at_before_it_is_whole(tmp_path: Path) -> None:
    found = await house(tmp_path, weighted=WEIGHTED)
    whole = WEIGHTED.replace("0.05", "0.07")
    half = whole[: whole.index("confirmation_minutes")] + 'signals = [{function = "RSI"}]\n'
    found.write("weighted", half)  # valid by itself, and yet not what was meant
    found.files.then = lambda: found.write("weighted", whole)
    await found.look()
    assert len(found.running("weighted").signals) == 3
    assert [change.what for change in found.changes] == ["changed"]
    assert found.alerts() == []


async def test_a_file_that_is_away_for_a_moment_removes_nothing(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    found.file("sma").rename(found.folder / "sma.toml~")  # as an editor does that keeps a copy
    found.files.then = lambda: found.write("sma", SMA)
    assert await found.look() == []


async def test_of_two_files_changed_at_once_the_bad_one_does_not_hold_up_the_good_one(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA, other=OTHER)
    found.write("sma", SMA.replace("quantity = 1", "quantity = 0"))
    found.write("other", OTHER.replace("quantity = 1", "quantity = 5"))
    assert await found.look() == [("other", "changed")]
    assert (found.running("sma").quantity, found.running("other").quantity) == (1, 5)
    assert [alert.about["bot"] for alert in found.alerts()] == ["sma"]


async def test_a_new_file_starts_a_bot_and_a_deleted_one_ends_it(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    found.write("other", OTHER)
    assert await found.look() == [("other", "added")]
    assert found.states()["other"].status == "RUNNING"
    found.file("other").unlink()
    assert await found.look() == [("other", "removed")]
    assert BotRemoved("other") in found.published
    assert list(found.states()) == ["sma"]
    found.file("sma").unlink()
    assert await found.look() == [("sma", "removed")]


async def test_another_name_in_a_file_is_another_bot(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    found.write("sma", OTHER)
    assert await found.look() == [("sma", "removed"), ("other", "added")]


async def test_a_renamed_file_changes_nothing(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    found.file("sma").rename(found.file("zzz"))
    assert await found.look() == []
    found.write("zzz", SMA.replace("quantity = 1", "quantity = 2"))
    assert await found.look() == [("sma", "changed")]


async def test_a_name_that_another_file_has_is_a_fault_that_names_both_files(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA, other=OTHER)
    found.write("other", SMA.replace("quantity = 1", "quantity = 9"))
    found.write("aaa", SMA)
    assert await found.look() == []
    alerts = found.alerts()
    assert [alert.about["file"] for alert in alerts] == [str(found.file("aaa")), str(found.file("other"))]
    assert all(f'name = "sma": expected a name of its own (also in {found.file("sma")})' in a.message for a in alerts)
    assert found.states()["other"].file_error is not None
    assert (found.running("sma").quantity, found.running("other").quantity) == (1, 1)
    found.file("aaa").unlink()
    found.file("sma").unlink()  # now the name is free
    assert await found.look() == [("other", "removed"), ("sma", "changed")]
    assert found.running("sma").quantity == 9


async def test_two_files_may_swap_their_names(tmp_path: Path) -> None:
    found = await house(tmp_path, one=SMA, two=OTHER.replace("quantity = 1", "quantity = 4"))
    found.write("one", OTHER)
    found.write("two", SMA.replace("quantity = 1", "quantity = 4"))
    assert sorted(await found.look()) == [("other", "changed"), ("sma", "changed")]
    assert (found.running("sma").quantity, found.running("other").quantity) == (4, 1)


async def test_a_symbol_or_account_that_the_books_do_not_know_is_a_fault(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    found.write("sma", SMA.replace("BTC-USD", "BTC-UDS") + 'account = "mian"\n')
    assert await found.look() == []
    (alert,) = found.alerts()
    assert 'sma.toml:3: symbol = "BTC-UDS": expected a symbol of the catalogue' in alert.message
    assert 'account = "mian": expected an account of these books (there are: main)' in alert.message
    assert found.running().symbol == "BTC-USD"


async def test_what_the_command_line_sets_goes_over_the_changed_file(tmp_path: Path) -> None:
    found = House(tmp_path / "bots", sma=SMA)
    found.overrides = {"sma": {"quantity": 8}}
    await found.open()
    found.write("sma", SMA.replace("slow = 7", "slow = 9"))
    assert await found.look() == [("sma", "changed")]
    assert (found.running().slow, found.running().quantity) == (9, 8)


async def test_hidden_files_and_other_endings_are_an_editors_own(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    for name in (".other.toml", ".other.toml.swp", "other.toml~", "other.bak", "#other.toml#"):
        (found.folder / name).write_text(OTHER)
    (found.folder / ".#sma.toml").symlink_to("nowhere")
    assert await found.look() == []
    assert found.published == []


async def test_nobody_waits_for_the_writer_of_a_pipe_among_the_bot_files(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    os.mkfifo(found.file("pipe"))
    assert await found.look() == []
    assert [bot.name for bot in load_bots([found.folder])] == ["sma"]


async def test_a_single_file_is_watched_as_well_as_a_folder(tmp_path: Path) -> None:
    found = House(tmp_path / "bots", sma=SMA, other=OTHER)
    found.sources = [found.file("sma")]
    await found.open()
    found.write("other", OTHER.replace("quantity = 1", "quantity = 2"))
    assert await found.look() == []
    found.write("sma", SMA.replace("quantity = 1", "quantity = 2"))
    assert await found.look() == [("sma", "changed")]
    found.file("sma").unlink()
    assert await found.look() == [("sma", "removed")]


async def test_a_folder_that_is_gone_says_nothing_about_its_bots(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    found.folder.rename(tmp_path / "away")
    assert await found.look() == []
    (tmp_path / "away").rename(found.folder)
    found.write("sma", SMA.replace("quantity = 1", "quantity = 2"))
    assert await found.look() == [("sma", "changed")]


async def test_what_could_not_be_stored_is_tried_again(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA, other=OTHER)
    found.stage.writer.broken = StorageUnavailable("disk full")
    found.write("sma", SMA.replace("quantity = 1", "quantity = 2").replace("BTC", "ETH"))
    found.file("other").unlink()
    assert await found.look() == []
    assert found.reloader.unfinished
    assert found.running().quantity == 1
    found.stage.writer.broken = None
    assert sorted(await found.look()) == [("other", "removed"), ("sma", "changed")]
    assert not found.reloader.unfinished


async def test_a_lost_lease_ends_the_reloader(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    await found.stage.service.on_candle(candle(0, 100))
    found.stage.writer.broken = LeaseLost("signals")
    found.write("sma", SMA.replace("quantity = 1", "quantity = 2"))
    with pytest.raises(LeaseLost):
        await found.look()


async def test_a_bot_trades_by_its_new_file_from_the_next_candle_on(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    for minute in range(8):
        await found.stage.service.on_candle(candle(minute, 100 - minute))
    found.write("sma", SMA.replace("quantity = 1", "quantity = 3"))
    await found.look()
    outputs = await found.stage.service.on_candle(candle(8, 150))
    assert len(advices(outputs)) == 1
    assert [request.quantity for request in requests(outputs)] == [3]


MODULE = """
from signals.api import BaseBot, Verdict

class Mine(BaseBot):
    def update(self, bar): pass
    def decide(self, position): return Verdict(None, {score})
"""


async def test_a_changed_module_beside_the_file_makes_a_fresh_bot(tmp_path: Path) -> None:
    folder = tmp_path / "bots"
    folder.mkdir()
    (folder / "mine.py").write_text(MODULE.format(score=0.25))
    found = await House(folder, sma='name = "sma"\nsymbol = "BTC-USD"\nclass = "mine:Mine"\n').open()
    try:
        (advice,) = advices(await found.stage.service.on_candle(candle(0, 100)))
        assert advice.score == 0.25
        (folder / "mine.py").write_text(MODULE.format(score=-0.5))
        (folder / "unrelated.py").write_text("x = 1\n")
        assert await found.look() == [("sma", "changed")]
        (advice,) = advices(await found.stage.service.on_candle(candle(1, 100)))
        assert advice.score == -0.5
        (folder / "mine.py").write_text("raise ValueError('half done')\n")
        assert await found.look() == []
        (alert,) = found.alerts()[-1:]
        assert "half done" in alert.message
        (advice,) = advices(await found.stage.service.on_candle(candle(2, 100)))
        assert advice.score == -0.5
    finally:
        found.stage.service.close()


# ---- when ---------------------------------------------------------------------------------------------


async def until(wanted: Callable[[], Any], patience: float = PATIENCE) -> None:
    async with asyncio.timeout(patience):
        while not wanted():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("notices", [True, False], ids=["by a notice", "by the sweep"])
async def test_a_change_is_found_by_the_systems_notice_or_by_the_sweep(
    tmp_path: Path, notices: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await house(tmp_path, sma=SMA)
    chosen = SignalSettings(reload_sweep_seconds=600 if notices else 0.1)
    if not notices:

        def none(*_: Any, **__: Any) -> Any:
            raise OSError("OS file watch limit reached")

        monkeypatch.setattr("watchfiles.awatch", none)
    reloader = Reloader(chosen, found.reloader, None, busy=tmp_path)
    running = asyncio.create_task(reloader.run())
    try:
        async with asyncio.timeout(PATIENCE):
            while not found.changes:  # nobody tells when the watch stands, and what was before that it does not see
                await asyncio.sleep(0.3)
                found.write("sma", SMA.replace("quantity = 1", "quantity = 2"))
                with suppress(TimeoutError):
                    await until(lambda: found.changes, 5)
        assert found.running().quantity == 2
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_folder_that_was_exchanged_is_watched_again(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    reloader = Reloader(SignalSettings(reload_sweep_seconds=0.2), found.reloader, None, busy=tmp_path)
    running = asyncio.create_task(reloader.run())
    try:
        found.folder.rename(tmp_path / "old")
        await asyncio.sleep(0.5)
        found.folder.mkdir()
        found.write("sma", SMA.replace("quantity = 1", "quantity = 2"))
        await until(lambda: found.changes)
        assert [change.what for change in found.changes] == ["changed"]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_hangup_signal_tries_again_what_was_refused(tmp_path: Path) -> None:
    found = await house(tmp_path, sma=SMA)
    reloader = Reloader(SignalSettings(reload_sweep_seconds=600), found.reloader, None, busy=found.folder)
    running = asyncio.create_task(reloader.run())
    try:
        await asyncio.sleep(0)
        found.write("sma", SMA.replace("quantity = 1", "quantity = 2"))  # in a folder that is not watched
        reloader.check_soon()
        await until(lambda: found.changes)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
