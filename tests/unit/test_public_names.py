"""The package `accepted`: the names that users import, and what an import loads."""

import importlib
import subprocess
import sys

import pytest

import accepted
from tests.support.loading import loaded_by

HEAVY = {
    "accepted.settings", "accepted.storage", "accepted_worker", "aio_pika", "aiosmtplib", "alembic", "asyncpg",
    "email.utils", "fastapi", "httpx", "PIL", "prometheus_client", "pydantic", "rich", "sqlalchemy", "structlog",
    "typer", "uvicorn", "uvloop",
}  # fmt: skip
"""What neither `import accepted` nor importing its names may load."""


def test_an_import_of_the_package_loads_nothing_else() -> None:
    assert {name for name in loaded_by("import accepted") if name.startswith("accepted")} == {"accepted"}
    assert len(loaded_by("import accepted")) < 20


@pytest.mark.parametrize("name", [name for name in accepted.__all__ if name != "__version__"])
def test_an_import_of_a_name_loads_no_server(name: str) -> None:
    assert not loaded_by(f"from accepted import {name}") & HEAVY


def test_submitting_in_a_transaction_loads_no_driver() -> None:
    assert not loaded_by("import accepted.transaction") & HEAVY


def test_a_handler_module_without_a_model_loads_no_server() -> None:
    handler = "from accepted import Context, job\n@job('one')\nasync def one(payload: dict, ctx: Context) -> None: ..."
    assert not loaded_by(handler) & (HEAVY - {"email.utils", "pydantic"})


@pytest.mark.parametrize("arguments", [["--help"], ["jobs", "--help"], ["worker", "--help"]])
def test_a_page_of_help_loads_no_settings_and_no_driver(arguments: list[str]) -> None:
    loaded = loaded_by(f"""
import contextlib, io, os
os.environ |= {{"ACCEPTED_URL": "http://127.0.0.1:8000", "ACCEPTED_API_KEY": "acc_x"}}
from accepted.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main.app({arguments})
""")
    assert "typer" in loaded
    assert not loaded & (HEAVY - {"typer", "pydantic", "email.utils"}), "typer itself loads these"


def test_importtime_shows_no_driver() -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from accepted import job"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "accepted.domain.job" in imported
    assert not imported & HEAVY


def test_the_public_names_are_those_of_their_modules() -> None:
    assert {*accepted.__all__} <= {*dir(accepted)}
    for name in accepted.__all__:
        assert getattr(accepted, name) is not None
    assert accepted.job is importlib.import_module("accepted.handler").job


def test_any_other_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = accepted.nothing
