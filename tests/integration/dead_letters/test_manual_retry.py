"""A manual retry: failed, cancelled, expired -> queued, with a fresh budget; concurrent requests retry once."""

import asyncio
from uuid import UUID

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.job import JobType
from accepted.domain.retry import Retry
from accepted.services.manual_retry import EditedPayload, replay, retry
from accepted.storage import job_types
from accepted.storage.db.engine import transaction
from tests.support.ledger.dead_letters import ended_as, fail, from_now, read, run_again
from tests.support.ledger.jobs import put, the_job
from tests.support.ledger.sql import do, rows


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
async def test_it_starts_over_and_the_attempt_number_stays(engine: AsyncEngine, status: str) -> None:
    id = await ended_as(engine, status)
    again = await retry(engine, await read(engine, id))
    assert again is not None
    assert (again.status, again.attempt, again.retried_after) == ("queued", 1, [1])
    job = await the_job(engine, id)
    assert (job["status"], job["attempt"], job["crashes"], job["max_attempts"]) == ("queued", 1, 0, 1 + 5)
    assert job["result"] is job["error"] is job["progress"] is job["finished_at"] is None
    (waiting,) = await rows(engine, "SELECT *, due_at <= now() AS due FROM outbox")
    assert (waiting["job_id"], waiting["attempt"], waiting["published"], waiting["due"]) == (id, 1, False, True)
    assert waiting["due_at"] == job["run_at"]
    assert await rows(engine, "SELECT * FROM dead_letters") == []
    assert await run_again(engine) == 1
    assert (await the_job(engine, id))["attempt"] == 2


@pytest.mark.parametrize("status", ["scheduled", "blocked", "queued", "running", "retrying", "succeeded"])
async def test_what_has_not_failed_is_left_alone(engine: AsyncEngine, status: str) -> None:
    (id,) = await put(engine)
    await do(engine, "UPDATE jobs SET status = :status WHERE id = :id", id=id, status=status)
    before = await the_job(engine, id)
    assert await retry(engine, await read(engine, id)) is None
    assert await the_job(engine, id) == before
    assert len(await rows(engine, "SELECT * FROM outbox")) == 1


async def test_the_attempt_and_the_tenant_are_part_of_the_fence(engine: AsyncEngine) -> None:
    job = await read(engine, await ended_as(engine, "failed"))
    for wrong in ({"attempt": 0}, {"attempt": 2}, {"tenant": "other"}, {"id": UUID(int=1)}):
        assert await retry(engine, msgspec.structs.replace(job, **wrong)) is None  # type: ignore[arg-type]
    assert (await the_job(engine, job.id))["status"] == "failed"
    assert len(await rows(engine, "SELECT * FROM dead_letters")) == 1


async def test_the_budget_is_the_jobs_own_else_its_types(engine: AsyncEngine) -> None:
    kind = JobType(
        name="typed", description="", queue="q", retry=Retry(max_attempts=7), timeout=None, payload_schema="{}"
    )
    async with transaction(engine) as conn:
        await job_types.register(conn, [kind])
        await conn.commit()
    of_its_type = await ended_as(engine, "failed", type="typed")
    its_own = await ended_as(engine, "failed", type="typed", retry='{"max_attempts":2}')
    for id, expected in ((of_its_type, 1 + 7), (its_own, 1 + 2)):
        assert await retry(engine, await read(engine, id)) is not None
        assert (await the_job(engine, id))["max_attempts"] == expected


async def test_a_deadline_in_the_past_falls_away_and_another_stays(engine: AsyncEngine) -> None:
    future = from_now(3600)
    past, ahead = [await ended_as(engine, "cancelled", expires_at=at) for at in (from_now(-1), future)]
    for id, expected in ((past, None), (ahead, future)):
        assert await retry(engine, await read(engine, id)) is not None
        assert (await the_job(engine, id))["expires_at"] == expected
        (waiting,) = await rows(engine, "SELECT expires_at FROM outbox WHERE job_id = :id", id=id)
        assert waiting["expires_at"] == expected


async def test_of_many_at_once_one_wins(engine: AsyncEngine) -> None:
    for status in ("failed", "cancelled"):
        job = await read(engine, await ended_as(engine, status))
        done = await asyncio.gather(*(retry(engine, job) for _ in range(15)))
        assert sum(again is not None for again in done) == 1
        assert len(await rows(engine, "SELECT * FROM outbox WHERE job_id = :id", id=job.id)) == 1


async def test_retry_and_replay_at_once_run_it_once(engine: AsyncEngine) -> None:
    """They lock job and letter in the same order, so they do not deadlock."""
    jobs = [await read(engine, id) for id in await fail(engine, 8)]
    done = await asyncio.gather(*(each(job) for job in jobs for each in (
        lambda job: retry(engine, job), lambda job: replay(engine, job, None))
    ))  # fmt: skip
    assert sum(again is not None for again in done) == 8
    assert len(await rows(engine, "SELECT * FROM outbox")) == 8
    assert await rows(engine, "SELECT * FROM dead_letters") == []


async def test_an_edited_payload_replaces_the_one_that_failed_and_that_is_kept(engine: AsyncEngine) -> None:
    id = await ended_as(engine, "failed", payload='{"n": 1}')
    for attempt, n in ((1, 2), (2, 3)):
        again = await replay(engine, await read(engine, id), EditedPayload(f'{{"n":{n}}}', f"me {n}"))
        assert again is not None
        assert (again.payload, again.attempt) == (f'{{"n":{n}}}', attempt)
        assert await run_again(engine) == 1
    edits = await rows(engine, "SELECT attempt, payload_before::text p, edited_by FROM payload_edits ORDER BY 1")
    assert [tuple(edit.values()) for edit in edits] == [(1, '{"n": 1}', "me 2"), (2, '{"n":2}', "me 3")]


@pytest.mark.parametrize("status", ["cancelled", "expired"])
async def test_only_a_dead_letter_is_replayed(engine: AsyncEngine, status: str) -> None:
    id = await ended_as(engine, status)
    assert await replay(engine, await read(engine, id), EditedPayload("{}", "me")) is None
    discarded = await ended_as(engine, "failed")
    await do(engine, "DELETE FROM dead_letters")
    assert await replay(engine, await read(engine, discarded), None) is None
    assert {row["status"] for row in await rows(engine, "SELECT status FROM jobs")} == {status, "failed"}
    assert await rows(engine, "SELECT * FROM payload_edits") == []
