"""A bot in a process of its own: whatever it does there, the daemon gets an error that says what, and goes on."""

import gc
import math
import os
import select
import signal
import socket
import time
import traceback
from decimal import Decimal
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from structlog.testing import capture_logs

from execution.model import Side
from signals.bot import Verdict
from signals.errors import SignalsError
from signals.isolation import process
from signals.isolation.client import IsolatedBot
from signals.isolation.errors import BadReply, BotDied, BotHung, BotRaised
from signals.isolation.limits import BotLimits
from signals.isolation.wire import parsed, verdict_body, verdict_of
from signals.model import Part
from signals.runner import bars
from signals.sma_cross import SmaCross
from tests.signals.isolation.bots import FLAT, PATIENT, bar, is_alive, made
from tests.signals.stage import walk

QUICK = BotLimits(time_budget=0.3, start_seconds=30)


def failure(bot: IsolatedBot, kind: type[SignalsError]) -> SignalsError:
    """The error of a candle; its process must be gone."""
    pid = bot.pid
    assert pid is not None
    bot.update(bar())
    with pytest.raises(kind) as raised:
        bot.decide(FLAT)
    assert bot.pid is None
    assert not is_alive(pid)
    return raised.value


def whole(error: BaseException) -> str:
    """As the log shows it."""
    return "".join(traceback.format_exception(error))


# ---- the same as in the daemon --------------------------------------------------------------------------


def test_a_class_gives_the_same_verdicts_in_its_process_as_in_ours() -> None:
    candles = list(bars(walk(400, seed=5)))
    ours = SmaCross(3, 7)
    theirs = IsolatedBot("sma", "signals.sma_cross:SmaCross", {"fast": 3, "slow": 7}, None, PATIENT)
    ours.warm(candles[:50])
    theirs.warm(candles[:50])
    held = FLAT._replace(quantity=Decimal("1.5"))
    sides = set()
    for one in candles[50:]:
        for bot in (ours, theirs):
            bot.update(one)
        for position in (FLAT, held):
            verdict = theirs.decide(position)
            assert verdict == ours.decide(position)
            sides.add(verdict.side)
    assert sides == {Side.BUY, Side.SELL, None}
    theirs.close()


def test_candles_positions_and_parameters_arrive_exactly_as_they_are(tmp_path: Path) -> None:
    bot = made(
        tmp_path,
        params={"length": 20, "factor": Decimal("0.10"), "words": ["a", "b"], "table": {"x": True}},
        decide="""
b, c = self.bar, self.bar.candle
return Verdict(None, None, context={"seen": [repr(self.params), repr(tuple(c)), repr(b.missing),
    repr(b.floats), repr(position)]})""",
    )
    one = bar(7, "12345678.000000000000000001")
    bot.update(one)
    context = bot.decide(FLAT).context
    assert context is not None
    expected = [
        {"length": 20, "factor": Decimal("0.10"), "words": ["a", "b"], "table": {"x": True}},
        tuple(one.candle), 0, one.floats, FLAT,
    ]  # fmt: skip
    assert context["seen"] == [repr(value) for value in expected]
    bot.close()


def test_numbers_of_other_kinds_and_times_are_taken(tmp_path: Path) -> None:
    verdict = """
import numpy
return Verdict("SELL", Decimal("-0.25"), [Part("a", numpy.float32(0.5), 1), Part("b", None, 2, 7, "no volume")],
    numpy.bool_(True), {"when": datetime(2026, 1, 1, tzinfo=UTC), "price": Decimal("1.50"), "n": numpy.int64(3)})"""
    bot = made(tmp_path, decide=verdict)
    bot.update(bar())
    found = bot.decide(FLAT)
    assert (found.side, found.score, found.close) == (Side.SELL, -0.25, True)
    assert [part[:5] for part in found.parts] == [("a", 0.5, 1.0, None, None), ("b", None, 2.0, 7.0, "no volume")]
    assert found.context == {"when": "2026-01-01T00:00:00Z", "price": "1.5", "n": 3}
    bot.close()


