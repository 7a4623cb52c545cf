"""When a job runs, how often, how long, and until when: run_at, delay, expires_at, timeout, retry."""

import asyncio
import time
from itertools import pairwise

from tests.support.clients.client import PATIENCE, Client, check_job, from_now, seconds_between
from tests.support.clients.start_delays import lateness, percentile

FAILS_ONCE = {"seconds": 0, "fail_attempts": 1}
FAILS_TWICE = {"seconds": 0, "fail_attempts": 2}
FAILS = {"seconds": 0, "fail_attempts": 100}


async def test_a_delayed_job_waits_until_it_is_due(client: Client) -> None:
    for form in ("delay", "run_at"):
        job = await client.submit("noop", **{form: 1.5 if form == "delay" else from_now(1.5)})
        assert job["status"] == "scheduled"
        assert 0.5 < seconds_between(job["created_at"], job["run_at"]) < 2.5

        done = await client.finished(job["id"])
        assert done["status"] == "succeeded"
        assert done["started_at"] >= job["run_at"]


async def test_a_run_at_is_kept_as_the_instant_that_it_is(client: Client) -> None:
    job = await client.submit("noop", run_at="2027-01-01T01:30:00.5+05:30")
    assert job["run_at"].startswith("2026-12-31T20:00:00.5")


async def test_a_job_that_is_not_started_in_time_expires(client: Client) -> None:
    """`scheduled` goes to `expired` (section 3), so a job may be accepted that is due only after its expiry."""
    job = await client.submit("noop", delay=3600, expires_at=from_now(1.5))
    done = await client.finished(job["id"])

    check_job(done)
    assert (done["status"], done["attempt"], done["started_at"]) == ("expired", 0, None)
    assert done["error"]["class"] == "expired"
    assert done["finished_at"] >= done["expires_at"]
    assert await client.attempts(job["id"]) == []


async def test_a_job_that_was_too_late_when_it_came_never_runs(client: Client) -> None:
    answer = await client.post({"type": "noop", "expires_at": from_now(-60)})
    if answer.status_code != 422:
        done = await client.finished(answer.json()["id"])
        assert (done["status"], done["attempt"]) == ("expired", 0)


async def test_a_retrying_job_expires_too(client: Client) -> None:
    job = await client.submit("sleep", FAILS, retry={"schedule": [60]}, expires_at=from_now(5))
    done = await client.finished(job["id"])
    assert (done["status"], done["attempt"], done["error"]["class"]) == ("expired", 1, "expired")


async def test_a_started_job_does_not_expire(client: Client) -> None:
    job = await client.submit("sleep", {"seconds": 5}, expires_at=from_now(3))
    assert (await client.finished(job["id"]))["status"] == "succeeded"


async def test_an_attempt_that_takes_too_long_times_out(client: Client) -> None:
    job = await client.finish(
        "sleep", {"seconds": 300}, timeout=0.5, retry={"max_attempts": 2, "schedule": [0.1], "jitter": 0}
    )
    assert (job["status"], job["attempt"]) == ("failed", 2)
    assert (job["error"]["class"], job["error"]["attempt"]) == ("timeout", 2)
    attempts = await client.attempts(job["id"])
    assert [each["error"]["class"] for each in attempts] == ["timeout", "timeout"]
    assert all(0.5 <= seconds_between(each["started_at"], each["finished_at"]) < 20 for each in attempts)


async def test_a_failed_attempt_is_repeated_after_its_wait(client: Client) -> None:
    """Wait k is schedule[k]·(1 + U(0, jitter)): never shorter, and never longer but for what a busy machine adds."""
    job = await client.submit("sleep", FAILS_TWICE, retry={"max_attempts": 3, "schedule": [1, 2], "jitter": 0.5})

    retrying = await client.until_status(job["id"], "retrying")
    assert (retrying["error"]["class"], retrying["error"]["attempt"]) == ("transient", retrying["attempt"])
    done = await client.finished(job["id"])

    assert (done["status"], done["attempt"], done["error"]) == ("succeeded", 3, None)
    first, second, third = await client.attempts(job["id"])
    assert [first["attempt"], second["attempt"], third["attempt"]] == [1, 2, 3]
    assert first["error"]["class"] == second["error"]["class"] == "transient"
    assert third["error"] is None
    assert third["outcome"] == "succeeded"
    assert 1 <= seconds_between(first["finished_at"], second["started_at"]) < 1.5 + 10
    assert 2 <= seconds_between(second["finished_at"], third["started_at"]) < 3 + 10


