"""GET /jobs/{id}/explain: one test for each thing that a job can wait for. What another part of the service would have
written is written here as that part does.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.ids import new_id
from accepted.domain.network.addresses import EgressAllow
from accepted.services import targets as service
from accepted_worker.outbound.egress import Egress
from accepted_worker.scheduler.relay import Relay
from tests.support.clients.client import Client, check_problem, from_now
from tests.support.ledger.jobs import apply, claim, running_attempt
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.servers.receiver import Answer, Receiver
from tests.support.service.http_app import HttpApp, a_worker, depends, http_app, measured
from tests.support.service.in_process_worker import working
from tests.support.waiting import until

QUICK = 2.0  # seconds, on two noisy cores; alone it is a tenth of that


@pytest.fixture
async def app(engine: AsyncEngine, database_url: str) -> AsyncIterator[HttpApp]:
    async with http_app(engine, database_url) as app:
        yield app


@pytest.fixture
async def client(app: HttpApp) -> Client:
    return await app.client()


async def why(client: Client, job: Any, reason: str, *named: str) -> dict[str, Any]:
    """The explanation of `job`: its reason, and that the sentence names what it should."""
    answer = await client.get(f"/jobs/{job['id']}/explain")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["reason"] == reason, found
    assert found["id"] == job["id"]
    assert found["status"] == (await client.job(job["id"]))["status"]
    assert found["detail"].endswith(".")
    for text in named:
        assert text in found["detail"], found
    return found


async def limited(engine: AsyncEngine, **limits: Any) -> None:
    """The queue has limits, and what waits on it is on hold."""
    columns = ", ".join(f"{name} = :{name}" for name in limits)
    await do(engine, f"UPDATE queues SET limited = true, {columns} WHERE name = 'q'", **limits)
    await do(engine, "UPDATE outbox SET on_hold = true, published = false WHERE queue = 'q'")


async def take(engine: AsyncEngine, worker: UUID, most: int = 1) -> list[Any]:
    """`worker` claims jobs of the queue, those on hold too, as if the limiter had just admitted them."""
    await do(engine, "UPDATE outbox SET published = true, on_hold = false WHERE queue = 'q'")
    return await claim(engine, most, worker)


async def submit(client: Client, count: int = 1, **fields: Any) -> list[Any]:
    return [await client.submit(**({"queue": "q"} | fields)) for _ in range(count)]


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


@asynccontextmanager
async def calling(engine: AsyncEngine, url: str, answer: Answer) -> AsyncIterator[tuple[HttpApp, Receiver]]:
    """An application, a worker and a host that gives this answer: what is held, they have written."""
    egress = Egress(EgressAllow.parse("127.0.0.0/8"))
    async with (
        Receiver(lambda _: answer) as host,
        http_app(engine, url, egress_allow="127.0.0.0/8") as app,
        working(engine, PostgresBroker(engine, ""), concurrency=5, egress=egress),
    ):
        yield app, host
    await egress.aclose()


async def call(client: Client, host: Receiver, **fields: Any) -> Any:
    return await client.submit("http.request", {"url": f"http://127.0.0.1:{host.port}/x"}, queue="q", **fields)


async def deferred(client: Client, host: Receiver) -> Any:
    """A job that a worker has deferred because of the host."""
    job = await call(client, host)

    async def last() -> bool:
        return [one["outcome"] for one in await client.attempts(job["id"])] == ["deferred"]

    await until(last, 20, "the job to be deferred")
    return job


async def test_a_target_that_asked_for_a_pause(engine: AsyncEngine, database_url: str) -> None:
    answer = Answer(429, headers={"retry-after": "3600"})
    async with calling(engine, database_url, answer) as (app, host):
        client, other = await app.client(), await app.client("another")
        await call(client, host)
        key = f"127.0.0.1:{host.port}"
        until_ = (await until(lambda: has_row(client, key), 20, "the host to be held"))["deferred_until"]
        jobs = [await deferred(client, host) for _ in range(3)]
        found = await why(client, jobs[0], "target_held", key, "asked for a pause", "3 jobs wait for it", until_[:19])
        assert (found["target"], found["deferred_until"], found["waiting"]) == (key, until_, 3)
        assert 3500 < seconds_from_now(found["deferred_until"]) <= 3600
        assert found["due_at"] == (await client.job(jobs[0]["id"]))["run_at"]
        later = await call(client, host, delay=7200)
        await why(client, later, "not_due")
        theirs = await call(other, host, delay=60)
        await why(other, theirs, "not_due")
        soon = await call(client, host, delay=60)
        assert (await why(client, soon, "target_held"))["waiting"] == 3, "it has not been deferred itself"


async def test_a_target_that_failed_again_and_again(engine: AsyncEngine, database_url: str) -> None:
    async with calling(engine, database_url, Answer(500)) as (app, host):
        client, key = await app.client(), f"127.0.0.1:{host.port}"
        for job in [await call(client, host, retry={"max_attempts": 1}) for _ in range(5)]:
            await client.finished(job["id"])
        await until(lambda: has_row(client, key), 20, "the host to be held")
        job = await deferred(client, host)
        found = await why(client, job, "target_held", key, "its last 5 calls have failed", "1 job waits for it")
        assert found["deferred_until"] is not None
        assert await service.release(engine, "t", key), "what brings the job forward is yet to come"
        found = await why(client, job, "target_held", key, "was held", "as soon as the host answers")
        assert (found["deferred_until"], found["waiting"]) == (None, 1)


async def has_row(client: Client, key: str) -> dict[str, Any] | None:
    answer = await client.get(f"/targets/{key}")
    found: dict[str, Any] = answer.json()
    return found if answer.status_code == 200 and found["state"] == "open" else None


async def test_a_scheduler_that_is_not_there(engine: AsyncEngine, client: Client) -> None:
    await a_worker(engine)
    (job,) = await submit(client, delay=3600)
    await do(engine, "UPDATE outbox SET due_at = now() - interval '10 seconds'")
    await why(client, job, "waits_for_scheduler", "no scheduler")


async def test_a_scheduler_that_is_not_there_to_admit(engine: AsyncEngine, client: Client) -> None:
    await a_worker(engine)
    (job,) = await submit(client, concurrency_key="k")
    await why(client, job, "on_its_way")
    await pass_time(engine, 10)
    found = await why(client, job, "waits_for_scheduler", "no scheduler has admitted it")
    assert -12 < seconds_from_now(found["since"]) <= -10


async def test_a_broker_that_is_away(engine: AsyncEngine, database_url: str) -> None:
    """The relay moves `due_at` ahead each time it takes the job: what is said is when the job became due."""
    async with http_app(engine, database_url, broker_url="amqp://guest:guest@127.0.0.1:1/") as app:
        client, broker = await app.client(), app.state.broker
        await a_worker(engine)
        (job,) = await submit(client)
        await why(client, job, "on_its_way")
        await pass_time(engine, 21)
        relay = Relay(engine, broker, PollConnection(engine))
        assert await relay.run_once() == 0
        due = (await rows(engine, "SELECT due_at > now() + interval '5 seconds' AS ahead FROM outbox"))[0]
        assert due["ahead"], "the relay has taken it"
        found = await why(client, job, "broker_away", "the broker does not answer", "It is due since")
        assert -24 < seconds_from_now(found["since"]) <= -21
        assert found["since"] == (await client.job(job["id"]))["run_at"]
        await broker.close()


async def pass_time(engine: AsyncEngine, seconds: float) -> None:
    """All that waits has waited for so much longer."""
    await do(engine, "UPDATE outbox SET due_at = due_at - :s * interval '1 second'", s=seconds)
    await do(engine, "UPDATE jobs SET run_at = run_at - :s * interval '1 second'", s=seconds)


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
            "INSERT INTO outbox (job_id, attempt, queue, priority, due_at, published, on_hold, concurrency_key) SELECT "
            "gen_random_uuid(), 0, 'q', 4, now(), NOT :held, :held, 'k' || n % 100 FROM generate_series(1, 20000) AS n",
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


def seconds_from_now(moment: str) -> float:
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()
