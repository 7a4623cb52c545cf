"""The process pool: an attempt in a child process cannot harm the worker, and leaves nothing behind."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from accepted.domain.failures import FailureClass, TransientError
from accepted_worker.attempt.failures import RaisedInChild
from accepted_worker.process_pool import child_process
from accepted_worker.process_pool import pool as pool_module
from accepted_worker.process_pool.child import MEMORY_SHARE
from accepted_worker.process_pool.child_process import Crashed
from accepted_worker.process_pool.messages import Setup
from accepted_worker.process_pool.pool import ProcessPool
from tests.support.servers.receiver import Receiver
from tests.support.service.process_pool import AT_ONCE, SETUP, a_job, family_in, gone, run
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[ProcessPool]:
    """One for all tests, because a child takes a second to start. Each test leaves it usable."""
    made = ProcessPool(SETUP)
    yield made
    await made.aclose()


async def test_children_start_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "STARTS_AT_ONCE", 1)
    pool = ProcessPool(SETUP)
    ready: list[int] = []
    enough = asyncio.Event()

    async def one() -> None:
        async with pool.child() as child:
            ready.append(child.pid)
            await enough.wait()

    attempts = [asyncio.create_task(one()) for _ in range(3)]
    most_starting = 0

    def all_ready() -> bool:
        nonlocal most_starting
        most_starting = max(most_starting, len(pool._children) - len(ready))
        return len(ready) == 3

    await until(all_ready, 60, "three children")
    enough.set()
    await asyncio.gather(*attempts)
    assert most_starting == 1
    await pool.aclose()


async def test_a_child_is_kept_and_runs_both_kinds_of_functions(pool: ProcessPool) -> None:
    first = await run(pool, "pid")
    assert first["pid"] != os.getpid()
    assert first["nice"] > os.nice(0), "the worker has priority"
    assert (await run(pool, "pid"))["pid"] == first["pid"]
    assert (await run(pool, "pid", type="deed.async"))["pid"] == first["pid"]


async def test_a_file_of_the_users_does_not_stand_in_for_the_standard_librarys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory comes first for the user's modules, not for what the child itself imports."""
    for name in ("email", "queue", "secrets", "select"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not the module of the standard library')")
    monkeypatch.syspath_prepend(tmp_path)
    pool = ProcessPool(SETUP)
    assert (await run(pool, "pid"))["pid"] != os.getpid()
    await pool.aclose()


async def test_concurrent_attempts_have_a_child_each(pool: ProcessPool) -> None:
    both = await asyncio.gather(run(pool, "compute", 0.5), run(pool, "compute", 0.5))
    assert both[0]["pid"] != both[1]["pid"]


async def test_the_event_loop_goes_on_while_a_child_computes(pool: ProcessPool) -> None:
    await run(pool, "pid")
    computing = asyncio.create_task(run(pool, "compute", 1.5))
    turns = 0
    while not computing.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert computing.result()["rounds"] > 1000
    assert turns > 10


async def test_an_exception_keeps_its_class_and_the_child_lives(pool: ProcessPool) -> None:
    pid = (await run(pool, "pid"))["pid"]
    with pytest.raises(RaisedInChild, match=r"^slow down$") as limited:
        await run(pool, "raise", "limited")
    assert (limited.value.failure_class, limited.value.retry_after) == (FailureClass.RATE_LIMITED, 7)
    with pytest.raises(RaisedInChild, match=r"^ValueError: bad \? value$") as unknown:
        await run(pool, "raise", "value")
    assert unknown.value.failure_class is FailureClass.TRANSIENT
    assert "process_handlers.py" in unknown.value.traceback
    assert "in _raise" in unknown.value.traceback
    assert (await run(pool, "pid"))["pid"] == pid


async def test_sys_exit_is_a_failure_like_others(pool: ProcessPool) -> None:
    with pytest.raises(RaisedInChild, match="SystemExit: 4"):
        await run(pool, "sys.exit", 4)


@pytest.mark.parametrize(("do", "arg", "says"), [("result", 2000, "larger than 1000"), ("unfit", None, "not JSON")])
async def test_a_result_that_does_not_fit_is_invalid(pool: ProcessPool, do: str, arg: Any, says: str) -> None:
    with pytest.raises(RaisedInChild, match=says) as failure:
        await run(pool, do, arg)
    assert failure.value.failure_class is FailureClass.INVALID


async def test_a_payload_that_does_not_fit_is_invalid(pool: ProcessPool) -> None:
    async with pool.child() as child:
        with pytest.raises(RaisedInChild, match="/do") as failure:
            await child.run(a_job(1), print)  # type: ignore[arg-type]
    assert failure.value.failure_class is FailureClass.INVALID


async def test_progress_comes_through_the_pipe(pool: ProcessPool) -> None:
    reports = await run(pool, "report", [10, 99.5])
    assert reports == [{"percent": 10, "message": "10 %"}, {"percent": 99.5, "message": "99.5 %"}]


async def test_http_calls_from_a_child_are_guarded(pool: ProcessPool) -> None:
    async with Receiver() as receiver:
        assert await run(pool, "call", receiver.url, type="deed.async") == {"status": 200}
    with pytest.raises(RaisedInChild) as failure:
        await run(pool, "call", "http://169.254.169.254/", type="deed.async")
    assert failure.value.failure_class is FailureClass.INVALID


@pytest.mark.parametrize(
    ("do", "arg", "says"),
    [
        ("exit", 3, "exit code 3"),
        ("signal", signal.SIGSEGV, "SIGSEGV"),
        ("signal", signal.SIGKILL, "SIGKILL"),
        ("close", None, "SIGKILL"),
    ],
)
async def test_a_child_that_dies_is_a_crash_and_is_replaced(pool: ProcessPool, do: str, arg: Any, says: str) -> None:
    pid = (await run(pool, "pid"))["pid"]
    with pytest.raises(Crashed, match=says):
        await run(pool, do, arg)
    assert (await run(pool, "pid"))["pid"] != pid


async def test_a_child_that_died_while_idle_does_not_crash_the_next_job(pool: ProcessPool) -> None:
    pid = (await run(pool, "pid"))["pid"]
    with os.fdopen(os.pidfd_open(pid)) as ended:
        os.kill(pid, signal.SIGKILL)
        assert select.select([ended], [], [], 5)[0], "the kernel has ended it, and the event loop does not know yet"
    assert (await run(pool, "pid"))["pid"] != pid


async def test_a_child_ignores_signals_to_stop(pool: ProcessPool) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        async with pool.child() as child:
            running = asyncio.create_task(child.run(a_job("compute", 0.3), print))
            os.kill(child.pid, number)
            await running


async def test_a_cancelled_attempt_is_dead_at_once_with_all_that_it_started(pool: ProcessPool, tmp_path: Path) -> None:
    """Its native code holds the interpreter's lock, so a signal handled by Python would not reach it."""
    pids = tmp_path / "pids"
    running = asyncio.create_task(run(pool, "hold", str(pids)))
    family = await family_in(pids)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=AT_ONCE)
    assert done, "the slot is free"
    await gone(family)