def test_a_long_history_comes_as_one_stream_and_a_bot_need_not_take_all_of_it(tmp_path: Path) -> None:
    history = list(bars(walk(2_500, seed=1)))
    bot = made(tmp_path, decide="return Verdict(None, None, context={'count': self.count})")
    bot.warm(history)
    assert bot.decide(FLAT).context == {"count": 2_500}
    bot.close()
    lazy = made(
        tmp_path / "lazy",
        more="def warm(self, history):\n    self.count = sum(1 for _, b in zip(range(10), history))",
        decide="return Verdict(None, None, context={'count': self.count})",
    )
    lazy.warm(history)
    assert lazy.decide(FLAT).context == {"count": 10}
    lazy.close()


def test_a_state_goes_out_and_comes_back_and_is_still_there_after_the_end(tmp_path: Path) -> None:
    keeping = (
        "def dump(self):\n    return {'count': self.count}\ndef load(self, state):\n    self.count = state['count']"
    )
    bot = made(tmp_path, more=keeping)
    bot.load({"count": 41})
    bot.update(bar())
    bot.decide(FLAT)
    assert bot.dump() == {"count": 42}
    bot.close()
    assert bot.dump() == {"count": 42}
    with pytest.raises(SignalsError, match="closed"):
        bot.decide(FLAT)


def test_a_class_that_has_only_update_and_decide_is_enough(tmp_path: Path) -> None:
    (tmp_path / "plain_bot.py").write_text(
        "from signals.api import Verdict\n"
        "class Plain:\n"
        "    seen = 0\n"
        "    def update(self, bar):\n        self.seen += 1\n"
        "    def decide(self, position):\n        return Verdict(None, None, context={'seen': self.seen})\n"
    )
    bot = IsolatedBot("plain", "plain_bot:Plain", {}, str(tmp_path), PATIENT)
    bot.warm(list(bars(walk(5, seed=1))))
    bot.load({})
    assert bot.dump() == {}
    assert bot.decide(FLAT).context == {"seen": 5}
    bot.close()


# ---- it raises ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["update", "decide"])
def test_what_it_raises_arrives_with_place_and_traceback(tmp_path: Path, place: str) -> None:
    code: dict[str, Any] = {place: "[][3]"}
    error = failure(made(tmp_path, **code), BotRaised)
    assert "IndexError: list index out of range (bad.py, line " in str(error)
    assert f"in {place}\n    [][3]" in whole(error)


@pytest.mark.parametrize("what", ["sys.exit(3)", "raise KeyboardInterrupt", "raise BaseException('x')"])
def test_even_what_would_end_a_program_is_an_error_like_any_other(tmp_path: Path, what: str) -> None:
    failure(made(tmp_path, decide=what), BotRaised)


def test_an_error_without_a_text_or_with_a_huge_one_is_told_all_the_same(tmp_path: Path) -> None:
    silent = "class Silent(Exception):\n    def __str__(self):\n        raise ValueError('no')\n"
    assert "Silent" in str(failure(made(tmp_path / "a", top=silent, decide="raise Silent"), BotRaised))
    huge = failure(made(tmp_path / "b", decide="raise ValueError('x' * 10_000_000)"), BotRaised)
    assert len(whole(huge)) < 50_000


def test_what_the_warming_raises_arrives_although_more_candles_were_on_their_way(tmp_path: Path) -> None:
    bot = made(tmp_path, update="1 / 0")
    with pytest.raises(BotRaised, match="ZeroDivisionError"):
        bot.warm(list(bars(walk(3_000, seed=1))))
    assert bot.pid is None


