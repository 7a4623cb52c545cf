"""Arithmetic at the ends of time, numbers and texts: no parameter of any operation makes a 500, now or later.

The service has rows of every kind, so that no request ends early for want of anything to do.
"""

import asyncio
import random
from collections import Counter
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.services.monitoring.statistics import Measurements
from accepted_worker.scheduler.batches import BatchLoop
from accepted_worker.scheduler.cron import Cron
from accepted_worker.scheduler.ending import Expiry, Overdue
from accepted_worker.scheduler.housekeeping import Sampler
from accepted_worker.scheduler.limiter import Limiter
from accepted_worker.scheduler.pruner import Pruner
from accepted_worker.scheduler.relay import Relay
from tests.support.clients.client import Client
from tests.support.clients.ends import Ends, Sent
from tests.support.ledger.dead_letters import fail
from tests.support.ledger.jobs import claim
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.schedules import job_checks
from tests.support.ledger.webhook_deliveries import delivered
from tests.support.service.http_app import HttpApp, measured

SEED, SHARE = 7, 1500
"""Requests of the ten thousand that there are."""

LONGEST = 20.0  # seconds for one request: none of them waits for anything


async def furnished(engine: AsyncEngine, client: Client) -> dict[str, str]:
    """Rows of every kind, and the ids of some by the names of the parameters."""
    (letter, *_) = await fail(engine, 3)
    _, delivery = await delivered(engine, "failed")
    await client.http.put("/schedules/q", json={"cron": "* * * * *", "job": {"type": "noop"}})
    await client.http.patch("/queues/q", json={"rate_limit": {"jobs": 5, "per": 1}, "max_running_per_key": 2})
    batch = (await client.http.post("/batches", json={"jobs": [{"type": "noop", "queue": "q"}]})).json()
    await client.http.put("/job-types/external", json={"queue": "leased"})
    await client.submit("external", queue="leased")
    leased = (await client.http.post("/queues/leased/lease", json={})).json()["items"]
    await measured(engine, 100, 0.5)
    return {
        "job_id": str(letter),
        "batch_id": batch["id"],
        "delivery_id": str(delivery),
        "lease": leased[0]["lease"],
        "name": "q",
    }


def some_of(every: list[Sent]) -> list[Sent]:
    """In their order, with all ends of times, numbers and ids in paths and queries.

    (tests/faults/test_rows_kept.py sends all requests to a real process.)
    """
    chosen = set(random.Random(SEED).sample(range(len(every)), SHARE))
    return [one for number, one in enumerate(every) if one.own or number in chosen]


async def status_of(client: Client, sent: Sent) -> int:
    try:
        async with asyncio.timeout(LONGEST), client.http.stream(**sent.request("http://api")) as answer:
            return answer.status_code
    except httpx.InvalidURL:  # this client cannot send it
        return 0


@pytest.mark.timeout(550)
async def test_no_end_is_a_500(app: HttpApp, engine: AsyncEngine, broker: PostgresBroker, database_url: str) -> None:
    client = await app.client()
    ids = await furnished(engine, client)
    document: Any = (await client.get("/openapi.json")).json()
    tried: Counter[int] = Counter()
    failed: list[str] = []
    for sent in some_of(list(Ends(document, ids).requests())):
        try:
            status = await status_of(client, sent)
        except Exception as error:  # every one of them is listed, not the first alone
            status, failed = 599, [*failed, f"{sent.method} {sent.path[:80]} {sent.what}: {error!r}"]
        tried[status] += 1
        if status >= 500 and status != 599:
            failed.append(f"{sent.method} {sent.path[:80]} {sent.what}: {status}")
    assert failed == [], "\n".join([f"{len(failed)} of {tried.total()}", *failed[:40]])
    assert tried[202] > 20, tried
    assert tried[422] > 500, tried
    await what_was_accepted_works(app, client, engine, broker, database_url)


async def what_was_accepted_works(
    app: HttpApp, client: Client, engine: AsyncEngine, broker: PostgresBroker, database_url: str
) -> None:
    """Every list can be read, jobs are explained, and every loop of the scheduler does its round."""
    for path in ("/schedules", "/dead-letters", "/webhook-deliveries", "/queues", "/job-types", "/targets"):
        assert (await client.get(path)).status_code == 200, path
    for job in (await client.get("/jobs?limit=50&include=payload,result")).json()["items"]:
        for of_it in ("", "/attempts", "/explain"):
            assert (await client.get(f"/jobs/{job['id']}{of_it}")).status_code == 200
    polls = PollConnection(engine)
    for loop in (
        Relay(engine, broker, polls), Limiter(engine, broker, database_url, 30, polls),
        Overdue(engine, broker, polls, Measurements()),
        Expiry(engine, broker, polls), BatchLoop(engine, broker, polls), Sampler(engine), Pruner(engine, 60, 60),
        Cron(engine, broker, await job_checks(engine), polls, Measurements()),
    ):  # fmt: skip
        await loop.run_once()
    await polls.close()
    for queue in ("q", "default"):
        await claim(engine, queue=queue)
