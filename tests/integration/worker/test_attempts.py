"""Whatever a handler raises or refuses to do is the outcome of its own attempt, and does not harm its worker."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, NotFound, RateLimited
from accepted import job as a_type
from accepted.broker.postgres import PostgresBroker
from accepted.domain.job import Job
from accepted.domain.retry import Retry
from accepted.errors import WorkerExhausted
from accepted.metrics import ORPHANED_HANDLERS
from accepted_worker.attempt import slots
from tests.support.service.in_process_worker import accept, attempts, handlers_of, has, read, working
from tests.support.waiting import until

ENDS = ("succeeded", "failed", "cancelled", "expired")
ONCE = Retry(max_attempts=2, schedule=(0.05,), jitter=0.0)

release = threading.Event()
"""Ends the handlers that hang in threads."""


@pytest.fixture(autouse=True)
def _let_go() -> Any:
    release.clear()
    yield
    release.set()


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("of an ExceptionGroup")]),
    "timedelta": lambda: RateLimited(retry_after=timedelta(1)),  # type: ignore[arg-type]
    "ConnectTimeout": lambda: httpx.ConnectTimeout("too long"),
    "BaseException": BaseException,
}


@a_type("raises", retry=ONCE, timeout=30)
async def raises(payload: dict[str, Any], ctx: Context) -> None:
    """Raises the exception named in its payload."""
    raise RAISED[payload["what"]]()


@a_type("raises.thread", retry=ONCE, timeout=30)
def raises_in_a_thread(payload: dict[str, Any], ctx: Context) -> None:
    """The same in a thread."""
    raise RAISED[payload["what"]]()


@a_type("fine")
async def fine(payload: dict[str, Any], ctx: Context) -> str:
    """Succeeds."""
    return "fine"


@a_type("hangs", retry=Retry(max_attempts=1), timeout=0.3)
def hangs(payload: dict[str, Any], ctx: Context) -> str:
    """Does not return until `release` is set."""
    release.wait(60)
    return "late"


@a_type("stubborn", retry=Retry(max_attempts=1), timeout=0.3)
async def stubborn(payload: dict[str, Any], ctx: Context) -> str:
    """Swallows its CancelledError."""
    while not release.is_set():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
    return "late"


@a_type("sleepy")
async def sleepy(payload: dict[str, Any], ctx: Context) -> None:
    """Runs for ten minutes, and can be cancelled."""
    await asyncio.sleep(600)


class Picky(BaseModel):
    number: int


@a_type("picky")
async def picky(payload: Picky, ctx: Context) -> None:
    """Takes a number."""


@a_type("missing", not_found="fail", retry=ONCE)
def missing(payload: dict[str, Any], ctx: Context) -> None:
    """Finds nothing."""
    raise NotFound("nothing there")


@a_type("missing.retry", not_found="retry", retry=ONCE)
async def missing_retry(payload: dict[str, Any], ctx: Context) -> None:
    """Is retried when it finds nothing."""
    raise NotFound("not there yet")


@a_type("missing.skip", not_found="skip", retry=ONCE)
async def missing_skip(payload: dict[str, Any], ctx: Context) -> None:
    """Succeeds when it finds nothing."""
    raise NotFound("gone already")


HANDLERS = handlers_of(
    raises, raises_in_a_thread, fine, hangs, stubborn, sleepy, picky, missing, missing_retry, missing_skip
)  # fmt: skip


async def ended(engine: AsyncEngine, broker: PostgresBroker, type_: str, payload: str = "{}") -> Job:
    job_id = await accept(engine, broker, type_, payload, max_attempts=HANDLERS[type_].type.retry.max_attempts)
    found: Job = await until(has(engine, job_id, *ENDS), 20, f"the end of {type_} {payload}")
    return found


def class_of(job: Job) -> str | None:
    return None if job.error is None else str(json.loads(job.error)["class"])


async def test_any_exception_fails_its_own_attempt_and_the_worker_goes_on(
    engine: AsyncEngine, broker: PostgresBroker
) -> None:
    """No exception stops the worker, hands the job back as if the worker stopped, or leaves it running."""
    async with working(engine, broker, handlers=HANDLERS, concurrency=10):
        for what in RAISED:
            for type_ in ("raises", "raises.thread"):
                job = await ended(engine, broker, type_, json.dumps({"what": what}))
                assert (job.status, job.attempt, job.max_attempts) == ("failed", 2, 2), (type_, what)
                assert class_of(job) == ("timeout" if what == "ConnectTimeout" else "transient")
                assert what in json.loads(job.error or "")["message"]
        assert (await ended(engine, broker, "fine")).status == "succeeded"


async def test_an_attempt_has_the_traceback_of_its_handler(engine: AsyncEngine, broker: PostgresBroker) -> None:
    """Where it raised, or where it waited at its timeout. None for an error that no handler raised."""
    async with working(engine, broker, handlers=HANDLERS):
        raised = await ended(engine, broker, "raises.thread", '{"what": "MemoryError"}')
        slow = await accept(engine, broker, "sleepy", timeout=0.2, max_attempts=1)
        await until(has(engine, slow, "failed"), 20, "the slow one to time out")
        unfit = await accept(engine, broker, "picky", '{"number": "none"}')
        await until(has(engine, unfit, "failed"), 20, "the one with a wrong payload to fail")
    first, last = [attempt.traceback or "" for attempt in await attempts(engine, raised.id)]
    assert first == last
    assert "in raises_in_a_thread" in first
    assert first.endswith("MemoryError\n")
    (timed_out,) = await attempts(engine, slow)
    assert "await asyncio.sleep(600)" in (timed_out.traceback or "")
    (invalid,) = await attempts(engine, unfit)
    assert (invalid.outcome, invalid.traceback) == ("invalid", None)


@pytest.mark.parametrize(
    ("type_", "status", "failure", "calls", "result"),
    [
        ("missing", "failed", "not_found", 1, None),
        ("missing.retry", "failed", "not_found", 2, None),
        ("missing.skip", "succeeded", None, 1, {"skipped": True}),
    ],
)
async def test_not_found_has_the_effect_that_its_type_chose(
    engine: AsyncEngine,
    broker: PostgresBroker,
    type_: str,
    status: str,
    failure: str | None,
    calls: int,
    result: object,
) -> None:
    async with working(engine, broker, handlers=HANDLERS):
        job = await ended(engine, broker, type_)
    assert (job.status, class_of(job), job.attempt) == (status, failure, calls)
    assert (None if job.result is None else json.loads(job.result)) == result


@pytest.mark.parametrize(("type_", "kind"), [("hangs", "thread"), ("stubborn", "task")])
async def test_a_handler_that_does_not_end_times_out_and_frees_its_slot(
    engine: AsyncEngine, broker: PostgresBroker, type_: str, kind: str
) -> None:
    """With more of them than slots, later jobs run all the same, and no late result counts."""
    gauge = ORPHANED_HANDLERS.labels(kind)
    before = gauge._value.get()
    async with working(engine, broker, handlers=HANDLERS, concurrency=2):
        jobs = [await ended(engine, broker, type_) for _ in range(5)]
        assert {(job.status, class_of(job)) for job in jobs} == {("failed", "timeout")}
        assert gauge._value.get() - before == 5
        assert (await ended(engine, broker, "raises.thread", '{"what": "StopIteration"}')).status == "failed"
        release.set()
        await until(lambda: gauge._value.get() == before, 10, "the handlers to end")
        for job in jobs:
            (attempt,) = await attempts(engine, job.id)
            assert attempt.outcome == "timeout"


@a_type("returns.early")
async def returns_early(payload: dict[str, Any], ctx: Context) -> str:
    """Returns when it is cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(600)
    return "half-way"


async def test_a_handler_that_returns_because_its_worker_stops_has_not_succeeded(
    engine: AsyncEngine, broker: PostgresBroker
) -> None:
    async with working(engine, broker, handlers=handlers_of(returns_early), shutdown_grace=2.5):
        job_id = await accept(engine, broker, "returns.early")
        await until(has(engine, job_id, "running"), 10, "it runs")
    assert (await read(engine, job_id)).status == "queued"


async def test_a_worker_with_too_many_orphans_hands_back_its_jobs_and_ends(
    engine: AsyncEngine, broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "MAX_ORPHANS", 3)
    other = await accept(engine, broker, "sleepy")

    async def work() -> None:
        async with working(engine, broker, handlers=HANDLERS, concurrency=8, shutdown_grace=2) as one:
            await until(has(engine, other, "running"), 10, "the other job to run")
            for _ in range(4):
                await ended(engine, broker, "hangs")
            await until(one._stopping.is_set, 10, "the worker to stop")

    with pytest.raises(WorkerExhausted):
        await work()
    (attempt,) = await attempts(engine, other)
    assert attempt.outcome == "handed_back"
