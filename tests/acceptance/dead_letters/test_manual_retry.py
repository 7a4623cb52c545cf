"""POST /jobs/{id}/retry, and what a follower sees of it. Contract, section 4."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from tests.support.clients.client import Client, check_job, check_problem, from_now
from tests.support.clients.failed_jobs import failed, post


async def test_a_failed_job_runs_again_with_a_fresh_budget(client: Client) -> None:
    job = await failed(client)
    answer = await post(client, f"/jobs/{job['id']}/retry")
    assert answer.status_code == 202
    again = answer.json()
    check_job(again)
    assert (again["id"], again["status"], again["attempt"], again["max_attempts"]) == (job["id"], "queued", 1, 2)
    assert again["error"] is again["finished_at"] is None
    assert answer.headers["location"] == answer.headers["operation-location"] == f"/jobs/{job['id']}"
    assert answer.headers["link"] == f'</jobs/{job["id"]}>; rel="monitor"'
    assert answer.headers["retry-after"] == "1"
    done = await client.finished(job["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 2)
    assert [run["outcome"] for run in await client.attempts(job["id"])] == ["transient", "succeeded"]
    check_problem(await post(client, f"/jobs/{job['id']}/retry"), 409)


async def test_a_follower_who_heard_the_end_hears_what_comes_after_it(client: Client) -> None:
    job = await failed(client)
    first = await asyncio.wait_for(client.all_events(job["id"]), 20)
    assert json.loads(first[-1]["data"])["status"] == "failed"
    last = first[-1]["id"]
    assert await asyncio.wait_for(client.all_events(job["id"], last), 20) == []
    await post(client, f"/jobs/{job['id']}/retry")
    rest = await asyncio.wait_for(client.all_events(job["id"], last), 20)
    statuses = [json.loads(event["data"])["status"] for event in rest]
    assert statuses[0] in ("queued", "running")
    assert statuses[-1] == "succeeded"
    numbers = [int(event["id"]) for event in (*first, *rest)]
    assert numbers == sorted(set(numbers))


async def test_an_expired_job_runs_again_without_its_deadline(client: Client) -> None:
    queue = f"unserved-{uuid4().hex[:8]}"
    job = await client.submit("noop", queue=queue, delay=60, expires_at=from_now(0.5))
    assert (await client.finished(job["id"]))["status"] == "expired"
    again = await post(client, f"/jobs/{job['id']}/retry")
    assert (again.status_code, again.json()["expires_at"]) == (202, None)
    assert (await client.finished(job["id"]))["status"] == "succeeded"


@pytest.mark.parametrize("fields", [{"delay": 60}, {"type": "sleep", "payload": {"seconds": 30}}])
async def test_what_has_not_ended_is_not_retried(client: Client, fields: Any) -> None:
    job = await client.submit(**fields)
    check_problem(await post(client, f"/jobs/{job['id']}/retry"), 409)


async def test_of_many_retries_at_once_one_is_accepted(client: Client) -> None:
    job = await failed(client)
    answers = await asyncio.gather(*(post(client, f"/jobs/{job['id']}/retry") for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 11
    assert (await client.finished(job["id"]))["attempt"] == 2


async def test_who_may_retry(client: Client, other: Client, trio: Any, keys: dict[str, str]) -> None:
    job = await failed(client)
    path = f"/jobs/{job['id']}/retry"
    check_problem(await post(other, path), 404)
    check_problem(await post(client, f"/jobs/{uuid4()}/retry"), 404)
    check_problem(await post(client, "/jobs/no-uuid/retry"), 404)
    check_problem(await post(trio.client(keys["reader"]), path), 403)
    check_problem(await post(trio.client(), path), 401)
    check_problem(await post(client, f"{path}?now=1"), 422, "/now")
    assert (await post(trio.client(keys["writer"]), path)).status_code == 202
