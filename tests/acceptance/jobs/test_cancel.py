"""POST /jobs/{id}/cancel, and `accepted jobs cancel`. Contract, section 4."""

import json
import time
from collections.abc import Mapping
from uuid import uuid4

import pytest

from tests.support.clients.client import Client, check_job, check_problem
from tests.support.servers.receiver import Receiver
from tests.support.service.running_service import Running, accepted

PROMISED = 2.0  # seconds for a running job whose handler is async
POLLING = 0.5  # seconds that the test itself may take to see it


async def test_a_waiting_job_is_cancelled_at_once(client: Client) -> None:
    async with Receiver() as receiver:
        job = await client.submit("noop", delay=600, callback_url=receiver.url, callback_events=["job.cancelled"])
        answer = await client.http.post(job["links"]["cancel"])
        assert answer.status_code == 202
        cancelled = answer.json()
        check_job(cancelled)
        assert (cancelled["id"], cancelled["status"]) == (job["id"], "cancelled")
        assert cancelled["error"] == {"class": "cancelled", "message": "cancelled on request", "attempt": 0}
        assert cancelled["finished_at"] is not None
        assert answer.headers["location"] == f"/jobs/{job['id']}"
        assert "retry-after" not in answer.headers
        assert await client.job(job["id"]) == cancelled
        (told,) = await receiver.wait_for(1)
        assert json.loads(told.body)["type"] == "job.cancelled"
        assert [event["event"] for event in await client.all_events(job["id"])] == ["status"]


async def test_a_running_job_is_cancelled_within_2_s_and_again_changes_nothing(client: Client) -> None:
    job = await client.submit("sleep", {"seconds": 600})
    await client.until_status(job["id"], "running")
    began = time.monotonic()
    first, second = [await client.http.post(f"/jobs/{job['id']}/cancel") for _ in range(2)]
    assert first.status_code == 202
    seen = (first.json()["status"], first.headers.get("retry-after"))
    assert seen in {("running", "1"), ("cancelled", None)}, "the worker may be faster than the answer"
    assert second.status_code in {202, 409}, "409: it is cancelled already"
    done = await client.finished(job["id"])
    took = time.monotonic() - began
    assert (done["status"], done["error"]["class"], done["attempt"]) == ("cancelled", "cancelled", 1)
    assert took <= PROMISED + POLLING, f"{took:.2f} s"
    (attempt,) = await client.attempts(job["id"])
    assert attempt["outcome"] == "cancelled"
    events = [json.loads(event["data"])["status"] for event in await client.all_events(job["id"])]
    assert events == ["queued", "running", "cancelled"]


async def test_a_job_that_waits_for_its_retry_is_cancelled(client: Client) -> None:
    job = await client.submit("sleep", {"seconds": 0, "fail_attempts": 9}, retry={"schedule": [600]})
    await client.until_status(job["id"], "retrying")
    assert (await client.http.post(f"/jobs/{job['id']}/cancel")).json()["status"] == "cancelled"
    done = await client.job(job["id"])
    assert done["error"] == {"class": "cancelled", "message": "cancelled on request", "attempt": 1}


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
async def test_a_finished_job_is_409(client: Client, end: str) -> None:
    if end == "cancelled":
        job = await client.submit("noop", delay=600)
        await client.http.post(f"/jobs/{job['id']}/cancel")
    else:
        job = await client.finish(
            "sleep", {"seconds": 0, "fail_attempts": int(end == "failed")}, retry={"max_attempts": 1}
        )
    before = await client.job(job["id"])
    assert before["status"] == end
    problem = check_problem(await client.http.post(f"/jobs/{job['id']}/cancel"), 409)
    assert end in problem["detail"]
    assert await client.job(job["id"]) == before


async def test_what_is_not_there_is_404(client: Client, other: Client) -> None:
    job = await client.submit("noop", delay=600)
    check_problem(await other.http.post(f"/jobs/{job['id']}/cancel"), 404)
    check_problem(await client.http.post("/jobs/no-uuid/cancel"), 404)
    check_problem(await client.http.post(f"/jobs/{uuid4()}/cancel"), 404)
    assert (await client.job(job["id"]))["status"] == "scheduled"


async def test_it_takes_the_scope_jobs_write(
    trio: Running, keys: Mapping[str, str], client: Client, anonymous: Client
) -> None:
    job = await client.submit("noop", delay=600)
    check_problem(await anonymous.http.post(f"/jobs/{job['id']}/cancel"), 401)
    check_problem(await trio.client(keys["reader"]).http.post(f"/jobs/{job['id']}/cancel"), 403)
    assert (await trio.client(keys["writer"]).http.post(f"/jobs/{job['id']}/cancel")).status_code == 202


async def test_at_a_terminal(trio: Running, keys: Mapping[str, str], client: Client) -> None:
    env = {**trio.env, "ACCEPTED_API_KEY": keys["acme"]}
    job = await client.submit("noop", delay=600)
    done = await accepted("jobs", "cancel", job["id"], "--json", env=env)
    assert (done.code, json.loads(done.out)["status"]) == (0, "cancelled")
    again = await accepted("jobs", "cancel", job["id"], env=env)
    assert again.code == 1
    assert "409" in again.err
