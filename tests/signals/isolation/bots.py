"""Bots of the worst kind, written into a folder as a user would, and processes counted."""

import os
from pathlib import Path
from textwrap import indent
from typing import Any

from signals.bot import Bar, PositionView
from signals.isolation.client import IsolatedBot
from signals.isolation.limits import BotLimits
from tests.signals.stage import candle

FLAT = PositionView(candle(0, 1).close * 0, False)
PATIENT = BotLimits(time_budget=20, start_seconds=30)
"""Nobody hurries on a busy machine, where time is not what is tested."""

_CLASS = """
import ctypes, math, os, signal, sys, threading, time
from datetime import datetime, UTC
from decimal import Decimal
from signals.api import BaseBot, Part, Side, Verdict
{top}
class Bot(BaseBot):
    def __init__(self, **params):
        self.params = params
        self.count = 0
        {init}
    def update(self, bar):
        self.count += 1
        self.bar = bar
        {update}
    def decide(self, position):
        {decide}
        return Verdict(None, 0.5)
    {more}
"""


def write_bot(folder: Path, name: str = "bad", **code: str) -> Path:
    """A module with a class Bot; `code` by place: top, init, update, decide, more."""
    places = dict.fromkeys(("top", "init", "update", "decide", "more"), "pass") | {"top": "", "more": ""}
    depth = {"init": 8, "update": 8, "decide": 8, "more": 4}
    lines = {
        place: indent(code.get(place, default), " " * depth.get(place, 0)).lstrip()
        for place, default in places.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.py"
    file.write_text(_CLASS.format(**lines))
    return file


def made(
    folder: Path, limits: BotLimits = PATIENT, *, params: dict[str, Any] | None = None, **code: str
) -> IsolatedBot:
    """A bot of that code, started."""
    write_bot(folder, **code)
    return IsolatedBot("bad", "bad:Bot", params or {}, str(folder), limits)


def bar(minute: int = 0, close: Any = 100) -> Bar:
    """A candle on its way."""
    return Bar(candle(minute, close))


def is_alive(pid: int) -> bool:
    """Whether a process is there; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second: it went between the opening and the reading
        return False


def workers_of(parent: int | None = None) -> list[int]:
    """The living worker processes that a process started."""
    parent = parent or os.getpid()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(state[1]) == parent and state[0] != "Z" and b"signals.isolation.worker" in line:
            found.append(int(folder.name))
    return found
