"""The handler modules in ACCEPTED_HANDLERS: where they are found, and the error for one that is not found."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from accepted import extras
from accepted.errors import ConfigurationError
from accepted_worker.attempt import registry

HANDLER = """
from accepted import Context, job

@job("own.noop")
async def noop(payload: dict, ctx: Context) -> None: ...
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose modules can be imported, and are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    registry.make_working_directory_importable()
    known = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - known:
        del sys.modules[name]


def write(project: Path, name: str, text: str) -> None:
    path = project / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_a_module_is_found_in_the_working_directory(project: Path) -> None:
    write(project, "app/__init__.py", "")
    write(project, "app/jobs.py", HANDLER)
    assert {*registry.load(["app.jobs"])} == {"own.noop"}


def test_the_working_directory_is_added_once(project: Path) -> None:
    before = [*sys.path]
    registry.make_working_directory_importable()
    assert sys.path == before
    assert sys.path[0] == str(project)


def test_the_name_in_the_contract_stands_for_the_built_in_types(project: Path) -> None:
    assert registry.load(["workers.handlers"]) == registry.load(["accepted_worker.handlers"])


def test_it_does_so_beside_a_package_of_that_name(project: Path) -> None:
    write(project, "workers/__init__.py", "")
    assert "http.request" in registry.load(["workers.handlers"])


def test_a_module_of_that_name_comes_first(project: Path) -> None:
    write(project, "workers/__init__.py", "")
    write(project, "workers/handlers.py", HANDLER)
    assert {*registry.load(["workers.handlers"])} == {"own.noop"}


def test_what_such_a_module_misses_is_no_reason_to_pass_it_over(project: Path) -> None:
    write(project, "workers/__init__.py", "")
    write(project, "workers/handlers.py", "import not_there")
    with pytest.raises(ConfigurationError, match="not_there"):
        registry.load(["workers.handlers"])


def test_a_module_that_is_not_there_is_named(project: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ACCEPTED_HANDLERS: cannot import 'app.jobs': ModuleNotFoundError"):
        registry.load(["app.jobs"])


def test_a_library_that_is_an_extra_is_named_with_the_extra(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    write(project, "jobs.py", "from PIL import Image")
    with pytest.raises(ConfigurationError, match=r"'jobs': PIL is not installed: pip install 'accepted\[images\]'"):
        registry.load(["jobs"])


def test_each_type_of_an_extra_is_built_in() -> None:
    from accepted_worker import handlers

    assert {*handlers.EXTRAS} <= {*registry.load(["accepted_worker.handlers"])}
    assert {*handlers.EXTRAS.values()} <= {*extras.MODULES}
