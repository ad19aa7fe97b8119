"""The guide: its code is the code of the example, its test runs and passes, its limits are those of the product."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import signals.api
from config.settings import SignalSettings
from signals.isolation import limits
from signals.isolation.limits import BotLimits

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "config" / "examples" / "breakout"
GUIDE = (ROOT / "docs" / "writing-a-bot.md").read_text(encoding="utf-8")


def block(start: str) -> str:
    """The indented block of the guide that holds a line."""
    found = [
        dedent(text) for text in re.findall(r"(?:^(?:    .*)?\n)+", GUIDE, re.MULTILINE) if f"    {start}" in text
    ]
    assert len(found) == 1, start
    return found[0]


def without_docstrings(text: str) -> str:
    """Python code as its tree, without what explains it."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def test_the_class_in_the_guide_is_the_class_of_the_example() -> None:
    code = (EXAMPLE / "breakout.py").read_text(encoding="utf-8")
    assert without_docstrings(block("class Breakout(BaseBot):")) == without_docstrings(code)


def test_the_bot_file_in_the_guide_is_the_file_of_the_example() -> None:
    lines = (EXAMPLE / "breakout.toml").read_text(encoding="utf-8").splitlines()
    shown = block('name = "breakout"').strip().splitlines()
    assert shown == [line for line in lines if not line.startswith("#")]


def test_the_test_in_the_guide_passes(tmp_path: Path) -> None:
    (tmp_path / "test_breakout.py").write_text(block("def test_a_new_high_is_bought() -> None:"))
    (tmp_path / "breakout.py").write_bytes((EXAMPLE / "breakout.py").read_bytes())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # none of a folder above this one
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    run = subprocess.run(command, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout


def test_what_the_guide_imports_is_what_authors_may_rely_on() -> None:
    for name in re.findall(r"from signals\.api import (.*)", GUIDE):
        assert {part.strip() for part in name.split(",")} <= set(signals.api.__all__)


def test_the_limits_in_the_guide_are_the_limits() -> None:
    settings = SignalSettings()
    assert f"| {settings.bot_time_budget_ms / 1000:g} s, then it is killed | `signals.bot_time_budget_ms` |" in GUIDE
    assert f"| {settings.bot_start_seconds:g} s | `signals.bot_start_seconds` |" in GUIDE
    assert f"| {settings.bot_memory_mb} MB, then MemoryError (Linux) | `signals.bot_memory_mb` |" in GUIDE
    assert f"| {settings.max_requests_per_hour} within an hour" in GUIDE
    assert f"{limits.MAX_PARTS} parts, names of {limits.MAX_NAME} characters, context of 16 KB" in GUIDE
    assert (limits.MAX_CONTEXT, limits.MAX_STATE, limits.OUTPUT_LINES) == (16 * 1024, 64 * 1024, 100)
    assert f"{limits.OUTPUT_LINES} lines a minute" in GUIDE


def test_the_limits_without_settings_are_the_defaults_of_the_settings() -> None:
    settings = SignalSettings()
    assert BotLimits() == BotLimits(
        settings.bot_time_budget_ms / 1000,
        settings.bot_start_seconds,
        settings.bot_memory_mb,
        settings.max_requests_per_hour,
    )
