"""What a command says before it starts anything: a port in use, unknown settings, names that cannot be, odd paths."""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients.client import Client
from tests.support.servers.ports import free_port
from tests.support.service.processes import Service, answers
from tests.support.service.running_service import BOOT_WITHIN, accepted, run_to_end, types_known

NOBODY = "postgresql://user:hunter2secret@127.0.0.1:1/db"
LEDGER = {"ACCEPTED_DATABASE_URL": NOBODY}


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("command", [("dev",), ("api",), ("api", "--workers", "2")], ids=" ".join)
async def test_a_port_in_use_is_said_before_anything_starts(
    port_in_use: int, tmp_path: Path, command: tuple[str, ...]
) -> None:
    data = ["--data-dir", str(tmp_path / "data")] if command[0] == "dev" else []
    env = {} if command[0] == "dev" else LEDGER
    done = await accepted(*command, "--port", str(port_in_use), *data, env=env)
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith(f"accepted: cannot listen on port {port_in_use} of 127.0.0.1: another process uses it")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("host", "why"), [("203.0.113.7", "no address of this machine"), ("no such host", "neither an address nor")]
)
async def test_a_host_that_is_not_ours(host: str, why: str) -> None:
    done = await accepted("api", "--host", host, "--port", str(free_port()), env=LEDGER)
    (line,) = done.err.splitlines()
    assert done.code == 1
    assert host in line
    assert why in line


async def test_an_unknown_setting_is_a_warning_of_every_command(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ACCEPTED_LEASE_TLL=5\n")
    env = {"ACCEPTED_HANDLER": "shop.jobs", "ACCEPTED_URL": "http://127.0.0.1:1", "ACCEPTED_SOMETHING": "else"}
    several = asyncio.gather(
        accepted("jobs", "list", env=env, cwd=str(tmp_path)),
        accepted("migrate", "--sql", env=env, cwd=str(tmp_path)),
        accepted("api", "--host", "203.0.113.7", env=env | LEDGER, cwd=str(tmp_path)),
        accepted("worker", env=env | LEDGER | {"ACCEPTED_HANDLERS": "nowhere.to.be.found"}, cwd=str(tmp_path)),
    )
    listed, migrated, api, worker = await several
    assert (listed.code, migrated.code, api.code, worker.code) == (1, 0, 1, 1)
    for done in (listed, migrated):
        assert done.err.splitlines()[:3] == [
            "accepted: ACCEPTED_HANDLER is no setting and is ignored; did you mean ACCEPTED_HANDLERS?",
            "accepted: ACCEPTED_SOMETHING is no setting and is ignored",
            "accepted: ACCEPTED_LEASE_TLL is no setting and is ignored; did you mean ACCEPTED_LEASE_TTL?",
        ]
    for done in (api, worker):
        lines = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
        assert [(line["event"], line["level"], line["name"], line["did_you_mean"]) for line in lines] == [
            ("unknown_setting", "warning", "ACCEPTED_HANDLER", "ACCEPTED_HANDLERS"),
            ("unknown_setting", "warning", "ACCEPTED_SOMETHING", None),
            ("unknown_setting", "warning", "ACCEPTED_LEASE_TLL", "ACCEPTED_LEASE_TTL"),
        ]


@pytest.mark.parametrize("command", ["api", "worker", "scheduler"])
async def test_a_required_setting_that_is_misspelt(command: str) -> None:
    done = await accepted(command, env={"ACCEPTED_DATABASE_URI": NOBODY})
    assert done.code == 1
    assert done.err.splitlines() == [
        "accepted: ACCEPTED_DATABASE_URI is no setting and is ignored; did you mean ACCEPTED_DATABASE_URL?",
        "accepted: ACCEPTED_DATABASE_URL is required, e.g. postgresql://user:password@host/accepted",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("worker", "--queues", "bad queue!"), "'bad queue!' cannot be the name of a queue"),
        (("worker", "--queues", "good,../bad"), "'../bad' cannot be the name of a queue"),
        (("worker", "--queues", " , "), "names no queue"),
        (("jobs", "submit", "noop", "--delay", "nan"), "not JSON compliant"),
        (("jobs", "submit", "noop", "--idempotency-key", "schlüssel"), "ascii"),
        (("dev", "--data-dir", "/dev/null/data"), "/dev/null/data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_a_value_that_cannot_be_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    port = ("--port", str(free_port())) if arguments[0] == "dev" else ()
    env = {} if arguments[0] == "dev" else LEDGER
    done = await accepted(*arguments, *port, env=env)
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    assert said in line


@pytest.mark.parametrize("name", ["a blank, a ' and a \", ünïcödé $(id) `id` 100% #1 & co: {x}"])
async def test_dev_works_in_a_directory_of_any_name(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    port = free_port()
    env = {"ACCEPTED_HANDLERS": "accepted_worker.handlers", "ACCEPTED_SHUTDOWN_GRACE": "3"}
    dev = Service("dev", "--port", str(port), env=env, directory=directory).start()
    try:
        await dev.wait_ready(answers(f"http://127.0.0.1:{port}/readyz"), BOOT_WITHIN)
        client = Client(f"http://127.0.0.1:{port}")
        await types_known(client)
        assert (await client.finish("noop"))["status"] == "succeeded"
        picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
        thumbnail = await client.finish("image.thumbnail", {"image": picture, "width": 1, "height": 1})
        assert thumbnail["status"] == "succeeded", thumbnail["error"]
        assert await dev.terminate(60) == 0
        assert (directory / ".accepted" / "postgres" / "PG_VERSION").exists()
        assert not (directory / ".accepted" / "postgres" / "postmaster.pid").exists()
    finally:
        dev.remove()


async def test_a_scheduler_imports_no_handlers(tmp_path: Path) -> None:
    program = (
        "import sys, accepted_worker.scheduler_process; print(*({'PIL', 'accepted_worker.handlers'} & {*sys.modules}))"
    )
    done = await run_to_end([sys.executable, "-c", program], env={}, cwd=str(tmp_path))
    assert (done.code, done.out.strip()) == (0, "")
