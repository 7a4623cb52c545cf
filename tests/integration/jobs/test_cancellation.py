"""Cancelling on request: every state, every outcome that it meets, and the races between them."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.job import Job
from accepted.domain.retry import Retry
from accepted.domain.transitions import RunningAttempt, Transition
from accepted.errors import Conflict
from accepted.services.jobs.completion import cancel as cancel_job
from accepted.services.jobs.completion import settle
from accepted.services.monitoring.statistics import Measurements
from accepted.storage.attempts.claims import Claim
from accepted.storage.db.engine import transaction
from accepted.storage.jobs.reading import jobs_by_id
from accepted_worker.scheduler.ending import Rescuer
from tests.support.ledger.jobs import claim, put, the_job
from tests.support.ledger.sql import do, rows
from tests.support.waiting import until

RUNS_AGAIN: dict[str, Callable[[RunningAttempt], Transition]] = {
    "transient": lambda running: transitions.failed(running, FailureClass.TRANSIENT, "x", 0.0),
    "handed_back": transitions.handed_back,
    "crashed": lambda running: transitions.crashed(running, 0.0),
}
FINAL: dict[str, Callable[[RunningAttempt], Transition]] = {
    "succeeded": lambda running: transitions.succeeded(running, "{}"),
    "invalid": lambda running: transitions.failed(running, FailureClass.INVALID, "x", 0.0),
    "cancelled": transitions.cancelled,
}
ENDS = {"succeeded": "succeeded", "invalid": "failed", "cancelled": "cancelled"}
ROUNDS = 15


def running_attempt(claimed: Claim) -> RunningAttempt:
    return RunningAttempt(
        job_id=claimed.job.id, attempt=claimed.job.attempt, worker_id=claimed.worker_id,
        max_attempts=claimed.job.max_attempts, crashes=claimed.crashes, retry=Retry(),
    )  # fmt: skip


async def cancel(engine: AsyncEngine, job_id: UUID) -> Job:
    async with transaction(engine) as conn:
        job = (await jobs_by_id(conn, [job_id]))[job_id]
    return await cancel_job(engine, PostgresBroker(engine, ""), job)


async def apply(engine: AsyncEngine, transition: Transition) -> bool:
    (done,) = await settle(engine, PostgresBroker(engine, ""), [transition])
    return done


async def running(engine: AsyncEngine) -> RunningAttempt:
    (job_id,) = await put(engine, callback_url="http://example.com/")
    (claimed,) = await claim(engine, 1)
    assert claimed.job.id == job_id
    return running_attempt(claimed)


async def outbox(engine: AsyncEngine, job_id: UUID) -> int:
    return len(await rows(engine, "SELECT 1 FROM outbox WHERE job_id = :id", id=job_id))


async def webhooks(engine: AsyncEngine) -> int:
    return len(await rows(engine, "SELECT 1 FROM jobs WHERE type = 'webhook.deliver'"))


async def is_cancelled(engine: AsyncEngine, job_id: UUID) -> None:
    job = await the_job(engine, job_id)
    assert job["status"] == "cancelled"
    assert job["error"] == {"class": "cancelled", "message": "cancelled on request", "attempt": job["attempt"]}
    assert job["finished_at"] is not None
    assert job["result"] is None
    assert await outbox(engine, job_id) == 0


@pytest.mark.parametrize("status", ["scheduled", "queued", "retrying", "blocked"])
async def test_a_waiting_job_ends_at_once(engine: AsyncEngine, status: str) -> None:
    (job_id,) = await put(engine, callback_url="http://example.com/")
    await do(engine, "UPDATE jobs SET status = :status, attempt = 2", status=status)
    await do(engine, "UPDATE outbox SET attempt = 2")
    assert (await cancel(engine, job_id)).status == "cancelled"
    await is_cancelled(engine, job_id)
    assert await webhooks(engine) == 1
    assert await claim(engine) == []


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "expired"])
async def test_a_finished_job_is_left_alone(engine: AsyncEngine, status: str) -> None:
    one = await running(engine)
    await apply(engine, transitions.succeeded(one, "{}"))
    await do(engine, "UPDATE jobs SET status = :status WHERE id = :id", status=status, id=one.job_id)
    before = await the_job(engine, one.job_id)
    with pytest.raises(Conflict):
        await cancel(engine, one.job_id)
    assert await the_job(engine, one.job_id) == before
    assert (await rows(engine, "SELECT cancel_requested_at c FROM attempts"))[0]["c"] is None


@pytest.mark.parametrize("outcome", RUNS_AGAIN)
async def test_an_outcome_that_would_run_it_again_ends_it(engine: AsyncEngine, outcome: str) -> None:
    one = await running(engine)
    assert (await cancel(engine, one.job_id)).status == "running"
    assert await apply(engine, RUNS_AGAIN[outcome](one))
    await is_cancelled(engine, one.job_id)
    assert await webhooks(engine) == 1
    (attempt,) = await rows(engine, "SELECT outcome FROM attempts")
    assert attempt["outcome"] == outcome, "the attempt keeps its outcome"
    assert (await the_job(engine, one.job_id))["crashes"] == (outcome == "crashed")


@pytest.mark.parametrize("outcome", FINAL)
async def test_an_outcome_that_ends_it_stands(engine: AsyncEngine, outcome: str) -> None:
    one = await running(engine)
    await cancel(engine, one.job_id)
    assert await apply(engine, FINAL[outcome](one))
    job = await the_job(engine, one.job_id)
    assert job["status"] == ENDS[outcome]
    assert (job["error"] or {}).get("class") == (None if outcome == "succeeded" else outcome)


async def test_cancelling_again_changes_nothing(engine: AsyncEngine) -> None:
    one = await running(engine)
    await cancel(engine, one.job_id)
    before = await rows(engine, "SELECT * FROM attempts")
    assert (await cancel(engine, one.job_id)).status == "running"
    assert await rows(engine, "SELECT * FROM attempts") == before


async def test_a_cancel_belongs_to_its_attempt(engine: AsyncEngine) -> None:
    """After a manual retry, which comes with a new attempt, the old one does not count."""
    one = await running(engine)
    await cancel(engine, one.job_id)
    await apply(engine, transitions.handed_back(one))
    await do(engine, "UPDATE jobs SET status = 'queued', max_attempts = 9, finished_at = NULL WHERE type = 'noop'")
    await do(
        engine,
        "INSERT INTO outbox (job_id, attempt, tenant, queue, priority, due_at, published) "
        "VALUES (:id, 1, 't', 'q', 4, now(), true)",
        id=one.job_id,
    )
    (again,) = await claim(engine)
    assert await apply(engine, RUNS_AGAIN["transient"](running_attempt(again)))
    assert (await the_job(engine, one.job_id))["status"] == "retrying"


async def test_a_cancel_while_no_worker_lives_holds(engine: AsyncEngine) -> None:
    one = await running(engine)
    await cancel(engine, one.job_id)
    rescuer = Rescuer(engine, PostgresBroker(engine, ""), 0.3, Measurements())
    await until(rescuer.run_once, 10, "a rescue", interval=0.02)
    await is_cancelled(engine, one.job_id)


async def test_against_a_claim(engine: AsyncEngine) -> None:
    """Either it never ran, or its worker is told: no job is running without the request on its attempt."""
    for _ in range(ROUNDS):
        (job_id,) = await put(engine)
        told, claims = await asyncio.gather(cancel(engine, job_id), claim(engine))
        if not claims:
            await is_cancelled(engine, job_id)
            continue
        assert told.status == "running"
        (lease,) = await rows(engine, "SELECT * FROM attempts WHERE job_id = :id", id=job_id)
        assert lease["cancel_requested_at"] is not None
        await apply(engine, transitions.handed_back(running_attempt(claims[0])))


@pytest.mark.parametrize("outcome", [*RUNS_AGAIN, *FINAL])
async def test_against_an_outcome(engine: AsyncEngine, outcome: str) -> None:
    """One end state; and a job that was to run again is cancelled, whichever came first."""
    for round_ in range(ROUNDS):
        one = await running(engine)
        transition = (RUNS_AGAIN | FINAL)[outcome](one)
        both: list[Any] = [cancel(engine, one.job_id), apply(engine, transition)]
        results = await asyncio.gather(*both[:: 1 if round_ % 2 else -1], return_exceptions=True)
        assert True in results, "the outcome was recorded"
        assert all(isinstance(each, (Job, bool, Conflict)) for each in results), results
        if outcome in RUNS_AGAIN:
            await is_cancelled(engine, one.job_id)
        else:
            assert (await the_job(engine, one.job_id))["status"] == ENDS[outcome]
    assert await webhooks(engine) == ROUNDS


async def test_two_cancels_at_once(engine: AsyncEngine) -> None:
    (job_id,) = await put(engine, callback_url="http://example.com/")
    done = await asyncio.gather(*(cancel(engine, job_id) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(each, Job) for each in done) == 1
    await is_cancelled(engine, job_id)
    assert await webhooks(engine) == 1
