"""DELETE /queues/{name}: only what is not in use is deleted, its traces go, and no job is ever left without a queue."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.storage import limiter, queue_load
from accepted.storage.db.engine import reading, transaction
from accepted_worker.scheduler.housekeeping import Sampler
from tests.support.clients.client import Client, check_problem
from tests.support.ledger import jobs
from tests.support.ledger.brokers import PATIENCE, BrokerHarness, claim, ids
from tests.support.ledger.dead_letters import fail
from tests.support.ledger.limited_queue import a_worker
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp
from tests.support.waiting import until


async def delete(client: Client, queue: str) -> Any:
    return await client.http.delete(f"/queues/{queue}")


async def queue_names(engine: AsyncEngine) -> list[str]:
    return [row["name"] for row in await rows(engine, "SELECT name FROM queues ORDER BY 1")]


async def test_a_mistyped_queue_goes_with_its_limits_and_its_samples(engine: AsyncEngine, client: Client) -> None:
    await client.http.patch("/queues/typo", json={"paused": True, "max_depth": 5})
    async with transaction(engine) as conn:
        await queue_load.add_runs(conn, {"typo": (1, 1.0), "other": (1, 1.0)})
        await conn.commit()
    answer = await delete(client, "typo")
    assert (answer.status_code, answer.content) == (204, b"")
    check_problem(await client.get("/queues/typo"), 404)
    check_problem(await delete(client, "typo"), 404)
    assert [row["queue"] for row in await rows(engine, "SELECT queue FROM queue_samples")] == ["other"]


async def test_a_queue_with_jobs_is_kept(engine: AsyncEngine, client: Client) -> None:
    """Whatever they wait for, and while they run; finished jobs and dead letters do not count."""
    late = await client.submit("noop", queue="q", delay=3600)
    assert "jobs wait on it" in check_problem(await delete(client, "q"), 409)["detail"]
    await client.http.post(f"/jobs/{late['id']}/cancel")
    job = await client.submit("noop", queue="q")
    (claimed,) = await jobs.claim(engine)
    assert "jobs run on it" in check_problem(await delete(client, "q"), 409)["detail"]
    await jobs.apply(engine, transitions.failed(jobs.running_attempt(claimed), FailureClass.INVALID, "no", 0.0))
    assert await rows(engine, "SELECT 1 FROM dead_letters")
    assert (await delete(client, "q")).status_code == 204
    assert (await client.job(job["id"]))["queue"] == "q"


async def test_a_queue_of_a_type_is_kept(client: Client) -> None:
    body = {"queue": "q", "payload_schema": {"type": "object"}}
    assert (await client.http.put("/job-types/mine", json=body)).status_code == 201
    await client.http.patch("/queues/q", json={})
    assert "the types mine" in check_problem(await delete(client, "q"), 409)["detail"]


async def test_a_queue_that_a_live_worker_names_is_kept(engine: AsyncEngine, client: Client) -> None:
    """One that serves every queue does not name it."""
    await client.http.patch("/queues/q", json={})
    await a_worker(engine, 2)
    worker = await a_worker(engine, 2, ["p", "q"])
    assert "by name by w" in check_problem(await delete(client, "q"), 409)["detail"]
    await do(engine, "UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE id = :id", id=worker)
    assert (await delete(client, "q")).status_code == 204


async def test_only_an_administrator_deletes(app: HttpApp, client: Client) -> None:
    await client.http.patch("/queues/q", json={})
    check_problem(await delete(await app.client("t", "jobs:read", "jobs:write", "jobs:work"), "q"), 403)
    assert (await delete(await app.client("t", "admin"), "q")).status_code == 204


async def test_a_new_job_makes_it_again(engine: AsyncEngine, client: Client) -> None:
    """Although this process has named the queue before."""
    job = await client.submit("noop", queue="q")
    await client.http.post(f"/jobs/{job['id']}/cancel")
    assert (await delete(client, "q")).status_code == 204
    await client.submit("noop", queue="q")
    assert "q" in await queue_names(engine)


@pytest.mark.parametrize("deed", ["retry", "replay", "replay all"])
async def test_a_job_that_runs_again_makes_it_again(engine: AsyncEngine, client: Client, deed: str) -> None:
    await client.http.patch("/queues/q", json={})
    (job_id,) = await fail(engine)
    assert (await delete(client, "q")).status_code == 204
    path = {
        "retry": f"/jobs/{job_id}/retry",
        "replay": f"/dead-letters/{job_id}/replay",
        "replay all": "/dead-letters/replay",
    }[deed]
    answer = await client.http.post(path, **({"json": {}} if deed == "replay all" else {}))
    assert answer.is_success, answer.text
    assert "q" in await queue_names(engine)


async def test_a_job_that_came_meanwhile_gets_its_queue_back(engine: AsyncEngine, client: Client) -> None:
    """Another API process has named the queue before, and inserts a job without looking."""
    await client.submit("noop", queue="q")
    await do(engine, "DELETE FROM queues")
    assert await Sampler(engine).run_once() == 1
    assert await queue_names(engine) == ["q"]


async def test_a_job_that_was_put_on_hold_meanwhile_is_not_left_there(engine: AsyncEngine, client: Client) -> None:
    """The queue was limited when the job was inserted, and is made again without its limits."""
    await client.submit("noop", queue="q", priority=1)
    assert await rows(engine, "SELECT 1 FROM outbox WHERE on_hold")
    await do(engine, "DELETE FROM queues")
    await Sampler(engine).run_once()
    async with reading(engine) as conn:
        assert [one.queue for one in await limiter.poll(conn) if one.waits] == ["q"]


async def test_what_is_submitted_during_deletions_has_a_queue(engine: AsyncEngine, client: Client) -> None:
    """Over many rounds, and on any path: at the end the sampler has made every queue again that has a job."""

    async def submit() -> None:
        for number in range(30):
            more = {"ordering_key": "k"} if number % 3 else {}
            job = await client.submit("noop", queue=f"q{number % 2}", **more)
            await client.http.post(f"/jobs/{job['id']}/cancel")
        await client.submit("noop", queue="q0")

    submitted = asyncio.Event()

    async def keep_deleting() -> None:
        while not submitted.is_set():
            for queue in ("q0", "q1"):
                assert (await delete(client, queue)).status_code in (204, 404, 409)

    deleting = asyncio.create_task(keep_deleting())
    await asyncio.gather(*(submit() for _ in range(3)))
    submitted.set()
    await deleting
    await Sampler(engine).run_once()
    lost = "SELECT 1 FROM outbox WHERE queue NOT IN (SELECT name FROM queues)"
    assert await rows(engine, lost) == []
    assert await rows(engine, "SELECT 1 FROM outbox")


async def test_its_series_go(client: Client) -> None:
    job = await client.submit("noop", queue="short-lived")
    series = 'accepted_jobs_accepted_total{queue="short-lived"}'
    assert series in (await client.get("/metrics")).text
    await client.http.post(f"/jobs/{job['id']}/cancel")
    await delete(client, "short-lived")
    assert series not in (await client.get("/metrics")).text
    await client.submit("noop", queue="short-lived")
    assert f"{series} 1.0" in (await client.get("/metrics")).text


IF_MATCH = {"*": 200, ' "x"': 412, "W/1": 412}


@pytest.mark.parametrize(("value", "status"), IF_MATCH.items())
async def test_if_match_changes_only_what_is_there(
    engine: AsyncEngine, client: Client, value: str, status: int
) -> None:
    async def patch(queue: str) -> Any:
        return await client.http.patch(f"/queues/{queue}", json={"paused": True}, headers={"if-match": value})

    await client.http.patch("/queues/images", json={})
    problem = check_problem(await patch("image"), 412)
    assert (problem["type"], 'did you mean "images"' in problem["detail"]) == (
        "/problems/precondition-failed",
        value == "*",
    )
    assert await queue_names(engine) == ["images"]
    assert (await patch("images")).status_code == status


async def test_the_broker_forgets_it(harness: BrokerHarness) -> None:
    """A worker that no longer serves the queue leaves it, and goes on with the others; a new queue works."""
    await harness.put("q")
    worker = harness.subscribe(2, "p", "q")
    (delivery,) = await claim(worker)
    await harness.finish(delivery)
    await worker.ack([delivery])
    claiming = asyncio.ensure_future(worker.claim(2))
    if not harness.broker.is_ledger:
        assert not await harness.broker.remove("q"), "a worker consumes it"
    worker.serve(["p"])
    await until(lambda: harness.broker.remove("q"), PATIENCE, "the worker to leave")
    (ref,) = await harness.put("p")
    assert ids(await asyncio.wait_for(claiming, PATIENCE)) == [ref.job_id]
    worker.serve(["p", "q"])
    (ref,) = await harness.put("q")
    assert ids(await claim(worker)) == [ref.job_id]


async def test_the_broker_keeps_a_queue_with_messages(harness: BrokerHarness) -> None:
    (ref,) = await harness.put("q")
    assert await harness.broker.remove("q") is harness.broker.is_ledger
    assert ids(await claim(harness.subscribe(1, "q"))) == [ref.job_id]


async def test_a_queue_that_the_broker_never_had_is_gone(harness: BrokerHarness) -> None:
    assert await harness.broker.remove("nowhere")