async def test_closing_the_pool_ends_everything(tmp_path: Path) -> None:
    pool = ProcessPool(SETUP)
    await run(pool, "pid")
    pids = tmp_path / "pids"
    running = asyncio.create_task(run(pool, "hold", str(pids)))
    family = await family_in(pids)
    await pool.aclose()
    await gone(family)
    with pytest.raises(Crashed):
        await running


WORKER = """
import asyncio, sys
from tests.support.service.process_pool import SETUP, run
from accepted_worker.process_pool.pool import ProcessPool

async def main():
    pool = ProcessPool(SETUP)
    await asyncio.gather(run(pool, "hold", sys.argv[1]), run(pool, "pid"))

asyncio.run(main())
"""


async def test_no_child_outlives_a_worker_that_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, str(pids))
    try:
        family = await family_in(pids)
        family += [each for each in psutil.Process(worker.pid).children(recursive=True) if each not in family]
    finally:
        worker.kill()
        await worker.wait()
    assert len(family) == 3, "one computing, with the program that it started, and one idle"
    await gone(family)


async def test_a_child_is_replaced_after_many_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "MAX_ATTEMPTS", 3)
    pool = ProcessPool(SETUP)
    pids = [(await run(pool, "pid"))["pid"] for _ in range(4)]
    assert len(set(pids[:3])) == 1
    assert pids[3] != pids[0]
    await pool.aclose()
    await until(lambda: not psutil.pid_exists(pids[0]), 5, "the old one to be gone")


async def test_a_child_is_replaced_when_it_is_too_big(pool: ProcessPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "MAX_RESIDENT_BYTES", 250 * 2**20)
    pids = [(await run(pool, "grow", megabytes))["pid"] for megabytes in (1, 200, 1)]
    assert pids[0] == pids[1] != pids[2]


async def test_a_child_starts_when_needed_and_ends_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(psutil.Process().children(recursive=True))
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.2)
    pool = ProcessPool(SETUP)
    assert set(psutil.Process().children(recursive=True)) == before
    pid = (await run(pool, "pid"))["pid"]
    await until(lambda: not psutil.pid_exists(pid), 5, "the idle child to be ended")
    await pool.aclose()


async def test_an_attempt_that_asks_for_all_memory_gets_an_error(pool: ProcessPool) -> None:
    with pytest.raises(RaisedInChild, match="Cannot allocate memory"):
        await run(pool, "allocate", MEMORY_SHARE + 0.1)


async def test_a_child_that_cannot_load_the_handlers_is_not_a_crash_of_the_job() -> None:
    pool = ProcessPool(Setup(("no.such.module",), "", None, None, 1000, 10_000))
    with pytest.raises(TransientError, match="no process was ready"):
        async with pool.child():
            pass
    await pool.aclose()


async def test_ended_children_leave_no_descriptors_open() -> None:
    before = psutil.Process().num_fds()
    pool = ProcessPool(SETUP)
    with pytest.raises(Crashed):
        await run(pool, "exit", 1)
    await run(pool, "pid")
    await pool.aclose()
    await until(lambda: psutil.Process().num_fds() <= before, 5, "pipes and lifelines to be closed")