# ---- it hangs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        "while True: pass",
        "time.sleep(3600)",
        "threading.Lock().acquire() and threading.Lock().acquire()\nl = threading.Lock()\nl.acquire()\nl.acquire()",
        "7 ** (10 ** 8)",
        "signal.signal(signal.SIGABRT, signal.SIG_IGN)\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])\n"
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ],
    ids=["loop", "sleep", "deadlock", "C code that holds the interpreter", "deaf to signals"],
)
def test_a_bot_that_hangs_is_killed_when_its_time_is_over(
    tmp_path: Path, how: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.node.callspec.id == "deaf to signals":
        monkeypatch.setattr(process, "_LAST_WORDS", 0.3)  # it never says any
    bot = made(tmp_path, QUICK, decide=how)
    began = time.monotonic()
    error = failure(bot, BotHung)
    assert time.monotonic() - began < 30
    assert "longer than 0.3 s" in str(error)


class StandingStill(socket.socket):
    """The daemon's end of a worker's socket on a machine that stands still: a wait ends when its time is over, but
    the answer has come by then."""

    worker: int

    def recv(self, *arguments: Any) -> bytes:
        try:
            return super().recv(*arguments)
        except TimeoutError:
            os.kill(self.worker, signal.SIGCONT)
            assert select.select([self], [], [], PATIENT.start_seconds)[0]
            raise


def test_a_daemon_that_stood_still_itself_blames_no_bot(tmp_path: Path) -> None:
    bot = made(tmp_path, BotLimits(time_budget=0.2, start_seconds=30))
    bot.update(bar())
    assert bot._process is not None
    assert bot.pid is not None
    standing = StandingStill(fileno=bot._process._socket.detach())
    standing.worker = bot.pid
    bot._process._socket = standing
    os.kill(bot.pid, signal.SIGSTOP)
    assert bot.decide(FLAT).score == 0.5
    bot.close()


def test_the_log_says_where_it_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LAST_WORDS", PATIENT.start_seconds)
    error = failure(
        made(tmp_path, QUICK, more="def spin(self):\n    while True: pass", decide="self.spin()"), BotHung
    )
    assert "in spin" in whole(error)


@pytest.mark.parametrize("place", ["top", "init"])
def test_a_bot_that_hangs_while_it_is_made_is_killed_too(tmp_path: Path, place: str) -> None:
    code: dict[str, Any] = {place: "while True: pass"}
    with pytest.raises(BotHung, match="the start took longer than"):
        made(tmp_path, BotLimits(start_seconds=1), **code)


def test_a_warming_that_never_ends_is_killed(tmp_path: Path) -> None:
    bot = made(tmp_path, update="time.sleep(0.1)")
    bot._limits = BotLimits(start_seconds=2)  # only now: a start is slow on a busy machine
    with pytest.raises(BotHung, match="warming"):
        bot.warm(list(bars(walk(3_000, seed=1))))
    assert bot.pid is None


def test_processes_that_it_started_end_with_it(tmp_path: Path) -> None:
    start = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '3600'])\n"
        "open(os.path.join(os.path.dirname(__file__), 'child'), 'w').write(str(child.pid))\n"
        "return None"  # its process is killed for that
    )
    failure(made(tmp_path, decide=start), BadReply)
    child = int((tmp_path / "child").read_text())
    patience = time.monotonic() + PATIENT.start_seconds
    while is_alive(child):  # a kill takes a moment, and it is nobody's to wait for
        assert time.monotonic() < patience
        time.sleep(0.01)


# ---- it dies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("os._exit(7)", "exit code 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("os.closerange(3, 100)\ntime.sleep(3600)", "closed the connection"),
    ],
)
def test_a_process_that_dies_is_an_error_that_says_how(
    tmp_path: Path, how: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words == "closed the connection":
        monkeypatch.setattr(process, "_LAST_WORDS", 0.3)  # it does not end
    assert words in str(failure(made(tmp_path, decide=how), BotDied))


def test_a_crash_in_c_code_shows_where_it_was(tmp_path: Path) -> None:
    error = failure(made(tmp_path, decide="ctypes.string_at(0)"), BotDied)
    assert "Segmentation fault" in whole(error)
    assert "in decide" in whole(error)


@pytest.mark.parametrize("hog", ["bytearray(1 << 30)", "x = []\nwhile True: x.append(bytearray(1 << 20))"])
def test_memory_beyond_the_limit_is_refused_to_it(tmp_path: Path, hog: str) -> None:
    limits = BotLimits(time_budget=30, start_seconds=30, memory_mb=256)
    assert "MemoryError" in whole(failure(made(tmp_path, limits, decide=hog), BotRaised))


def test_without_a_memory_limit_it_may_have_more(tmp_path: Path) -> None:
    bot = made(tmp_path, BotLimits(time_budget=30, start_seconds=30, memory_mb=0), decide="bytearray(1 << 29)")
    bot.update(bar())
    assert bot.decide(FLAT).score == 0.5
    bot.close()


def test_what_it_printed_last_is_there_although_a_process_that_left_its_group_goes_on_with_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_LAST_WORDS", PATIENT.start_seconds)
    leave = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '3600'], start_new_session=True)\n"
        "open(os.path.join(os.path.dirname(__file__), 'child'), 'w').write(str(child.pid))\n"
        "print('famous last words')\n"
        "os._exit(1)"
    )
    began = time.monotonic()
    error = failure(made(tmp_path, decide=leave), BotDied)
    try:
        assert "famous last words" in whole(error)
        assert time.monotonic() - began < PATIENT.start_seconds, "it did not wait for the one that left"
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


