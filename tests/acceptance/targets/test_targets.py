"""Deferring calls to hosts in trouble, on both brokers and with two workers."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.clients.client import Client, Job, check_problem
from tests.support.servers.receiver import Answer, Receiver, Request
from tests.support.service.processes import Service, logged
from tests.support.service.running_service import accepted, serving, types_known
from tests.support.waiting import until

KNOWN_TO_ALL = 1.5
"""Seconds after which every worker knows that a host is deferred: it polls once a second."""

ONCE = {"max_attempts": 1}
AT_ONCE = {"max_attempts": 3, "schedule": [0.5], "jitter": 0}


@pytest.fixture(scope="module")
async def service(broker_url: str, own_database: str) -> AsyncIterator[Client]:
    async with serving(own_database, {"ACCEPTED_AUTH": "off", "ACCEPTED_BROKER_URL": broker_url}) as running:
        second = Service("worker", "--concurrency", "4", env=running.env).start()
        try:
            await second.wait_ready(logged("worker_ready"))
            client = running.client()
            await types_known(client)
            yield client
        finally:
            second.remove()


async def call(client: Client, receiver: Receiver, **fields: Any) -> Job:
    return await client.submit("http.request", {"url": f"{receiver.url}/"}, **fields)


async def target(client: Client, receiver: Receiver) -> Job | None:
    """The host's row, as GET /targets shows it."""
    answer = await client.get(f"/targets/127.0.0.1:{receiver.port}")
    return None if answer.status_code == 404 else answer.json()


async def running_attempt(client: Client, receiver: Receiver) -> Job:
    async def there() -> Job | None:
        found = await target(client, receiver)
        return found if found and found["state"] == "open" else None

    return await until(there, 20, "the host to be deferred")


async def spared(client: Client, job: Job) -> bool:
    """Whether the job succeeded with its first call, and none of its attempts was charged before."""
    done = await client.finished(job["id"])
    outcomes = [each["outcome"] for each in await client.attempts(job["id"])]
    assert outcomes[-1] == done["status"] == "succeeded", outcomes
    assert outcomes[:-1] == ["deferred"] * (len(outcomes) - 1)
    assert done["max_attempts"] - done["attempt"] == job["max_attempts"] - 1
    return len(outcomes) > 1


async def test_calls_to_a_host_that_asks_for_a_pause_are_deferred(service: Client) -> None:
    """Its other jobs lose no attempts; jobs for another host go on meanwhile."""
    patient = time.time() + 60

    def respond(_: Request) -> Answer:
        return Answer(429, headers={"retry-after": "4"}) if time.time() < patient else Answer()

    async with Receiver(respond) as busy, Receiver() as idle:
        first = await call(service, busy, retry=AT_ONCE)
        await busy.wait_for(1)
        patient = busy.requests[0].at + 4
        shown = await running_attempt(service, busy)
        assert (shown["failures"], shown["reason"]) == (0, "rate_limited")
        jobs = await asyncio.gather(*(call(service, busy) for _ in range(50)))
        others = await asyncio.gather(*(call(service, idle) for _ in range(5)))
        for each in others:
            await service.finished(each["id"], 5)
        assert await target(service, busy) is not None, "too slow a machine to tell"
        waiting = await service.until_status(jobs[0]["id"], "retrying")
        assert "deferred for 127.0.0.1" in waiting["error"]["message"]
        assert waiting["run_at"] > shown["deferred_until"][:-3]
        assert len(busy.requests) == 1

        started = time.time()
        assert all([await spared(service, job) for job in jobs]), "some were never deferred"
        assert time.time() - started < 15, "what waited was not brought forward"
        assert [request.at < patient for request in busy.requests].count(True) == 1
        assert len(busy.requests) == 52
        assert (await service.finished(first["id"]))["attempt"] >= 2
        outcomes = [each["outcome"] for each in await service.attempts(first["id"])]
        assert [one for one in outcomes if one != "deferred"] == ["rate_limited", "succeeded"]
        assert await target(service, busy) is None


