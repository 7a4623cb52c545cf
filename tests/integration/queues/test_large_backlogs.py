"""Depths while too many jobs wait to be counted for each answer: what the sampler has counted, with its time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.services import manual_retry
from accepted.storage.counts.backlogs import EXACT
from accepted.storage.dead_letters import LetterFilter
from accepted_worker.scheduler import housekeeping
from accepted_worker.scheduler.housekeeping import Sampler
from tests.support.clients.client import Client
from tests.support.ledger.dead_letters import fail
from tests.support.ledger.jobs import claim, put
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp

CHUNK = 5000

FILL = """
WITH waits AS (
    INSERT INTO jobs (id, tenant, type, queue, status, priority, max_attempts, payload, run_at)
    SELECT uuidv7(), :tenant, 'noop', :queue, 'queued', 4, 3, '{}', now() - interval '1 minute'
    FROM generate_series(1, CAST(:jobs AS int4)) RETURNING id, run_at
)
INSERT INTO outbox (job_id, attempt, tenant, queue, priority, due_at, published)
SELECT id, 0, :tenant, :queue, 4, run_at, true FROM waits
"""


async def fill(engine: AsyncEngine, jobs: int, tenant: str = "t", queue: str = "q") -> None:
    for first in range(0, jobs, CHUNK):
        await do(engine, FILL, jobs=min(jobs - first, CHUNK), tenant=tenant, queue=queue)
    await do(engine, "INSERT INTO queues (name) VALUES (:queue) ON CONFLICT DO NOTHING", queue=queue)


async def shown(client: Client, path: str = "/queues/q") -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(path)).json()
    return found


async def sample(engine: AsyncEngine) -> int:
    """What the scheduler's sampler does, five seconds after the time before."""
    await do(engine, "DELETE FROM periodic_locks")
    return await Sampler(engine).run_once()


async def test_a_large_backlog_is_counted_once_for_many_answers(
    app: HttpApp, engine: AsyncEngine, client: Client
) -> None:
    await fill(engine, EXACT)
    await fill(engine, 5, tenant="other", queue="small")
    queue = await shown(client)
    assert (queue["depth"]["queued"], queue["depth_at"]) == (EXACT, None), "no scheduler has counted"
    await sample(engine)
    await put(engine, 3)
    assert len(await claim(engine, 2)) == 2
    queue, small = await shown(client), await shown(client, "/queues/small")
    assert (queue["depth"]["queued"], queue["depth"]["running"]) == (EXACT, 2), "what runs is counted at once"
    assert 60 <= queue["oldest_waiting_age"] < 120
    assert datetime.now(UTC) - datetime.fromisoformat(queue["depth_at"]) < timedelta(seconds=30)
    assert (small["depth"]["queued"], small["depth_at"]) == (5, queue["depth_at"])
    assert [one["depth"]["queued"] for one in (await shown(client, "/queues"))["items"]] == [EXACT, 5]
    theirs = await shown(await app.client("other", "jobs:read"))
    assert (theirs["depth"]["queued"], theirs["oldest_waiting_age"], theirs["depth_of"]) == (0, None, "tenant")
    assert (await shown(client, "/queues/q/sizing"))["backlog"] == EXACT


async def test_it_is_counted_for_each_answer_again_as_soon_as_it_is_small(engine: AsyncEngine, client: Client) -> None:
    await fill(engine, EXACT + 1)
    await sample(engine)
    await do(engine, "DELETE FROM outbox WHERE job_id IN (SELECT job_id FROM outbox LIMIT 11)")
    queue = await shown(client)
    assert (queue["depth"]["queued"], queue["depth_at"]) == (EXACT - 10, None)
    assert (await shown(client, "/queues/q/sizing"))["backlog"] == EXACT - 10
    await do(engine, "DELETE FROM outbox WHERE job_id NOT IN (SELECT job_id FROM outbox LIMIT 10)")
    await sample(engine)
    assert await rows(engine, "SELECT 1 FROM queue_depths") == [], "nothing is kept of a small backlog"


async def test_a_count_of_a_scheduler_that_is_gone_is_not_used(engine: AsyncEngine, client: Client) -> None:
    await fill(engine, EXACT + 1)
    await sample(engine)
    await do(engine, "UPDATE queue_depths SET counted_at = counted_at - interval '10 minutes'")
    await put(engine, 1)
    queue = await shown(client)
    assert (queue["depth"]["queued"], queue["depth_at"]) == (EXACT + 2, None)


async def test_the_status_of_each_waiting_job_is_that_of_the_job(engine: AsyncEngine, client: Client) -> None:
    """For most jobs the row in the outbox tells it. A replay that is spread out has the row of a retry."""
    await fail(engine, 4)
    await manual_retry.replay_letters(engine, "t", LetterFilter(), 3600.0)
    await put(engine, 2, delay=3600)
    await put(engine, 1, delay=5)
    await put(engine, 1, blockers=1)
    await client.http.patch("/queues/q", json={"paused": True})
    await put(engine, 2)
    counted = await rows(engine, "SELECT status, count(*) AS jobs FROM jobs GROUP BY status")
    depth = {status: jobs for status, jobs in (await shown(client))["depth"].items() if jobs}
    assert depth == {row["status"]: row["jobs"] for row in counted}
    assert depth == {"queued": 3, "scheduled": 6, "blocked": 1}


async def test_several_samplers_share_one_part_of_the_time(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(engine)
    first, second = Sampler(engine), Sampler(engine)
    monkeypatch.setattr(housekeeping, "SAMPLE_SHARE", 1e6)
    assert await first.run_once() == 1
    pause = first.pause(1)
    assert pause > 60
    ago = "UPDATE periodic_locks SET taken_at = now() - interval '10 seconds'"
    await do(engine, ago)
    assert await first.run_once() == 0
    assert first.pause(0) == pause, "a round without a count tells nothing"
    assert await second.run_once() == 1, "it does not know yet what a count takes"
    await do(engine, ago)
    assert await second.run_once() == 0
