"""A job in its caller's transaction: whatever dies, the job is there if, and only if, the caller's own row is."""

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import PIPE

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.broker.rabbitmq.broker import RabbitBroker
from accepted.domain.references import JobRef
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import outbox
from accepted_worker.scheduler.housekeeping import Sampler
from accepted_worker.scheduler.relay import Relay
from tests.faults.table import Measured
from tests.support.ledger.limited_queue import a_limiter, a_worker, counted, limit
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do
from tests.support.servers.ports import free_port
from tests.support.service.in_process_worker import has, registered, working
from tests.support.waiting import until

CALLER = """
import asyncio, asyncpg, sys
import accepted.transaction

async def main():
    conn = await asyncpg.connect(sys.argv[1])
    begun = conn.transaction()
    await begun.start()
    await conn.execute("INSERT INTO public.orders VALUES (1)")
    if sys.argv[2] != "before the submission":
        await accepted.transaction.submit(conn, "noop")
    if sys.argv[2] == "after the commit":
        await begun.commit()
    print("here", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


@pytest.mark.fault("F98", moment="before the submission; after it; after the commit; rolled back; cut by the server")
async def test_a_job_and_an_order_are_one(engine: AsyncEngine, database_url: str) -> None:
    """Of a caller that is killed (-9), of one whose connection the server ends, and of one that rolls back."""
    await registered(engine)
    watching = await asyncpg.connect(database_url)
    await watching.execute("CREATE TABLE public.orders (number int)")
    found = {}
    for moment in ("before the submission", "after the submission", "after the commit"):
        caller = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALLER, database_url, moment, stdin=PIPE, stdout=PIPE
        )
        assert caller.stdout is not None
        assert await caller.stdout.readline() == b"here\n"
        caller.kill()
        await caller.wait()
        await until(lambda: nobody_else(watching), 10, "the server has noticed")
        found[moment] = await counts(watching)
    assert found == {
        "before the submission": (0, 0), "after the submission": (0, 0), "after the commit": (1, 1),
    }  # fmt: skip

    for end in ("ROLLBACK", "SELECT pg_terminate_backend(pg_backend_pid())"):
        caller = await asyncpg.connect(database_url)
        await caller.execute("BEGIN; INSERT INTO public.orders VALUES (2); SELECT accepted.submit('noop')")
        with contextlib.suppress(asyncpg.PostgresError):
            await caller.execute(end)
        caller.terminate()
        assert await counts(watching) == (1, 1)
    await watching.close()


@pytest.mark.fault("F98", moment="the broker is away at the commit")
async def test_the_job_waits_for_the_broker(engine: AsyncEngine, database_url: str) -> None:
    """The commit does not need it; the relay takes the row again when it is back."""
    await registered(engine)
    broker = RabbitBroker([f"amqp://127.0.0.1:{free_port()}"], engine)
    caller = await asyncpg.connect(database_url)
    id = await caller.fetchval("SELECT accepted.submit('noop', queue => 'q')")
    relay = Relay(engine, broker, PollConnection(engine))
    assert await relay.run_once() == 0
    waiting = await caller.fetchrow("SELECT published, due_at > now() AS held FROM accepted.outbox")
    assert dict(waiting) == {"published": False, "held": True}
    await caller.execute("UPDATE accepted.outbox SET due_at = now()")
    async with transaction(engine) as conn:
        refs, _ = await outbox.take_due(conn, 10, 10.0)
    assert refs == [JobRef(id, 0, "q", "noop", 4)]
    await caller.close()
    await broker.close()


@pytest.mark.fault("F98", moment="a transaction is open beside it, and keeps what 3,000 jobs have left")
async def test_a_job_beside_an_old_transaction(
    engine: AsyncEngine, broker: PostgresBroker, database_url: str, measured: Measured
) -> None:
    await registered(engine)
    old, caller = [await asyncpg.connect(database_url) for _ in range(2)]
    await old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM accepted.jobs")
    await caller.execute("SELECT accepted.submit('noop', queue => 'q') FROM generate_series(1, 3000)")
    await caller.execute("DELETE FROM accepted.outbox; DELETE FROM accepted.transactional_submissions")
    async with working(engine, broker, database_url=database_url):
        delays = []
        for _ in range(5):
            began = time.monotonic()
            id = await caller.fetchval("SELECT accepted.submit('noop', queue => 'q')")
            await until(has(engine, id, "succeeded"), 20, "the job")
            delays.append(time.monotonic() - began)
    measured("from the call to the end, the slowest of 5", max(delays), 5.0)
    await old.execute("ROLLBACK")
    for connection in (old, caller):
        await connection.close()


@pytest.mark.fault("F98", moment="the limit of its queue goes before the commit; the limiter that took it dies")
async def test_a_job_that_waits_for_room_on_a_queue_without_a_limit(
    engine: AsyncEngine, broker: PostgresBroker, database_url: str
) -> None:
    """Its row is on hold when it becomes visible, and no limiter looks after its queue any more."""
    await registered(engine)
    await limit(engine, max_running=1)
    caller = await asyncpg.connect(database_url)
    await caller.execute("BEGIN; SELECT accepted.submit('noop', queue => 'q')")
    await limit(engine, max_running=None)
    await do(engine, "UPDATE queues SET limited_at = limited_at - interval '61 seconds'")
    await a_limiter(engine, broker, "").run_once()
    await caller.execute("COMMIT")
    await caller.close()
    assert await counted(engine, "on_hold AND queue IN (SELECT name FROM queues WHERE NOT limited)") == 1
    await Sampler(engine).run_once()
    await a_worker(engine, 1)
    await a_limiter(engine, broker, "").run_once()
    assert await counted(engine, "admitted") == 1


async def counts(conn: "asyncpg.Connection") -> tuple[int, int]:  # type: ignore[type-arg]
    row = await conn.fetchrow("SELECT (SELECT count(*) FROM public.orders), (SELECT count(*) FROM accepted.jobs)")
    return tuple(row)  # type: ignore[arg-type, return-value]


async def nobody_else(conn: "asyncpg.Connection") -> bool:  # type: ignore[type-arg]
    others = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'accepted'
    """
    return bool(await conn.fetchval(others) == 0)
