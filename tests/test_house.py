"""The house itself: names, schema revision, documents, and what must never be in the tree."""

import ast
import importlib.util
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import MetaData, create_engine, text

from execution.guards import create_guards
from execution.tables import metadata as execution_metadata
from portfolio.tables import metadata as portfolio_metadata
from portfolio.views import create_views
from runtime.database import SCHEMA_REVISION, memory_engine, upgrade
from signals.tables import metadata as signals_metadata
from tests.runtime.revisions import all_revisions
from tests.suite import LONGEST, UNMEASURED

ROOT = Path(__file__).resolve().parent.parent
MIGRATIONS = ROOT / "runtime" / "migrations"
PACKAGES = ("config", "execution", "signals", "portfolio", "runtime", "tests")
METADATA: tuple[MetaData, ...] = (execution_metadata, signals_metadata, portfolio_metadata)


@pytest.mark.parametrize("name", sorted({*LONGEST, *UNMEASURED}))
def test_what_the_suite_knows_of_its_files_is_about_files_that_are_there(name: str) -> None:
    path, _, test = name.partition("::")
    assert (ROOT / path).exists()
    assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_each_plain_package_name_resolves_inside_the_project(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)


def test_the_schema_revision_in_the_code_is_the_newest_migration() -> None:
    assert all_revisions()[-1] == SCHEMA_REVISION


def test_the_migrations_make_the_very_schema_that_the_tables_describe() -> None:
    migrated, described = memory_engine(), create_engine("sqlite://")
    upgrade(migrated)
    with described.connect() as connection, connection.begin():
        for metadata in METADATA:
            metadata.create_all(connection)
        create_guards(connection)
        create_views(connection)
        wanted = _schema(connection)
    with migrated.connect() as connection, connection.begin():
        found = _schema(connection)
    found.pop("alembic_version", None)
    assert found == wanted


def _schema(connection: object) -> dict[str, str]:
    rows = connection.execute(  # type: ignore[attr-defined]  # a Connection of either engine
        text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    )
    return {name: " ".join(sql.replace('"', "").split()) for name, sql in rows if not name.startswith("alembic")}


@pytest.mark.parametrize("path", sorted(MIGRATIONS.rglob("*.py")), ids=lambda path: path.stem)
def test_a_migration_stands_alone_whatever_the_code_around_it_becomes(path: Path) -> None:
    frozen = {f"runtime.migrations.{beside.stem}" for beside in MIGRATIONS.glob("*_[0-9]*.py")}
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative"
            imported.add(str(node.module))
    ours = {name for name in imported if name.split(".")[0] in PACKAGES}
    assert ours <= frozen | {"runtime.errors"}  # the errors: what a migration refuses with
    assert imported - ours <= {"alembic", "sqlalchemy"}


def _tracked(*patterns: str) -> list[Path]:
    found = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return [ROOT / name for name in found if (ROOT / name).is_file()]


def test_no_tracked_file_names_a_folder_of_the_machine_it_was_written_on() -> None:
    suspicious = re.compile(r"/(?:work|home|root|Users)/[a-z]")
    guilty = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _tracked()
        if path.suffix in (".py", ".md", ".toml", ".sh", ".txt", ".in", "")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if suspicious.search(line) and "suspicious" not in line
    ]
    assert guilty == []


def test_every_link_in_the_documents_leads_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in _tracked("*.md")
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []


_SUPPRESSION = re.compile(r"#\s*(?:type:\s*ignore|noqa|pragma:\s*no\s*(?:cover|branch))", re.IGNORECASE)
_WITH_REASON = re.compile(
    r"# type: ignore\[[a-z, -]+\]  # (?!noqa)\S|# noqa: [A-Z0-9, ]+ - \S|# pragma: no (?:cover|branch) - \S"
)


def _comments(path: Path) -> Iterator[tuple[int, str]]:
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def test_whatever_a_check_is_told_to_overlook_has_a_reason_beside_it() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{line}: {comment}"
        for path in _tracked("*.py")
        for line, comment in _comments(path)
        if len(_SUPPRESSION.findall(comment)) != len(_WITH_REASON.findall(comment))
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("comment", "is_explained"),
    [
        ("# type: ignore", False),
        ("# type: ignore[arg-type]", False),
        ("# type: ignore[arg-type]  # theirs", True),
        ("# type: ignore[a, b-c]  # never None", True),
        ("# type: ignore[arg-type]  # noqa: S603 - no shell", False),
        ("# type: ignore[arg-type]  # never None  # noqa: S603 - no shell", True),
        ("# noqa", False),
        ("# noqa: S603", False),
        ("# noqa: S603, BLE001 - no shell", True),
        ("# pragma: no cover", False),
    ],
)
def test_a_reason_is_told_from_none(comment: str, is_explained: bool) -> None:
    assert (len(_SUPPRESSION.findall(comment)) == len(_WITH_REASON.findall(comment))) is is_explained


def test_every_locked_package_carries_hashes() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        lines = lock.read_text(encoding="utf-8").splitlines()
        packages = [number for number, line in enumerate(lines) if re.match(r"[A-Za-z0-9]", line)]
        assert packages
        assert all("--hash=sha256:" in lines[number + 1] for number in packages), lock.name


def test_every_dependency_says_why_it_is_there() -> None:
    for file in (ROOT / "requirements").glob("*.in"):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r")):
                assert "#" in line, f"{file.name}: {line}"
