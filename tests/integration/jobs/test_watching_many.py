"""What many clients that wait cost the ledger."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.services.jobs import watching
from accepted.services.jobs.watching import JobWatcher, Watch
from accepted.storage.db import notifications
from accepted.storage.db.engine import transaction
from tests.support.ledger.jobs import put
from tests.support.ledger.sql import do, rows
from tests.support.servers.ports import free_port
from tests.support.waiting import until

LISTENS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
END = "UPDATE jobs SET status = 'succeeded', finished_at = now()"


@asynccontextmanager
async def running(engine: AsyncEngine, url: str) -> AsyncIterator[JobWatcher]:
    watcher = JobWatcher(engine, url)
    task = asyncio.create_task(watcher.run())
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_polls_come_to_every_job_in_turn(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No notification comes here: a listener has nothing to connect to."""
    monkeypatch.setattr(watching, "POLL_EVERY", 0.05)
    monkeypatch.setattr(watching, "POLLED", 2)
    jobs = await put(engine, 7)
    async with running(engine, f"postgresql://postgres@127.0.0.1:{free_port()}/none") as watcher:
        waits = [asyncio.create_task(watcher.wait(job_id, lambda job: job.finished, 30)) for job_id in jobs]
        await until(lambda: len(watcher._waiters) == len(jobs), 10, "all wait")
        await do(engine, f"{END} WHERE id = :id", id=jobs[-1])
        ended = await asyncio.wait_for(waits[-1], 10)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    assert ended is not None
    assert ended.finished


async def test_a_job_that_does_not_change_is_not_read(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "POLL_EVERY", 60.0)
    job_id, *others = await put(engine, 1 + 3 * notifications.MAX_IDS)
    statements: list[str] = []
    async with running(engine, database_url) as watcher:
        with watcher.watch(job_id) as watch:
            await until(lambda: rows(engine, LISTENS), 10, "the watcher listens")
            await unchanged(watch, 0.3)  # it reads the job once, which may have changed before
            event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
            await unchanged(watch, 0.05)
            assert statements == []
            await change(engine, others)
            await unchanged(watch, 0.3)
            assert [one for one in statements if "FROM jobs" in one] == [], "those that changed are other jobs"
            await do(engine, END)
            await change(engine, [job_id])
            ended = await watch.until(lambda job: job.finished, 10)
    assert ended is not None


async def unchanged(watch: Watch, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        await watch.until(lambda job: job.finished, seconds)


async def change(engine: AsyncEngine, ids: list[Any]) -> None:
    async with transaction(engine) as conn:
        await notifications.announce(conn, ids)
        await conn.commit()
