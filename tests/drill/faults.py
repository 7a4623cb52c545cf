"""What is broken in the drill, each with what has to name it. A fault mends what it has broken.

What a page can do about it is done there, by somebody who has followed the link of the overview.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.drill.stage import RUNBOOK, Named, Stage
from tests.support.ledger.sql import do
from tests.support.servers.receiver import Receiver
from tests.support.service.running_service import accepted

BLOCKED = 15.0
"""Seconds for which a handler blocks its worker: longer than it may take to be named, and acted upon."""

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
        (await stage.led("scheduler", began, RUNBOOK))[0],
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
    overview, person = await stage.led("no_worker", began, "cancel the jobs that wait", queue="nobody")
    await person.press("Cancel all that wait…")
    await person.press("Cancel")
    assert (await stage.client.job(job["id"]))["status"] == "cancelled"
    return [*named, overview]


async def host_down(stage: Stage) -> list[Named]:
    receiver = Receiver()
    host = receiver.url.removeprefix("http://")
    payload = {"url": receiver.url}
    began = time.monotonic()
    jobs = [await stage.client.submit("http.request", payload, queue="calling", retry=HOPELESS) for _ in range(3)]
    named = [await stage.named("host", began, host=host), await stage.explained(jobs[-1], "target_held", began, host)]
    overview, person = await stage.led("host", began, "release the host", host=host)
    async with receiver:
        assert f"{host} is called as usual" in (await person.press(f"Release {host}")).said
        ended = [await stage.client.finished(job["id"]) for job in jobs]
    assert {job["status"] for job in ended} == {"succeeded"}
    return [*named, overview]


async def poison(stage: Stage) -> list[Named]:
    kills = {"do": "signal", "arg": 9}
    retry = {"max_attempts": 5, "schedule": [0.1], "jitter": 0}
    job, began = await stage.client.submit("deed", kills, queue="deeds", retry=retry), time.monotonic()
    named = [
        await stage.explained(job, None, began, "crashed"),
        await stage.named("crashes", began, type="deed"),
    ]
    overview, person = await stage.led("crashes", began, "run the job again with another payload", type="deed")
    await stage.client.finished(job["id"])
    page = await person.look(person.path)
    await person.look(next(path for path in page.links.values() if path.endswith(job["id"])))
    await person.press("Edit and retry")
    await person.press("Retry with this payload", payload='{"do": "result", "arg": 1}')
    assert (await stage.client.finished(job["id"]))["status"] == "succeeded"
    return [*named, overview]


async def limit_too_low(stage: Stage) -> list[Named]:
    await stage.client.http.patch("/queues/limited", json={"rate_limit": {"jobs": 1, "per": 3600}})
    began = time.monotonic()
    jobs = [await stage.client.submit("noop", queue="limited") for _ in range(10)]
    named = [
        await stage.explained(jobs[-1], "rate_limit", began),
        await stage.named("limit", began, queue="limited"),
    ]
    overview, person = await stage.led("limit", began, "set another limit", queue="limited")
    await person.press("Set limits", rate_jobs="100", rate_per="1")
    ended = [await stage.client.finished(job["id"]) for job in jobs]
    assert {job["status"] for job in ended} == {"succeeded"}
    return [*named, overview]


async def paused(stage: Stage) -> list[Named]:
    await stage.client.http.patch("/queues/paused", json={"paused": True})
    job, began = await stage.client.submit("noop", queue="paused"), time.monotonic()
    named = [await stage.explained(job, "paused", began), await stage.named("paused", began, queue="paused")]
    overview, person = await stage.led("paused", began, "resume the queue", queue="paused")
    said = await accepted("status", env={"ACCEPTED_URL": stage.url})
    assert said.code == 1
    assert named[-1].sentence in said.out
    await person.press("Resume paused")
    assert (await stage.client.finished(job["id"]))["status"] == "succeeded"
    return [*named, overview]


async def broker_away(stage: Stage) -> list[Named]:
    stage.broker.cut()
    job, began = await stage.client.submit("noop", queue="main"), time.monotonic()
    named = [
        await stage.named("broker", began),
        await stage.explained(job, "broker_away", began),
        (await stage.led("broker", began, RUNBOOK))[0],
    ]
    await stage.broker.heal()
    await stage.client.finished(job["id"])
    return named


async def ledger_slow(stage: Stage) -> list[Named]:
    began = time.monotonic()
    stage.ledger.delay(SLOW)
    named = [await stage.named("ledger", began), (await stage.led("ledger", began, RUNBOOK))[0]]
    await stage.ledger.heal()
    return named


async def stuck_handler(stage: Stage) -> list[Named]:
    job = await stage.client.submit("harms", {"how": "block", "seconds": BLOCKED}, queue="harm")
    began = time.monotonic()
    named = [await stage.named("blocked", began, job_id=job["id"])]
    overview, person = await stage.led("blocked", began, "cancel the job", job_id=job["id"])
    assert "is cancelled, or will be" in (await person.press("Cancel")).said
    await stage.client.finished(job["id"])
    return [*named, overview]


async def schedule_that_cannot_fire(stage: Stage) -> list[Named]:
    """Its type was removed, and its time has come."""
    body = {"cron": "* * * * *", "job": {"type": "noop", "queue": "main"}}
    await stage.client.http.put("/schedules/nightly", json=body)
    began = time.monotonic()
    await do(stage.engine, """UPDATE schedules SET job = '{"type": "gone"}', next_at = now() - interval '1 second'""")
    named = [await stage.named("schedule", began, schedule="nightly")]
    overview, person = await stage.led("schedule", began, "write it again", schedule="nightly")
    await person.press("Save", job='{"type": "noop", "queue": "main"}')
    assert (await stage.client.get("/schedules/nightly")).json()["job"]["type"] == "noop"
    await person.press("Delete…")
    await person.press("Delete 1 schedule")
    assert (await stage.client.get("/schedules/nightly")).status_code == 404
    return [*named, overview]


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
