"""When a Ctrl-C is raised."""

import signal
import threading
from pathlib import Path

import pytest

from config.settings import Settings
from runtime import database
from runtime.ctrl_c import deferred, run_inline
from runtime.offline_compute import Wanted, compute
from runtime.replay import FLUSH_EVERY
from tests.runtime.cli.terminal import SMA_CROSS, candle_file, fillbook


@pytest.fixture(autouse=True)
def _heard() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def ctrl_c(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


def test_in_a_coroutine_that_waits_for_nothing_it_is_raised_where_it_stands() -> None:
    said = []

    async def work() -> None:
        said.append("before")
        ctrl_c()
        said.append("after")

    with pytest.raises(KeyboardInterrupt):
        run_inline(work())
    assert said == ["before"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_coroutine_gives_or_raises_comes_out() -> None:
    async def give() -> int:
        return 7

    async def refuse() -> None:
        raise ValueError("no")

    assert run_inline(give()) == 7
    with pytest.raises(ValueError, match="no"):
        run_inline(refuse())


def test_a_coroutine_runs_in_another_thread_as_well() -> None:
    found: list[int] = []

    async def give() -> int:
        return 7

    thread = threading.Thread(target=lambda: found.append(run_inline(give())))
    thread.start()
    thread.join()
    assert found == [7]


def test_a_deferred_one_is_raised_at_the_end() -> None:
    said = []

    def work() -> None:
        with deferred():
            ctrl_c()
            said.append("all done")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert said == ["all done"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_is_raised_at_the_end_without_one() -> None:
    with deferred():
        pass
    with pytest.raises(ValueError, match="mine"), deferred():
        raise ValueError("mine")


def test_while_connections_are_closed_it_is_raised_and_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for engine in (database.reader_engine(database.sqlite_url(tmp_path / "books.db")), database.memory_engine()):
        engine.connect().close()
        monkeypatch.setattr(engine.dialect, "do_close", ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            engine.dispose()
        monkeypatch.undo()
        engine.dispose()
    assert caplog.text == ""


def test_a_recomputation_ends_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portfolio.batch.CHUNK", 100)
    data = tmp_path / "data"
    rows = "".join(f"2026-01-01T{n // 60:02}:{n % 60:02}:00Z,BTC-USD,BUY,1,100,0,{n}\n" for n in range(600))
    fills = tmp_path / "fills.csv"
    fills.write_text(f"executed_at,symbol,side,quantity,price,fee,venue_trade_id\n{rows}", encoding="utf-8")
    assert fillbook("import", fills, "--data-dir", data).code == 0
    told: list[int] = []

    def progress(done: int, _total: int) -> None:
        told.append(done)
        ctrl_c()

    settings = Settings(data_dir=data)
    with pytest.raises(KeyboardInterrupt):
        compute(settings, settings.database_file, Wanted(full=True), progress)
    assert len(told) == 1
    assert fillbook("verify", "--data-dir", data).code == 0
    assert fillbook("allocations", "compute", "--full", "--data-dir", data).code == 0


@pytest.mark.parametrize("options", [(), ("--compare", "--jobs", "1")], ids=["alone", "compared in this process"])
def test_a_replay_ends_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    file = candle_file(tmp_path / "btc.csv", 2 * FLUSH_EVERY)
    told: list[int] = []

    def progress(done: int) -> None:
        told.append(done)
        ctrl_c()

    monkeypatch.setattr("runtime.cli.bars.CountBar.listener", property(lambda _: progress))
    found = fillbook("replay", *options, "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}")
    assert (found.code, found.out, told) == (130, "", [FLUSH_EVERY])
