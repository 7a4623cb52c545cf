"""A row that cannot be used stops no neighbor: each loop goes on, and says so once."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
import structlog.testing
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.errors import LedgerUnavailable
from accepted.services import schedules as service
from accepted.services import webhooks
from accepted.services.batches.ending import BatchCanceller
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import batch_ends, limiter, pruning
from accepted.storage.jobs.submission import Entry
from accepted_worker.attempt import progress
from accepted_worker.attempt.records import LedgerRecords
from accepted_worker.scheduler import base
from accepted_worker.scheduler.ending import Expiry, Rescuer
from accepted_worker.scheduler.limiter import Limiter
from accepted_worker.scheduler.pruner import Pruner
from accepted_worker.scheduler.relay import Reconciler
from tests.support.ledger import schedules
from tests.support.ledger.jobs import a_job, claim, insert, put, the_job
from tests.support.ledger.limited_queue import LEASE_TTL, a_worker, limit
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.service.in_process_worker import NOWHERE
from tests.support.waiting import until

LEASE = 0.3  # seconds: short, so that the rescuer trusts what it sees after a tenth of one


@pytest.fixture
def broker(engine: AsyncEngine) -> PostgresBroker:
    return PostgresBroker(engine, "")


class FailsFor:
    """A statement's function that fails as soon as `bad` is among its arguments, as for a row that it cannot take."""

    def __init__(self, function: Any, bad: object) -> None:
        self.function, self.bad = function, bad

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        for value in (*arguments, *named.values()):
            if value == self.bad or (isinstance(value, list | dict) and self.bad in value):
                raise ValueError("a row that cannot be used")
        return await self.function(*arguments, **named)


async def said_once(*rounds: Any) -> list[Any]:
    """What the rounds return. Their one bad row is logged once, whatever the number of rounds."""
    with structlog.testing.capture_logs() as logged:
        done = [await round_() for round_ in rounds]
    assert len([line for line in logged if line["event"] == "row_unusable"]) == 1, logged
    return done


