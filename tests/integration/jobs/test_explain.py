"""GET /jobs/{id}/explain: one test for each thing that a job can wait for. What another part of the service would have
written is written here as that part does.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.ids import new_id
from tests.support.clients.client import Client, check_problem, from_now
from tests.support.clients.explanations import seconds_from_now, submit, why
from tests.support.ledger.jobs import apply, claim, running_attempt
from tests.support.ledger.sql import do
from tests.support.service.http_app import HttpApp, a_worker, depends, measured

QUICK = 3.9  # seconds, on two noisy cores; alone it is a twentieth of that


async def limited(engine: AsyncEngine, **limits: Any) -> None:
    """The queue has limits, and what waits on it is on hold."""
    columns = ", ".join(f"{name} = :{name}" for name in limits)
    await do(engine, f"UPDATE queues SET limited = true, {columns} WHERE name = 'q'", **limits)
    await do(engine, "UPDATE outbox SET on_hold = true, published = false WHERE queue = 'q'")


async def take(engine: AsyncEngine, worker: UUID, most: int = 1) -> list[Any]:
    """`worker` claims jobs of the queue, those on hold too, as if the limiter had just admitted them."""
    await do(engine, "UPDATE outbox SET published = true, on_hold = false WHERE queue = 'q'")
    return await claim(engine, most, worker)


async def test_not_due(client: Client) -> None:
    (job,) = await submit(client, run_at=from_now(3600))
    found = await why(client, job, "not_due", "not due until", job["run_at"][:19])
    assert found["due_at"] == job["run_at"]


async def test_a_retry(engine: AsyncEngine, client: Client) -> None:
    (job,) = await submit(client, retry={"max_attempts": 3, "schedule": [600]})
    (one,) = await take(engine, await a_worker(engine))
    await apply(engine, transitions.failed(running_attempt(one), FailureClass.TRANSIENT, "no route to host", 0.0))
    found = await why(client, job, "retry", "Attempt 1 of 3", "transient: no route to host")
    assert found["last_error"] == {"class": "transient", "message": "no route to host", "attempt": 1}
    assert (found["next_attempt"], found["due_at"]) == (2, (await client.job(job["id"]))["run_at"])


async def test_paused(engine: AsyncEngine, client: Client) -> None:
    first, second = await submit(client, 2)
    await limited(engine, paused=True)
    assert (await why(client, first, "paused", "Queue q is paused"))["queue"] == "q"
    assert (await why(client, second, "paused"))["position"] == 2


async def test_a_rate_limit(engine: AsyncEngine, client: Client) -> None:
    await a_worker(engine)
    first, second = await submit(client, 2)
    await limited(engine, rate_jobs=2, rate_per=60.0, last_start=datetime.now(UTC) - timedelta(seconds=10))
    found = await why(client, second, "rate_limit", "at most 2 jobs in 60 s", "expected to start about")
    assert found["rate_limit"] == {"jobs": 2, "per": 60}
    assert found["position"] == 2
    assert 55 < seconds_from_now(found["expected_start"]) <= 60
    assert found["next_start"] in (await why(client, first, "rate_limit"))["next_start"]


async def test_max_running(engine: AsyncEngine, client: Client) -> None:
    worker = await a_worker(engine)
    first, second = await submit(client, 2)
    await take(engine, worker)
    await limited(engine, max_running=1)
    found = await why(client, second, "max_running", "at most 1 job at once", "1 are running")
    assert (found["max_running"], found["running"], found["position"]) == (1, 1, 1)
    assert found["expected_start"] is None, "nothing was measured"
    await why(client, first, "running")


async def test_an_admitted_job_counts_as_running(engine: AsyncEngine, client: Client) -> None:
    await a_worker(engine)
    first, second = await submit(client, 2)
    await limited(engine, max_running=1)
    await do(engine, "UPDATE outbox SET on_hold = false, admitted = true WHERE job_id = :id", id=UUID(first["id"]))
    await why(client, second, "max_running")
    await why(client, first, "on_its_way")


async def test_a_concurrency_key(engine: AsyncEngine, client: Client) -> None:
    worker = await a_worker(engine)
    jobs = await submit(client, 3)
    await do(engine, "UPDATE outbox SET concurrency_key = 'acme'")
    await do(engine, "UPDATE jobs SET concurrency_key = 'acme'")
    await take(engine, worker)
    await limited(engine, max_running_per_key=1)
    await measured(engine, 10, 30.0)
    found = await why(client, jobs[2], "concurrency_key", 'concurrency key "acme"', "At most 1 job")
    assert (found["concurrency_key"], found["max_running_per_key"], found["running"]) == ("acme", 1, 1)
    assert 55 < seconds_from_now(found["expected_start"]) <= 60, "two of its key, 30 s each, one at a time"


async def test_keys_take_turns_in_the_line(engine: AsyncEngine, client: Client) -> None:
    await a_worker(engine)
    many, (one,) = await submit(client, 10), await submit(client)
    await do(engine, "UPDATE outbox SET concurrency_key = 'a'")
    await do(engine, "UPDATE outbox SET concurrency_key = 'b' WHERE job_id = :id", id=UUID(one["id"]))
    await limited(engine, paused=True)
    assert (await why(client, one, "paused"))["ahead"] == 0
    assert (await why(client, many[9], "paused"))["ahead"] == 10


async def test_behind_others(engine: AsyncEngine, client: Client) -> None:
    worker = await a_worker(engine, slots=1)
    jobs = await submit(client, 4)
    await take(engine, worker)
    await measured(engine, 50, 2.0)
    found = await why(client, jobs[3], "behind_others", "behind 2 others on queue q", "expected to start about")
    assert (found["position"], found["ahead"]) == (3, 2)
    assert 5 < seconds_from_now(found["expected_start"]) <= 6, "3 jobs at 0.5 a second"
    assert (await why(client, jobs[1], "next_in_line", "all 1 slot"))["position"] == 1


async def test_a_higher_priority_goes_first(engine: AsyncEngine, client: Client) -> None:
    await a_worker(engine, slots=1)
    (low,), (high,) = await submit(client), await submit(client, priority=9)
    assert (await why(client, low, "behind_others"))["ahead"] == 1
    await why(client, high, "on_its_way", "queue q")
    await do(engine, "UPDATE outbox SET on_hold = true, published = false")
    assert (await why(client, low, "behind_others"))["ahead"] == 1, "on a limited queue, too"


async def test_without_a_rate_the_slots_tell(engine: AsyncEngine, client: Client) -> None:
    await a_worker(engine, slots=2)
    jobs = await submit(client, 4)
    await do(engine, "INSERT INTO queue_samples VALUES ('q', now() - interval '20 minutes', 0, 10, 40)")
    found = await why(client, jobs[3], "behind_others")
    assert 7 < seconds_from_now(found["expected_start"]) <= 8, "the 4th of two slots, 4 s each"


async def test_another_job(engine: AsyncEngine, client: Client) -> None:
    needed, waiting = await submit(client, 2)
    await depends(engine, waiting, needed, on_success=True)
    found = await why(client, waiting, "waits_for_jobs", f"job {needed['id']} (queued)", "to succeed")
    assert found["waits_for"] == [{"id": needed["id"], "status": "queued", "to": "succeed"}]
    assert found["jobs"] == 1


async def test_a_turn_under_an_ordering_key(engine: AsyncEngine, client: Client) -> None:
    needed, waiting = await submit(client, 2)
    await depends(engine, waiting, needed, on_success=False)
    await do(engine, "UPDATE jobs SET ordering_key = 'account-7'")
    found = await why(client, waiting, "ordering_key", 'ordering key "account-7"', needed["id"])
    assert (found["ordering_key"], found["waits_for"][0]["to"]) == ("account-7", "end")


async def test_nobody_serves_the_queue(engine: AsyncEngine, client: Client) -> None:
    (job,) = await submit(client)
    await a_worker(engine, queues=["other"])
    assert (await why(client, job, "no_worker_for_queue", "serves queue q"))["queue"] == "q"
    silent = await a_worker(engine, queues=["q"])
    await do(engine, "UPDATE workers SET heartbeat_at = now() - interval '5 minutes' WHERE id = :id", id=silent)
    await why(client, job, "no_worker_for_queue")
    await a_worker(engine, queues=["q"])
    await why(client, job, "on_its_way")


async def test_nobody_serves_the_type(engine: AsyncEngine, client: Client) -> None:
    (job,) = await submit(client)
    await a_worker(engine, types=["image.thumbnail"])
    found = await why(client, job, "no_worker_for_type", "type noop", "queue q")
    assert (found["queue"], found["type"]) == ("q", "noop")


async def test_nobody_leases_it(engine: AsyncEngine, client: Client) -> None:
    (job,) = await submit(client)
    await do(engine, "UPDATE job_types SET external = true WHERE name = 'noop'")
    found = await why(client, job, "waits_for_lease", "lease it from queue q", "type noop")
    assert (found["queue"], found["type"], found["position"]) == ("q", "noop", 1)


async def test_running(engine: AsyncEngine, client: Client) -> None:
    (job,) = await submit(client)
    worker = await a_worker(engine)
    await take(engine, worker)
    now = await client.job(job["id"])
    found = await why(client, job, "running", "worker w1", now["started_at"][:19])
    assert (found["worker"], found["since"], found["attempt"]) == ("w1", now["started_at"], 1)
    await do(engine, "UPDATE attempts SET cancel_requested_at = now()")
    await why(client, job, "cancelling", "worker w1")
    await do(engine, "UPDATE workers SET heartbeat_at = now() - interval '5 minutes'")
    await why(client, job, "worker_silent", "worker w1", "last heard of")


async def test_finished(engine: AsyncEngine, client: Client) -> None:
    good, bad, cancelled = await submit(client, 3)
    worker = await a_worker(engine)
    one, two = await take(engine, worker, 2)
    failure = transitions.failed(running_attempt(two), FailureClass.AUTH, "the key was revoked", 0.0)
    await apply(engine, transitions.succeeded(running_attempt(one), "{}"), failure)
    await client.http.post(f"/jobs/{cancelled['id']}/cancel")
    found = await why(client, good, "succeeded", "succeeded at", "after 1 attempt.")
    assert found["finished_at"] == (await client.job(good["id"]))["finished_at"]
    found = await why(client, bad, "failed", "failed for good", "auth: the key was revoked")
    assert found["last_error"] == {"class": "auth", "message": "the key was revoked", "attempt": 1}
    await why(client, cancelled, "cancelled", "was cancelled", "after 0 attempts")


async def test_expired(engine: AsyncEngine, client: Client) -> None:
    (job,) = await submit(client)
    await do(engine, "UPDATE jobs SET status = 'expired', finished_at = now()")
    await why(client, job, "expired", "expired before it was started")


async def test_who_may_ask(app: HttpApp, client: Client) -> None:
    (job,) = await submit(client)
    path = f"/jobs/{job['id']}/explain"
    check_problem(await (await app.client("another")).get(path), 404)
    check_problem(await (await app.client("t", "jobs:write")).get(path), 403)
    check_problem(await client.get(f"/jobs/{new_id()}/explain"), 404)
    check_problem(await client.get(f"{path}?verbose=1"), 422, "/verbose")


@pytest.mark.parametrize("held", [False, True])
async def test_it_stays_quick_behind_a_hundred_thousand(engine: AsyncEngine, client: Client, held: bool) -> None:
    await a_worker(engine)
    await measured(engine, 10, 1.0)
    for _ in range(5):
        await do(
            engine,
            "INSERT INTO outbox "
            "(job_id, attempt, tenant, queue, priority, due_at, published, on_hold, concurrency_key) "
            "SELECT gen_random_uuid(), 0, 'default', 'q', 4, now(), NOT :held, :held, 'k' || n % 100 "
            "FROM generate_series(1, 20000) AS n",
            held=held,
        )
    (job,) = await submit(client)
    await do(
        engine, "UPDATE outbox SET on_hold = :held, published = NOT :held WHERE concurrency_key IS NULL", held=held
    )
    started = time.monotonic()
    found = await why(client, job, "on_its_way" if held else "behind_others")
    assert time.monotonic() - started < QUICK
    if not held:
        assert found["ahead"] == 100_000, "on a limited queue it is the first of its key"
