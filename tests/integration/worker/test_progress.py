"""`ctx.progress`: few writes for many calls, none after the attempt, and the handler never waits for the ledger."""

import asyncio
import json
import time
from itertools import pairwise

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from accepted import Context, TransientError, job
from accepted.domain import transitions
from accepted.domain.ids import new_id
from accepted.domain.references import Lease
from accepted.storage.attempts import completion
from accepted.storage.db.engine import transaction
from accepted_worker.attempt.progress import ProgressWriter
from accepted_worker.attempt.records import LedgerRecords
from tests.support.ledger.jobs import claim, put, running_attempt, the_job
from tests.support.ledger.sql import waits_for_a_lock
from tests.support.servers.postgres import PostgresServer
from tests.support.service.in_process_worker import NOWHERE
from tests.support.service.worker_with_handlers import worker_with_handlers
from tests.support.waiting import until


async def test_progress_is_seen_while_the_handler_runs_and_the_last_stays(
    engine: AsyncEngine, database_url: str
) -> None:
    go_on = asyncio.Event()

    @job("reports", queue="q")
    async def reports(payload: dict[str, int], ctx: Context) -> None:
        await ctx.progress(40, "four of ten")
        await go_on.wait()
        await ctx.progress(100, "all")

    async with worker_with_handlers(engine, database_url, reports) as shop:
        job_id = await shop.accept("reports")
        seen = await shop.until(job_id, lambda job: job.progress, "progress of a running job")
        assert seen.status == "running"
        assert json.loads(seen.progress or "") == {"percent": 40, "message": "four of ten"}
        go_on.set()
        done = await shop.finished(job_id)
    assert json.loads(done.progress or "") == {"percent": 100, "message": "all"}


async def test_a_def_handler_calls_it_and_a_new_attempt_starts_without_progress(
    engine: AsyncEngine, database_url: str
) -> None:
    @job("reports", queue="q")
    def reports(payload: dict[str, int], ctx: Context) -> str:
        if ctx.job.attempt == 1:
            ctx.progress(50.5, "half")
            raise TransientError("not yet")
        return repr(ctx.job.progress)

    async with worker_with_handlers(engine, database_url, reports) as shop:
        job_id = await shop.accept("reports")
        waiting = await shop.until(job_id, lambda job: job.status == "retrying", "the first attempt to fail")
        assert json.loads(waiting.progress or "") == {"percent": 50.5, "message": "half"}
        done = await shop.finished(job_id)
    assert (done.status, done.progress, done.result) == ("succeeded", None, '"None"')


async def test_the_last_progress_of_def_handlers_in_a_loop_stays(engine: AsyncEngine, database_url: str) -> None:
    @job("reports", queue="q")
    def reports(payload: dict[str, int], ctx: Context) -> None:
        for row in range(20_000):
            ctx.progress(row % 100, f"row {row}")

    async with worker_with_handlers(engine, database_url, reports) as shop:
        done = await asyncio.gather(*(shop.finish("reports") for _ in range(4)))
    assert {json.loads(one.progress or "")["message"] for one in done} == {"row 19999"}


async def test_many_calls_become_few_writes_for_all_attempts_together(engine: AsyncEngine, database_url: str) -> None:
    writes = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def count(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if "UPDATE jobs j SET progress = " in statement:
            writes.append(time.monotonic())

    @job("reports", queue="q")
    async def reports(payload: dict[str, int], ctx: Context) -> None:
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            await ctx.progress((time.monotonic() % 1) * 100)

    async with worker_with_handlers(engine, database_url, reports) as shop:
        jobs = [await shop.accept("reports") for _ in range(3)]
        await asyncio.gather(*map(shop.finished, jobs))
    assert 2 <= len(writes) <= 10, "three jobs, thousands of calls, over two seconds or so"
    assert min(later - earlier for earlier, later in pairwise(writes)) > 0.2


async def test_the_fence_refuses_other_attempts_and_workers(engine: AsyncEngine) -> None:
    (job_id,) = await put(engine)
    (claimed,) = await claim(engine)
    mine = claimed.lease

    async def write(lease: Lease) -> object:
        async with transaction(engine) as conn:
            await completion.write_progress(conn, {lease: '{"percent": 1}'})
            await conn.commit()
        return (await the_job(engine, job_id))["progress"]

    assert await write(Lease(job_id, 1, new_id())) is None, "another worker"
    assert await write(Lease(job_id, 2, mine.worker_id)) is None, "another attempt"
    assert await write(mine) == {"percent": 1}


async def test_progress_that_waits_for_the_commit_of_the_outcome_is_too_late(engine: AsyncEngine) -> None:
    (job_id,) = await put(engine)
    (claimed,) = await claim(engine)

    async def write() -> None:
        async with transaction(engine) as conn:
            await completion.write_progress(conn, {claimed.lease: '{"percent": 1}'})
            await conn.commit()

    async with transaction(engine) as conn:
        assert await completion.apply(conn, [transitions.succeeded(running_attempt(claimed), "1")])
        late = asyncio.create_task(write())
        await until(lambda: waits_for_a_lock(engine), 10, "the write to wait for the outcome")
        await conn.commit()
    await late
    assert (await the_job(engine, job_id))["progress"] is None


async def test_a_rescued_attempt_changes_nothing(engine: AsyncEngine, database_url: str) -> None:
    go_on = asyncio.Event()

    @job("reports", queue="q")
    async def reports(payload: dict[str, int], ctx: Context) -> None:
        if ctx.job.attempt == 1:
            await go_on.wait()
            await ctx.progress(90, "I am late")
            await asyncio.sleep(0.5)

    async with worker_with_handlers(engine, database_url, reports) as shop:
        job_id = await shop.accept("reports")
        await shop.until(job_id, lambda job: job.status == "running", "the job to run")
        await shop.rescue(job_id)
        await shop.finished(job_id)
        go_on.set()
    job_at_last = await shop.job(job_id)
    assert (job_at_last.status, job_at_last.attempt, job_at_last.progress) == ("succeeded", 2, None)


async def test_without_the_ledger_no_handler_waits_and_no_progress_is_lost(
    engine: AsyncEngine, postgres_server: PostgresServer
) -> None:
    await put(engine)
    (claimed,) = await claim(engine)
    writer = ProgressWriter(LedgerRecords(engine, NOWHERE))
    postgres_server.kill()
    with capture_logs() as lines:
        for percent in range(100):
            writer.say(claimed.lease, f'{{"percent": {percent}}}')
        await until(lambda: "progress_waits" in [line["event"] for line in lines], 20, "a write to fail")
    await asyncio.to_thread(postgres_server.start)

    async def there() -> bool:
        return (await the_job(engine, claimed.job.id))["progress"] == {"percent": 99}

    await until(there, 20, "the progress to be written once the ledger is back")
    assert writer.end(claimed.lease) == '{"percent": 99}'
