"""The outcomes of attempts in child processes, as the executor decides them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from accepted.domain.job import Status
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.transitions import Transition
from accepted.settings import Settings
from accepted.storage.attempts.claims import Claim
from accepted.storage.db.engine import create_engine
from accepted_worker.attempt import registry
from accepted_worker.attempt.records import LedgerRecords
from accepted_worker.attempt.tools import Tools
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.mail import Mail
from accepted_worker.process_pool.pool import ProcessPool
from accepted_worker.runtime.executor import Executor
from tests.support.service.process_pool import SETUP, a_job, family_in, gone

HANDLERS = registry.load(SETUP.modules)


@pytest.fixture(scope="module")
async def executor() -> AsyncIterator[Executor]:
    pool = ProcessPool(SETUP)
    yield an_executor(pool)
    await pool.aclose()


def an_executor(pool: ProcessPool) -> Executor:
    settings = Settings(database_url="postgresql://nobody.asks")
    engine = create_engine(settings.require_database())
    tools = Tools(LedgerRecords(engine, settings), Egress(EgressAllow()), Mail(None, None), settings, threads=2)
    return Executor(HANDLERS, tools, 2, 1000, pool)


def claim(do: str, arg: Any = None, **fields: Any) -> Claim:
    given = {"worker_id": uuid4(), "crashes": 0, "retry": None, "timeout": None, "traceparent": None}
    return Claim(job=a_job(do, arg), **(given | fields))


def error(transition: Transition) -> dict[str, Any]:
    return json.loads(transition.error or "{}")


async def test_success(executor: Executor) -> None:
    transition = await executor.run(claim("pid"))
    assert transition.status is Status.SUCCEEDED
    assert json.loads(transition.result or "")["attempt"] == 1


async def test_a_success_without_a_result(executor: Executor) -> None:
    transition = await executor.run(claim("print", "done"))
    assert (transition.status, transition.result) == (Status.SUCCEEDED, "null")


async def test_a_start_is_not_charged_to_the_timeout() -> None:
    """A start takes a second; the timeout is half a second."""
    pool = ProcessPool(SETUP)
    transition = await an_executor(pool).run(claim("pid", timeout=0.5))
    assert transition.status is Status.SUCCEEDED
    await pool.aclose()


async def test_failures_keep_their_class_and_traceback(executor: Executor) -> None:
    limited = await executor.run(claim("raise", "limited"))
    assert (limited.status, error(limited)["class"]) == (Status.RETRYING, "rate_limited")
    assert (limited.wait or 0) >= 7
    assert "process_handlers.py" in (limited.traceback or "")
    assert (await executor.run(claim("result", 2000))).status is Status.FAILED


async def test_crashes_are_counted(executor: Executor) -> None:
    first = await executor.run(claim("exit", 5))
    assert (first.status, first.outcome, first.crashes) == (Status.QUEUED, "crashed", 1)
    assert "exit code 5" in error(first)["message"]
    third = await executor.run(claim("exit", 5, crashes=2))
    assert (third.status, error(third)["class"]) == (Status.FAILED, "crashed")


async def test_a_timeout_a_cancel_and_a_stop_all_kill(executor: Executor, tmp_path: Path) -> None:
    outcomes = []
    for way in ("timeout", "cancel", "stop"):
        pids = tmp_path / way
        one = claim("hold", str(pids), timeout=1 if way == "timeout" else 60)
        running = asyncio.create_task(executor.run(one))
        family = await family_in(pids)
        if way == "cancel":
            executor.cancel(one.job.id, one.job.attempt)
        if way == "stop":
            running.cancel()
        outcomes.append((await asyncio.wait_for(running, 2)).outcome)
        await gone(family)
    assert outcomes == ["timeout", "cancelled", "handed_back"]
