"""The cancel of a running job: what its worker does, and how fast."""

import asyncio
import threading
import time
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, InvalidJob, job
from accepted.broker.postgres import PostgresBroker
from accepted.domain.job import Job
from accepted.services.jobs.completion import cancel as cancel_job
from tests.support.service.in_process_worker import accept, attempts, handlers_of, has, read, working
from tests.support.waiting import until

ENDS = ("succeeded", "failed", "cancelled", "expired")
PROMISED = 2.0  # seconds, contract section 4
SLACK = 8.0  # seconds for a busy machine; the handlers would run for ten minutes
finish = threading.Event()
heard: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    finish.clear()
    heard.clear()
    yield
    finish.set()


@job("yields")
async def yields(payload: dict[str, Any], ctx: Context) -> None:
    """Cleans up and ends."""
    try:
        await asyncio.sleep(600)
    finally:
        heard.append("cleaned up")


@job("swallows")
async def swallows(payload: dict[str, Any], ctx: Context) -> str:
    """Swallows its CancelledError, and goes on."""
    while not finish.is_set():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            heard.append("swallowed")
    return "late"


@job("returns")
async def returns(payload: dict[str, Any], ctx: Context) -> str:
    """Returns when it is cancelled."""
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        heard.append(f"cancelled: {ctx.cancelled}")
    return "done"


@job("objects")
async def objects(payload: dict[str, Any], ctx: Context) -> str:
    """Raises an error when it is cancelled."""
    try:
        await asyncio.sleep(600)
    finally:
        raise InvalidJob("not like this")


@job("looks")
def looks(payload: dict[str, Any], ctx: Context) -> str:
    """In a thread: reads `ctx.cancelled` now and then."""
    while not ctx.cancelled:
        finish.wait(0.02)
    return "went when asked"


@job("deaf")
def deaf(payload: dict[str, Any], ctx: Context) -> str:
    """In a thread: never reads `ctx.cancelled`."""
    finish.wait(60)
    return "done"


HANDLERS = handlers_of(yields, swallows, returns, objects, looks, deaf)


async def cancel(engine: AsyncEngine, broker: PostgresBroker, job_id: UUID) -> None:
    await cancel_job(engine, broker, await read(engine, job_id))


@pytest.mark.parametrize("type_", ["yields", "swallows", "returns", "objects", "looks"])
async def test_a_running_job_is_cancelled_within_2_s(engine: AsyncEngine, broker: PostgresBroker, type_: str) -> None:
    """Whatever the handler does then, the job is cancelled. Another job on the worker is not affected."""
    async with working(engine, broker, handlers=HANDLERS, concurrency=2):
        job_id, other = [await accept(engine, broker, name) for name in (type_, "deaf")]
        for each in (job_id, other):
            await until(has(engine, each, "running"), 20, "it runs")
        began = time.monotonic()
        await cancel(engine, broker, job_id)
        ended: Job = await until(has(engine, job_id, *ENDS), 20, "its end")
        took = time.monotonic() - began
        assert (ended.status, ended.result) == ("cancelled", None)
        assert '"class":"cancelled"' in (ended.error or "").replace(" ", "")
        assert took <= PROMISED + SLACK, f"{took:.2f} s"
        assert (await read(engine, other)).status == "running"
        again = await accept(engine, broker, "yields")
        await until(has(engine, again, "running"), 10, "the slot to be free again")
        finish.set()
        assert (await until(has(engine, other, *ENDS), 10, "the other")).status == "succeeded"
        assert (await read(engine, job_id)) == ended, "a late result changes nothing"
        (attempt,) = await attempts(engine, job_id)
        assert attempt.outcome == "cancelled"
    wanted = {"yields": "cleaned up", "swallows": "swallowed", "returns": "cancelled: True"}
    assert type_ not in wanted or wanted[type_] in heard


async def test_a_thread_that_ignores_the_cancel_can_still_succeed(engine: AsyncEngine, broker: PostgresBroker) -> None:
    async with working(engine, broker, handlers=HANDLERS):
        job_id = await accept(engine, broker, "deaf")
        await until(has(engine, job_id, "running"), 20, "it runs")
        await cancel(engine, broker, job_id)
        finish.set()
        assert (await until(has(engine, job_id, *ENDS), 20, "its end")).status == "succeeded"


async def test_a_thread_that_ignores_the_cancel_is_cancelled_at_its_timeout(
    engine: AsyncEngine, broker: PostgresBroker
) -> None:
    async with working(engine, broker, handlers=HANDLERS):
        job_id = await accept(engine, broker, "deaf", timeout=1.0)
        await until(has(engine, job_id, "running"), 20, "it runs")
        await cancel(engine, broker, job_id)
        assert (await until(has(engine, job_id, *ENDS), 20, "its end")).status == "cancelled"
        (attempt,) = await attempts(engine, job_id)
        assert attempt.outcome == "timeout", "the attempt keeps its own outcome"


async def test_a_stopping_worker_does_not_hand_back_a_job_that_was_cancelled(
    engine: AsyncEngine, broker: PostgresBroker
) -> None:
    async with working(engine, broker, handlers=HANDLERS, shutdown_grace=2) as one:
        job_id = await accept(engine, broker, "deaf")
        await until(has(engine, job_id, "running"), 20, "it runs")
        await cancel(engine, broker, job_id)
        one.stop()
        assert (await until(has(engine, job_id, *ENDS), 20, "its end")).status == "cancelled"
