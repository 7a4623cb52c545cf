"""Five schedulers fire a hundred schedules, and every few seconds one of them is killed in the middle of it.

Fires are made due by setting `next_at` back, so that thousands of them are looked at and not three: the moments that
were set, and every minute that passed meanwhile, must each have one run and one job.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from accepted.domain.schedule import GRACE
from tests.faults import effects
from tests.faults.checker import LEFT_OVER, Ledger
from tests.faults.cluster import READY_WITHIN, Cluster
from tests.faults.table import Measured
from tests.support.service.processes import Service
from tests.support.waiting import until

SCHEDULERS = 5
SCHEDULES = 100
BETWEEN_KILLS = (0.5, 2.0)  # seconds
BETWEEN_PUSHES = 0.4  # seconds: the next are due while the last ones are being fired

MINUTE = timedelta(minutes=1)

Fire = tuple[str, datetime]

PUSH = """
UPDATE schedules SET next_at = now() - interval '0.1 seconds' WHERE next_at > now() RETURNING name, next_at
"""
RUNS = """
SELECT r.name, r.scheduled_at, r.outcome, r.fired_at, j.status, j.attempt
FROM schedule_runs r LEFT JOIN jobs j ON j.id = r.job_id
"""
SUCCEEDED = "SELECT count(*) FROM attempts WHERE outcome = 'succeeded'"


@pytest.mark.parametrize("seconds", [15, pytest.param(180, marks=pytest.mark.slow)])
@pytest.mark.timeout(420)
@pytest.mark.fault("F59", moment="schedules fire")
async def test_schedulers_killed_one_after_another(
    cluster: Cluster, ledger: Ledger, measured: Measured, seconds: int
) -> None:
    await cluster.start(schedulers=SCHEDULERS)
    await _put(cluster)
    pushed: set[Fire] = set()
    async with _killing(cluster) as killed:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pushed |= {(row["name"], row["next_at"]) for row in await ledger.fetch(PUSH)}
            await asyncio.sleep(BETWEEN_PUSHES)

    await until(lambda: _nothing_due(ledger), 60, "the last of them to be fired")
    lived = await ledger.fetch("UPDATE schedules SET enabled = false RETURNING name, created_at, next_at")
    await until(lambda: _at_rest(ledger), 120, "the last job")
    found = await ledger.fetch(RUNS)
    expected = pushed | {fire for row in lived for fire in _minutes(row["name"], row["created_at"], row["next_at"])}
    assert {(row["name"], row["scheduled_at"]) for row in found} == expected
    assert len(expected) > SCHEDULES * seconds / 2
    assert {(row["outcome"], row["status"], row["attempt"]) for row in found} == {("fired", "succeeded", 1)}
    assert len(await ledger.jobs()) == await ledger.value(SUCCEEDED) == len(found)
    late = max(row["fired_at"] - row["scheduled_at"] for row in found)
    assert killed
    measured(
        f"{len(found)} fires, {len(killed)} kills, the latest late by", late.total_seconds(), GRACE.total_seconds()
    )


async def _put(cluster: Cluster) -> None:
    body: dict[str, Any] = {"cron": "* * * * *", "on_missed": "run_all", "job": {"type": effects.TYPE}}
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=30) as http:
        for number in range(SCHEDULES):
            assert (await http.put(f"/schedules/s{number}", json=body)).status_code == httpx.codes.CREATED


@asynccontextmanager
async def _killing(cluster: Cluster) -> AsyncIterator[list[Service]]:
    """Two go about it, so that three schedulers are there at any time."""
    killed: list[Service] = []
    murders = [asyncio.create_task(_kill(some, killed)) for some in (cluster.schedulers[::2], cluster.schedulers[1::2])]
    try:
        yield killed
    finally:
        for one in murders:
            one.cancel()
        await asyncio.gather(*murders, return_exceptions=True)


async def _kill(schedulers: Sequence[Service], killed: list[Service]) -> None:
    """SIGKILL for one after another, whatever it is doing; each comes back before the next one goes."""
    while True:
        victim = random.choice(schedulers)
        before = _starts(victim)
        victim.kill()
        killed.append(victim.start())
        await until(lambda one=victim, count=before: _starts(one) > count, READY_WITHIN, "it to come back")
        await asyncio.sleep(random.uniform(*BETWEEN_KILLS))


def _starts(scheduler: Service) -> int:
    return scheduler.log(10_000).count("scheduler_ready")


def _minutes(name: str, created_at: datetime, next_at: datetime) -> Iterator[Fire]:
    """What the line itself asks for, up to the time that is still to come."""
    minute = created_at.replace(second=0, microsecond=0) + MINUTE
    while minute < next_at:
        yield name, minute
        minute += MINUTE


async def _nothing_due(ledger: Ledger) -> bool:
    return bool(await ledger.value("SELECT count(*) = 0 FROM schedules WHERE next_at <= now()"))


async def _at_rest(ledger: Ledger) -> bool:
    return bool(await ledger.value(LEFT_OVER) == 0)
