"""A tenant that floods what it shares with others: their jobs and webhooks go on as if it were not there."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from tests.faults.table import Measured
from tests.support.clients.client import Client, seconds_between
from tests.support.servers.addresses import BROKERS
from tests.support.servers.receiver import Answer, Receiver
from tests.support.service.running_service import accepted, make_keys, serving, types_known
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(300)

HANDLERS = "accepted_worker.handlers,accepted_worker.handlers.sleep"
QUEUE = "shared"
SLOTS = 20  # of the worker of `serving`
LONG = 120
"""Seconds that a job of the flood takes, longer than the test: whoever waits for one is seen to wait."""

FLOOD = 2000
NOISE = 10.0
"""Seconds that a start may be late on a noisy machine. What was seen were as many as a job of the flood took."""


@asynccontextmanager
async def tenants(
    request: pytest.FixtureRequest, database_url: str, kind: str
) -> AsyncIterator[tuple[Mapping[str, str], dict[str, Client]]]:
    """The clients of `flood`, `b` and `c`, which have all used the queue."""
    broker = "postgres" if kind == "postgres" else request.getfixturevalue("amqp_url")
    given = {"ACCEPTED_AUTH": "required", "ACCEPTED_BROKER_URL": broker, "ACCEPTED_HANDLERS": HANDLERS}
    async with serving(database_url, given) as running:
        names = ("flood", "b", "c")
        keys = await make_keys(running.env, *((name, "jobs:read,jobs:write,queues:admin") for name in names))
        clients = {name: running.client(key) for name, key in zip(names, keys, strict=True)}
        await types_known(clients["b"])
        for client in clients.values():
            await client.finish("noop", queue=QUEUE)
        yield running.env, clients


async def flood(client: Client, running: int, queue: str = QUEUE) -> None:
    """Thousands of long jobs, as many of which run as may."""
    job = {"type": "sleep", "payload": {"seconds": LONG}, "queue": queue, "priority": 9}
    answer = await client.http.post("/batches", json={"jobs": [job] * FLOOD}, timeout=60)
    assert answer.status_code == 202, answer.text

    async def as_many() -> bool:
        return (await client.get(f"/queues/{queue}")).json()["depth"].get("running", 0) >= running

    await until(as_many, 60, f"{running} jobs of the flood to run", interval=0.2)


async def waits(clients: Mapping[str, Client], count: int) -> list[float]:
    """How long jobs of b and c waited for their start, shortest first."""

    async def of(client: Client) -> list[float]:
        jobs = [await client.finish("noop", queue=QUEUE) for _ in range(count)]
        return [seconds_between(job["created_at"], job["started_at"]) for job in jobs]

    b, c = await asyncio.gather(of(clients["b"]), of(clients["c"]))
    return sorted(b + c)


@pytest.mark.fault("F78", moment="as many long jobs of one tenant as there are slots, and thousands behind them")
@pytest.mark.parametrize("kind", BROKERS)
async def test_a_flood_of_long_jobs_holds_up_nobody_else(
    request: pytest.FixtureRequest, database_url: str, kind: str, measured: Measured
) -> None:
    async with tenants(request, database_url, kind) as (_, clients):
        alone = (await waits(clients, 10))[-1]
        await flood(clients["flood"], running=SLOTS - 2)
        beside = (await waits(clients, 10))[-1]
        measured("a start beside the flood", beside, 2 * alone + NOISE)
        (waiting, *_) = (await clients["flood"].get("/jobs?status=queued&limit=1")).json()["items"]
        why = (await clients["flood"].get(f"/jobs/{waiting['id']}/explain")).json()
        assert (why["reason"], why["running"]) == ("tenant_share", SLOTS - 2), why


@pytest.mark.slow
@pytest.mark.fault("F78", moment="a hundred jobs each of two others, one after the other")
@pytest.mark.parametrize("kind", BROKERS)
async def test_the_others_wait_less_than_twice_as_long(
    request: pytest.FixtureRequest, database_url: str, kind: str, measured: Measured
) -> None:
    async with tenants(request, database_url, kind) as (_, clients):
        alone = (await waits(clients, 100))[-2]
        await flood(clients["flood"], running=SLOTS - 2)
        beside = (await waits(clients, 100))[-2]
        measured("p99 of a start beside the flood", beside, 2 * alone)


@pytest.mark.fault("F78", moment="a tenant with a limit of its own, on queues that nobody else uses")
async def test_a_tenant_s_limit_holds_on_all_its_queues(request: pytest.FixtureRequest, database_url: str) -> None:
    async with tenants(request, database_url, "postgres") as (env, clients):
        said = await accepted("keys", "share", "--tenant", "flood", "--max-running", "5", env=env)
        assert said.out.strip() == "weight 1, at most 5 running"
        for queue in ("mine", "also-mine"):
            await clients["flood"].http.post(
                "/batches",
                json={"jobs": [{"type": "sleep", "payload": {"seconds": LONG}, "queue": queue}] * 50},
            )

        async def five() -> bool:
            found = [(await clients["flood"].get(f"/queues/{queue}")).json() for queue in ("mine", "also-mine")]
            return sum(one["depth"].get("running", 0) for one in found) >= 5

        await until(five, 60, "jobs of the flood to run", interval=0.2)
        assert (await waits(clients, 5))[-1] < NOISE + 1
        (waiting, *_) = (await clients["flood"].get("/jobs?status=queued&limit=1")).json()["items"]
        why = (await clients["flood"].get(f"/jobs/{waiting['id']}/explain")).json()
        assert (why["reason"], why["max_running"], why["running"]) == ("tenant_limit", 5, 5), why


@pytest.mark.fault("F78", moment="a thousand webhooks of one tenant for an address that never answers")
@pytest.mark.parametrize("kind", BROKERS)
async def test_webhooks_to_a_dead_address_hold_up_nobody_else_s(
    request: pytest.FixtureRequest, database_url: str, kind: str, measured: Measured
) -> None:
    async with (
        Receiver(lambda _: Answer(after=LONG)) as dead,
        Receiver() as alive,
        tenants(request, database_url, kind) as (_, clients),
    ):
        job = {"type": "noop", "queue": QUEUE, "callback_url": dead.url}
        await clients["flood"].http.post("/batches", json={"jobs": [job] * 1000}, timeout=60)
        await dead.wait_for(5, 60)
        started = time.monotonic()
        await clients["b"].submit("noop", queue=QUEUE, callback_url=alive.url)
        await alive.wait_for(1, 60)
        took = time.monotonic() - started
        measured("another's webhook", took, 5.0)
