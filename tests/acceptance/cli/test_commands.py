"""The command line: wrong settings, migrations, signals. Contract, sections 1 and 2."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.clients.client import Client
from tests.support.servers.ports import free_port
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.processes import StartService, answers, logged
from tests.support.service.running_service import BOOT_WITHIN, Done, Running, accepted, serving, types_known

NOBODY = "postgresql://user:hunter2secret@127.0.0.1:1/db"

WRONG = {
    "AUTH": ("maybe", "required"),
    "IDEMPOTENCY_KEY": ("sometimes", "optional"),
    "IDEMPOTENCY_TTL": ("-1", ""),
    "MAX_BODY_BYTES": ("many", ""),
    "MAX_PAYLOAD_BYTES": ("-5", ""),
    "MAX_RESULT_BYTES": ("1.5", ""),
    "EGRESS_ALLOW": ("300.0.0.0/8", ""),
    "RETENTION": ("5 fortnights", ""),
    "SHUTDOWN_GRACE": ("-1", ""),
    "MAX_FANOUT_DEPTH": ("-1", ""),
    "MAX_FANOUT_JOBS": ("many", ""),
    "ACK_WITHIN": ("soon", ""),
    "LEASE_TTL": ("0", ""),
    "HANDLERS": ("no.such.module", ""),
}
WRONG_SECRETS = {
    "DATABASE_URL": "mysql://user:hunter2secret@127.0.0.1/db",
    "BROKER_URL": "redis://user:hunter2secret@127.0.0.1/",
    "WEBHOOK_SECRET": "whsec_hunter2secret",
    "ALERT_URL": "https://user:hunter2secret@example.com/",
}
AT_ONCE = 4


@pytest.fixture(scope="module")
async def refusals() -> dict[str, Done]:
    """The output of a worker for each wrong setting; started a few at a time, because each takes seconds."""
    few = asyncio.Semaphore(AT_ONCE)

    async def start(name: str, value: str) -> Done:
        async with few:
            return await accepted("worker", env={"ACCEPTED_DATABASE_URL": NOBODY, f"ACCEPTED_{name}": value})

    wanted = {name: value for name, (value, _) in WRONG.items()} | WRONG_SECRETS
    return dict(zip(wanted, await asyncio.gather(*(start(*item) for item in wanted.items())), strict=True))


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_setting_stops_the_start_with_one_line(refusals: dict[str, Done], name: str) -> None:
    done = refusals[name]
    assert done.code not in (0, -9)
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert f"ACCEPTED_{name}" in line
    value, allowed = WRONG[name]
    assert value in line
    assert allowed in line
    assert "hunter2" not in line


@pytest.mark.parametrize("name", WRONG_SECRETS)
async def test_a_wrong_secret_is_not_shown(refusals: dict[str, Done], name: str) -> None:
    done = refusals[name]
    assert done.code not in (0, -9)
    (line,) = (done.out + done.err).splitlines()
    assert f"ACCEPTED_{name}" in line
    assert "hunter2" not in line


async def test_a_missing_database_and_a_dot_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"ACCEPTED_DATABASE_URL={NOBODY}\nACCEPTED_AUTH=perhaps\n")
    missing, file = await asyncio.gather(accepted("api", env={}), accepted("api", env={}, cwd=str(tmp_path)))
    for done, name in ((missing, "ACCEPTED_DATABASE_URL"), (file, "ACCEPTED_AUTH")):
        assert done.code not in (0, -9)
        (line,) = done.err.splitlines()
        assert name in line
    assert "perhaps" in file.err


async def test_migrations_from_several_places_at_once_and_again(
    empty_database_url: str, database_server: DatabaseServer
) -> None:
    env = {"ACCEPTED_DATABASE_URL": empty_database_url}
    at_once = await asyncio.gather(*(accepted("migrate", env=env) for _ in range(4)))
    again = await accepted("migrate", env=env)
    assert [done.code for done in (*at_once, again)] == [0] * 5, at_once
    name = empty_database_url.rsplit("/", 1)[1]
    assert database_server.execute("SELECT count(*) FROM alembic_version", name) == "1"


async def test_a_migration_while_the_service_runs(trio: Running, client: Client) -> None:
    migration = asyncio.ensure_future(accepted("migrate", env=trio.env))
    while not migration.done():
        assert (await client.post({"type": "noop"})).status_code == 202
    assert migration.result().code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_each_process_ends_with_0(database_url: str, start_service: StartService, number: signal.Signals) -> None:
    env = {"ACCEPTED_DATABASE_URL": database_url, "ACCEPTED_SHUTDOWN_GRACE": "5"}
    port = free_port()
    api = start_service("api", "--port", str(port), env=env)
    worker, scheduler = start_service("worker", env=env), start_service("scheduler", env=env)
    await api.wait_ready(answers(f"http://127.0.0.1:{port}/readyz"), BOOT_WITHIN)
    await worker.wait_ready(logged("ready"), BOOT_WITHIN)
    await scheduler.wait_ready(logged("ready"), BOOT_WITHIN)
    for service in (api, worker, scheduler):
        service.signal(number)
    codes = [await service.wait_exit(40) for service in (api, worker, scheduler)]
    assert codes == [0, 0, 0]
    assert all("_stopping" in service.log() for service in (api, worker, scheduler))
    assert all("Traceback" not in service.log() for service in (api, worker, scheduler))


async def test_who_is_stopped_before_the_ledger_is_there_was_never_ready(start_service: StartService) -> None:
    waiting = [start_service(name, env={"ACCEPTED_DATABASE_URL": NOBODY}) for name in ("worker", "scheduler")]
    for service in waiting:
        await service.wait_ready(logged("waiting_for_ledger"), BOOT_WITHIN)
        service.signal(signal.SIGTERM)
    for service in waiting:
        assert await service.wait_exit(40) == 0
        events = [json.loads(line)["event"] for line in service.log().splitlines()]
        assert set(events) == {"waiting_for_ledger", "stopped_before_ready"}
        assert "127.0.0.1:1, user 'user', database 'db': connection refused" in service.log()
        assert "hunter2" not in service.log()


@pytest.mark.parametrize("command", ["api", "api --workers 2", "dev"])
async def test_the_url_is_logged_when_it_answers(database_url: str, start_service: StartService, command: str) -> None:
    """With the port that was bound: whoever reads the line may connect at once. A stop says what it waits for."""
    service = start_service(*command.split(), "--port", "0", env={"ACCEPTED_DATABASE_URL": database_url})
    await service.wait_ready(logged(f"accepted_{command.split()[0]}"), BOOT_WITHIN)
    found = re.search(r"http://127\.0\.0\.1:[1-9]\d*", service.log())
    assert found is not None, service.log()
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{found[0]}/healthz")).status_code == 200
    assert await service.terminate(60) == 0
    assert "api_stopping" in service.log()


@pytest.mark.parametrize("end", ["\n", " ", "\t", "é"])
async def test_a_key_is_never_shown(trio: Running, keys: Mapping[str, str], end: str) -> None:
    """A key that was read from a file ends in a line break, which is not a part of it."""
    done = await accepted("jobs", "list", env={**trio.env, "ACCEPTED_API_KEY": keys["acme"] + end})
    assert done.code == (1 if end == "é" else 0), done.err
    assert keys["acme"] not in done.out + done.err
    assert len(done.err.splitlines()) <= 1


async def test_a_password_in_the_url_is_never_shown(trio: Running) -> None:
    for url in ("http://u:hunter2@127.0.0.1:1", "http://u:hunter2/@127.0.0.1:1", "http://u:hunter2@[127"):
        done = await accepted("jobs", "list", env={"ACCEPTED_URL": url})
        assert done.code == 1
        assert len(done.err.splitlines()) == 1
        assert "hunter2" not in done.err


@pytest.fixture
async def dev_alone(tmp_path: Path) -> AsyncIterator[tuple[Client, Running]]:
    """`accepted dev` on its embedded PostgreSQL."""
    env = {"ACCEPTED_SHUTDOWN_GRACE": "5"}
    async with serving("", env, dev=True, more=["--data-dir", str(tmp_path / "data")]) as running:
        client = running.client()
        await types_known(client)
        yield client, running
        await running.services["dev"].terminate(60)  # a kill would leave its PostgreSQL running


async def test_dev_needs_nothing_and_keeps_its_data(dev_alone: tuple[Client, Running]) -> None:
    client, running = dev_alone
    dev = running.services["dev"]
    job = await client.finish("noop")
    running_job = await client.submit("sleep", {"seconds": 2})
    await client.until_status(running_job["id"], "running")
    assert await dev.terminate(60) == 0
    dev.start()
    await dev.wait_ready(answers(f"{running.url}/readyz"), BOOT_WITHIN)
    assert await client.job(job["id"]) == job
    finished = await client.finished(running_job["id"])
    assert (finished["status"], finished["attempt"]) == ("succeeded", 1), "finished within the grace"
    assert "Warning" not in dev.log()


async def test_the_next_dev_stops_what_a_killed_one_left_running(
    dev_alone: tuple[Client, Running], tmp_path: Path
) -> None:
    client, running = dev_alone
    dev = running.services["dev"]
    job = await client.finish("noop")
    postmaster = tmp_path / "data" / "postgres" / "postmaster.pid"
    dev.kill()
    assert postmaster.exists()
    dev.start()
    await dev.wait_ready(answers(f"{running.url}/readyz"), BOOT_WITHIN)
    assert await client.job(job["id"]) == job
    assert await dev.terminate(60) == 0
    assert not postmaster.exists()


async def test_a_stopping_worker_hands_back_what_it_cannot_finish(database_url: str) -> None:
    """A job longer than the grace goes back to its queue, without a used attempt, and another worker runs it."""
    async with serving(database_url, {"ACCEPTED_AUTH": "off", "ACCEPTED_SHUTDOWN_GRACE": "1"}) as running:
        client = running.client()
        await types_known(client)
        worker = running.services["worker"]
        job = await client.submit("sleep", {"seconds": 6}, retry={"max_attempts": 1})
        await client.until_status(job["id"], "running")
        assert await worker.terminate(40) == 0
        said = {line["event"]: line for line in map(json.loads, worker.log().splitlines())}
        assert said["worker_stopping"]["waits_for"] == [job["id"]]
        assert said["jobs_handed_back"]["count"] == 1
        waiting = await client.job(job["id"])
        assert waiting["status"] == "queued"
        worker.start()
        done = await client.finished(job["id"])
        assert done["status"] == "succeeded"
        numbers = [attempt["attempt"] for attempt in await client.attempts(job["id"])]
        assert numbers == sorted(set(numbers))
