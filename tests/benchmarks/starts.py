"""Row 7: how long each process takes from its start to its first result, against an interpreter that only imports.

The bare one imports the three libraries that such a service is built on. A machine that is slow today is slow for both;
CPU time is measured beside the time on the clock, because other work on the machine delays a start and costs it none.
PostgreSQL is the broker. `accepted dev` has its data directory from an earlier start.
"""

import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from uuid import UUID

import psutil

from tests.benchmarks.figures import Failed, Row
from tests.benchmarks.stage import Stage, cpu_time
from tests.support.servers.ports import free_port
from tests.support.service.processes import ACCEPTED, Service, answers, clean_environment
from tests.support.waiting import until

IMPORTS = "import fastapi, sqlalchemy, aio_pika"
HARNESS = "import accepted.testing as it\nwith it.WorkerHarness(['workers.handlers']): pass"
WITHIN = 60.0  # seconds
LOOK_EVERY = 0.01  # seconds

GOALS = {
    "worker until its first job has ended": 1.6,
    "api until /readyz answers 200": 1.6,
    "dev until its first 202": 4.0,
    "accepted jobs get": 0.65,
    "WorkerHarness, started and stopped": 4.0,
}
"""At most so many times as long as the imports, because these take 0.75 s where nothing else runs: there the goals are
1.2 s, 1.2 s, 3 s, 0.5 s and 3 s."""

_FINISHED = "SELECT EXTRACT(epoch FROM finished_at)::float8 FROM jobs WHERE id = $1 AND status = 'succeeded'"


class Start(NamedTuple):
    """Seconds of one start: on the clock, and of CPU in all its processes."""

    wall: float
    cpu: float


async def started(stage: Stage, rounds: int) -> list[Row]:
    """Every start in turn, `rounds` times, and once before: that one compiles, and makes the data directory."""
    env = {"ACCEPTED_DATABASE_URL": stage.database_url, "ACCEPTED_AUTH": "off"}
    port = free_port()
    api = Service("api", f"--port={port}", env=env).start()
    try:
        await api.wait_ready(answers(f"http://127.0.0.1:{port}/readyz"))
        with tempfile.TemporaryDirectory(prefix="accepted-dev-") as directory:
            job_id = await asyncio.to_thread(_submitted, port)
            kinds: dict[str, Callable[[], Awaitable[Start]]] = {
                "imports": lambda: asyncio.to_thread(_ended, [sys.executable, "-c", IMPORTS]),
                "worker until its first job has ended": lambda: _worker(stage, env, port),
                "api until /readyz answers 200": lambda: _api(env),
                "dev until its first 202": lambda: _dev(Path(directory)),
                "WorkerHarness, started and stopped": lambda: asyncio.to_thread(
                    _ended, [sys.executable, "-c", HARNESS]
                ),
                "accepted jobs get": lambda: asyncio.to_thread(_ended, [ACCEPTED, "jobs", "get", job_id], port),
            }
            found = [{name: await start() for name, start in kinds.items()} for _ in range(rounds + 1)][1:]
    finally:
        api.remove()
    return [row for name, goal in GOALS.items() for row in _compared(name, found, goal)]


def _ended(command: list[str | Path], port: int = 0) -> Start:
    """A command that ends by itself."""
    env = clean_environment() | {"ACCEPTED_URL": f"http://127.0.0.1:{port}"}
    begun = time.monotonic()
    process = subprocess.Popen(command, env=env, cwd=tempfile.gettempdir(), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"{command}: exit code {process.returncode}")
    return Start(wall, used.ru_utime + used.ru_stime)


async def _worker(stage: Stage, env: dict[str, str], port: int) -> Start:
    job_id = UUID(await asyncio.to_thread(_submitted, port))
    async with stage.ledger() as conn:
        begun = time.time()
        start = await _until("worker", env=env, ready=lambda: conn.fetchval(_FINISHED, job_id))
        return start._replace(wall=await conn.fetchval(_FINISHED, job_id) - begun)


async def _api(env: dict[str, str]) -> Start:
    port = free_port()
    ready = lambda: asyncio.to_thread(_answer, port, "GET", "/readyz", 200)  # noqa: E731
    return await _until("api", f"--port={port}", env=env, ready=ready)


async def _dev(directory: Path) -> Start:
    port = free_port()
    ready = lambda: asyncio.to_thread(_answer, port, "POST", "/jobs", 202)  # noqa: E731
    return await _until("dev", f"--port={port}", env={}, ready=ready, directory=directory)


async def _until(
    *arguments: str, env: dict[str, str], ready: Callable[[], Awaitable[Any]], directory: Path | None = None
) -> Start:
    """From the start of `accepted …` until `ready` is true; then it is stopped."""
    service = Service(*arguments, env=env, directory=directory)
    try:
        begun = time.monotonic()
        service.start()
        await until(ready, WITHIN, service.log, interval=LOOK_EVERY)
        start = Start(time.monotonic() - begun, _cpu_with_children(service.pid))
        await service.terminate()
        return start
    finally:
        service.remove()


def _cpu_with_children(pid: int) -> float:
    process = psutil.Process(pid)
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += cpu_time(one.pid)
    return total


def _submitted(port: int) -> str:
    job = _answer(port, "POST", "/jobs", 202)
    if job is None:
        raise Failed("POST /jobs was not answered with 202")
    return str(job["id"])


def _answer(port: int, method: str, path: str, status: int) -> "dict[str, Any] | None":
    """The answer's body; None unless the status is this one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body = json.dumps({"type": "noop"}) if method == "POST" else None
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return dict(json.loads(answer.read())) if answer.status == status else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _compared(name: str, rounds: list[dict[str, Start]], goal: float) -> list[Row]:
    """The medians of the rounds' ratios."""
    walls = [one[name].wall / one["imports"].wall for one in rounds]
    cpus = [one[name].cpu / one["imports"].cpu for one in rounds]
    wall, bare = (median(one[each].wall for one in rounds) for each in (name, "imports"))
    cpu, bare_cpu = (median(one[each].cpu for one in rounds) for each in (name, "imports"))
    figure = f"{median(walls):.2f} ({min(walls):.2f}..{max(walls):.2f})"
    return [
        Row(f"{name} : bare imports", figure, f"<= {goal:g}", median(walls) <= goal),
        Row("", f"{wall:.2f} s against {bare:.2f} s"),
        Row("  of CPU time", f"{median(cpus):.2f}, {cpu:.2f} s against {bare_cpu:.2f} s"),
    ]
