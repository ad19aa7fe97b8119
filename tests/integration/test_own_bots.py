"""Bots of one's own in a real daemon: one hangs, the others go on; no process outlives the daemon."""

import asyncio
from pathlib import Path

from tests.integration.brokers import PATIENCE
from tests.integration.daemons import Ear, Server, serving
from tests.signals.isolation.bots import is_alive, workers_of, write_bot

FEED = (
    "feed.synthetic=true",
    'feed.synthetic_symbols=["BTC-USD"]',
    "feed.candles_per_second=20",
    "signals.bot_time_budget_ms=3000",  # a good bot on a busy machine must not seem to hang
    "signals.bot_start_seconds=60",
)
OWN = 'name = "{0}"\nsymbol = "BTC-USD"\nclass = "{0}:Bot"\n'


def own_bots(folder: Path) -> list[Path]:
    """`bad` hangs when the file `hang` lies beside it, and then leaves the file `hangs`."""
    write_bot(folder, "good", decide="return Verdict(None, 0.5)")
    hang, hangs = (repr(str(folder / name)) for name in ("hang", "hangs"))
    write_bot(folder, "bad", decide=f"if os.path.exists({hang}): open({hangs}, 'w').close(); time.sleep(3600)")
    files = []
    for name in ("good", "bad"):
        (folder / f"{name}.toml").write_text(OWN.format(name))
        files.append(folder / f"{name}.toml")
    return files


async def gone(pids: list[int]) -> None:
    """Wait until the processes have ended; the kernel does it, nobody tells."""
    async with asyncio.timeout(PATIENCE):
        while any(map(is_alive, pids)):
            await asyncio.sleep(0.02)


def workers(server: Server) -> list[int]:
    """The bots' processes of a daemon."""
    assert server.process is not None
    return workers_of(server.process.pid)


async def test_a_bot_that_hangs_is_told_and_started_again_by_hand_while_the_others_run_on(tmp_path: Path) -> None:
    bots = own_bots(tmp_path / "bots")
    async with serving(tmp_path / "data", settings=FEED, bots=bots) as server, Ear(server.port) as ear:
        for name in ("good", "bad"):
            await ear.more(f"bot/{name}/recommendation", 1)
        (tmp_path / "bots" / "hang").touch()
        alert = await ear.alert("bot_failed")
        assert "bot bad stopped with BotHung: the decision on a candle took longer than 3 s" in alert.body["message"]
        await ear.on("bot/bad/state", lambda heard: heard.body["status"] == "ERROR")
        assert len(workers(server)) == 1
        told = len(ear.all("bot/bad/recommendation"))
        await ear.more("bot/good/recommendation", len(ear.all("bot/good/recommendation")) + 20)
        assert len(ear.all("bot/bad/recommendation")) == told
        (tmp_path / "bots" / "hang").unlink()
        await ear.say("bot/bad/set", "start")
        await ear.more("bot/bad/recommendation", told + 5)
        pids = workers(server)
        assert len(pids) == 2
        assert await server.stop() == 0
    assert not any(map(is_alive, pids))
    assert "in decide" in server.log, "the log says where it hung"


async def test_kill_9_of_the_daemon_leaves_no_process_of_a_bot_not_even_of_one_that_hangs(tmp_path: Path) -> None:
    bots = own_bots(tmp_path / "bots")
    patient = (*FEED, "signals.bot_time_budget_ms=60000")
    async with serving(tmp_path / "data", settings=patient, bots=bots) as server:
        pids = workers(server)
        assert len(pids) == 2
        (tmp_path / "bots" / "hang").touch()
        async with asyncio.timeout(PATIENCE):
            while not (tmp_path / "bots" / "hangs").exists():
                await asyncio.sleep(0.02)
        await server.kill()
        await gone(pids)


async def test_a_stop_does_not_wait_for_a_new_bot_that_hangs_as_it_is_tried(tmp_path: Path) -> None:
    folder = tmp_path / "bots"
    own_bots(folder)
    settings = (*FEED, "signals.bot_start_seconds=600", "signals.reload_settle_ms=20")
    async with serving(tmp_path / "data", settings=settings, bots=[folder]) as server:
        write_bot(folder, "new")
        (folder / "new.toml").write_text(OWN.format("new"))
        await server.logged('"bot added"')  # at the first look nothing is tried: the daemon has just done so
        tried = folder / "tried"
        write_bot(folder, "slow", top=f"open({str(tried)!r}, 'w').close(); time.sleep(3600)")
        (folder / "slow.toml").write_text(OWN.format("slow"))
        async with asyncio.timeout(PATIENCE):
            while not tried.exists():
                await asyncio.sleep(0.02)
        pids = workers(server)
        assert len(pids) == 4
        assert await server.stop() == 0
        await gone(pids)
    assert "Traceback" not in server.log
