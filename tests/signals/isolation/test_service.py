"""Bots of one's own inside the service: a bad one goes to ERROR with an alert, the others never notice."""

import gc
import os
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from config.toml_errors import TomlDocument
from execution.errors import StorageUnavailable
from execution.model import AlertRaised, Candle
from signals.bot_file import BotFile
from signals.errors import BotNotTaken
from signals.isolation import process
from signals.isolation.limits import BotLimits
from signals.loading import check_bot
from signals.model import BotStatus, Recommendation
from signals.service import Output
from tests.signals.isolation.bots import PATIENT, is_alive, workers_of, write_bot
from tests.signals.stage import SMA, Stage, advices, bot, candle, play, requests, walk

ROOMY = BotLimits(time_budget=20, start_seconds=30, memory_mb=256)
QUICK = replace(ROOMY, time_budget=3)
"""For a bot that hangs: as long as its neighbours never need, on no machine."""
OWN = 'name = "{}"\nsymbol = "BTC-USD"\nclass = "{}:Bot"\nconfirmation_minutes = 0\ncooldown_minutes = 0\n'
EXAMPLE = Path(__file__).parents[3] / "config" / "examples" / "breakout"


def own_bot(folder: Path, name: str = "bad", keys: str = "", **code: str) -> BotFile:
    """A bot file and the module beside it."""
    write_bot(folder, name, **code)
    file = folder / f"{name}.toml"
    file.write_text(OWN.format(name, name) + keys)
    return read(file)


def read(file: Path, **overrides: object) -> BotFile:
    """A bot file from the disk."""
    found, faults = check_bot(TomlDocument.read(file), overrides)
    assert found is not None, [str(fault) for fault in faults]
    return found


@pytest.fixture
def no_process_stays() -> Any:
    """None before, none after."""
    gc.collect()  # what tests of other files left to it
    assert workers_of(os.getpid()) == []
    yield
    assert workers_of(os.getpid()) == []


pytestmark = pytest.mark.usefixtures("no_process_stays")


def of(outputs: list[Output], name: str) -> list[Output]:
    """What was said by or about a bot."""
    return [
        output
        for output in outputs
        if getattr(output, "bot", None) == name or f"bot:{name}" == getattr(output, "triggered_by", None)
    ]


def alerts(outputs: list[Output]) -> list[AlertRaised]:
    return [output for output in outputs if isinstance(output, AlertRaised)]


def status(stage: Stage, name: str) -> BotStatus:
    return next(state.status for state in stage.service.states() if state.bot == name)


async def run(bots: list[BotFile], candles: list[Candle], limits: BotLimits = ROOMY) -> tuple[Stage, list[Output]]:
    """All candles through a new service, which is closed at the end."""
    stage = Stage(bots, limits=limits)
    try:
        outputs = await stage.service.start()
        return stage, [*outputs, *await play(stage, candles)]
    finally:
        stage.service.close()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ({"update": "if self.count == 40: raise ValueError('forty')"}, "BotRaised: ValueError: forty (bad.py, line"),
        ({"decide": "if self.count == 40: self.no_such"}, "BotRaised: AttributeError"),
        ({"init": "self.x = {}['y']"}, "BotRaised: KeyError"),
        ({"top": "import nothing_like_this"}, "BotUnusable: expected a module that can be imported"),
        ({"decide": "if self.count == 40: time.sleep(3600)"}, "BotHung: the decision on a candle took"),
        ({"decide": "if self.count == 40: 7 ** 10 ** 8"}, "BotHung"),
        ({"decide": "if self.count == 40: os._exit(1)"}, "BotDied: its process ended with exit code 1"),
        ({"decide": "if self.count == 40: os.kill(os.getpid(), signal.SIGSEGV)"}, "BotDied: its process was ended"),
        ({"decide": "if self.count == 40: bytearray(1 << 31)"}, "BotRaised: MemoryError"),
        ({"decide": "if self.count == 40: return Verdict(None, 7)"}, "BadReply: score is 7.0, expected"),
        ({"more": "def dump(self):\n    return {'x': math.nan} if self.count == 40 else {}"}, "BadReply: the state"),
        ({"decide": "for _ in range(2_000): print('x' * 100)"}, None),
    ],
    ids=["raises in update", "in decide", "in its constructor", "at import", "hangs", "hangs in C", "exits",
         "crashes", "takes all memory", "talks nonsense", "has a bad state", "prints without end"],
)  # fmt: skip
async def test_whatever_a_bot_does_the_others_say_what_they_would_have_said_without_it(
    tmp_path: Path, code: dict[str, str], words: str | None
) -> None:
    candles = walk(60, seed=3)
    neighbours = [bot(SMA), own_bot(tmp_path, "zz", decide="return Verdict(None, min(1, self.count / 100))")]
    _, alone = await run(neighbours, candles)
    bad = own_bot(tmp_path, **code)
    with capture_logs() as logs:
        limits = QUICK if words is not None and words.startswith("BotHung") else ROOMY
        stage, together = await run([bad, *neighbours], candles, limits)
    for name in ("sma", "zz"):
        assert [o for o in of(together, name) if isinstance(o, Recommendation)] == [
            o for o in of(alone, name) if isinstance(o, Recommendation)
        ]
    assert requests(together) == requests(alone)
    assert len(requests(together)) > 2
    if words is None:
        assert status(stage, "bad") is BotStatus.RUNNING
        assert len(of(together, "bad")) == 61
        return
    assert status(stage, "bad") is BotStatus.ERROR
    (alert,) = alerts(together)
    assert words in alert.message
    assert "\n" not in alert.message
    (entry,) = [entry for entry in logs if entry["event"] == "bot failed"]
    assert "Traceback" in "".join(traceback.format_exception(entry["exc_info"])) or words.startswith("BadReply")