async def test_the_last_wait_of_a_schedule_repeats_until_the_attempts_are_used_up(client: Client) -> None:
    done = await client.finish("sleep", FAILS, retry={"max_attempts": 4, "schedule": [0.1, 0.6], "jitter": 0})

    assert (done["status"], done["attempt"], done["max_attempts"]) == ("failed", 4, 4)
    assert (done["error"]["class"], done["error"]["attempt"]) == ("transient", 4)
    assert done["result"] is None
    attempts = await client.attempts(done["id"])
    waits = [seconds_between(a["finished_at"], b["started_at"]) for a, b in pairwise(attempts)]
    assert len(waits) == 3
    assert waits[0] >= 0.1
    assert min(waits[1:]) >= 0.6


async def test_the_default_schedule_begins_with_30_s_and_up_to_a_fifth_more(client: Client) -> None:
    jobs = [await client.submit("sleep", FAILS) for _ in range(12)]
    waits = []
    for job in jobs:
        retrying = await client.until_status(job["id"], "retrying")
        (attempt,) = await client.attempts(job["id"])
        waits.append(seconds_between(attempt["finished_at"], retrying["run_at"]))
    assert all(29.5 <= wait <= 37 for wait in waits), waits
    assert max(waits) - min(waits) > 0.3, "no jitter"


async def test_without_jitter_the_wait_is_the_schedule(client: Client) -> None:
    jobs = [await client.submit("sleep", FAILS, retry={"schedule": [1000], "jitter": 0}) for _ in range(5)]
    for job in jobs:
        retrying = await client.until_status(job["id"], "retrying")
        (attempt,) = await client.attempts(job["id"])
        assert abs(seconds_between(attempt["finished_at"], retrying["run_at"]) - 1000) < 0.5


async def test_one_attempt_is_one(client: Client) -> None:
    done = await client.finish("sleep", FAILS_ONCE, retry={"max_attempts": 1})
    assert (done["status"], done["attempt"]) == ("failed", 1)


async def test_the_higher_priority_starts_first(client: Client) -> None:
    """Due at the same instant on one queue: 9 before 0, whichever was accepted first."""
    run_at, queue = from_now(3), "by-priority"
    order = [0, 9, 4, 9, 0, 4]
    jobs = [await client.submit("noop", run_at=run_at, queue=queue, priority=priority) for priority in order]
    done = [await client.finished(job["id"]) for job in jobs]
    started = [job["priority"] for job in sorted(done, key=lambda job: job["started_at"])]
    assert all(job["status"] == "succeeded" for job in done)
    # They may be claimed in one batch and then start within a millisecond: only the ends are compared.
    assert (
        started[0] == 9
        or seconds_between(min(j["started_at"] for j in done), max(j["started_at"] for j in done)) < 0.05
    )


async def test_many_jobs_all_end(client: Client) -> None:
    answers = await asyncio.gather(*(client.post({"type": "noop", "queue": "many"}) for _ in range(200)))
    ids = {answer.json()["id"] for answer in answers}
    assert {answer.status_code for answer in answers} == {202}
    assert len(ids) == 200
    deadline = time.monotonic() + PATIENCE
    done: set[str] = set()
    while len(done) < 200:
        assert time.monotonic() < deadline, len(done)
        page = (await client.get("/jobs?queue=many&status=succeeded&limit=200")).json()
        done = {job["id"] for job in page["items"]} & ids
    assert {len(await client.attempts(id)) for id in list(ids)[:20]} == {1}


async def test_delays_are_kept_while_others_wait(client: Client) -> None:
    """(tests/acceptance/jobs/test_delays.py has the figures of a quiet machine, with 100,000 jobs that wait.)"""
    waiting = {"jobs": [{"type": "noop", "queue": "later", "delay": 3600}] * 2000}
    assert (await client.http.post("/batches", json=waiting)).status_code == 202
    late = await lateness(client, 60, 1, 3, "soon")
    assert late[0] >= 0, "nobody starts early"
    assert percentile(late, 0.5) < 2, late
