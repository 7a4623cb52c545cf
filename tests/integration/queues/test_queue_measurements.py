"""Measurements of a queue: its backlog, its attempts, and the rates that follow from them."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.rates import Measured
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import queue_load
from accepted.storage.db.engine import transaction
from accepted_worker.scheduler.housekeeping import Sampler
from tests.support.ledger.jobs import claim, put
from tests.support.ledger.sql import do, rows
from tests.support.service.in_process_worker import accept, has, working
from tests.support.waiting import until


async def measured(engine: AsyncEngine, queue: str = "q") -> Measured:
    async with transaction(engine) as conn:
        return (await queue_load.measured(conn, [queue]))[queue]


async def samples(engine: AsyncEngine) -> dict[str, Any]:
    return {row["queue"]: row for row in await rows(engine, "SELECT * FROM queue_samples")}


async def looked(engine: AsyncEngine, ago: float, depth: int = 0, runs: int = 0, seconds: float = 0.0) -> None:
    """A sample of queue q, `ago` seconds old."""
    await do(
        engine,
        "INSERT INTO queue_samples SELECT name, now() - :ago * interval '1 second', depth, runs, seconds "
        "FROM (VALUES ('', 0, 0, 0), ('q', :depth, :runs, :seconds)) AS v(name, depth, runs, seconds)",
        ago=ago, depth=depth, runs=runs, seconds=seconds,
    )  # fmt: skip


async def test_what_is_due_or_running_is_counted(engine: AsyncEngine) -> None:
    await put(engine, 5)
    await put(engine, 2, delay=60.0)
    await put(engine, 1, blockers=1)
    await put(engine, 3, queue="other")
    assert len(await claim(engine, 2)) == 2
    assert await Sampler(engine).run_once() == 2
    found = await samples(engine)
    assert {queue: row["depth"] for queue, row in found.items()} == {"": 0, "q": 5, "other": 3}


async def test_one_scheduler_counts(engine: AsyncEngine) -> None:
    await put(engine)
    assert [await Sampler(engine).run_once(), await Sampler(engine).run_once()] == [1, 0]


async def test_reports_add_up(engine: AsyncEngine) -> None:
    runs = Measurements()
    runs.ended(("t", "q", "noop"), "succeeded", 0.5)
    runs.ended(("t", "other", "noop"), "timeout", 3)
    await runs.report(engine)
    runs.ended(("t", "q", "noop"), "transient", 1.5)
    await runs.report(engine)
    await runs.report(engine)
    found = await samples(engine)
    assert (found["q"]["runs"], found["q"]["seconds"]) == (2, 2.0)
    assert (found["other"]["runs"], found["other"]["seconds"]) == (1, 3.0)
    assert (await measured(engine)).mean_run_time == 1.0


async def test_a_worker_reports_what_it_ran(engine: AsyncEngine, database_url: str) -> None:
    broker = PostgresBroker(engine, database_url)
    async with working(engine, broker):
        for _ in range(2):
            job = await accept(engine, broker, "sleep", '{"seconds": 0.2}')
            await until(has(engine, job, "succeeded"), 30, "the end of the job")
    found = (await samples(engine))["q"]
    assert found["runs"] == 2
    assert found["seconds"] == pytest.approx(0.4, abs=0.3)


async def test_rates(engine: AsyncEngine) -> None:
    assert await measured(engine) == Measured(), "nothing was measured"
    await looked(engine, 100, depth=10)
    assert (await measured(engine)).span is None, "one sample makes no rate"
    await looked(engine, 50, depth=30, runs=40, seconds=80.0)
    await looked(engine, 0, depth=20)
    found = await measured(engine)
    assert found.span == pytest.approx(100, rel=0.05)
    assert found.rate_out == pytest.approx(0.4, rel=0.05)
    assert found.rate_in == pytest.approx(0.5, rel=0.05), "40 ended, and there are 10 more than there were"
    assert found.mean_run_time == pytest.approx(2.0, rel=0.05)
    assert (await measured(engine, "idle")) == Measured(found.span, 0.0, 0.0)


async def test_looks_that_are_long_ago_tell_no_rate(engine: AsyncEngine) -> None:
    await looked(engine, 200, runs=10, seconds=30.0)
    await looked(engine, 100)
    assert await measured(engine) == Measured(mean_run_time=3.0)


async def test_no_rate_is_below_zero(engine: AsyncEngine) -> None:
    """Jobs that were cancelled leave a queue without having run."""
    await looked(engine, 20, depth=10)
    await looked(engine, 5, depth=0)
    assert (await measured(engine)).rate_in == 0.0
