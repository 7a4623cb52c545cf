"""What is broken in the drill, each with what has to name it. A fault mends what it has broken."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.drill.stage import Named, Stage
from tests.support.ledger.sql import do
from tests.support.servers.ports import free_port
from tests.support.service.running_service import accepted

BLOCKED = 12.0
"""Seconds for which a handler blocks its worker: longer than it may take to be named."""

SLOW = 0.3
"""Seconds by which each answer of the slow ledger is late."""

HOPELESS = {"max_attempts": 20, "schedule": [0.1], "jitter": 0}

Inject = Callable[[Stage], Awaitable[list[Named]]]


@dataclass(frozen=True)
class Fault:
    """`alone`: it would hide others, or hold them up."""

    name: str
    injected: str
    inject: Inject
    alone: bool = False


async def no_scheduler(stage: Stage) -> list[Named]:
    stage.scheduler.kill()
    job, began = await stage.client.submit("noop", queue="main", delay=0.1), time.monotonic()
    named = [
        await stage.named("scheduler", began),
        await stage.explained(job, "waits_for_scheduler", began),
    ]
    stage.scheduler.start()
    await stage.client.finished(job["id"])
    return named


async def no_worker(stage: Stage) -> list[Named]:
    job, began = await stage.client.submit("noop", queue="nobody"), time.monotonic()
    named = [
        await stage.explained(job, "no_worker_for_queue", began),
        await stage.named("no_worker", began, queue="nobody"),
    ]
    await stage.client.http.post(f"/jobs/{job['id']}/cancel")
    return named


async def host_down(stage: Stage) -> list[Named]:
    host = f"127.0.0.1:{free_port()}"
    payload = {"url": f"http://{host}/"}
    began = time.monotonic()
    jobs = [await stage.client.submit("http.request", payload, queue="calling", retry=HOPELESS) for _ in range(3)]
    named = [await stage.named("host", began, host=host), await stage.explained(jobs[-1], "target_held", began, host)]
    for job in jobs:
        await stage.client.http.post(f"/jobs/{job['id']}/cancel")
    return named


async def poison(stage: Stage) -> list[Named]:
    job, began = await stage.client.submit("deed", {"do": "signal", "arg": 9}, queue="deeds"), time.monotonic()
    return [
        await stage.explained(job, None, began, "crashed"),
        await stage.named("crashes", began, type="deed"),
    ]


async def limit_too_low(stage: Stage) -> list[Named]:
    await stage.client.http.patch("/queues/limited", json={"rate_limit": {"jobs": 1, "per": 3600}})
    began = time.monotonic()
    jobs = [await stage.client.submit("noop", queue="limited") for _ in range(10)]
    named = [
        await stage.explained(jobs[-1], "rate_limit", began),
        await stage.named("limit", began, queue="limited"),
    ]
    await stage.client.http.patch("/queues/limited", json={"rate_limit": None})
    return named


async def paused(stage: Stage) -> list[Named]:
    await stage.client.http.patch("/queues/paused", json={"paused": True})
    job, began = await stage.client.submit("noop", queue="paused"), time.monotonic()
    named = [await stage.explained(job, "paused", began), await stage.named("paused", began, queue="paused")]
    said = await accepted("status", env={"ACCEPTED_URL": stage.url})
    assert said.code == 1
    assert named[-1].sentence in said.out
    await stage.client.http.patch("/queues/paused", json={"paused": False})
    return named


async def broker_away(stage: Stage) -> list[Named]:
    stage.broker.cut()
    job, began = await stage.client.submit("noop", queue="main"), time.monotonic()
    named = [await stage.named("broker", began), await stage.explained(job, "broker_away", began)]
    await stage.broker.heal()
    await stage.client.finished(job["id"])
    return named


async def ledger_slow(stage: Stage) -> list[Named]:
    began = time.monotonic()
    stage.ledger.delay(SLOW)
    named = [await stage.named("ledger", began)]
    await stage.ledger.heal()
    return named


async def stuck_handler(stage: Stage) -> list[Named]:
    job = await stage.client.submit("harms", {"how": "block", "seconds": BLOCKED}, queue="harm")
    began = time.monotonic()
    named = [await stage.named("blocked", began, job_id=job["id"])]
    await stage.client.finished(job["id"])
    return named


async def schedule_that_cannot_fire(stage: Stage) -> list[Named]:
    """Its type was removed, and its time has come."""
    body = {"cron": "* * * * *", "job": {"type": "noop", "queue": "main"}}
    await stage.client.http.put("/schedules/nightly", json=body)
    began = time.monotonic()
    await do(stage.engine, """UPDATE schedules SET job = '{"type": "gone"}', next_at = now() - interval '1 second'""")
    named = [await stage.named("schedule", began, schedule="nightly")]
    await stage.client.http.delete("/schedules/nightly")
    return named


FAULTS = (
    Fault("no worker for a queue", "a job on a queue that no worker serves", no_worker),
    Fault("paused queue", "the queue is paused, a job waits", paused),
    Fault("limit too low", "one start an hour, ten jobs wait", limit_too_low),
    Fault("host down", "three jobs call a port on which nobody listens", host_down),
    Fault("schedule that cannot fire", "the type of its job is gone, its time comes", schedule_that_cannot_fire),
    Fault("poison payload", "a job kills the process that runs it", poison),
    Fault("no scheduler", "the scheduler is killed, a job comes due", no_scheduler, alone=True),
    Fault("broker away", "every connection to RabbitMQ is reset", broker_away, alone=True),
    Fault("ledger slow", f"each answer of PostgreSQL takes {SLOW:g} s longer", ledger_slow, alone=True),
    Fault("stuck handler", f"an `async def` handler computes for {BLOCKED:g} s", stuck_handler, alone=True),
)