async def test_after_a_hang_no_candle_waits_for_the_bot_again(tmp_path: Path) -> None:
    bad = own_bot(tmp_path, decide="time.sleep(3600)")
    _, outputs = await run([bad], walk(50, seed=1), BotLimits(time_budget=0.2))
    assert len(alerts(outputs)) == 1


async def test_an_operator_starts_a_failed_bot_again_warmed_and_with_the_code_of_now(tmp_path: Path) -> None:
    bad = own_bot(tmp_path, decide="if self.count == 5: 1 / 0")
    stage = Stage([bad], limits=PATIENT)
    await stage.service.start()
    await play(stage, walk(10, seed=1))
    assert status(stage, "bad") is BotStatus.ERROR
    assert workers_of(os.getpid()) == []
    write_bot(tmp_path, decide="return Verdict(None, None, context={}, parts=(Part('seen', None, self.count),))")
    await stage.service.set_bot("bad", "start")
    (advice,) = advices(await stage.service.on_candle(candle(10, 100)))
    assert advice.parts[0].weight == 11
    stage.service.close()


async def test_a_bot_that_still_fails_when_it_is_started_again_is_told_again(tmp_path: Path) -> None:
    stage = Stage([own_bot(tmp_path, update="if self.count == 5: 1 / 0")], limits=PATIENT)
    await stage.service.start()
    await play(stage, walk(10, seed=1))
    outputs = await stage.service.set_bot("bad", "start")
    assert len(alerts(outputs)) == 1
    assert status(stage, "bad") is BotStatus.ERROR
    stage.service.close()


async def test_a_stopped_bot_has_no_process_and_keeps_its_state(tmp_path: Path) -> None:
    more = (
        "def dump(self):\n    return {'count': self.count}\ndef load(self, state):\n    self.loaded = state['count']"
    )
    weight = "return Verdict(None, None, (Part('loaded', None, getattr(self, 'loaded', 0)),))"
    stage = Stage([own_bot(tmp_path, more=more, decide=weight)], limits=PATIENT)
    await stage.service.start()
    await play(stage, walk(10, seed=1))
    (pid,) = workers_of(os.getpid())
    await stage.service.set_bot("bad", "stop")
    assert not is_alive(pid)
    await stage.service.on_candle(candle(10, 100))
    await stage.restart()
    assert workers_of(os.getpid()) == []
    await stage.service.set_bot("bad", "start")
    (advice,) = advices(await stage.service.on_candle(candle(11, 100)))
    assert advice.parts[0].weight == 10
    stage.service.close()


@pytest.mark.parametrize("at", [1, 7, 30, 31, 55])
async def test_a_restart_in_the_middle_changes_no_later_word_of_the_example(at: int) -> None:
    file = read(EXAMPLE / "breakout.toml", **{"params.length": 8, "params.exit_length": 4, "fraction": "0.5"})
    candles = walk(80, seed=11, step=2)
    _, whole = await run([file], candles, PATIENT)
    stage = Stage([file], limits=PATIENT)
    await stage.service.start()
    first = await play(stage, candles[:at])
    stage.service.close()
    await stage.restart()
    second = await play(stage, candles[at:])
    stage.service.close()
    assert advices([*first, *second]) == advices(whole)
    assert requests([*first, *second]) == requests(whole)
    assert len(requests(whole)) >= 4


# ---- bots come, change and go ---------------------------------------------------------------------------


async def test_a_bot_whose_file_changed_gets_a_fresh_process_and_the_old_one_ends(tmp_path: Path) -> None:
    stage = Stage([own_bot(tmp_path)], limits=PATIENT)
    await stage.service.start()
    await play(stage, walk(10, seed=1))
    (old,) = workers_of(os.getpid())
    changed = own_bot(tmp_path, decide="return Verdict(None, -0.5)")
    await stage.service.put_bot(changed)
    (new,) = workers_of(os.getpid())
    assert new != old
    (advice,) = advices(await stage.service.on_candle(candle(10, 100)))
    assert advice.score == -0.5
    await stage.service.remove_bot("bad")
    assert workers_of(os.getpid()) == []


