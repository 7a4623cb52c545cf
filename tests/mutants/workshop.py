"""A copy of the tree to break things in, and pytest run in it.

The copy stands first on PYTHONPATH, before the editable install, in pytest itself and in every `accepted` process
that its tests start (`tests/support/service/processes.py` puts its own root there).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("app", "workers", "alembic", "tests", "pyproject.toml")
TIMEOUT = 300.0  # seconds for one run of pytest


@dataclass(frozen=True)
class Edit:
    """In this file, `old` (which is there exactly once) becomes `new`."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """`killers` must all fail in the mutated tree, and pass in the unmutated one."""

    name: str
    edits: tuple[Edit, ...]
    killers: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What pytest came to: its exit code (1: some test failed), and the names of the tests by what became of them."""

    exit_code: int
    passed: frozenset[str]
    failed: frozenset[str]
    broken: frozenset[str]
    output: str


def copy_tree(source: Path, directory: Path) -> Path:
    copy = directory / "tree"
    copy.mkdir()
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source / name, copy / name)
    return copy


def apply(copy: Path, edits: Sequence[Edit]) -> None:
    """Fails loudly when the code has moved on: the mutant then has to move along."""
    for edit in edits:
        path = copy / edit.path
        text = path.read_text()
        assert text.count(edit.old) == 1, f"{edit.path}: found {text.count(edit.old)} times, not once:\n{edit.old}"
        path.write_text(text.replace(edit.old, edit.new))


def run(copy: Path, tests: Sequence[str], env: dict[str, str]) -> Verdict:
    """Run these tests in the copy, with the interpreter and the packages of this one."""
    report = copy / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (copy, copy / "app", copy / "workers"))), **env},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    return Verdict(
        done.returncode,
        passed=_names(case for case in cases if len(case.findall("failure") + case.findall("error")) == 0),
        failed=_names(case for case in cases if case.find("failure") is not None),
        broken=_names(case for case in cases if case.find("error") is not None),
        output=done.stdout[-20_000:] + done.stderr[-2_000:],
    )


def _names(cases: object) -> frozenset[str]:
    return frozenset(case.get("name", "").partition("[")[0] for case in cases)  # type: ignore[attr-defined]