async def test_a_host_that_fails_again_and_again_is_tried_by_one_job(service: Client) -> None:
    """Five failures of all workers together defer the host; one call tries it; its failure defers it for longer."""
    async with Receiver(lambda _: Answer(500, after=0.5)) as down:
        await asyncio.gather(*[service.finish("http.request", {"url": down.url}, retry=ONCE) for _ in range(5)])
        opened = await running_attempt(service, down)
        assert (opened["failures"], opened["reason"]) == (5, "transient")
        before = len(down.requests)
        jobs = await asyncio.gather(*(call(service, down, delay=KNOWN_TO_ALL) for _ in range(12)))

        async def tried() -> Job | None:
            found = await target(service, down)
            return found if found and found["failures"] > 5 else None

        again = await until(tried, 20, "a failed try")
        assert (again["failures"], len(down.requests) - before) == (6, 1)
        assert again["deferred_until"] > opened["deferred_until"]

        down.respond = lambda _: Answer()
        released = await service.http.post(f"/targets/127.0.0.1:{down.port}/release")
        spent = await burnt(service, jobs)
        assert len(spent) == 1
        assert released.json() == {"host": f"127.0.0.1:{down.port}", "released": len(jobs) - len(spent)}
        started = time.time()
        done = [await service.finished(job["id"]) for job in jobs if job["id"] not in spent]
        assert {job["status"] for job in done} == {"succeeded"}
        assert time.time() - started < 10
        check_problem(await service.http.post(f"/targets/127.0.0.1:{down.port}/release"), 404)


async def burnt(client: Client, jobs: list[Job]) -> set[str]:
    """Jobs whose call failed: the one that tried, and any that a worker let through before it knew."""
    found = [(job["id"], await client.attempts(job["id"])) for job in jobs]
    return {id for id, attempts in found if any(each["outcome"] == "transient" for each in attempts)}


async def test_webhooks_are_deferred_too_and_can_be_cancelled_and_expire(service: Client) -> None:
    """A refused connection counts as a failure; a deferred delivery can be cancelled and expires."""
    async with Receiver() as gone:
        await gone.stop()
        await asyncio.gather(*[service.finish("http.request", {"url": gone.url}, retry=ONCE) for _ in range(5)])
        await running_attempt(service, gone)
        await service.finish("noop", callback_url=gone.url)
        doomed = await call(service, gone)
        await service.until_status(doomed["id"], "retrying")
        assert (await service.http.post(f"/jobs/{doomed['id']}/cancel")).json()["status"] == "cancelled"
        await gone.start()
        assert (await service.http.post(f"/targets/127.0.0.1:{gone.port}/release")).status_code == 200
        assert (await gone.wait_for(1, 10))[0].method == "POST"


@pytest.mark.slow
async def test_a_worker_that_dies_trying_does_not_keep_the_others_waiting(database_url: str) -> None:
    """The try is a lease: when it has run out, the next job tries. Also the output of the command line."""
    async with serving(database_url, {"ACCEPTED_AUTH": "off"}) as running, Receiver() as host:
        client = running.client()
        await types_known(client)
        await host.stop()
        await asyncio.gather(*[client.finish("http.request", {"url": host.url}, retry=ONCE) for _ in range(5)])
        await running_attempt(client, host)
        assert f"127.0.0.1:{host.port}" in (await accepted("targets", "list", env=running.env)).out
        assert (await accepted("targets", "release", f"127.0.0.1:{host.port}", env=running.env)).code == 0
        await asyncio.gather(*[client.finish("http.request", {"url": host.url}, retry=ONCE) for _ in range(5)])
        await running_attempt(client, host)
        host.respond = lambda _: Answer(after=60)
        await host.start()
        payload = {"url": host.url, "timeout": 3}
        jobs = [await client.submit("http.request", payload) for _ in range(2)]
        await host.wait_for(1, 20)
        running.services["worker"].kill()
        host.respond = lambda _: Answer()
        running.services["worker"].start()
        await host.wait_for(2, 30)
        await until(lambda: succeeded(client, jobs), 30, "the other one's success")
        assert await target(client, host) is None


async def succeeded(client: Client, jobs: list[Job]) -> bool:
    return any([(await client.job(job["id"]))["status"] == "succeeded" for job in jobs])
