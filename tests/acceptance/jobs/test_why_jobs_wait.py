"""When and in which order, through real processes on either broker: what makes a job wait, and what says so."""

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

from tests.support.clients.client import PATIENCE, Client, Job
from tests.support.clients.queue_limits import in_order, limit, most_at_once, submit
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.running_service import serving, types_known
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def client(broker_url: str, own_database: str) -> AsyncIterator[Client]:
    async with serving(own_database, {"ACCEPTED_AUTH": "off", "ACCEPTED_BROKER_URL": broker_url}) as running:
        client = running.client()
        await types_known(client)
        yield client


async def why(client: Client, job_id: str) -> dict[str, Any]:
    answer = await client.get(f"/jobs/{job_id}/explain")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def members(client: Client, path: str, jobs: list[Job]) -> list[Job]:
    """The jobs of a batch that was accepted whole, the first one first."""
    answer = await client.http.post(path, json={"jobs": jobs})
    assert answer.status_code == 202, answer.text
    batch: str = answer.json()["id"]
    listed = (await client.get("/jobs", params={"batch_id": batch, "limit": 200})).json()["items"]
    assert len(listed) == len(jobs)
    return listed[::-1]


async def test_a_schedule_fires(client: Client, queue: str, database_server: DatabaseServer, own_database: str) -> None:
    name = f"s-{uuid4()}"
    job = {"type": "noop", "queue": queue}
    assert (await client.http.put(f"/schedules/{name}", json={"cron": "0 0 1 1 *", "job": job})).status_code == 201
    due = f"UPDATE schedules SET next_at = now() - interval '1 second' WHERE name = '{name}'"
    database_server.execute(due, own_database.rsplit("/", 1)[1])

    async def runs() -> list[Any]:
        found: list[Any] = (await client.get(f"/schedules/{name}/runs")).json()["items"]
        return found

    (run,) = await until(runs, PATIENCE, "the run", interval=0.1)
    assert (await client.finished(run["job_id"]))["status"] == "succeeded"


async def test_a_workflow_runs_in_its_order(client: Client, queue: str) -> None:
    def node(ref: str, *depends_on: str) -> Job:
        payload = {"seconds": 0.1}
        return {"type": "sleep", "payload": payload, "queue": queue, "ref": ref, "depends_on": list(depends_on)}

    await limit(client, queue, paused=True)
    jobs = await members(client, "/workflows", [node("d", "b", "c"), node("a"), node("b", "a"), node("c", "a")])
    waits = await why(client, jobs[-1]["id"])
    assert (waits["reason"], waits["jobs"]) == ("waits_for_jobs", 2)
    assert (await why(client, jobs[0]["id"]))["reason"] == "paused"
    await limit(client, queue, paused=False)
    a, b, c, d = [await client.finished(job["id"]) for job in jobs]
    assert {job["status"] for job in (a, b, c, d)} == {"succeeded"}
    assert a["finished_at"] <= min(b["started_at"], c["started_at"])
    assert max(b["finished_at"], c["finished_at"]) <= d["started_at"]


async def test_jobs_and_members_of_one_ordering_key_run_one_at_a_time(client: Client, queue: str) -> None:
    await limit(client, queue, paused=True)
    first = await submit(client, queue, 2, 0.05, ordering_key="k")
    body = {"type": "sleep", "payload": {"seconds": 0.05}, "queue": queue, "ordering_key": "k"}
    line = [*first, *await members(client, "/batches", [body] * 4), *await submit(client, queue, 2, ordering_key="k")]
    for before, job in pairwise(line):
        waits = await why(client, job["id"])
        assert (waits["reason"], waits["waits_for"][0]["id"]) == ("ordering_key", before["id"])
    await limit(client, queue, paused=False)
    done = await in_order(client, line)
    assert [job["id"] for job in done] == [job["id"] for job in line]
    assert most_at_once(done) == 1


async def test_a_unique_key_is_had_by_one_job(client: Client, queue: str) -> None:
    body = {"type": "noop", "queue": queue, "unique": {"key": queue, "until": "finished"}}
    await limit(client, queue, paused=True)
    first = await client.post(body)
    second = await client.post(body)
    assert (first.status_code, second.status_code) == (202, 200)
    assert (second.json()["id"], second.json()["duplicate"]) == (first.json()["id"], True)
    await limit(client, queue, paused=False)
    await client.finished(first.json()["id"])
    assert (await client.post(body)).status_code == 202


async def test_a_delay_and_a_retry_say_when(client: Client, queue: str) -> None:
    later = await client.submit("noop", queue=queue, delay=60)
    waits = await why(client, later["id"])
    assert (waits["reason"], waits["due_at"]) == ("not_due", later["run_at"])
    again = await client.submit("sleep", {"seconds": 30}, queue=queue, timeout=0.2, retry={"schedule": [60]})
    await client.until_status(again["id"], "retrying")
    waits = await why(client, again["id"])
    assert (waits["reason"], waits["last_error"]["class"], waits["next_attempt"]) == ("retry", "timeout", 2)
    assert (await why(client, again["id"]))["due_at"] == (await client.job(again["id"]))["run_at"]
