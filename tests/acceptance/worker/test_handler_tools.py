"""The effects of a handler's tools: in the job, its events, long polls and `accepted jobs watch`."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.clients.client import Client
from tests.support.handlers import using_tools
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.processes import StartService
from tests.support.service.running_service import BOOT_WITHIN, Running, serving, types_known
from tests.support.waiting import until

HANDLERS = {"ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.support.handlers.using_tools"}


@pytest.fixture(scope="module")
async def tooled(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Running]:
    """A service in one process, with handlers that use their tools."""
    name = f"tools_{uuid4().hex}"
    url = database_server.create_database(name, template=database_template)
    async with serving(url, HANDLERS, dev=True) as running:
        await types_known(running.client())
        yield running
    database_server.drop_database(name)


@pytest.fixture(scope="module")
def client(tooled: Running) -> Client:
    return tooled.client()


async def test_events_have_progress_between_the_statuses(client: Client) -> None:
    job = await client.submit("reports")
    events = await asyncio.wait_for(client.all_events(job["id"]), 40)
    told = [(event["event"], json.loads(event["data"])) for event in events]
    said = [data["percent"] for what, data in told if what == "progress"]
    assert said == sorted(set(said))
    assert len(said) >= 3
    assert said[-1] == 100
    assert {data["attempt"] for what, data in told if what == "progress"} == {1}
    assert told[-1][1]["status"] == "succeeded", "the end comes last"
    assert all("id" not in event for event in events if event["event"] == "progress")
    afterwards = await client.all_events(job["id"])
    assert [event["event"] for event in afterwards[-2:]] == ["progress", "status"], "also for a late client"


async def test_a_stream_resumed_after_progress_misses_nothing(client: Client) -> None:
    """Progress has no id, so the last one that a client knows is that of the status before it."""
    job = await client.submit("reports")
    last = ""
    async with client.events(job["id"]) as events:
        async for event in events:
            last = event.get("id", last)
            if event["event"] == "progress":
                break
    rest = await asyncio.wait_for(client.all_events(job["id"], last), 40)
    assert rest[0]["event"] == "progress", "the latest is sent again"
    statuses = [json.loads(event["data"])["status"] for event in rest if event["event"] == "status"]
    assert statuses == ["succeeded"]
    assert await client.all_events(job["id"], rest[-1]["id"]) == []


async def test_a_long_poll_wakes_at_progress(client: Client) -> None:
    job = await client.submit("reports", {"parts": 2, "seconds": 3})
    await client.until_status(job["id"], "running")
    first = await client.get(f"/jobs/{job['id']}")
    headers = {"if-none-match": first.headers["etag"]}
    second = await asyncio.wait_for(client.get(f"/jobs/{job['id']}?wait=20", headers=headers), 6)
    assert second.status_code == 200
    assert second.json()["status"] == "running"
    assert second.json()["progress"] != first.json()["progress"]


async def test_watch_shows_a_bar(tooled: Running, client: Client, start_service: StartService, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    job = await client.submit("reports", {"seconds": 0.1, "wait_for": str(go_on)})
    env = {"ACCEPTED_URL": tooled.url, "COLUMNS": "120", "FORCE_COLOR": "1"}
    watch = start_service("jobs", "watch", job["id"], env=env)
    await until(lambda: "50 % part 2" in watch.log(10_000), BOOT_WITHIN, "the bar to show where the job is")
    go_on.touch()
    assert await watch.wait_exit() == 0
    assert "100 % done" in watch.log(10_000)


async def test_a_worker_killed_before_the_commit_leaves_its_steps_and_nothing_else(
    database_url: str, database_server: DatabaseServer, tmp_path: Path
) -> None:
    name, journal = database_url.rsplit("/", 1)[1], tmp_path / "journal"
    database_server.execute("CREATE TABLE public.payments (job_id uuid, attempt int)", name)
    env = {**HANDLERS, using_tools.JOURNAL: str(journal), "ACCEPTED_AUTH": "off", "ACCEPTED_LEASE_TTL": "3"}
    async with serving(database_url, env) as running:
        client, worker = running.client(), running.services["worker"]
        await types_known(client)
        job = await client.submit("pays", {"die_attempts": 1})
        await until(lambda: not worker.running, BOOT_WITHIN, "the worker to be killed")
        assert (await client.job(job["id"]))["status"] == "running"
        assert database_server.execute("SELECT count(*) FROM public.payments", name) == "0"
        assert [one["type"] for one in (await client.get("/jobs")).json()["items"]] == ["pays"]

        worker.start()

        done = await client.finished(job["id"])
        assert (done["status"], done["attempt"], done["result"]) == ("succeeded", 2, 42)
        assert [one["outcome"] for one in await client.attempts(job["id"])] == ["crashed", "succeeded"]
        assert journal.read_text().split() == [job["id"]], "charged once"
        assert database_server.execute("SELECT attempt FROM public.payments", name) == "2"
        (child,) = (await client.get("/jobs?type=noop")).json()["items"]
        assert (child["parent_id"], child["root_id"]) == (job["id"], job["id"])
        assert (await client.finished(child["id"]))["status"] == "succeeded"