async def test_expiry(engine: AsyncEngine, broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its webhook cannot be written."""
    late = await put(engine, 5, callback_url="http://example.com/")
    for table, key in (("jobs", "id"), ("outbox", "job_id")):
        await do(engine, f"UPDATE {table} SET expires_at = now() - interval '1 s' WHERE {key} IS NOT NULL")
    monkeypatch.setattr(webhooks, "callbacks_of", FailsFor(webhooks.callbacks_of, late[2]))
    loop = Expiry(engine, broker, PollConnection(engine))
    assert await said_once(loop.run_once, loop.run_once, loop.run_once) == [4, 0, 0]
    left = await rows(engine, "SELECT id FROM jobs WHERE finished_at IS NULL AND type = 'noop'")
    assert [row["id"] for row in left] == [late[2]], "it waits as it did"


async def test_the_rescuer(engine: AsyncEngine, broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The webhook of one end cannot be written; and the policy of another job cannot be read."""
    ids = await put(engine, 5, callback_url="http://example.com/", max_attempts=1)
    await do(engine, "UPDATE jobs SET retry = '[]' WHERE id = :id", id=ids[0])
    await claim(engine)
    monkeypatch.setattr(webhooks, "callbacks_of", FailsFor(webhooks.callbacks_of, ids[2]))
    loop = Rescuer(engine, broker, LEASE, Measurements())

    async def four() -> bool:
        await loop.run_once()
        return len(await rows(engine, "SELECT 1 FROM jobs WHERE status = 'failed'")) == 4

    await said_once(lambda: until(four, 20, "the others to be rescued", interval=LEASE / 20), loop.run_once)
    assert (await the_job(engine, ids[2]))["status"] == "running"


async def test_the_limiter(engine: AsyncEngine, broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of a queue cannot be read: queues before and after it go on."""
    for queue in ("a", "b", "c"):
        await limit(engine, queue, max_running=5)
        await put(engine, 1, queue=queue)
    await a_worker(engine, 9)
    await do(engine, "UPDATE queues SET rate_jobs = 0, rate_per = 1 WHERE name = 'b'")
    loop = Limiter(engine, broker, "", LEASE_TTL, PollConnection(engine))
    await said_once(loop.run_once, loop.run_once, loop.run_once)
    assert [row["queue"] for row in await rows(engine, "SELECT queue FROM outbox WHERE admitted ORDER BY 1")] == [
        "a",
        "c",
    ]


async def test_the_limiter_stops_for_the_ledger(
    engine: AsyncEngine, broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with the ledger is no row's problem."""

    async def away(*_: object) -> None:
        raise LedgerUnavailable

    await limit(engine, "a", max_running=5)
    await put(engine, 1, queue="a")
    monkeypatch.setattr(limiter, "lock", away)
    loop = Limiter(engine, broker, "", LEASE_TTL, PollConnection(engine))
    with pytest.raises(LedgerUnavailable):
        await loop.run_once()


ODD_SCHEDULES = {
    "cron": "cron = 'every day'",
    "zone": "timezone = 'Mars/Phobos'",
    "line": "cron = '0 0 31 2 *'",
    "spread": "spread_over = 'Infinity'",
    "nan": "spread_over = 'NaN'",
    "array": "job = '[]'",
    "null": "job = 'null'",
    "number": "job = '{\"type\": 5}'",
    "huge": 'job = \'{"type": "noop", "payload": {"n": 1e999}}\'',
    "missed": "on_missed = 'perhaps'",
}


async def test_cron(engine: AsyncEngine, broker: PostgresBroker) -> None:
    checks = await schedules.job_checks(engine)
    for name in (*ODD_SCHEDULES, "a", "z"):
        await schedules.put(engine, name)
        await schedules.due(engine, name)
    for name, change in ODD_SCHEDULES.items():
        await do(engine, f"UPDATE schedules SET {change.replace(': ', chr(92) + ': ')} WHERE name = '{name}'")
    assert await service.fire(engine, broker, checks, Measurements()) == len(ODD_SCHEDULES) + 2
    for name in ("a", "z"):
        assert [run["outcome"] for run in await schedules.runs(engine, name)] == ["fired"], name
    for name in ODD_SCHEDULES.keys() - {"missed"}:
        (run,) = await schedules.runs(engine, name)
        assert (run["outcome"], bool(run["reason"])) == ("failed", True), name
    await do(engine, "UPDATE schedules SET next_at = now() + interval '1 day', updated_at = now() + interval '1 day'")
    assert await service.mend(engine) >= 2, "and their next times are computed again after the clock went back"


async def test_the_cancelling_of_batches(
    engine: AsyncEngine, broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = UUID(int=1), UUID(int=2)
    members = {batch: await put(engine, 2, batch_id=batch) for batch in (bad, good)}
    monkeypatch.setattr(batch_ends, "cancel_some", FailsFor(batch_ends.cancel_some, bad))
    canceller = BatchCanceller(engine, broker)
    both = [bad, good]
    assert await said_once(*[lambda: canceller.cancel_some_of_each(both)] * 2) == [2, 0]
    assert (await the_job(engine, members[good][0]))["status"] == "cancelled"
    assert (await the_job(engine, members[bad][0]))["status"] == "queued"


async def test_the_reconciler(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[str] = []

    class Broker(PostgresBroker):
        is_ledger = False

        async def clear(self, queue: str, beyond: int) -> int:
            if queue == "b":
                raise ValueError("a queue that cannot be cleared")
            cleared.append(queue)
            return 0

    for queue in ("a", "b", "c"):
        await do(
            engine,
            "INSERT INTO job_types (name, queue, max_attempts, schedule, jitter, payload_schema, external) "
            "VALUES (:q, :q, 1, '{1}', 0, '{}', true)",
            q=queue,
        )
    loop = Reconciler(engine, Broker(engine, ""))
    await said_once(loop.run_once, loop.run_once)
    assert sorted(cleared) == ["a", "a", "c", "c"]


async def test_the_pruner(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs cannot be pruned: idempotency keys, runs and batches are."""

    async def fails(*_: object) -> int:
        raise ValueError("a job that cannot be pruned")

    monkeypatch.setattr(pruning, "prune_jobs", fails)
    await insert(engine, Entry(a_job(), "old", b"1"), ttl=-1)
    loop = Pruner(engine, 7 * 86400, 30 * 86400)
    assert await said_once(loop.run_once, loop.run_once) == [1, 0]


async def test_the_writing_of_progress(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(engine, 3)
    leases = [one.lease for one in await claim(engine)]
    writer = progress.ProgressWriter(LedgerRecords(engine, NOWHERE))
    with structlog.testing.capture_logs() as logged:
        for lease, text in zip(leases, ('{"percent":1}', "no JSON", '{"percent":3}'), strict=True):
            writer.say(lease, text)
        await until(lambda: _percents(engine, [1, 3]), 20, "the others")
        writer.say(leases[0], '{"percent":9}')
        await until(lambda: _percents(engine, [3, 9]), 20, "more of them")
    assert [line["row"] for line in logged if line["event"] == "row_unusable"] == [str(leases[1].job_id)]
    assert "no JSON" not in str(logged), "no value is logged"


async def test_a_loop_that_cannot_listen_still_runs() -> None:
    class Deaf:
        name = "deaf"
        rounds = 0

        async def run_once(self) -> int:
            self.rounds += 1
            return 0

        def pause(self, done: int) -> float:
            return 0.01

        async def listen(self) -> None:
            raise ValueError("cannot listen")

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    deaf = Deaf()
    running = asyncio.create_task(base.run([deaf]))
    await until(lambda: deaf.rounds > 3, 10, "its rounds")
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


async def _percents(engine: AsyncEngine, wanted: Sequence[int]) -> bool:
    found = await rows(engine, "SELECT progress FROM jobs WHERE progress IS NOT NULL")
    return sorted(row["progress"]["percent"] for row in found) == list(wanted)
