"""The wheel, built from this tree and installed into fresh environments outside of it.

An environment gets what the wheel's metadata asks for and nothing else, linked from the environment of the tests: a
dependency that is not declared is missing there, and no package index is needed.
"""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.service.processes import ROOT

UV = Path(sys.executable).with_name("uv")

PROJECT = {
    "app/__init__.py": "",
    "app/jobs.py": """
from accepted import Context, job

@job("shop.greet")
async def greet(payload: dict, ctx: Context) -> dict:
    return {"greeting": f"hello {payload['name']}"}

@job("shop.count", runs_in="process")
def count(payload: dict, ctx: Context) -> dict:
    return {"letters": len(payload["name"])}
""",
    "workers/__init__.py": "",
    "workers/staff.py": "STAFF = []",
    "alembic/env.py": "",
}
"""A user's project, whose packages and directories have the names of ours."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment; `program` is its `accepted`."""

    python: Path

    @property
    def program(self) -> Path:
        return self.python.with_name("accepted")


def build_wheel(directory: Path) -> Path:
    """The wheel of this tree, in `directory`."""
    _uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(directory), str(ROOT))
    (wheel,) = directory.glob("*.whl")
    return wheel


def install(wheel: Path, directory: Path, *extras: str) -> Environment:
    """A fresh environment in `directory` with the wheel, its dependencies and those of `extras`."""
    _uv("venv", "--python", sys.executable, str(directory))
    python = directory / "bin" / "python"
    _uv("pip", "install", "--no-deps", "--python", str(python), str(wheel))
    (packages,) = directory.glob("lib/python*/site-packages")
    (installed,) = distributions(name="accepted", path=[str(packages)])
    for dependency in _closure(installed, {*extras}):
        _link(dependency, packages)
    return Environment(python)


def write_project(directory: Path) -> Path:
    """`PROJECT`, in `directory`."""
    for name, text in PROJECT.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def _closure(root: Distribution, extras: set[str]) -> list[Distribution]:
    """What `root` with `extras` depends on, and what that depends on, as installed for the tests."""
    found: dict[str, Distribution] = {}
    asked: set[tuple[str, str]] = set()
    waiting = [(root, extra) for extra in ("", *extras)]
    while waiting:
        one, extra = waiting.pop()
        for requirement in map(Requirement, one.requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            other = root if requirement.name == root.name else distribution(requirement.name)
            if other is not root:
                found[requirement.name] = other
            new = {(requirement.name, wanted) for wanted in ("", *requirement.extras)} - asked
            asked |= new
            waiting += [(other, wanted) for _, wanted in new]
    return [*found.values()]


def _link(dependency: Distribution, packages: Path) -> None:
    for name in {file.parts[0] for file in dependency.files or () if file.parts[0] not in ("..", "__pycache__")}:
        if not (packages / name).exists():
            (packages / name).symlink_to(str(dependency.locate_file(name)))


def _uv(*arguments: str) -> None:
    done = subprocess.run([UV, "--offline", "--quiet", *arguments], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"uv {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
