"""Handlers that end their process, block it or take its memory. No other job waits for longer than the lease."""

import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest

from tests.support.clients.client import Client
from tests.support.servers.postgres import DatabaseServer
from tests.support.servers.receiver import Receiver
from tests.support.service.processes import Service, StartService, logged
from tests.support.service.running_service import BOOT_WITHIN, Running, serving, types_known
from tests.support.waiting import until

LEASE = 3.0
HARMLESS = 15.0  # seconds for a job beside it: a lease, the rescuer's round, and two noisy cores
ENV = {
    "ACCEPTED_AUTH": "off",
    "ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.support.handlers.misbehaving",
    "ACCEPTED_LEASE_TTL": f"{LEASE:g}",
    "ACCEPTED_SHUTDOWN_GRACE": "3",
}
ROOM = 2**30  # bytes that a worker may allocate beyond those it has


@pytest.fixture(scope="module")
async def services(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Running]:
    url = database_server.create_database("harm", template=database_template)
    async with serving(url, ENV) as running:
        await types_known(running.client())
        yield running
    database_server.drop_database("harm")


@pytest.fixture
def running(services: Running) -> Iterator[Running]:
    """With a worker that no other test has harmed."""
    worker = services.services["worker"]
    if not worker.running:
        worker.start()
    yield services
    worker.kill()


@pytest.fixture
def client(running: Running) -> Client:
    return running.client()


async def restarted(worker: Service) -> None:
    """As a supervisor would."""
    await until(lambda: not worker.running, 30, "the worker to be taken along")
    worker.start()


async def test_three_crashes_are_the_most_and_all_are_recorded(
    client: Client, running: Running, target: Receiver
) -> None:
    job = await client.submit("harms", {"how": "exit", "attempts": 99, "url": target.url})
    await restarted(running.services["worker"])
    await restarted(running.services["worker"])
    failed = await client.finished(job["id"])
    assert (failed["status"], failed["attempt"], failed["max_attempts"]) == ("failed", 3, 10)
    assert failed["error"]["class"] == "crashed"
    assert "ended by itself, with exit code 3" in failed["error"]["message"]
    assert "at most 3 are allowed" in failed["error"]["message"]
    attempts = await client.attempts(job["id"])
    assert [attempt["outcome"] for attempt in attempts] == ["crashed"] * 3
    assert len(target.requests) == 3
    (letter,) = (await client.get(f"/dead-letters?ids={job['id']}")).json()["items"]
    assert letter["class"] == "crashed"
    assert (await client.finish("noop"))["status"] == "succeeded"


async def test_a_blocked_loop_holds_up_no_other_worker_and_loses_no_lease(
    client: Client, running: Running, target: Receiver, start_service: StartService
) -> None:
    """Other workers take what waits; what runs stays where it is, and runs once."""
    block = await client.submit("harms", {"how": "block", "seconds": 4 * LEASE, "url": target.url})
    await client.until_status(block["id"], "running")
    beside = start_service("worker", "--concurrency", "5", env=dict(running.env))
    await beside.wait_ready(logged("worker_ready"), BOOT_WITHIN)
    began = time.monotonic()
    assert (await client.finish("noop"))["status"] == "succeeded"
    assert time.monotonic() - began <= HARMLESS
    done = await client.finished(block["id"])
    assert (done["status"], done["result"]) == ("succeeded", {"attempt": 1})
    assert [attempt["outcome"] for attempt in await client.attempts(block["id"])] == ["succeeded"]
    assert len(target.requests) == 1
    assert "outcome_fenced" not in running.services["worker"].log()


async def test_a_handler_that_takes_all_memory_fails_alone(client: Client, running: Running) -> None:
    await running.services["worker"].wait_ready(logged("worker_ready"), BOOT_WITHIN)
    await client.finish("noop")
    worker = psutil.Process(running.services["worker"].pid)
    limit = worker.memory_info().vms + ROOM
    worker.rlimit(resource.RLIMIT_AS, (limit, limit))
    jobs = [await client.submit("harms", {"how": "memory", "attempts": 1}) for _ in range(3)]
    beside = await client.submit("sleep", {"seconds": 1})
    for job in jobs:
        done = await client.finished(job["id"])
        assert (done["status"], done["attempt"]) == ("succeeded", 2)
        first, _ = await client.attempts(job["id"])
        assert first["error"]["message"] == "MemoryError"
    assert (await client.finished(beside["id"]))["status"] == "succeeded"
    assert running.services["worker"].running


async def test_an_exit_in_a_task_of_a_handler_fails_its_own_attempt(client: Client, running: Running) -> None:
    beside = await client.submit("sleep", {"seconds": 1})
    await client.until_status(beside["id"], "running")
    job = await client.submit("harms", {"how": "exit_in_task"})
    done = await client.finished(job["id"])
    assert (done["status"], done["result"]) == ("succeeded", {"attempt": 2})
    first, _ = await client.attempts(job["id"])
    assert (first["outcome"], first["error"]["message"]) == ("transient", "RuntimeError: SystemExit: 0")
    done = await client.finished(beside["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 1)
    assert running.services["worker"].running


async def test_an_exit_in_a_callback_is_not_a_failure_of_other_jobs(client: Client, running: Running) -> None:
    beside = await client.submit("sleep", {"seconds": 2})
    await client.until_status(beside["id"], "running")
    job = await client.submit("harms", {"how": "exit_in_callback"})
    assert await running.services["worker"].wait_exit(30) == os.EX_SOFTWARE
    running.services["worker"].start()
    assert (await client.finished(job["id"]))["result"] == {"attempt": 2}
    assert (await client.finished(beside["id"]))["status"] == "succeeded"
    assert [one["outcome"] for one in await client.attempts(beside["id"])] == ["crashed", "succeeded"]


async def test_a_signal_to_a_fork_does_not_reach_the_worker(client: Client, running: Running) -> None:
    done = await client.finish("forks")
    assert (done["status"], done["result"]) == ("succeeded", -signal.SIGTERM)
    assert (await client.finish("noop"))["status"] == "succeeded"
    assert running.services["worker"].running


async def test_jobs_with_a_timeout_shorter_than_their_types_do_not_end_the_worker(
    client: Client, running: Running
) -> None:
    jobs = [await client.submit("dawdles", {"seconds": 3}, timeout=0.2) for _ in range(45)]
    for job in jobs:
        done = await client.finished(job["id"])
        assert (done["status"], done["error"]["class"]) == ("failed", "timeout")
    assert (await client.finish("noop"))["status"] == "succeeded"
    assert running.services["worker"].running
    assert "worker_exhausted" not in running.services["worker"].log()


async def test_too_many_threads_that_never_return_end_their_worker(client: Client, running: Running) -> None:
    """With an exit code for which its supervisor starts it again. No job is lost."""
    beside = await client.submit("sleep", {"seconds": 3600})
    await client.until_status(beside["id"], "running")
    jobs = [await client.submit("hangs") for _ in range(21)]
    for job in jobs:
        done = await client.finished(job["id"])
        assert (done["status"], done["error"]["class"]) == ("failed", "timeout")
    worker = running.services["worker"]
    assert await worker.wait_exit(60) == 1
    assert "started anew" in worker.log(5)
    waiting = await client.job(beside["id"])
    assert (waiting["status"], waiting["max_attempts"]) == ("queued", 6)
