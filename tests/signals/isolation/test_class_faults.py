"""What is wrong with a user's class is a fault of its bot file, with line and key; it is never imported here."""

import os
import sys
from pathlib import Path

import pytest

from config.toml_errors import ConfigurationInvalid
from signals.bot_file import BotFile
from signals.bot_schema import bot_file_schema
from signals.classes import build_bot
from signals.custom_file import CustomFile
from signals.errors import SignalsError
from signals.isolation.limits import BotLimits
from signals.loading import load_bots
from tests.signals.isolation.bots import FLAT, PATIENT, bar, write_bot

FILE = 'name = "own"\nsymbol = "BTC-USD"\nclass = "{}"\n'


def bot_file(folder: Path, target: str = "bad:Bot", more: str = "") -> Path:
    """A bot file that names a class."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "own.toml"
    file.write_text(FILE.format(target) + more)
    return file


def faults(file: Path, limits: BotLimits = PATIENT, overrides: dict[str, object] | None = None) -> list[str]:
    """The faults, without the folder."""
    with pytest.raises(ConfigurationInvalid) as raised:
        load_bots([file], {"own": overrides} if overrides else None, trial=limits)
    return [str(fault).replace(f"{file.parent}/", "") for fault in raised.value.faults]


def only_fault(file: Path, limits: BotLimits = PATIENT, overrides: dict[str, object] | None = None) -> str:
    """The one fault."""
    (fault,) = faults(file, limits, overrides)
    return fault


def loaded(file: Path) -> CustomFile:
    """A file without faults."""
    (found,) = load_bots([file], trial=PATIENT)
    assert isinstance(found, CustomFile)
    return found


def score_of(file: BotFile) -> float | None:
    """What its bot says to a candle."""
    bot = build_bot(file, PATIENT)
    try:
        bot.update(bar())
        return bot.decide(FLAT).score
    finally:
        bot.close()


# ---- where a class is found -----------------------------------------------------------------------------


def test_a_module_beside_the_bot_file_is_found_wherever_one_stands(tmp_path: Path) -> None:
    write_bot(tmp_path / "bots")
    found = loaded(bot_file(tmp_path / "bots"))
    assert found.folder == str(tmp_path / "bots")
    assert score_of(found) == 0.5
    assert not (tmp_path / "bots" / "__pycache__").exists(), "a folder of bots is not littered"


def test_a_package_beside_the_bot_file_may_import_its_own_modules_and_the_neighbours(tmp_path: Path) -> None:
    write_bot(
        tmp_path / "mine",
        "strategy",
        top="from mine.numbers_ import SCORE\nimport neighbour",
        decide="return Verdict(None, SCORE)",
    )
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "numbers_.py").write_text("SCORE = 0.25\n")
    (tmp_path / "neighbour.py").touch()
    assert score_of(loaded(bot_file(tmp_path, "mine.strategy:Bot"))) == 0.25


def test_an_installed_module_is_found_when_none_lies_beside_the_file(tmp_path: Path) -> None:
    file = bot_file(tmp_path, "signals.sma_cross:SmaCross", "[params]\nfast = 3\nslow = 7\n")
    assert score_of(loaded(file)) is None  # warming up


def test_the_code_never_runs_in_this_process(tmp_path: Path) -> None:
    top = "assert not os.path.exists(os.path.join(os.path.dirname(__file__), str(os.getpid())))"
    (tmp_path / str(os.getpid())).touch()
    write_bot(tmp_path, "peculiar_module", top=top)
    assert score_of(loaded(bot_file(tmp_path, "peculiar_module:Bot"))) == 0.5
    assert "peculiar_module" not in sys.modules


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like site-packages with a distribution that brings the bots `my-own` and `weighted`."""
    site = tmp_path / "site"
    write_bot(site, "their_bots", decide="return Verdict(None, 0.75)")
    info = site / "their_bots-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-bots\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fillbook.bots]\nmy-own = their_bots:Bot\nweighted = their_bots:Bot\nbroken = their_bots:Nothing\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    return site


def test_an_installed_entry_point_is_a_class_by_its_name(installed: Path, tmp_path: Path) -> None:
    assert score_of(loaded(bot_file(tmp_path / "bots", "my-own"))) == 0.75


def test_a_built_in_name_comes_before_an_entry_point(installed: Path, tmp_path: Path) -> None:
    signals = 'signals = [{function = "RSI", weight = 1}]\n'
    (found,) = load_bots([bot_file(tmp_path / "bots", "weighted", signals)], trial=PATIENT)
    assert not isinstance(found, CustomFile)


def test_an_unknown_name_lists_the_known_ones(installed: Path, tmp_path: Path) -> None:
    fault = only_fault(bot_file(tmp_path / "bots", "my-onw"))
    assert fault.startswith('own.toml:3: class = "my-onw": expected one of ')
    for name in ("sma-cross", "weighted", "my-own", "module:Class"):
        assert name in fault


def test_an_entry_point_that_leads_nowhere_is_a_fault(installed: Path, tmp_path: Path) -> None:
    assert "there is no Nothing" in only_fault(bot_file(tmp_path / "bots", "broken"))


def test_an_entry_point_that_was_uninstalled_since_is_an_error_of_this_bot(installed: Path, tmp_path: Path) -> None:
    found = loaded(bot_file(tmp_path / "bots", "my-own"))
    (installed / "their_bots-1.0.dist-info" / "entry_points.txt").write_text("")
    with pytest.raises(SignalsError, match="not installed any more"):
        build_bot(found, PATIENT)


# ---- what is wrong with it ------------------------------------------------------------------------------


