"""One round of each loop of the scheduler, and several at once: each row is handled once."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.ids import new_id
from accepted.domain.job import JobType
from accepted.domain.references import JobRef
from accepted.domain.retry import Retry
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import job_types, workers
from accepted.storage.db.engine import transaction
from accepted.storage.jobs.submission import Entry
from accepted_worker.scheduler.ending import Expiry, Rescuer
from accepted_worker.scheduler.pruner import Pruner
from accepted_worker.scheduler.relay import Reconciler, Relay
from tests.support.ledger.brokers import ListBroker
from tests.support.ledger.jobs import WORKER, a_job, claim, insert, put, the_job
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.waiting import until

LEASE = 0.3  # seconds: short, so that the rescuer trusts what it sees after a tenth of one


@pytest.fixture
def broker(engine: AsyncEngine) -> ListBroker:
    return ListBroker(engine)


async def beat(engine: AsyncEngine, worker: UUID = WORKER) -> None:
    async with transaction(engine) as conn:
        await workers.heartbeat(conn, worker, "w")
        await conn.commit()


async def test_the_relay_publishes_what_is_due_once(engine: AsyncEngine, broker: ListBroker) -> None:
    due = [a_job() for _ in range(50)]
    later = a_job(delay=3600.0)
    held = a_job()
    await insert(
        engine, *(Entry(job, handoff=0.0) for job in due), Entry(later, handoff=0.0), Entry(held, handoff=60.0)
    )

    relays = [Relay(engine, broker, PollConnection(engine)) for _ in range(4)]
    done = await asyncio.gather(*(relay.run_once() for relay in relays))

    assert sum(done) == 50
    assert sorted(ref.job_id for ref in broker.sent) == sorted(job.id for job in due)
    assert {(ref.attempt, ref.queue, ref.type, ref.priority) for ref in broker.sent} == {(0, "q", "noop", 4)}
    assert {row["job_id"] for row in await rows(engine, "SELECT job_id FROM outbox WHERE NOT published")} == {
        later.id,
        held.id,
    }
    assert await relays[0].run_once() == 0


async def test_the_relay_makes_scheduled_jobs_queued(engine: AsyncEngine, broker: ListBroker) -> None:
    (job,) = [a_job(delay=0.2)]
    await insert(engine, Entry(job, handoff=0.0))
    assert (await the_job(engine, job.id))["status"] == "scheduled"
    relay = Relay(engine, broker, PollConnection(engine))
    await until(relay.run_once, 10, "the job to be due")
    assert (await the_job(engine, job.id))["status"] == "queued"


async def test_a_reference_that_was_not_confirmed_comes_due_again(engine: AsyncEngine, broker: ListBroker) -> None:
    await insert(engine, Entry(a_job(), handoff=0.0))
    broker.works = False
    relay = Relay(engine, broker, PollConnection(engine))
    assert await relay.run_once() == 0
    assert relay.pause(0) >= 0.5, "a broker that is away is left alone for a while"
    (row,) = await rows(engine, "SELECT published, due_at > now() AS held FROM outbox")
    assert (row["published"], row["held"]) == (False, True)
    broker.works = True
    await do(engine, "UPDATE outbox SET due_at = now()")
    assert await Relay(engine, broker, PollConnection(engine)).run_once() == 1


async def test_a_row_that_was_claimed_meanwhile_is_not_marked(engine: AsyncEngine, broker: ListBroker) -> None:
    job = a_job()
    await insert(engine, Entry(job, handoff=0.0))
    publish = broker.publish

    async def claimed_first(refs: Sequence[JobRef]) -> list[JobRef]:
        await do(engine, "UPDATE outbox SET published = true")
        assert len(await claim(engine)) == 1
        return await publish(refs)

    broker.publish = claimed_first  # type: ignore[method-assign]
    await Relay(engine, broker, PollConnection(engine)).run_once()
    assert await rows(engine, "SELECT * FROM outbox") == []


async def test_the_rescuer_ends_what_a_silent_worker_held_once(engine: AsyncEngine, broker: ListBroker) -> None:
    await put(engine, 20)
    claims = await claim(engine, 20)
    rescuers = [Rescuer(engine, broker, LEASE, Measurements()) for _ in range(3)]

    async def rescued() -> bool:
        await asyncio.gather(*(rescuer.run_once() for rescuer in rescuers))
        return len(await rows(engine, "SELECT * FROM attempts WHERE finished_at IS NOT NULL")) == 20

    await until(rescued, 20, "20 attempts ended", interval=LEASE / 20)
    jobs = await rows(engine, "SELECT * FROM jobs")
    assert {(job["status"], job["crashes"], job["attempt"]) for job in jobs} == {("queued", 1, 1)}
    assert {job["error"]["class"] for job in jobs} == {"crashed"}
    assert {row["outcome"] for row in await rows(engine, "SELECT outcome FROM attempts")} == {"crashed"}
    assert {row["job_id"] for row in await rows(engine, "SELECT job_id FROM outbox")} == {c.job.id for c in claims}


async def test_the_rescuer_leaves_a_live_worker_alone(engine: AsyncEngine, broker: ListBroker) -> None:
    await put(engine)
    await claim(engine)
    await beat(engine)
    rescuer = Rescuer(engine, broker, 60, Measurements())
    async with transaction(engine) as conn:
        assert await workers.abandoned(conn, 60, 100) == []
    for _ in range(5):
        assert await rescuer.run_once() == 0


async def test_the_rescuer_knows_the_whole_policy_of_a_job(engine: AsyncEngine, broker: ListBroker) -> None:
    """The job's own policy, else its type's, else the default: the wait after a crash depends on all of it."""
    own, of_type = Retry(7, (1.0, 2.0), 0.1), Retry(3, (4.0,), 0.5)
    kind = JobType(name="typed", description="", queue="q", retry=of_type, timeout=None, payload_schema="{}")
    async with transaction(engine) as conn:
        await job_types.register(conn, [kind])
        await conn.commit()
    given = [
        a_job(type="typed", retry=msgspec.json.encode(own).decode()), a_job(type="typed"), a_job(type="never seen"),
    ]  # fmt: skip
    await insert(engine, *map(Entry, given))
    await claim(engine)
    async with transaction(engine) as conn:
        found = {running.job_id: running.retry for running in await workers.abandoned(conn, 60, 100)}
    assert [found[job.id] for job in given] == [own, of_type, Retry()]


async def test_the_rescuer_does_not_judge_before_it_has_watched(engine: AsyncEngine, broker: ListBroker) -> None:
    """After an outage every heartbeat is old: workers get time to send new ones."""
    await put(engine)
    await claim(engine)
    assert await Rescuer(engine, broker, 60, Measurements()).run_once() == 0
    assert (await rows(engine, "SELECT status FROM jobs"))[0]["status"] == "running"


async def test_a_job_is_dead_after_three_crashes(engine: AsyncEngine, broker: ListBroker) -> None:
    (id,) = await put(engine, max_attempts=50)
    statuses = []
    for _ in range(3):
        await do(engine, "UPDATE outbox SET published = true, due_at = now()")
        assert len(await claim(engine)) == 1
        rescuer = Rescuer(engine, broker, LEASE, Measurements())
        await until(rescuer.run_once, 10, "a rescue", interval=LEASE / 20)
        statuses.append((await the_job(engine, id))["status"])
    assert statuses == ["queued", "retrying", "failed"]
    assert (await the_job(engine, id))["error"]["class"] == "crashed"
    assert await rows(engine, "SELECT * FROM outbox") == []


async def test_the_reconciler_gives_back_to_the_relay_what_the_broker_lost(
    engine: AsyncEngine, broker: ListBroker
) -> None:
    await put(engine, 10)
    await put(engine, 3, queue="young")
    await do(engine, "UPDATE outbox SET due_at = now() - interval '1 minute' WHERE queue = 'q'")
    broker.there = {"q": 10}
    assert await Reconciler(engine, broker).run_once() == 0
    broker.there = {"q": 6}
    assert await Reconciler(engine, broker).run_once() == 4
    assert len(await rows(engine, "SELECT * FROM outbox WHERE NOT published AND queue = 'q'")) == 4
    assert await Relay(engine, broker, PollConnection(engine)).run_once() == 4


async def test_two_reconcilers_double_nothing_that_matters(engine: AsyncEngine, broker: ListBroker) -> None:
    await put(engine, 10)
    await do(engine, "UPDATE outbox SET due_at = now() - interval '1 minute'")
    broker.there = {"q": 0}
    await asyncio.gather(*(Reconciler(engine, broker).run_once() for _ in range(3)))
    done = await asyncio.gather(*(Relay(engine, broker, PollConnection(engine)).run_once() for _ in range(3)))
    assert sum(done) == 10
    assert len({ref.job_id for ref in broker.sent}) == len(broker.sent) == 10


async def test_where_the_ledger_is_the_broker_nothing_is_lost(engine: AsyncEngine) -> None:
    await put(engine, 3)
    await do(engine, "UPDATE outbox SET due_at = now() - interval '1 hour'")
    assert await Reconciler(engine, PostgresBroker(engine, "")).run_once() == 0


async def test_expiry_ends_what_is_late_once_and_tells(engine: AsyncEngine, broker: ListBroker) -> None:
    late = await put(engine, 20, callback_url="http://example.com/")
    quiet = await put(engine, 1, callback_url="http://example.com/", callback_events=("job.failed",))
    in_time = await put(engine, 1)
    running = await put(engine, 1, queue="running")
    assert len(await claim(engine, queue="running")) == 1
    past = "now() - interval '1 second'"
    await do(engine, f"UPDATE jobs SET expires_at = {past} WHERE id <> :id", id=in_time[0])
    await do(engine, f"UPDATE outbox SET expires_at = {past} WHERE job_id <> :id", id=in_time[0])

    done = await asyncio.gather(*(Expiry(engine, broker, PollConnection(engine)).run_once() for _ in range(4)))

    assert sum(done) == 21
    for id in (*late, *quiet):
        job = await the_job(engine, id)
        assert (job["status"], job["error"]["class"]) == ("expired", "expired")
        assert job["finished_at"] is not None
    assert (await the_job(engine, in_time[0]))["status"] == "queued"
    assert (await the_job(engine, running[0]))["status"] == "running"
    told = await rows(engine, "SELECT payload->>'job_id' AS id FROM jobs WHERE type = 'webhook.deliver'")
    assert sorted(row["id"] for row in told) == sorted(map(str, late))


async def test_the_pruner_forgets_what_is_past_its_time_only(engine: AsyncEngine) -> None:
    def aged(days: float) -> UUID:
        milliseconds = (new_id().int >> 80) - int(days * 86_400_000)
        return UUID(int=(milliseconds << 80) | (new_id().int & ((1 << 80) - 1)))

    async def finished(status: str, days: float) -> UUID:
        job = a_job(id=aged(days + 0.01))
        await insert(engine, Entry(job))
        await claim(engine)
        ago = f"now() - interval '{days} days'"
        await do(engine, f"UPDATE jobs SET status = :s, finished_at = {ago} WHERE id = :id", s=status, id=job.id)
        await do(engine, f"UPDATE attempts SET finished_at = {ago} WHERE job_id = :id", id=job.id)
        for table, columns, values in (
            (
                "dead_letters",
                "tenant, queue, type, class, message, group_key",
                "'t', 'q', 'noop', 'transient', 'x', ''",
            ),
            ("discarded_letters", "tenant", "'t'"),
            ("payload_edits", "attempt, payload_before, edited_by", "1, '{}', 'me'"),
            ("steps", "name, attempt, result", "'s', 1, '1'"),
        ):
            await do(engine, f"INSERT INTO {table} (job_id, {columns}) VALUES (:id, {values})", id=job.id)
        return job.id

    gone = [await finished("succeeded", 8), await finished("cancelled", 8), await finished("failed", 31)]
    kept = [await finished("succeeded", 6), await finished("failed", 8)]
    waiting = a_job(id=aged(100))
    await insert(engine, Entry(waiting))
    await insert(engine, Entry(a_job(), "old", b"1"), ttl=-1)
    await insert(engine, Entry(a_job(), "new", b"1"))

    pruners = [Pruner(engine, 7 * 86400, 30 * 86400) for _ in range(3)]
    done = await asyncio.gather(*(pruner.run_once() for pruner in pruners))

    assert sum(done) == len(gone) + 1
    left = {row["id"] for row in await rows(engine, "SELECT id FROM jobs")}
    assert not left & set(gone)
    assert {*kept, waiting.id} <= left
    for table in ("attempts", "dead_letters", "discarded_letters", "payload_edits", "steps"):
        assert {row["job_id"] for row in await rows(engine, f"SELECT job_id FROM {table}")} == set(kept), table
    assert [row["key"] for row in await rows(engine, "SELECT key FROM idempotency_keys")] == ["new"]
