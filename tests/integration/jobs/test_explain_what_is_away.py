"""GET /jobs/{id}/explain: jobs that wait for a target, for a scheduler or for the broker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.references import JobRef
from accepted.services import targets as service
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import outbox
from accepted_worker.outbound.egress import Egress
from accepted_worker.scheduler.relay import Relay
from tests.support.clients.client import Client
from tests.support.clients.explanations import seconds_from_now, submit, why
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.servers.receiver import Answer, Receiver
from tests.support.service.http_app import HttpApp, a_worker, http_app
from tests.support.service.in_process_worker import working
from tests.support.waiting import until


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
        async with transaction(engine) as conn:  # as if the broker had confirmed it before it went away
            await outbox.mark_published(conn, [JobRef(UUID(job["id"]), 0, job["queue"], job["type"], job["priority"])])
            await conn.commit()
        found = await why(client, job, "broker_away", "published, and the broker does not answer")
        assert found["since"] == (await client.job(job["id"]))["run_at"]
        await broker.close()


async def pass_time(engine: AsyncEngine, seconds: float) -> None:
    """All that waits has waited for so much longer."""
    await do(engine, "UPDATE outbox SET due_at = due_at - :s * interval '1 second'", s=seconds)
    await do(engine, "UPDATE jobs SET run_at = run_at - :s * interval '1 second'", s=seconds)