def test_a_module_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    fault = only_fault(bot_file(tmp_path, "nowhere.at_all:Bot"))
    assert fault.startswith(
        'own.toml:3: class = "nowhere.at_all:Bot": expected a module that exists; nowhere was looked'
    )
    assert f"in {tmp_path}, then the installed modules" in fault


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nothing_like_this", "bad needs nothing_like_this"),
        ("1 / 0", "bad raised ZeroDivisionError: division by zero"),
        ("def x(:", "bad raised SyntaxError"),
        ("sys.exit(1)", "bad raised SystemExit"),
        ("os._exit(9)", "its process ended with exit code 9 during the start"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(tmp_path: Path, code: str, words: str) -> None:
    write_bot(tmp_path, top=code)
    fault = only_fault(bot_file(tmp_path))
    assert fault.startswith('own.toml:3: class = "bad:Bot": expected')
    assert words in fault


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("bad:Bto", "a class in bad.py; there is no Bto (did you mean Bot?)"),
        ("bad:Bot.Inner", "there is no Bot.Inner"),
        ("bad:math", "math in bad.py is a module"),
        ("bad:Decimal", "lacks update() and decide()"),
        ("bad:BaseBot", "lacks update() and decide()"),
        ("bad:Half", "a bot; Half in bad.py lacks decide()"),
    ],
)
def test_what_is_no_bot_says_what_it_lacks(tmp_path: Path, target: str, words: str) -> None:
    write_bot(tmp_path, top="class Half(BaseBot):\n    def update(self, bar): pass")
    assert words in only_fault(bot_file(tmp_path, target))


def constructor(folder: Path, signature: str, body: str = "pass") -> None:
    """A class with such a constructor."""
    more = f"def __init__(self, {signature}):\n    {body}"
    write_bot(folder, more=more)


def test_parameters_that_the_class_does_not_know_or_misses_are_named_each_at_its_line(tmp_path: Path) -> None:
    constructor(tmp_path, "length, *, factor=1, needed")
    found = faults(bot_file(tmp_path, more="\n[params]\nlength = 20\nfactr = 0.5\nwhatever = 1\n"))
    assert found == [
        "own.toml:7: params.factr = 0.5: expected a parameter of Bot (did you mean factor?)",
        "own.toml:8: params.whatever = 1: expected a parameter of Bot (it takes length, factor, needed)",
        "own.toml:5: params.needed: expected a value (Bot needs this parameter)",
    ]


def test_a_missing_parameter_without_a_table_points_at_the_class(tmp_path: Path) -> None:
    constructor(tmp_path, "length")
    assert only_fault(bot_file(tmp_path)) == "own.toml:3: params.length: expected a value (Bot needs this parameter)"


@pytest.mark.parametrize("error", ["TypeError", "ValueError"])
def test_what_the_constructor_refuses_is_a_fault_of_the_parameters(tmp_path: Path, error: str) -> None:
    constructor(tmp_path, "length", f"raise {error}('length must be above 0')")
    fault = only_fault(bot_file(tmp_path, more="\n[params]\nlength = 0\n"))
    assert fault == f"own.toml:5: params: expected parameters that Bot takes ({error}: length must be above 0)"


def test_anything_else_that_the_constructor_raises_is_a_fault_of_the_class(tmp_path: Path) -> None:
    constructor(tmp_path, "**_", "{}['missing']")
    assert "a bot that can be made; KeyError: 'missing' (bad.py, line" in only_fault(bot_file(tmp_path))


def test_a_constructor_that_hangs_is_a_fault_when_its_time_is_over(tmp_path: Path) -> None:
    write_bot(tmp_path, init="while True: pass")
    assert "the start took longer than 1 s" in only_fault(bot_file(tmp_path), BotLimits(start_seconds=1))


def test_values_of_the_command_line_reach_the_class_and_their_faults_point_there(tmp_path: Path) -> None:
    constructor(tmp_path, "length=1", "assert length != 3")
    file = bot_file(tmp_path, more="\n[params]\nlength = 3\n")
    (found,) = load_bots([file], {"own": {"params.length": 4}}, trial=PATIENT)
    assert isinstance(found, CustomFile)
    assert found.params == {"length": 4}
    fault = only_fault(file, overrides={"params.lenght": 4})
    assert fault == "--set: bots.own.params.lenght = 4: expected a parameter of Bot (did you mean length?)"
    assert only_fault(file, overrides={"class": "bad:Bto"}).startswith(
        '--set: bots.own.class = "bad:Bto": expected a class'
    )


def test_common_keys_are_checked_as_for_every_bot_and_the_class_is_not_tried_before(tmp_path: Path) -> None:
    found = faults(bot_file(tmp_path, "nowhere:Bot", 'quantity = -1\nlength = 3\n[params]\n"not a name" = 1\n'))
    assert [fault.partition(": expected")[0] for fault in found] == [
        "own.toml:4: quantity = -1",
        "own.toml:5: length = 3",
        "own.toml:6: params",
    ]


def test_without_a_trial_no_process_is_started_and_only_the_file_is_checked(tmp_path: Path) -> None:
    (found,) = load_bots([bot_file(tmp_path, "nowhere:Bot")])
    assert found.kind == "nowhere:Bot"


@pytest.mark.parametrize("kind", ["a-b:C", "a:", ":B", "a b:C", "a:b:c", "os", "../x:Y", "a.:B"])
def test_a_class_of_another_form_is_refused_without_a_look(tmp_path: Path, kind: str) -> None:
    assert "expected one of" in only_fault(bot_file(tmp_path, kind))


def test_the_schema_for_editors_knows_classes_of_ones_own() -> None:
    custom = bot_file_schema()["$defs"]["CustomFile"]["properties"]
    assert custom["class"]["not"] == {"enum": ["weighted", "sma-cross"]}
    assert custom["params"]["type"] == "object"