@pytest.mark.parametrize("code", [{"top": "1 / 0"}, {"init": "os._exit(3)"}, {"update": "1 / 0"}])
async def test_a_change_that_cannot_run_keeps_the_old_process(tmp_path: Path, code: dict[str, str]) -> None:
    stage = Stage([own_bot(tmp_path)], limits=PATIENT)
    await stage.service.start()
    await play(stage, walk(10, seed=1))
    before = workers_of(os.getpid())
    with pytest.raises(BotNotTaken):
        await stage.service.put_bot(own_bot(tmp_path, **code))
    assert workers_of(os.getpid()) == before
    assert len(advices(await stage.service.on_candle(candle(10, 100)))) == 1
    stage.service.close()


async def test_a_change_that_cannot_be_stored_leaves_only_the_old_process(tmp_path: Path) -> None:
    stage = Stage([own_bot(tmp_path)], limits=PATIENT)
    await stage.service.start()
    await play(stage, walk(10, seed=1))
    before = workers_of(os.getpid())
    stage.writer.broken = StorageUnavailable("no")
    with pytest.raises(StorageUnavailable):
        await stage.service.put_bot(own_bot(tmp_path, more="def dump(self):\n    return {'other': 1}"))
    assert workers_of(os.getpid()) == before
    stage.writer.broken = None
    assert len(advices(await stage.service.on_candle(candle(10, 100)))) == 1
    stage.service.close()


async def test_a_change_whose_account_cannot_be_read_leaves_only_the_old_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage([own_bot(tmp_path)], limits=PATIENT)
    await stage.service.start()
    await play(stage, walk(10, seed=1))
    before = workers_of(os.getpid())

    async def unread(_runners: object) -> list[AlertRaised]:
        raise StorageUnavailable("no")

    monkeypatch.setattr(stage.service._crew, "homeless", unread)
    with pytest.raises(StorageUnavailable) as failure:
        await stage.service.put_bot(own_bot(tmp_path, more="def dump(self):\n    return {'other': 1}"))
    assert workers_of(os.getpid()) == before, f"while somebody holds {failure}, which holds the new bot"
    stage.service.close()


WAITS_FOR_THE_OTHER = """
def close(self):
    open({mine!r}, 'w').close()
    while not os.path.exists({other!r}):
        time.sleep(0.01)
    open({mine!r} + ' is over', 'w').close()
"""


async def test_bots_that_take_their_time_for_their_end_do_so_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_FAREWELL", 30)
    marks = [str(tmp_path / f"end of {name}") for name in "ab"]
    ends = [WAITS_FOR_THE_OTHER.format(mine=mine, other=other) for mine, other in (marks, reversed(marks))]
    stage = Stage([own_bot(tmp_path, name, more=end) for name, end in zip("ab", ends, strict=True)], limits=PATIENT)
    await stage.service.start()
    await play(stage, walk(3, seed=1))
    stage.service.close()
    assert all(Path(f"{mark} is over").exists() for mark in marks)


# ---- a flood of requests --------------------------------------------------------------------------------


async def test_a_bot_that_asks_too_often_goes_to_error_with_an_alert(tmp_path: Path) -> None:
    eager = own_bot(tmp_path, "eager", "notional = 1\n", decide="return Verdict(Side.BUY, 1.0)")
    limits = BotLimits(time_budget=20, start_seconds=20, requests_per_hour=10)
    stage, outputs = await run([eager, bot(SMA)], walk(40, seed=3), limits)
    assert len([request for request in requests(outputs) if request.triggered_by == "bot:eager"]) == 10
    assert status(stage, "eager") is BotStatus.ERROR
    assert status(stage, "sma") is BotStatus.RUNNING
    (alert,) = alerts(outputs)
    assert "it floods: more than 10 order requests within an hour" in alert.message


async def test_as_many_as_allowed_in_each_hour_are_no_flood(tmp_path: Path) -> None:
    eager = own_bot(tmp_path, "eager", "notional = 1\n", decide="return Verdict(Side.BUY, 1.0)")
    every_six_minutes = [candle(6 * index, 100, timeframe="1m") for index in range(40)]
    limits = BotLimits(time_budget=20, start_seconds=20, requests_per_hour=10)
    stage, outputs = await run([eager], every_six_minutes, limits)
    assert status(stage, "eager") is BotStatus.RUNNING
    assert len(requests(outputs)) == 40


async def test_without_a_limit_nothing_is_a_flood(tmp_path: Path) -> None:
    eager = own_bot(tmp_path, "eager", "notional = 1\n", decide="return Verdict(Side.BUY, 1.0)")
    limits = BotLimits(time_budget=20, start_seconds=20, requests_per_hour=0)
    _, outputs = await run([eager], walk(150, seed=3), limits)
    assert len(requests(outputs)) == 150
