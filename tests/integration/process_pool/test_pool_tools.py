"""The tools of a handler in a child process have the same guarantees as in the worker's own process."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.job import Job
from accepted.storage.db.engine import transaction
from accepted_worker.process_pool import tool_server
from tests.support.handlers.process_tools import use, use_async
from tests.support.ledger.jobs import the_job
from tests.support.ledger.sql import rows, waits_for_a_lock
from tests.support.ledger.workflows import put_graph
from tests.support.service.worker_with_handlers import MAX_RESULT, WorkerWithHandlers, worker_with_handlers
from tests.support.waiting import until


@pytest.fixture
async def shop(engine: AsyncEngine, database_url: str) -> AsyncIterator[WorkerWithHandlers]:
    async with worker_with_handlers(engine, database_url, use, use_async, max_fanout_jobs=100) as shop:
        yield shop


async def finish(
    shop: WorkerWithHandlers, do: str, place: Path, arg: Any = None, type_: str = "use", **fields: Any
) -> Job:
    return await shop.finish(type_, {"do": do, "place": str(place), "arg": arg}, **fields)


async def accept(shop: WorkerWithHandlers, do: str, place: Path, **fields: Any) -> UUID:
    return await shop.accept("use", {"do": do, "place": str(place)}, **fields)


def ran(place: Path) -> list[int]:
    """The process of each run of a step's function."""
    return [int(line.split()[1]) for line in (place / "journal").read_text().splitlines()]


def failure(job: Job) -> tuple[str, int, str]:
    return job.status, job.attempt, json.loads(job.error or "{}")["class"]


async def no_requests_left() -> None:
    """Wait until the worker handles no request of an attempt that has ended."""

    def requests() -> list[Any]:
        return [task for task in asyncio.all_tasks() if task.get_name() == tool_server.TASK_NAME]

    await until(lambda: not requests(), 5, lambda: f"{requests()} to be cancelled")


