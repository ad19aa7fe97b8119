"""Coverage files of processes that were killed while they wrote them: found and removed before all are combined.

Tests kill daemons, brokers and bots with SIGKILL, and coverage writes without a journal. `coverage combine` only
warns of a file that it cannot open, but raises for one whose damage shows later, and the run would end with an
internal error although every test passed. What a killed process had measured is no loss: the total is checked all
the same.
"""

import sqlite3
from pathlib import Path

_TABLES = ("coverage_schema", "meta", "file", "context", "line_bits", "arc", "tracer")


def is_whole(file: Path) -> bool:
    """Whether everything in a coverage file can be read."""
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            for table in _TABLES:
                connection.execute(f"SELECT * FROM {table}").fetchall()
            versions = connection.execute("SELECT COUNT(*) FROM coverage_schema").fetchone()
            sound = connection.execute("PRAGMA integrity_check").fetchall()
        finally:
            connection.close()
    except sqlite3.Error:
        return False
    return bool(versions == (1,) and sound == [("ok",)])


def remove_torn(folder: Path) -> list[Path]:
    """Remove the torn ones among the files that are to be combined; which they were."""
    torn = [file for file in sorted(folder.glob(".coverage.*")) if not file.name.endswith("-journal")]
    torn = [file for file in torn if not is_whole(file)]
    for file in torn:
        file.unlink()
    return torn
