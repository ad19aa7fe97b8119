"""A coverage file that a killed process left in pieces does not fail the run."""

from pathlib import Path

import pytest
from coverage import Coverage, CoverageData

from tests.torn_coverage import is_whole, remove_torn


def written(folder: Path, name: str) -> Path:
    """A data file as a process leaves it: enough in it for many pages."""
    file = folder / f".coverage.{name}"
    data = CoverageData(str(file))
    data.add_arcs({f"module_{n}.py": [(line, line + 1) for line in range(500)] for n in range(20)})
    data.close()
    return file


def combined(folder: Path) -> set[str]:
    """What `coverage combine` makes of a folder."""
    coverage = Coverage(data_file=str(folder / ".coverage"), config_file=False)
    coverage.combine()
    return {Path(name).name for name in coverage.get_data().measured_files()}


def test_whole_files_stay(tmp_path: Path) -> None:
    file = written(tmp_path, "a")
    assert remove_torn(tmp_path) == []
    assert is_whole(file)
    assert len(combined(tmp_path)) == 20


@pytest.mark.filterwarnings("default::coverage.exceptions.CoverageWarning")
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_a_file_that_ends_too_early_is_removed_and_the_others_are_combined(tmp_path: Path, part: float) -> None:
    whole, torn = written(tmp_path, "a"), written(tmp_path, "b")
    content = torn.read_bytes()
    torn.write_bytes(content[: int(len(content) * part)])
    assert remove_torn(tmp_path) == [torn]
    assert whole.exists()
    assert len(combined(tmp_path)) == 20


def test_a_page_in_the_middle_that_was_never_written_would_have_failed_the_run(tmp_path: Path) -> None:
    written(tmp_path, "a")
    torn = written(tmp_path, "b")
    content = bytearray(torn.read_bytes())
    half = len(content) // 2 // 4096 * 4096
    content[half : half + 4 * 4096] = bytes(4 * 4096)
    torn.write_bytes(content)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tmp_path.glob(".coverage.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(Exception, match="malformed"):
        combined(copy)
    assert remove_torn(tmp_path) == [torn]
    assert len(combined(tmp_path)) == 20
