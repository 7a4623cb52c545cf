"""A handler that blocks the event loop of its worker harms no job beside it, and itself only past a limit."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.clients.client import Client, Job
from tests.support.ledger.sql import rows
from tests.support.service.processes import Service, logged
from tests.support.service.running_service import BOOT_WITHIN, Running, serving, types_known
from tests.support.waiting import until

LEASE = 4.0
BLOCKED = 12.0  # seconds: three leases
LIMIT = 2.0
SIBLINGS = 8
BESIDE = 6.0  # seconds that each sibling takes: they run when the loop is blocked
ENV = {
    "ACCEPTED_AUTH": "off",
    "ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.support.handlers.misbehaving",
    "ACCEPTED_LEASE_TTL": f"{LEASE:g}",
}
HANDLER = "tests/support/handlers/misbehaving.py:"


class Blocked:
    """A worker whose event loop one job blocks, while `SIBLINGS` others run in it, and a second worker beside it."""

    def __init__(self, running: Running, blocker: Job, siblings: list[Job], beside: Service) -> None:
        self.client: Client = running.client()
        self.worker = running.services["worker"]
        self.beside = beside
        self.blocker = blocker
        self.siblings = siblings

    async def outcomes(self, job: Job) -> list[str]:
        return [attempt["outcome"] for attempt in await self.client.attempts(job["id"])]


@asynccontextmanager
async def blocked(database_url: str, seconds: float, **env: str) -> AsyncIterator[Blocked]:
    async with serving(database_url, {**ENV, **env}) as running:
        client = running.client()
        await types_known(client)
        beside = Service("worker", "--concurrency", "20", env=dict(running.env))
        siblings = [await client.submit("sleep", {"seconds": BESIDE}) for _ in range(SIBLINGS)]
        await asyncio.gather(*(client.until_status(one["id"], "running") for one in siblings))
        blocker = await client.submit("harms", {"how": "block", "seconds": seconds})
        await client.until_status(blocker["id"], "running")
        try:
            yield Blocked(running, blocker, siblings, beside.start())
        finally:
            beside.remove()


@pytest.mark.fault("F77", moment="eight jobs run beside it, and it blocks for three leases")
async def test_a_blocked_loop_is_no_lost_lease(database_url: str, engine: AsyncEngine) -> None:
    async with blocked(database_url, BLOCKED) as one:
        told = await until(lambda: told_to_the_ledger(engine), BLOCKED, "the ledger to know what blocks")
        assert (told["type"], told["job_id"]) == ("harms", one.blocker["id"])
        assert HANDLER in told["where"]
        await one.beside.wait_ready(logged("worker_ready"), BOOT_WITHIN)
        for job in (one.blocker, *one.siblings):
            done = await one.client.finished(job["id"])
            assert (done["status"], done["attempt"]) == ("succeeded", 1), done
            assert await one.outcomes(job) == ["succeeded"]
        await one.worker.wait_ready(logged("loop_turns_again"), 10)
        lines = [json.loads(line) for line in one.worker.log(10_000).splitlines() if "loop_" in line]
        assert [line["event"] for line in lines] == ["loop_blocked", "loop_turns_again"]
        assert {(line["type"], line["job_id"]) for line in lines} == {("harms", one.blocker["id"])}
        assert lines[-1]["seconds"] > 2 * LEASE
        assert await until(lambda: nothing_blocks(engine), 10, "the ledger to know that it turns again")


@pytest.mark.fault("F77", moment="eight jobs run beside it, and it blocks for longer than the limit")
async def test_past_the_limit_the_culprit_alone_is_charged(database_url: str) -> None:
    async with blocked(database_url, 600, ACCEPTED_BLOCKED_LIMIT=f"{LIMIT:g}") as one:
        assert await one.worker.wait_exit(30) == os.EX_SOFTWARE
        done = await one.client.finished(one.blocker["id"])
        assert (done["status"], done["attempt"]) == ("succeeded", 2)
        first, _ = await one.client.attempts(one.blocker["id"])
        assert first["outcome"] == "crashed"
        assert "blocked the event loop of its worker for 2 s at " in first["error"]["message"]
        assert HANDLER in first["error"]["message"]
        for job in one.siblings:
            done = await one.client.finished(job["id"])
            assert (done["status"], done["max_attempts"]) == ("succeeded", job["max_attempts"] + 1)
            assert await one.outcomes(job) == ["handed_back", "succeeded"]


async def told_to_the_ledger(engine: AsyncEngine) -> dict[str, object] | None:
    found = await rows(engine, "SELECT blocked FROM workers WHERE blocked IS NOT NULL AND queues IS NULL")
    return json.loads(found[0]["blocked"]) if found else None


async def nothing_blocks(engine: AsyncEngine) -> bool:
    return not await rows(engine, "SELECT 1 FROM workers WHERE blocked IS NOT NULL")
