"""Jobs that one more crash would fail: each runs alone in a child, and finds everything as in the worker."""

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.services.jobs.completion import cancel
from accepted.settings import Settings
from accepted_worker.runtime import suspects
from tests.support.handlers import suspicious
from tests.support.ledger.effects import effects, engine_with_effects, nobody_holds_a_transaction
from tests.support.ledger.sql import do, rows
from tests.support.service import worker_with_handlers
from tests.support.service.in_process_worker import HANDLERS, handlers_of, working
from tests.support.service.worker_with_handlers import WorkerWithHandlers
from tests.support.waiting import until

PROMISED = 2.0  # seconds for a cancel, contract section 4
SLACK = 8.0  # seconds for a busy machine; what is cancelled would go on for minutes


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts processes."""
    monkeypatch.setattr(worker_with_handlers, "PATIENCE", 100.0)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with engine_with_effects(database_url) as engine:
        yield engine


@pytest.fixture
async def shop(engine: AsyncEngine, database_url: str) -> AsyncIterator[WorkerWithHandlers]:
    async with opened(engine, database_url) as shop:
        yield shop


@asynccontextmanager
async def opened(engine: AsyncEngine, database_url: str) -> AsyncIterator[WorkerWithHandlers]:
    broker = PostgresBroker(engine, database_url)
    handlers = HANDLERS | handlers_of(
        suspicious.suspicious, suspicious.suspicious_thread, suspicious.suspicious_tools,
        suspicious.suspicious_tools_thread,
    )  # fmt: skip
    settings = Settings(database_url=database_url)
    async with working(engine, broker, handlers=handlers, concurrency=4, lease_ttl=30, settings=settings) as worker:
        yield WorkerWithHandlers(engine, broker, worker)


async def suspect(shop: WorkerWithHandlers, type_: str, payload: dict[str, Any] | None = None, **fields: Any) -> UUID:
    """A job that has crashed twice, and is due."""
    job_id = await shop.accept(type_, payload, delay=3600.0, **fields)
    await do(shop.engine, "UPDATE jobs SET crashes = 2 WHERE id = :id", id=job_id)
    await do(shop.engine, "UPDATE outbox SET due_at = now() WHERE job_id = :id", id=job_id)
    return job_id


async def begun(shop: WorkerWithHandlers, job_id: UUID) -> int:
    """The process in which the job runs."""
    job = await shop.until(job_id, lambda job: job.progress, "the handler to begin")
    return int(json.loads(job.progress or "")["message"])


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("type_", ["suspicious.tools", "suspicious.tools.thread"])
async def test_every_tool_works_and_commits_with_the_success(
    shop: WorkerWithHandlers, engine: AsyncEngine, type_: str
) -> None:
    done = await shop.finished(await suspect(shop, type_))
    assert done.status == "succeeded", done.error
    result = json.loads(done.result or "")
    assert result["kept"] == result["pid"] != os.getpid()
    assert result["results"] == {}
    assert json.loads(done.progress or "") == {"percent": 50.0, "message": "half"}
    assert await effects(engine) == [1]
    (child,) = await rows(engine, "SELECT id::text, parent_id FROM jobs WHERE type = 'noop'")
    assert (child["id"], child["parent_id"]) == (result["child"], done.id)
    await nobody_holds_a_transaction(engine)


async def test_two_suspects_have_two_children(shop: WorkerWithHandlers) -> None:
    both = [await suspect(shop, type_) for type_ in ("suspicious", "suspicious.thread")]
    assert len({await begun(shop, each) for each in both} | {os.getpid()}) == 3


async def test_a_job_without_a_crash_stays_in_the_worker(shop: WorkerWithHandlers) -> None:
    assert (await shop.finish("suspicious", {"seconds": 0})).result == str(os.getpid())


@pytest.mark.parametrize(
    ("deed", "how"), [("exit", "with exit code 3"), ("kill", "killed by SIGKILL"), ("leave", "with exit code 70")]
)
async def test_a_crash_is_its_own(shop: WorkerWithHandlers, deed: str, how: str) -> None:
    beside = await shop.accept("suspicious.thread", {"seconds": 600})
    await begun(shop, beside)
    failed = await shop.finished(await suspect(shop, "suspicious", {"do": deed}, max_attempts=10))
    assert failed.status == "failed"
    error = json.loads(failed.error or "")
    assert error["class"] == "crashed"
    assert how in error["message"]
    assert "at most 3 are allowed" in error["message"]
    assert await shop.outcomes(failed.id) == ["crashed"]
    assert (await shop.job(beside)).status == "running"


@pytest.mark.parametrize(
    ("type_", "deed"), [("suspicious", "wait"), ("suspicious", "block"), ("suspicious.thread", "wait")]
)
async def test_a_cancel_ends_it(shop: WorkerWithHandlers, engine: AsyncEngine, type_: str, deed: str) -> None:
    job_id = await suspect(shop, type_, {"do": deed})
    pid = await begun(shop, job_id)
    asked = time.monotonic()
    await cancel(engine, shop.broker, await shop.job(job_id))
    done = await shop.finished(job_id)
    assert done.status == "cancelled"
    assert time.monotonic() - asked < PROMISED + SLACK
    if deed == "block":
        await until(lambda: not is_running(pid), 10, "its process to be killed")


@pytest.mark.parametrize("deed", ["wait", "block"])
async def test_a_timeout_ends_it(shop: WorkerWithHandlers, monkeypatch: pytest.MonkeyPatch, deed: str) -> None:
    monkeypatch.setattr(suspects, "LATE_SECONDS", 2.0)
    done = await shop.finished(await suspect(shop, "suspicious", {"do": deed}, timeout=1.0, max_attempts=1))
    assert (done.status, json.loads(done.error or "")["class"]) == ("failed", "timeout")
    assert "longer than 1 s" in (done.error or "")


@pytest.mark.parametrize(
    ("type_", "deed"), [("suspicious", "wait"), ("suspicious", "block"), ("suspicious.thread", "wait")]
)
async def test_a_worker_that_stops_hands_it_back(engine: AsyncEngine, database_url: str, type_: str, deed: str) -> None:
    async with opened(engine, database_url) as shop:
        job_id = await suspect(shop, type_, {"do": deed})
        pid = await begun(shop, job_id)
    job = await shop.job(job_id)
    assert (job.status, job.attempt, job.max_attempts) == ("queued", 1, 4)
    assert await shop.outcomes(job_id) == ["handed_back"]
    await until(lambda: not is_running(pid), 10, "its process to be gone")


@pytest.fixture
def _one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "MOST_AT_ONCE", 1)


@pytest.mark.usefixtures("_one_at_once")
async def test_suspects_wait_for_room_and_can_be_cancelled_meanwhile(
    engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    async with opened(engine, database_url) as shop:
        over = tmp_path / "over"
        first = await suspect(shop, "suspicious", {"file": str(over)})
        await begun(shop, first)
        second, third = [await suspect(shop, "suspicious", {"seconds": 0}) for _ in range(2)]
        for each in (second, third):
            await shop.until(each, lambda job: job.status == "running", "the claim")
        await cancel(engine, shop.broker, await shop.job(third))
        assert (await shop.finished(third)).status == "cancelled"
        assert (await shop.job(second)).progress is None
        over.touch()
        assert (await shop.finished(second)).status == (await shop.finished(first)).status == "succeeded"


@pytest.mark.usefixtures("_one_at_once")
async def test_one_child_runs_one_after_the_other(engine: AsyncEngine, database_url: str) -> None:
    """Its start costs a second, and after a second death each job of a worker is a suspect."""
    async with opened(engine, database_url) as shop:
        ids = [await suspect(shop, type_) for type_ in ("suspicious.tools", "suspicious.tools.thread", "noop")]
        done = [await shop.finished(each) for each in ids]
    assert {job.status for job in done} == {"succeeded"}
    assert len({json.loads(job.result or "")["pid"] for job in done[:2]}) == 1