# ---- it floods ------------------------------------------------------------------------------------------


def test_what_it_prints_is_logged_up_to_a_limit_and_never_blocks_it(tmp_path: Path) -> None:
    with capture_logs() as logs:
        bot = made(tmp_path, decide="for i in range(50_000): print('line', i)\nos.write(2, b'x' * 3_000_000)")
        bot.update(bar())
        assert bot.decide(FLAT).score == 0.5
        bot.close()
    lines = [entry for entry in logs if entry["event"] == "bot prints"]
    assert [entry["text"] for entry in lines[:2]] == ["line 0", "line 1"]
    assert len(lines) == 100
    assert all(entry["bot"] == "bad" for entry in lines)
    dropped = sum(entry["lines_dropped"] for entry in logs if entry["event"] == "bot prints too much")
    assert dropped == 50_000 - 100 + 1
    assert max(len(str(entry)) for entry in logs) < 1_000


NONSENSE = [
    ("return None", "decide gave None, expected a Verdict"),
    ("return ('BUY', 1.0)", "decide gave a value of type tuple"),
    ("return Verdict('HOLD', 1.0)", "side is 'HOLD'"),
    ("return Verdict(1, 1.0)", "side is 1"),
    ("return Verdict([], 1.0)", "side is []"),
    ("return Verdict(None, 1.5)", "score is 1.5"),
    ("return Verdict(None, math.nan)", "score is nan"),
    ("return Verdict(None, math.inf)", "score is inf"),
    ("return Verdict(None, '1')", "score is '1'"),
    ("return Verdict(None, True)", "score is True"),
    ("return Verdict(None, object())", "score is a value of type object"),
    ("return Verdict(None, 0, 5)", "parts is a value of type int"),
    ("return Verdict(None, 0, ('x',))", "parts[0] is a value of type str"),
    ("return Verdict(None, 0, (Part('x', 0, 1),) * 65)", "at most 64"),
    ("return Verdict(None, 0, (Part('x', 2, 1),))", "parts[0].score is 2.0"),
    ("return Verdict(None, 0, (Part('x', 0, -1),))", "parts[0].weight is -1.0"),
    ("return Verdict(None, 0, (Part('x', 0, math.inf),))", "parts[0].weight is inf"),
    ("return Verdict(None, 0, (Part('x', 0, None),))", "parts[0].weight is None"),
    ("return Verdict(None, 0, (Part('x', 0, 1, math.nan),))", "parts[0].value is nan"),
    ("return Verdict(None, 0, (Part('x' * 65, 0, 1),))", "parts[0].name is 'xxx"),
    ("return Verdict(None, 0, (Part('', 0, 1),))", "parts[0].name is ''"),
    ("return Verdict(None, 0, (Part('a\\x1b[2J', 0, 1),))", "parts[0].name is 'a\\x1b"),
    ("return Verdict(None, 0, (Part('\\ud800', 0, 1),))", "parts[0].name is"),
    ("return Verdict(None, 0, (Part(7, 0, 1),))", "parts[0].name is 7"),
    ("return Verdict(None, 0, (Part('x', 0, 1, None, 'y' * 201),))", "parts[0].why is"),
    ("return Verdict(None, 0, close=1)", "close is 1"),
    ("return Verdict(None, 0, context=[1])", "context is [1]"),
    ("return Verdict(None, 0, context={'x': math.nan})", "context holds a number that is not finite"),
    ("return Verdict(None, 0, context={'x': object()})", "cannot be written as JSON"),
    ("return Verdict(None, 0, context={'x': '\\ud800'})", "context cannot be stored"),
    ("return Verdict(None, 0, context={'x': 'y' * 17_000})", "context has 17008 characters"),
    ("x = {}\nfor _ in range(50): x = {'x': x}\nreturn Verdict(None, 0, context=x)", "nested too deeply"),
    ("x = {}\nx['x'] = x\nreturn Verdict(None, 0, context=x)", "cannot be written as JSON"),
    ("x = {}\nfor _ in range(900): x = {'x': x}\nreturn Verdict(None, 0, context=x)", "context is nested too deeply"),
    ("return Verdict(None, 0, context={'x': 10 ** 5000})", "JSON"),
]