async def test_a_step_runs_once_for_all_attempts_and_in_the_child(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    done = await finish(shop, "steps", tmp_path)
    assert done.status == "succeeded", done
    first, attempt, pid = json.loads(done.result or "")
    assert first == {"paid": [5, "paid"], "at": "2026-01-01T00:00:00Z"}, "as read back from JSON"
    assert attempt == 1
    assert ran(tmp_path) == [pid] != [os.getpid()]
    remembered = await rows(shop.engine, "SELECT name, attempt FROM steps WHERE job_id = :id ORDER BY name", id=done.id)
    assert [(row["name"], row["attempt"]) for row in remembered] == [("attempt", 1), ("note", 1)]


async def test_a_step_is_remembered_across_a_crash_on_the_next_line(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    done = await finish(shop, "crash after", tmp_path)
    assert (done.status, done.attempt, done.result) == ("succeeded", 2, '"survived"')
    assert await shop.outcomes(done.id) == ["crashed", "succeeded"]
    assert len(ran(tmp_path)) == 1


async def test_a_crash_within_a_step_runs_it_again_and_leaves_no_requests(
    shop: WorkerWithHandlers, tmp_path: Path
) -> None:
    done = await finish(shop, "crash within", tmp_path)
    assert (done.status, done.attempt, done.result) == ("succeeded", 2, "2")
    assert len(ran(tmp_path)) == 2
    await no_requests_left()


async def test_a_child_that_is_killed_while_its_step_is_committed(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    """The row of its attempt is locked, so the commit waits, and the outcome of the crash waits as well."""
    async with transaction(shop.engine) as conn:
        job_id = await accept(shop, "commit and hang", tmp_path)
        await shop.until(job_id, lambda job: job.status == "running", "the claim")
        await conn.exec_driver_sql("SELECT 1 FROM attempts FOR UPDATE")
        await until(lambda: waits_for_a_lock(shop.engine), 30, "the step to wait for the lock")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        await no_requests_left()
    done = await shop.finished(job_id)
    assert (done.status, await shop.outcomes(job_id)) == ("succeeded", ["crashed", "succeeded"])
    assert len(ran(tmp_path)) == 1, "the step has run, and its commit came before the outcome"


async def test_the_handler_gets_the_exception_of_its_step(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    done = await finish(shop, "raise", tmp_path)
    assert done.result == '["of mine","then not"]'


async def test_stop_iteration_in_a_step_fails_the_attempt(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    done = await finish(shop, "stop", tmp_path, max_attempts=1, timeout=10)
    assert failure(done) == ("failed", 1, "transient")
    assert "StopIteration" in (done.error or "")


async def test_a_step_within_a_step_is_refused_at_once(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    done = await finish(shop, "nest", tmp_path, timeout=10)
    assert failure(done) == ("failed", 1, "invalid")
    assert "steps do not nest" in (done.error or "")


async def test_a_result_that_cannot_be_remembered_is_a_dead_letter_at_once(
    shop: WorkerWithHandlers, tmp_path: Path
) -> None:
    for size, says in ((None, "not JSON"), (MAX_RESULT + 1, "larger than")):
        done = await finish(shop, "unfit", tmp_path, size)
        assert failure(done) == ("failed", 1, "invalid")
        assert says in (done.error or "")
    assert await rows(shop.engine, "SELECT 1 FROM steps") == []


async def test_names(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    for name in ("", "x" * 201, 7):
        assert "200 printable" in ((await finish(shop, "name", tmp_path, name)).result or "")


async def test_a_rescued_attempt_remembers_nothing_and_gets_lease_lost(
    shop: WorkerWithHandlers, tmp_path: Path
) -> None:
    job_id = await accept(shop, "lose", tmp_path)
    await until((tmp_path / "started").exists, 30, "the step to run")
    await shop.rescue(job_id)
    done = await shop.finished(job_id)
    (tmp_path / "go").touch()
    said = await until(lambda: (tmp_path / "lost").exists() and (tmp_path / "lost").read_text(), 30, "the lost lease")
    assert said == "LeaseLost: this attempt has lost its lease"
    assert (done.status, done.attempt, done.result) == ("succeeded", 2, "2")
    assert [row["attempt"] for row in await rows(shop.engine, "SELECT attempt FROM steps")] == [2]


async def test_children_become_real_with_the_success_and_not_before(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    parent = await finish(shop, "submit", tmp_path, {"count": 2, "fail": 1}, tenant="acme")
    ids = {UUID(id) for id in json.loads(parent.result or "")}
    found = await rows(shop.engine, "SELECT * FROM jobs WHERE id <> :id", id=parent.id)
    assert {row["id"] for row in found} == ids, "none of the failed attempt"
    assert {(row["tenant"], row["parent_id"], row["root_id"], row["depth"]) for row in found} == {
        ("acme", parent.id, parent.id, 1)
    }
    assert (await the_job(shop.engine, parent.id))["descendants"] == 2
    assert {(await shop.finished(id)).status for id in ids} == {"succeeded"}
    failed = await finish(shop, "submit", tmp_path, {"count": 1, "fail": 3})
    assert failed.status == "failed"
    assert await rows(shop.engine, "SELECT 1 FROM jobs WHERE parent_id = :id", id=failed.id) == []


REFUSED = (
    ("submit so", {"type": "usee"}, "no worker has registered this type"),
    ("submit so", {"payload": {"do": 5}}, "/payload/do"),
    ("submit so", {"payload": {"do": "x"}, "options": {"priority": 10}}, "/priority"),
    ("submit so", {"payload": {"do": "x"}, "options": {"run_at": "2026-01-01T00:00:00"}}, "offset"),
    ("submit unfit", None, "not JSON"),
    ("submit huge", 300_000, "the payload is larger"),
    ("submit huge", 2_000_000, "it is too large"),
)


async def test_a_child_that_a_submission_would_refuse_is_invalid(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    for do, arg, says in REFUSED:
        done = await finish(shop, do, tmp_path, arg)
        assert failure(done) == ("failed", 1, "invalid")
        assert says in (done.error or "")
        if do == "submit so":
            assert says in (tmp_path / "said").read_text(), "the handler gets an InvalidJob"


async def test_children_count_against_the_limits(engine: AsyncEngine, database_url: str, tmp_path: Path) -> None:
    async with worker_with_handlers(engine, database_url, use, max_fanout_depth=1, max_fanout_jobs=2) as shop:
        too_many = await finish(shop, "submit", tmp_path, {"count": 3})
        root = await finish(shop, "grow", tmp_path, 1)
        (row,) = await rows(engine, "SELECT id FROM jobs WHERE parent_id IS NOT NULL")
        too_deep = await shop.finished(row["id"])
        assert (await the_job(engine, root.id))["descendants"] == 1
        late = await finish(shop, "submit", tmp_path, {"count": 2}, parent_id=None, root_id=root.id)
    assert failure(too_many) == failure(too_deep) == failure(late) == ("failed", 1, "invalid")
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 4


async def test_results_of_the_jobs_depended_on(shop: WorkerWithHandlers, broker: PostgresBroker) -> None:
    """A plain dict in each kind of handler."""
    for type_ in ("use", "use.async"):
        ids = await put_graph(shop.engine, broker, {"a": "", "b": "a"}, type=type_, payload='{"do":"results"}')
        first, second = [await shop.finished(ids[ref]) for ref in "ab"]
        assert (first.result, second.result) == ("{}", '{"a":{}}')


async def test_a_transaction_is_refused_at_once(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    for type_ in ("use", "use.async"):
        done = await finish(shop, "transaction", tmp_path, type_=type_)
        assert failure(done) == ("failed", 1, "invalid")
        assert "write the handler as async def" in (done.error or "")


async def test_an_async_handler_makes_many_calls_at_once(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    done = await finish(shop, "together", tmp_path, type_="use.async")
    assert done.result == '[["charged","charged","charged"],true,20,{}]', done
    assert len(ran(tmp_path)) == 1
    assert (await the_job(shop.engine, done.id))["descendants"] == 20


async def test_a_cancelled_step_can_be_tried_again(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    done = await finish(shop, "give up", tmp_path, type_="use.async")
    assert done.result == '"at once"'


async def test_a_thread_that_outlives_its_attempt_gets_lease_lost(shop: WorkerWithHandlers, tmp_path: Path) -> None:
    async with transaction(shop.engine) as conn:
        job_id = await accept(shop, "leave a thread that waits", tmp_path)
        await shop.until(job_id, lambda job: job.status == "running", "the claim")
        await conn.exec_driver_sql("SELECT 1 FROM attempts FOR UPDATE")
        await until(lambda: waits_for_a_lock(shop.engine), 30, "the step to wait for the lock")
        (tmp_path / "return").touch()
        told = await until(
            lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text(), 30, "the thread to get the error"
        )
        assert told == "LeaseLost LeaseLost LeaseLost"
        await no_requests_left()
    done = await shop.finished(job_id)
    assert (done.status, done.progress) == ("succeeded", None)
    assert (await the_job(shop.engine, job_id))["descendants"] == 0
