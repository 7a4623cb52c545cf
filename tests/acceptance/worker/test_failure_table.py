"""Rows of the failure table that no answer and no exception of a handler makes. Contract, section 5.

Through HTTP, with the calls that the target saw, as in `test_failures.py` and `handlers/test_http_request.py`; for
`crashed` it is in `test_harmful_handlers.py`, for forbidden addresses in `handlers/test_egress.py`.
"""

import asyncio
from typing import Any

import pytest

from tests.support.clients.client import Client, Job, seconds_between
from tests.support.handlers.misbehaving import RETURNED
from tests.support.servers.receiver import Answer, Receiver, Request
from tests.support.service.processes import StartService, logged
from tests.support.service.running_service import BOOT_WITHIN, Running
from tests.support.waiting import until

LATER = {"ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.support.handlers.later_version"}


@pytest.fixture(scope="module")
def client(running: Running) -> Client:
    return running.client()


async def is_dead(client: Client, job: Job, failure: str) -> None:
    """The job has failed with this class, and is a dead letter."""
    assert (job["status"], job["error"]["class"]) == ("failed", failure)
    (letter,) = (await client.get(f"/dead-letters?ids={job['id']}")).json()["items"]
    assert (letter["id"], letter["class"]) == (job["id"], failure)


async def test_a_job_that_times_out_is_retried_until_it_is_a_dead_letter(client: Client, target: Receiver) -> None:
    target.respond = lambda _: Answer(after=300)
    limits = {"timeout": 1, "retry": {"max_attempts": 3, "schedule": [0.2, 0.6], "jitter": 0}}
    patient: dict[str, dict[str, Any]] = {
        "http.request": {"timeout": 60},
        "calls": {"patience": 60},
        "calls.thread": {"patience": 60},
    }
    jobs = [
        await client.submit(name, {"url": f"{target.url}/{name}", **how}, **limits) for name, how in patient.items()
    ]
    for job in jobs:
        dead = await client.finished(job["id"])
        await is_dead(client, dead, "timeout")
        assert "ran longer than 1 s" in dead["error"]["message"]
        assert [request.path for request in target.requests].count(f"/{job['type']}") == dead["attempt"] == 3
        first, second, third = await client.attempts(job["id"])
        assert {each["outcome"] for each in (first, second, third)} == {"timeout"}
        assert seconds_between(first["finished_at"], second["started_at"]) >= 0.2
        assert seconds_between(second["finished_at"], third["started_at"]) >= 0.6


async def test_a_deadlock_of_two_handlers_costs_one_of_them_an_attempt(client: Client, target: Receiver) -> None:
    both = asyncio.Event()

    async def once_both_have_locked(_: Request) -> Answer:
        if len(target.requests) == 2:
            both.set()
        await both.wait()
        return Answer()

    target.respond = once_both_have_locked
    crosswise = [{"first": 1, "then": 2}, {"first": 2, "then": 1}]
    jobs = [await client.submit("calls.and.locks", {"url": target.url, "patience": 8, **locks}) for locks in crosswise]
    done = sorted([await client.finished(job["id"]) for job in jobs], key=lambda job: job["attempt"])
    assert [(job["status"], job["attempt"]) for job in done] == [("succeeded", 1), ("succeeded", 2)]
    assert len(target.requests) == 3
    victim, _ = await client.attempts(done[1]["id"])
    assert victim["error"]["class"] == "transient"
    assert "DeadlockDetected" in victim["error"]["message"]


@pytest.mark.parametrize("returns", list(RETURNED))
async def test_a_result_that_cannot_be_stored_is_invalid_at_once(
    client: Client, target: Receiver, returns: str
) -> None:
    job = await client.finish("calls.and.returns", {"url": target.url, "returns": returns})
    await is_dead(client, job, "invalid")
    assert (job["attempt"], job["result"], len(target.requests)) == (1, None, 1)
    assert ("larger than" if returns == "too much" else "not JSON") in job["error"]["message"]


@pytest.mark.parametrize(
    ("type_", "end", "calls", "result"),
    [
        ("calls.thread", "failed", 1, None),
        ("calls.retry", "failed", 2, None),
        ("calls.skip", "succeeded", 1, {"skipped": True}),
    ],
)
async def test_so_is_not_found_when_it_is_raised(
    client: Client, target: Receiver, type_: str, end: str, calls: int, result: Any
) -> None:
    job = await client.finish(type_, {"url": target.url, "raises": "NotFound"})
    assert (job["status"], job["attempt"], job["result"]) == (end, calls, result)
    assert len(target.requests) == calls
    if end == "failed":
        await is_dead(client, job, "not_found")


async def test_a_payload_that_no_longer_fits_is_invalid_and_makes_no_call(
    client: Client, running: Running, target: Receiver, start_service: StartService
) -> None:
    """Accepted under the old version of its type, run by the next."""
    worker = running.services["worker"]
    worker.kill()
    old = await client.submit("calls", {"url": target.url})
    later = start_service("worker", env={**running.env, **LATER})
    await later.wait_ready(logged("worker_ready"), BOOT_WITHIN)
    job = await client.finished(old["id"])
    await is_dead(client, job, "invalid")
    assert (job["attempt"], target.requests) == (1, [])
    assert "/why" in job["error"]["message"]
    assert target.url not in job["error"]["message"]

    async def fitting() -> Job | None:
        answer = await client.post({"type": "calls", "payload": {"url": target.url, "why": "it fits"}})
        return answer.json() if answer.status_code == 202 else None

    new = await until(fitting, 30, "the API knows the new version", interval=0.2)
    assert (await client.finished(new["id"]))["status"] == "succeeded"
    assert len(target.requests) == 1
    later.kill()
    worker.start()