@pytest.mark.parametrize(("code", "words"), NONSENSE)
def test_nonsense_is_an_error_that_names_the_field(code: str, words: str) -> None:
    names: dict[str, Any] = {"math": math, "Verdict": Verdict, "Part": Part}
    exec(f"def decide():\n{indent(code, '    ')}", names)
    with pytest.raises(BadReply) as raised:  # both halves of the wire, without the process between them
        verdict_of(parsed(verdict_body(names["decide"]())))
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("return None", "decide gave None, expected a Verdict"),
        ("return Verdict(None, math.nan)", "score is nan"),
        ("return Verdict(None, 0, context={'x': 'y' * 1_000_000})", "an answer of 10000"),
    ],
)
def test_a_bot_that_talks_nonsense_is_ended(tmp_path: Path, code: str, words: str) -> None:
    assert words in str(failure(made(tmp_path, decide=code), BadReply))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("None", "dump gave None"),
        ("[1]", "dump gave a value of type list"),
        ("{'x': math.inf}", "the state of dump holds a number that is not finite"),
        ("{'x': 'y' * 66_000}", "the state of dump has 66008 characters"),
        ("{'x': {1, 2}}", "cannot be written as JSON"),
    ],
)
def test_a_state_that_cannot_be_stored_is_an_error(tmp_path: Path, state: str, words: str) -> None:
    bot = made(tmp_path, more=f"def dump(self):\n    return {state}")
    with pytest.raises(BadReply) as raised:
        bot.dump()
    assert words in str(raised.value)
    assert bot.pid is None


def _forged(payload: str) -> str:
    """Code that writes to the daemon itself, past the worker's own checks."""
    found = "s = next(o for o in gc.get_objects() if isinstance(o, socket.socket))"
    return f"import gc, socket, struct\n{found}\ns.sendall({payload})\ntime.sleep(3600)"


@pytest.mark.parametrize(
    "payload",
    [
        "b'\\xff\\xff\\xff\\xff'",
        "struct.pack('!I', 3) + b'+[]'",
        "struct.pack('!I', 3) + b'+{]'",
        "struct.pack('!I', 3) + b'-[]'",
        "struct.pack('!I', 0) + b''",
        "struct.pack('!I', 2) + b'+1' + b'more'",
        "struct.pack('!I', 200001) + b'+' + b'[' * 200000",
        "struct.pack('!I', 31) + b'+[null,1e999,[],false,null]    '",
        "struct.pack('!I', 27) + b'+[null,1,[],false,null]    '",
    ],
)
def test_even_a_forged_answer_is_only_an_error(tmp_path: Path, payload: str) -> None:
    failure(made(tmp_path, decide=_forged(payload)), BadReply)


# ---- the end --------------------------------------------------------------------------------------------


def test_the_end_is_regular_quick_and_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_FAREWELL", 30)
    farewell = "def close(self):\n    open(os.path.join(os.path.dirname(__file__), 'farewell'), 'w').close()"
    bot = made(tmp_path, more=farewell, init="threading.Thread(target=time.sleep, args=(3600,)).start()")
    pid = bot.pid
    assert pid is not None
    began = time.monotonic()
    bot.close()
    assert time.monotonic() - began < 20, "it did not wait for the thread"
    bot.close()
    assert not is_alive(pid)
    assert (tmp_path / "farewell").exists()


def test_a_bot_that_nobody_holds_any_more_keeps_no_process(tmp_path: Path) -> None:
    bot: Any = made(tmp_path)
    pid = bot.pid
    del bot
    gc.collect()
    assert not is_alive(pid)


def test_a_process_knows_nothing_of_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILLBOOK_BROKER__PASSWORD", "canary")
    bot = made(tmp_path, decide="return Verdict(None, None, context={'env': 'canary' in repr(dict(os.environ))})")
    bot.update(bar())
    assert bot.decide(FLAT).context == {"env": False}
    bot.close()
