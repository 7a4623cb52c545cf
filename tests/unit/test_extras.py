"""The extras of the package: what pyproject.toml puts into each is what the code says that it misses."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from accepted import extras

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
OPTIONAL = PYPROJECT["project"]["optional-dependencies"]

WITHOUT = """
import sys
for name in {missing}:
    sys.modules[name] = None
from accepted.cli.main import main
main({arguments})
"""


def distributions(requirements: list[str]) -> set[str]:
    return {normalized(re.split(r"[\[<>=!; ]", one)[0]) for one in requirements}


def normalized(name: str) -> str:
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("extra", extras.MODULES)
def test_the_modules_of_an_extra_are_of_its_distributions(extra: str) -> None:
    providers = packages_distributions()
    found = {normalized(name) for module in extras.MODULES[extra] for name in providers[module]}
    assert found == distributions(OPTIONAL[extra]) - {"accepted"}


def ran(*arguments: str, missing: str) -> "subprocess.CompletedProcess[str]":
    """`accepted …` where the modules of the extra `missing` cannot be imported."""
    program = WITHOUT.format(missing=extras.MODULES[missing], arguments=[*arguments])
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", ["api", "worker", "migrate", "keys list"])
def test_a_command_without_its_extra_names_it_in_one_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEPTED_DATABASE_URL", "postgresql://127.0.0.1:1/nothing")
    ended = ran(*command.split(), missing="server")
    assert ended.returncode == 1
    assert re.fullmatch(r"accepted: \w+ is not installed: pip install 'accepted\[server\]'\n", ended.stderr)


@pytest.mark.parametrize("arguments", [["--version", "--json"], ["jobs", "submit", "--help"]])
def test_the_client_needs_no_server(arguments: list[str]) -> None:
    ended = ran(*arguments, missing="server")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_embedded_postgresql_names_its_extra(tmp_path: Path) -> None:
    ended = ran("dev", "--data-dir", str(tmp_path), missing="dev")
    assert ended.returncode == 1
    assert "pip install 'accepted[dev]'" in ended.stderr


@pytest.mark.parametrize("name", ["aiormq", "httpcore", "uvicorn"])
def test_what_we_extend_the_internals_of_has_an_upper_bound(name: str) -> None:
    """Each has a `test_…_internals.py`."""
    (requirement,) = (one for one in OPTIONAL["server"] if distributions([one]) == {name})
    assert "<" in requirement
