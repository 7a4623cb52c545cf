"""The wheel in a fresh environment, beside a user's project that has packages called `app` and `workers`."""

import json
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import accepted
from tests.support.servers.ports import free_port
from tests.support.service.installed_wheel import Environment, build_wheel, install, write_project
from tests.support.service.processes import ROOT, Service, answers, clean_environment
from tests.support.service.running_service import BOOT_WITHIN
from tests.support.waiting import until

NO_PATH = {"PYTHONPATH": "", "PYTHONPYCACHEPREFIX": ""}
"""Nothing of this tree is importable. Bytecode is kept beside the dependencies, where the next run finds it."""

LOOK = """
import json
import accepted
from accepted import AuthError, Context, InvalidJob, LeaseLost, NotFound, RateLimited, Retry, TransientError, job
from app import jobs
print(json.dumps([accepted.__file__, accepted.__version__]))
"""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Not pytest's: each session that starts closes those to the user that the embedded PostgreSQL runs as."""
    with tempfile.TemporaryDirectory(prefix="accepted-wheel-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def wheel(directory: Path) -> Path:
    return build_wheel(directory / "dist")


@pytest.fixture(scope="module")
def base(wheel: Path, directory: Path) -> Environment:
    """The wheel without any extra."""
    return install(wheel, directory / "base")


@pytest.fixture(scope="module")
def server(wheel: Path, directory: Path) -> Environment:
    """The wheel with `server`."""
    return install(wheel, directory / "server", "server")


@pytest.fixture(scope="module")
def dev(wheel: Path, directory: Path) -> Environment:
    """The wheel with `dev`, `images` and `email`."""
    return install(wheel, directory / "dev", "dev", "images", "email")


@pytest.fixture(scope="module")
def project(directory: Path) -> Path:
    return write_project(directory / "shop")


def run(
    environment: Environment, *arguments: str, project: Path, **settings: str
) -> "subprocess.CompletedProcess[str]":
    """`accepted …` in the project's directory."""
    env = clean_environment() | NO_PATH | {f"ACCEPTED_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [environment.program, *arguments], env=env, cwd=project, capture_output=True, text=True, timeout=60
    )


async def finished(url: str, type_: str) -> dict[str, Any]:
    """A job of `type_`, submitted over HTTP as soon as its type is known, and waited for."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:

        async def known() -> bool:
            return type_ in {one["name"] for one in (await client.get("/job-types")).json()["items"]}

        await until(known, BOOT_WITHIN, f"{type_} is known")
        body = {"type": type_, "payload": {"name": "Ada"}}
        answer = await client.post("/jobs", json=body, headers={"Prefer": "wait=30"})
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job


def test_the_wheel_is_whole(wheel: Path) -> None:
    assert wheel.name == f"accepted-{accepted.__version__}-py3-none-any.whl"
    inside = {*zipfile.ZipFile(wheel).namelist()}
    migrations = {f"accepted/migrations/{p.relative_to(ROOT / 'alembic')}" for p in (ROOT / "alembic").rglob("*.py")}
    sources = {str(p.relative_to(top)) for top in (ROOT / "app", ROOT / "workers") for p in top.rglob("*.py")}
    assert {*migrations, *sources, "accepted/py.typed", "accepted_worker/py.typed"} <= inside
    assert {name.partition("/")[0] for name in inside} == {
        "accepted", "accepted_worker", f"accepted-{accepted.__version__}.dist-info",
    }  # fmt: skip


def test_the_base_has_what_a_handler_module_needs(base: Environment, project: Path) -> None:
    env = clean_environment() | NO_PATH
    done = subprocess.run([base.python, "-c", LOOK], env=env, cwd=project, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    path, version = json.loads(done.stdout)
    assert Path(path).is_relative_to(base.python.parents[1])
    assert version == accepted.__version__


def test_the_base_names_the_extra_that_a_process_needs(base: Environment, project: Path) -> None:
    shown = run(base, "--version", project=project)
    assert (shown.returncode, shown.stdout) == (0, f"accepted {accepted.__version__}\n")
    for command in ("api", "worker"):
        done = run(base, command, project=project, DATABASE_URL="postgresql://127.0.0.1:1/none")
        assert done.returncode == 1
        assert re.fullmatch(r"accepted: \w+ is not installed: pip install 'accepted\[server\]'\n", done.stderr)
    embedded = run(base, "dev", project=project)
    assert embedded.returncode == 1
    assert re.fullmatch(r"accepted: .+ pip install 'accepted\[dev\]', or give --database-url\n", embedded.stderr)


async def test_dev_runs_jobs_of_the_project(dev: Environment, project: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = NO_PATH | {"ACCEPTED_HANDLERS": "workers.handlers,app.jobs"}
    service = Service("dev", "--port", str(port), env=env, program=dev.program, directory=project)
    try:
        await service.start().wait_ready(answers(f"{url}/readyz"), BOOT_WITHIN)
        assert (await finished(url, "shop.greet"))["result"] == {"greeting": "hello Ada"}
        assert (await finished(url, "shop.count"))["result"] == {"letters": 3}
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            types = {one["name"] for one in (await client.get("/job-types")).json()["items"]}
        assert {"email.send", "http.request", "image.thumbnail", "noop"} <= types
        assert await service.terminate() == 0, service.log()
    finally:
        service.remove()


async def test_the_three_processes_run_from_the_wheel(
    server: Environment, base: Environment, project: Path, empty_database_url: str
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"DATABASE_URL": empty_database_url, "AUTH": "off", "HANDLERS": "accepted_worker.handlers,app.jobs"}
    migrated = run(server, "migrate", project=project, **settings)
    assert migrated.returncode == 0, migrated.stderr
    env = NO_PATH | {f"ACCEPTED_{name}": value for name, value in settings.items()}
    commands = (["api", "--port", str(port)], ["worker"], ["scheduler"])
    services = [Service(*command, env=env, program=server.program, directory=project) for command in commands]
    try:
        for service in services:
            service.start()
        await services[0].wait_ready(answers(f"{url}/readyz"), BOOT_WITHIN)
        assert (await finished(url, "shop.greet"))["result"] == {"greeting": "hello Ada"}
        submitted = run(base, "jobs", "submit", "noop", "--json", project=project, URL=url)
        assert submitted.returncode == 0, submitted.stderr
        assert json.loads(submitted.stdout)["type"] == "noop"
        assert "pip install 'accepted[images]'" in services[1].log()
        codes = [await service.terminate() for service in services]
        assert codes == [0, 0, 0], [service.log() for service in services]
    finally:
        for service in services:
            service.remove()
